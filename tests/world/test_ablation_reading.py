"""Reading figures by colour: true pictures are bound, exchanged ones are not, wherever people stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dataengine.world.ablation import SIZES, Asked, held_out
from dataengine.world.ablation_reading import SAME_COLOUR, Reading, are_distinct, read

SIZE = replace(SIZES["small"], held_out=12, height=96, width=160)


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return held_out(SIZE)


def share(found: list[Reading], name: str) -> float:
    return sum(getattr(reading, name) for reading in found) / sum(reading.subjects for reading in found)


def test_true_pictures_are_read_right(asked: list[Asked]) -> None:
    found = [read(one.true, one.expected, one.background) for one in asked]
    for name in ("bound", "placed", "shown", "faces", "garments"):
        assert share(found, name) >= 0.95
    assert min(reading.background for reading in found) > 0.9


def test_exchanged_garments_are_unbound_though_all_is_shown(asked: list[Asked]) -> None:
    found = [read(one.exchanged, one.expected, one.background) for one in asked]
    assert share(found, "bound") <= 0.1 and share(found, "shown") <= 0.1
    assert share(found, "faces") >= 0.9 and share(found, "garments") >= 0.9


def test_it_does_not_matter_who_stands_where(asked: list[Asked]) -> None:
    """The mirrored picture has everybody on the other side."""
    mirrored = [read(one.true[:, ::-1].copy(), one.expected, one.background) for one in asked]
    assert share(mirrored, "bound") >= 0.95 and share(mirrored, "shown") >= 0.95
    assert share(mirrored, "placed") == pytest.approx(0.2, abs=0.02), "only who stands in the middle of three"
    others = [read(one.true, one.expected[::-1].copy(), one.background) for one in asked]
    assert share(others, "bound") >= 0.95, "nor in which order subjects come"


def test_an_empty_place_shows_nobody(asked: list[Asked]) -> None:
    found = [read(one.background, one.expected, one.background) for one in asked]
    assert share(found, "shown") <= 0.15
    assert all(reading.background == 1 for reading in found)


def test_noise_is_bound_by_chance_and_shows_nothing(asked: list[Asked]) -> None:
    draw = np.random.default_rng(0)
    found = []
    for one in asked:
        for _ in range(4):
            colours = draw.integers(0, 256, (6, 10, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
            found.append(read(colours, one.expected, one.background))
    assert share(found, "bound") == pytest.approx(len(found) / sum(r.subjects for r in found), abs=0.12)
    assert share(found, "shown") < 0.3


def test_subjects_that_look_alike_are_not_asked(asked: list[Asked]) -> None:
    expected = asked[0].expected
    assert are_distinct(expected)
    same_garment = expected.copy()
    same_garment[1, 2] = same_garment[0, 2] + SAME_COLOUR / 4
    same_face = expected.copy()
    same_face[1, :2] = same_face[0, :2]
    assert not are_distinct(same_garment) and not are_distinct(same_face)
    same_skin = expected.copy()
    same_skin[:, 0] = same_skin[0, 0]
    same_skin[1, 1] = same_skin[0, 1] + SAME_COLOUR
    assert are_distinct(same_skin[:2]), "hair tells them apart"
