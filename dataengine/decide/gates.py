"""Which people can be subjects; clips without any are spared the costlier stages."""

from __future__ import annotations

from collections.abc import Sequence

from dataengine.config import FilterRules
from dataengine.decide.facts import Face, PersonFacts, PictureFacts
from dataengine.decide.rules import check_pictures
from dataengine.records import Reason

FACE_RULES = (
    "face_score",
    "face_min_px",
    "face_min_sharpness",
    "face_min_frontal",
    "face_min_visible",
    "face_min_stills",
    "owner_min_likeness",
)
"""Of one person, in the order in which they are asked."""


def gate(pictures: PictureFacts, rules: FilterRules) -> Reason | None:
    """Why a clip cannot give a pair, judged by its pictures and faces alone; None lets it on to captioning."""
    return check_pictures(pictures, rules) or gate_faces(pictures.people, rules)


def gate_faces(people: Sequence[PersonFacts], rules: FilterRules) -> Reason | None:
    """Why nobody, or too many, can be a subject."""
    if not people:
        return Reason("faces", "no face was found in any still")
    judged = [usable_faces(person, rules) for person in people]
    refused = [reason for reason in judged if isinstance(reason, Reason)]
    usable = len(judged) - len(refused)
    if usable > rules.max_subjects:
        return Reason("max_subjects", f"{usable} people have usable faces, at most {rules.max_subjects} are taken")
    # The person that came furthest tells best what to change.
    return None if usable else max(refused, key=lambda reason: FACE_RULES.index(reason.rule))


def usable_faces(person: PersonFacts, rules: FilterRules) -> tuple[Face, ...] | Reason:
    """A person's faces that are good enough, in order of the stills; or the rule that leaves too few."""
    good = [face for face in person.faces if _is_good(face, rules)]
    least = rules.owner_min_likeness
    if len(good) >= rules.face_min_stills and (least is None or person.likeness is None or person.likeness >= least):
        return tuple(good)
    return _why_not(person, rules)


def _is_good(face: Face, rules: FilterRules) -> bool:
    return (
        face.score >= rules.face_score
        and face.px >= rules.face_min_px
        and (rules.face_min_sharpness is None or face.sharpness >= rules.face_min_sharpness)
        and (rules.face_min_frontal is None or (face.frontal is not None and face.frontal >= rules.face_min_frontal))
        and (rules.face_min_visible is None or (face.visible is not None and face.visible >= rules.face_min_visible))
    )


def _why_not(person: PersonFacts, rules: FilterRules) -> Reason:
    """The first rule that leaves too few faces of a person, and what it saw."""
    left = list(person.faces)
    for name, best, kept in (
        ("face_score", "the best face scores {:.2f} of {:g}", lambda face: face.score),
        ("face_min_px", "the largest face is {:.0f} px of {:g}", lambda face: face.px),
        ("face_min_sharpness", "the sharpest face has {:.0f} of {:g}", lambda face: face.sharpness),
        ("face_min_frontal", "the most frontal face has {:.2f} of {:g}", lambda face: face.frontal),
        ("face_min_visible", "the least covered face shows {:.2f} of {:g}", lambda face: face.visible),
    ):
        limit = getattr(rules, name)
        if limit is None:
            continue
        values = [kept(face) for face in left]
        good = [face for face, value in zip(left, values, strict=True) if value is not None and value >= limit]
        if not good:
            known = [value for value in values if value is not None]
            saw = best.format(max(known), limit) if known else "nothing measured it"
            return Reason(name, f"person {person.index}: {saw}")
        left = good
    if len(left) < rules.face_min_stills:
        return Reason(
            "face_min_stills", f"person {person.index}: a usable face in {len(left)} stills of {rules.face_min_stills}"
        )
    saw = f"its faces are alike by {person.likeness:.2f} of {rules.owner_min_likeness:g}: perhaps they are two people's"
    return Reason("owner_min_likeness", f"person {person.index}: {saw}")
