"""A face gets the person's box that holds it in its upper part, and no one's else."""

import pytest

from dataengine.measure.bodies import fit, match_bodies
from dataengine.models.interfaces import Region
from dataengine.records import Box


def face_at(x: float, y: float, size: float = 30) -> Box:
    return Box(x - size / 2, y - size * 0.65, x + size / 2, y + size * 0.65)


LEFT, RIGHT = Region(Box(50, 20, 150, 350), 0.8), Region(Box(200, 40, 300, 350), 0.7)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_everybody_gets_their_own(order) -> None:
    faces, people = [face_at(100, 60), face_at(250, 80)], [LEFT, RIGHT]
    found = match_bodies([faces[i] for i in order], people[::-1])
    assert found == [people[i] for i in order]


def test_people_who_overlap_are_told_apart_by_the_place_of_the_face() -> None:
    """Both faces lie inside both boxes: they go where they stand nearer to the middle and the top."""
    a, b = Region(Box(40, 20, 200, 350), 0.8), Region(Box(90, 30, 260, 350), 0.8)
    assert match_bodies([face_at(170, 70), face_at(115, 60)], [a, b]) == [b, a]


def test_a_child_before_an_adult_gets_its_own_box_and_not_the_adults() -> None:
    adult, child = Region(Box(40, 10, 160, 350), 0.9), Region(Box(60, 170, 140, 350), 0.6)
    assert match_bodies([face_at(100, 45), face_at(100, 200, 24)], [adult, child]) == [adult, child]
    assert match_bodies([face_at(100, 45), face_at(100, 300, 24)], [adult]) == [adult, None]


def test_a_face_without_a_person_and_a_person_without_a_face() -> None:
    assert match_bodies([face_at(500, 60), face_at(100, 60)], [LEFT, RIGHT]) == [None, LEFT]
    assert match_bodies([face_at(500, 60)], []) == [None]
    assert match_bodies([], [LEFT]) == []


def test_the_better_scored_of_two_equal_boxes_is_taken() -> None:
    twice = [Region(LEFT.box, 0.3), Region(LEFT.box, 0.8)]
    assert match_bodies([face_at(100, 60)], twice) == [twice[1]]


def test_the_share_is_the_faces_not_the_unions() -> None:
    """A face is a small part of its body: their union would say that they have nothing to do with each other."""
    assert fit(face_at(100, 60), Region(LEFT.box, 1.0)) == pytest.approx(1.0)
    assert fit(face_at(150, 60), Region(LEFT.box, 1.0)) == pytest.approx(0.5 * 0.5)
    assert fit(face_at(160, 60), Region(LEFT.box, 1.0)) == 0


def test_a_close_up_whose_box_ends_at_the_frame_still_fits() -> None:
    """Head and shoulders: the face's middle is at 45 % of the box."""
    assert fit(face_at(100, 90, 80), Region(Box(20, 0, 180, 200), 1.0)) > 0.4
    assert fit(face_at(100, 150, 40), Region(Box(20, 0, 180, 200), 1.0)) == 0
