"""Which people can be subjects; clips without any are spared the costlier stages."""

from __future__ import annotations

from dataengine.config import FilterRules
from dataengine.records import People, Person, Reason, Sighting


def gate_faces(people: People, rules: FilterRules) -> Reason | None:
    """Why a clip cannot give a pair, judged by its faces alone; None lets it on to captioning."""
    if not people.people:
        return Reason("faces", "no face was found in any still")
    judged = [usable_sightings(person, rules) for person in people.people]
    refused = [reason for reason in judged if isinstance(reason, Reason)]
    usable = len(judged) - len(refused)
    if usable > rules.max_subjects:
        return Reason("max_subjects", f"{usable} people have usable faces, at most {rules.max_subjects} are taken")
    # The person that came furthest tells best what to change.
    order = ("face_score", "face_min_px", "face_min_stills")
    return None if usable else max(refused, key=lambda reason: order.index(reason.rule))


def usable_sightings(person: Person, rules: FilterRules) -> tuple[Sighting, ...] | Reason:
    """The sightings whose face is sure and large enough, in order of the stills; or the rule that leaves too few."""
    sure = [s for s in person.sightings if s.face_score >= rules.face_score]
    if not sure:
        best = max((s.face_score for s in person.sightings), default=0.0)
        return Reason("face_score", f"person {person.index}: the best face scores {best:.2f} of {rules.face_score}")
    large = [s for s in sure if min(s.face.width, s.face.height) >= rules.face_min_px]
    if not large:
        best = max(min(s.face.width, s.face.height) for s in sure)
        return Reason(
            "face_min_px", f"person {person.index}: the largest face is {best:.0f} px of {rules.face_min_px:g}"
        )
    if len(large) < rules.face_min_stills:
        return Reason(
            "face_min_stills",
            f"person {person.index}: a usable face in {len(large)} stills of {rules.face_min_stills}",
        )
    return tuple(large)
