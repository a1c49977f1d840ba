"""Names that people would give."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.models.colour_names import TERMS, lab, shares, surface_shares, term_of

PATCHES = {
    "black": [(0, 0, 0), (25, 25, 28), (20, 22, 34), (14, 18, 30), (35, 30, 30)],
    "white": [(255, 255, 255), (235, 235, 235), (238, 234, 226)],
    "grey": [(128, 128, 128), (90, 92, 95), (190, 190, 195)],
    "red": [(220, 30, 30), (150, 15, 20), (200, 20, 40)],
    "green": [(30, 160, 50), (20, 90, 40), (130, 200, 110)],
    "yellow": [(250, 230, 40), (255, 255, 100)],
    "blue": [(30, 60, 220), (0, 0, 128), (150, 190, 240), (84, 130, 200)],
    "brown": [(110, 70, 35), (60, 38, 24), (150, 100, 50)],
    "purple": [(120, 30, 140), (90, 40, 120)],
    "pink": [(250, 150, 190), (255, 105, 180)],
    "orange": [(235, 90, 40), (255, 140, 0), (240, 120, 50)],
}


@pytest.mark.parametrize(("name", "rgb"), [(name, rgb) for name, patches in PATCHES.items() for rgb in patches])
def test_known_patches(name: str, rgb: tuple[int, int, int]) -> None:
    assert TERMS[term_of(np.array(rgb, np.uint8))] == name


def test_every_term_is_in_use() -> None:
    axis = np.arange(4, 256, 8, dtype=np.uint8)
    cells = np.stack(np.meshgrid(axis, axis, axis), axis=-1)
    assert set(shares(cells)) >= set(TERMS)
    assert min(v for k, v in shares(cells).items()) > 0


def test_greys_go_from_black_to_white_once() -> None:
    names = [TERMS[t] for t in term_of(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1))]
    changes = [a for a, b in zip(names, [*names[1:], ""], strict=True) if a != b]
    assert changes == ["black", "grey", "white"]
    assert 40 < names.index("grey") < 80
    assert 200 < names.index("white") < 230


def test_stripes_are_not_averaged() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    assert shares(stripes) == pytest.approx({"black": 0.5, "white": 0.5} | dict.fromkeys(TERMS[2:], 0.0))


def test_largest_first_and_nothing_of_nothing() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    image[:7] = (220, 30, 30)
    assert list(shares(image).items())[:2] == [("red", 0.7), ("black", 0.3)]
    assert shares(np.zeros((0, 3), np.uint8)) == {}


def test_noise_and_shade_leave_the_name() -> None:
    rng = np.random.default_rng(0)
    shade = np.linspace(0.6, 1.1, 64)[None, :, None]
    shirt = np.clip(np.array([40, 70, 190]) * shade + rng.normal(0, 8, (64, 64, 3)), 0, 255).astype(np.uint8)
    assert shares(shirt)["blue"] > 0.9


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=50))
def test_shares_sum_to_one(pixels) -> None:
    assert sum(shares(np.array(pixels, np.uint8)).values()) == pytest.approx(1)


def test_lab_is_cielab() -> None:
    """White, and sRGB red as in Lindbloom's tables (D65)."""
    np.testing.assert_allclose(lab(np.array([[255, 255, 255]], np.uint8)), [[100, 0, 0]], atol=0.1)
    np.testing.assert_allclose(lab(np.array([[255, 0, 0]], np.uint8)), [[53.24, 80.09, 67.20]], atol=0.2)
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    np.testing.assert_allclose(lab(image), expected, atol=1e-3)


def test_a_shaded_surface_has_one_name() -> None:
    """An orange sleeve: lit, folded and shining, beside a third as much black."""
    rng = np.random.default_rng(2)
    colours = np.array([(235, 95, 40), (170, 50, 25), (245, 150, 120), (18, 18, 20)])
    pixels = colours[rng.choice(4, 4000, p=[0.35, 0.25, 0.15, 0.25])] + rng.normal(0, 6, (4000, 3))
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    assert shares(image)["orange"] < 0.45
    found = surface_shares(image)
    assert next(iter(found)) == "orange"
    assert found["black"] == pytest.approx(0.25, abs=0.03)
    assert sum(found.values()) == pytest.approx(1)
    assert surface_shares(image) == found


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_surfaces_of_few_pixels(count: int) -> None:
    found = surface_shares(np.full((count, 3), 255, np.uint8))
    assert next(iter(found), None) == ("white" if count else None)
