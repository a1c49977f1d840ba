"""Who was taken for one person, against who they are."""

from __future__ import annotations

import pytest

from dataengine.records import Box
from dataengine.world.judge import Score
from dataengine.world.make import VideoTruth
from dataengine.world.recognised import Recognised, purity, whose_face
from dataengine.world.script import script

TRUTH = VideoTruth.of(script(4, 2))


def scores(*people: Recognised) -> dict[str, Score]:
    totals: dict[str, Score] = {}
    for metric, _, score in purity(people):
        totals[metric] = Score(*(a + b for a, b in zip(totals.get(metric, Score(0, 0, 0)), score, strict=True)))
    return totals


def test_a_face_is_the_person_s_whom_it_overlaps() -> None:
    shot = TRUTH.shots[0]
    time_s = (shot.start_s + shot.end_s) / 2
    seen = TRUTH.at(time_s)
    assert seen is not None
    for i, person in enumerate(shot.people):
        face = next(mask.box for mask in seen.masks if mask.entity == f"s{i}.face")
        assert whose_face(TRUTH, time_s, face) == person.identity
        assert whose_face(TRUTH, time_s, Box(face.x0 + 1, face.y0, face.x1 + 1, face.y1)) == person.identity
    assert whose_face(TRUTH, time_s, Box(0, 0, 3, 3)) is None


def test_a_track_that_changes_people_and_a_face_of_nobody_cost_purity() -> None:
    one = Recognised("a.mp4", ("anna", "anna", "anna"), None)
    assert scores(one) == {"people over stills": Score(3, 3, 3)}
    assert scores(one, Recognised("a.mp4", ("anna", "anna", "bert"), None))["people over stills"] == Score(5, 6, 6)
    assert scores(Recognised("a.mp4", (None, None), None))["people over stills"] == Score(0, 2, 2)


@pytest.mark.parametrize(("groups", "pure", "again"), [((0, 0, 1), 3, 3), ((0, 1, 2), 3, 2), ((0, 0, 0), 2, 3)])
def test_a_group_of_two_people_is_impure_and_one_cut_in_two_is_not_known_again(
    groups: tuple[int, ...], pure: int, again: int
) -> None:
    names = ("anna", "anna", "bert")
    people = [Recognised("a.mp4", (name,), group) for name, group in zip(names, groups, strict=True)]
    found = scores(*people)
    assert found["people over clips"] == Score(pure, 3, 3)
    assert found["people known again"] == Score(again, 3, 3)


def test_a_face_of_nobody_is_in_no_pure_group_and_cannot_be_known_again() -> None:
    found = scores(Recognised("a.mp4", (None,), 0), Recognised("b.mp4", ("anna",), 1))
    assert found["people over clips"] == Score(1, 2, 2)
    assert found["people known again"] == Score(1, 1, 1)
