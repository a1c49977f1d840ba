"""The face gate: what it refuses and what it says."""

from dataengine.config import FilterRules
from dataengine.decide.facts import Face, PersonFacts, PictureFacts
from dataengine.decide.gates import gate, gate_faces, usable_faces
from dataengine.records import Box, Reason

RULES = FilterRules(face_score=0.5, face_min_px=32, face_min_stills=2, max_subjects=2)


def person(index: int, *faces: tuple[float, float], likeness: float | None = None, **values: float) -> PersonFacts:
    """Someone whose face in each still has a score and a size; the box is twice as high as wide."""
    seen = {"sharpness": 100.0, "frontal": None, "visible": None, **values}
    return PersonFacts(
        index=index,
        faces=tuple(
            Face(still=still, box=Box(0, 0, size, 2 * size), score=score, **seen)
            for still, (score, size) in enumerate(faces)
        ),
        likeness=likeness,
    )


def refused(*people: PersonFacts, rules: FilterRules = RULES) -> str | None:
    reason = gate_faces(people, rules)
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
    reason = gate_faces((person(0, (0.1, 5)), person(1, (0.9, 40)), person(2, (0.9, 9))), RULES)
    assert reason == Reason("face_min_stills", "person 1: a usable face in 1 stills of 2")


def test_usable_faces_are_those_that_pass():
    faces = usable_faces(person(0, (0.9, 40), (0.2, 40), (0.9, 50)), RULES)
    assert not isinstance(faces, Reason)
    assert [face.still for face in faces] == [0, 2]


def test_how_a_face_looks():
    def why(**values: float) -> str | None:
        rules = FilterRules(face_min_sharpness=90, face_min_frontal=0.5, face_min_visible=0.8)
        return refused(person(0, *GOOD, **{"frontal": 0.9, "visible": 1.0, **values}), rules=rules)

    assert why() is None
    assert why(sharpness=89) == "face_min_sharpness"
    assert why(frontal=0.4) == "face_min_frontal"
    assert why(visible=0.7) == "face_min_visible"
    unknown = refused(person(0, *GOOD), rules=FilterRules(face_min_frontal=0.5))
    assert unknown == "face_min_frontal", "what nobody measured is not known to be good"


def test_faces_of_one_person_must_be_alike():
    strict = FilterRules(owner_min_likeness=0.5)
    assert refused(person(0, *GOOD, likeness=0.4), rules=strict) == "owner_min_likeness"
    assert refused(person(0, *GOOD, likeness=0.5), rules=strict) is None
    assert refused(person(0, *GOOD), rules=strict) is None, "without embeddings nothing says otherwise"


def test_pictures_are_judged_before_faces():
    nobody = PictureFacts(seconds=2.0, people=(), motion=0.01)
    assert gate(nobody, RULES).rule == "faces"
    still = gate(nobody, FilterRules(clip_min_motion=0.02))
    assert still == Reason("clip_min_motion", "it moves by 0.010 frame heights a second, at least 0.02")
