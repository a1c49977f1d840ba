"""The face gate: what it refuses and what it says."""

from dataengine.config import FilterRules
from dataengine.decide.gates import gate_faces, usable_sightings
from dataengine.records import Box, People, Person, Reason, Sighting

RULES = FilterRules(face_score=0.5, face_min_px=32, face_min_stills=2, max_subjects=2)


def person(index: int, *faces: tuple[float, float]) -> Person:
    """Someone whose face in each still has a score and a size; the box is twice as high as wide."""
    return Person(
        index=index,
        sightings=tuple(
            Sighting(
                still=still,
                face=Box(0, 0, size, 2 * size),
                face_score=score,
                landmarks=(),
                body=Box(0, 0, 3 * size, 5 * size),
                body_score=None,
                sharpness=1,
            )
            for still, (score, size) in enumerate(faces)
        ),
    )


def refused(*people: Person) -> str | None:
    reason = gate_faces(People(people=people), RULES)
    return None if reason is None else reason.rule


GOOD = ((0.9, 40), (0.9, 40), (0.9, 40))


def test_rules():
    assert refused() == "faces"
    assert refused(person(0, (0.49, 90), (0.4, 90))) == "face_score"
    assert refused(person(0, (0.9, 31), (0.9, 31))) == "face_min_px", "the short side counts"
    assert refused(person(0, (0.9, 40), (0.4, 40), (0.9, 20))) == "face_min_stills"
    assert refused(person(0, (0.5, 32), (0.5, 32))) is None, "limits are included"


def test_one_usable_person_is_enough():
    assert refused(person(0, (0.1, 5)), person(1, *GOOD)) is None


def test_too_many_people():
    assert refused(person(0, *GOOD), person(1, *GOOD), person(2, *GOOD)) == "max_subjects"
    assert refused(person(0, *GOOD), person(1, *GOOD), person(2, (0.9, 10))) is None, "passers-by do not count"


def test_the_reason_is_of_the_person_who_came_furthest():
    reason = gate_faces(People(people=(person(0, (0.1, 5)), person(1, (0.9, 40)), person(2, (0.9, 9)))), RULES)
    assert reason == Reason("face_min_stills", "person 1: a usable face in 1 stills of 2")


def test_usable_sightings_are_those_that_pass():
    sightings = usable_sightings(person(0, (0.9, 40), (0.2, 40), (0.9, 50)), RULES)
    assert not isinstance(sightings, Reason)
    assert [s.still for s in sightings] == [0, 2]
