"""A person keeps one track, whoever else there is, by place, colours, identity and motion."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from dataengine.measure.tracks import SAME_PERSON, Look, tracks

BINS = 12


def look(x: float, y: float = 100, unit: float = 40, dressed: int = 0) -> Look:
    """Someone at x whose clothes have the `dressed`-th of some colours and their neighbours."""
    colours = np.full(BINS, 0.01, np.float32)
    colours[dressed % BINS] = 1.0
    colours[(dressed + 1) % BINS] = 0.4
    return Look(x, y, unit, 2 * colours / colours.sum())


def named(stills: list[dict[str, Look]], order: list[list[str]]) -> set[frozenset[tuple[int, str]]]:
    """The tracks as sets of (still, name), the sightings of each still given in some order."""
    found = tracks([[still[name] for name in names] for still, names in zip(stills, order, strict=True)])
    return {frozenset((still, order[still][index]) for still, index in track) for track in found}


TWO = [
    {"a": look(100, dressed=0), "b": look(400, dressed=5)},
    {"a": look(130, dressed=0), "b": look(380, dressed=5)},
    {"a": look(160, dressed=0), "b": look(350, dressed=5)},
]


@pytest.mark.parametrize("swap", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 0, 0)])
def test_the_order_of_detections_does_not_matter(swap) -> None:
    order = [["b", "a"] if s else ["a", "b"] for s in swap]
    assert named(TWO, order) == {frozenset((i, name) for i in range(3)) for name in "ab"}


def test_people_who_change_places_are_known_by_their_clothes() -> None:
    stills = [
        {"a": look(200, dressed=0), "b": look(400, dressed=5)},
        {"a": look(290, dressed=0), "b": look(310, dressed=5)},
        {"a": look(400, dressed=0), "b": look(200, dressed=5)},
    ]
    for order in permutations(["a", "b"]):
        assert named(stills, [["a", "b"], list(order), list(order)]) == {
            frozenset((i, name) for i in range(3)) for name in "ab"
        }


def test_people_dressed_alike_are_known_by_their_place() -> None:
    stills = [{"a": look(100 + 20 * i), "b": look(400 - 20 * i)} for i in range(3)]
    assert named(stills, [["a", "b"], ["b", "a"], ["a", "b"]]) == {
        frozenset((i, name) for i in range(3)) for name in "ab"
    }


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_someone_missing_from_a_still_stays_one_person(missing: int) -> None:
    stills = [{k: v for k, v in still.items() if not (i == missing and k == "b")} for i, still in enumerate(TWO)]
    found = named(stills, [sorted(still, reverse=True) for still in stills])
    assert found == {
        frozenset((i, "a") for i in range(3)),
        frozenset((i, "b") for i in range(3) if i != missing),
    }


def test_a_stranger_in_the_same_place_is_somebody_else() -> None:
    stills = [{"a": look(200, dressed=0)}, {"c": look(400, unit=80, dressed=6)}]
    assert named(stills, [["a"], ["c"]]) == {frozenset({(0, "a")}), frozenset({(1, "c")})}


def test_nobody_anywhere() -> None:
    assert tracks([[], [], []]) == []
    assert tracks([[], [look(10)], []]) == [[(1, 0)]]


# --- Identity ---------------------------------------------------------------------------------------------------------


def known(who: Look, cosine: float) -> Look:
    """The look with an embedding at that cosine to (1, 0)."""
    return replace(who, identity=np.array([cosine, np.sqrt(1 - cosine**2)]))


ME = known(look(100, dressed=0), 1.0)


@pytest.mark.parametrize("cosine", [0.5, 0.7, 1.0])
def test_the_same_identity_is_one_person_in_another_place_and_coat(cosine: float) -> None:
    assert ME.distance(known(look(900, 400, unit=90, dressed=6), cosine)) < SAME_PERSON


@pytest.mark.parametrize("cosine", [0.29, 0.0, -0.5])
def test_another_identity_is_another_person_in_the_same_place_and_coat(cosine: float) -> None:
    assert ME.distance(known(look(100, dressed=0), cosine)) > SAME_PERSON


def test_what_identity_leaves_open_is_settled_by_what_is_seen() -> None:
    assert ME.distance(known(look(110, dressed=0), 0.36)) < SAME_PERSON
    assert ME.distance(known(look(600, unit=80, dressed=6), 0.36)) > SAME_PERSON


def test_without_an_identity_on_either_side_the_old_distance_stands() -> None:
    there = look(300, dressed=3)
    assert ME.distance(there) == look(100, dressed=0).distance(there) == there.distance(ME)


def test_people_who_change_places_and_coats_are_known_by_identity() -> None:
    a, b = (lambda x, d: known(look(x, dressed=d), 1.0)), (lambda x, d: known(look(x, dressed=d), 0.0))
    stills = [{"a": a(100, 0), "b": b(400, 5)}, {"a": a(400, 5), "b": b(100, 0)}, {"a": a(100, 5), "b": b(400, 0)}]
    for order in permutations(["a", "b"]):
        assert named(stills, [["a", "b"], list(order), ["b", "a"]]) == {
            frozenset((i, name) for i in range(3)) for name in "ab"
        }


def test_a_person_is_compared_with_the_mean_of_its_sightings() -> None:
    """One blurred sighting in between does not make the next one a stranger."""
    angles = [0, 50, -25]  # 75 degrees between the last two: a cosine of 0.26
    stills = [[replace(look(100), identity=np.array([np.cos(np.radians(t)), np.sin(np.radians(t))]))] for t in angles]
    assert stills[1][0].distance(stills[2][0]) > SAME_PERSON
    assert tracks(stills) == [[(0, 0), (1, 0), (2, 0)]]


# --- Motion -----------------------------------------------------------------------------------------------------------


def crossing(hidden: tuple[int, ...]) -> tuple[list[list[Look]], list[float], list[list[str]]]:
    """Twins who walk past each other, listed in turns; `a` is hidden behind `b` at some moments."""
    times = [0.1 * i for i in range(12)]
    moments, order = [], []
    for i, time in enumerate(times):
        there = {"a": look(100 + 300 * time), "b": look(430 - 300 * time)}
        names = [name for name in ("ab", "ba")[i % 2] if not (name == "a" and i in hidden)]
        moments.append([there[name] for name in names])
        order.append(names)
    return moments, times, order


@pytest.mark.parametrize("hidden", [(), (5,), (4, 5, 6)])
def test_twins_who_cross_are_told_apart_by_their_motion(hidden) -> None:
    moments, times, order = crossing(hidden)
    found = {frozenset(order[moment][i] for moment, i in track) for track in tracks(moments, times)}
    assert found == {frozenset("a"), frozenset("b")}


def test_nobody_is_followed_where_times_are_not_given() -> None:
    moments, _, order = crossing((4, 5, 6))
    found = {frozenset(order[moment][i] for moment, i in track) for track in tracks(moments)}
    assert found != {frozenset("a"), frozenset("b")}
