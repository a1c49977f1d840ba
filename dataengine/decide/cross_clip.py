"""References from another clip of the same person, in the same clothes where they are shown.

A reference that was cut from the clip itself teaches a model to paste it back. One from another clip shows the same
face in another pose and light: alike enough to be the same person (the floor), and not so alike that it is nearly the
same picture (the ceiling).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dataengine.config import PairRules
from dataengine.records import Dropped, Origin, Pair, Reference, Subject

CANDIDATES = 64
"""Other clips of a person that are looked at: somebody in ten thousand clips needs no more."""

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Garment:
    entity: str
    words: str
    look: Vector | None


@dataclass(frozen=True)
class Appearance:
    """A subject of a kept clip, as it can be shown to another one."""

    clip_id: str
    source_id: str
    split: str
    subject: int
    identity: int
    """The same number for the same person."""
    face: Vector
    garments: tuple[Garment, ...] = ()


@dataclass(frozen=True)
class Swap:
    """What a subject is shown by: a subject of another clip, and which of its garments are whose."""

    subject: int
    clip_id: str
    of_subject: int
    similarity: float
    garments: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """By own entity: the other clip's entity, and how alike they look."""


def is_chosen(clip_id: str, share: float, seed: int) -> bool:
    """Whether a clip is one of the `share` that look for other clips; a larger share only ever adds clips."""
    drawn = hashlib.sha256(f"cross_clip:{seed}:{clip_id}".encode()).digest()[:8]
    return int.from_bytes(drawn, "big") / 2**64 < share


def find_swaps(people: Sequence[Appearance], rules: PairRules, seed: int) -> dict[str, tuple[Swap, ...]]:
    """For each chosen clip that has any, its subjects' appearances in other clips, by clip.

    The partner is of the same split (a sample must not show what another split trains on), and of the same source if
    the scope says so. Of several the one with most garments in common is taken, then the most alike, then the first by
    id. Depends on nothing but its arguments, in any order of `people`.
    """
    somebody: dict[tuple[object, ...], list[Appearance]] = defaultdict(list)
    for one in sorted(people, key=lambda one: (one.clip_id, one.subject)):
        within = one.source_id if rules.cross_clip_scope == "source" else ""
        somebody[one.identity, one.split, within].append(one)
    found: dict[str, list[Swap]] = defaultdict(list)
    for same in somebody.values():
        if len(same) < 2:
            continue
        for at, one in enumerate(same):
            if not is_chosen(one.clip_id, rules.cross_clip_share, seed):
                continue
            # Those behind it, round the end: whoever is in many clips is not always shown by the same few.
            others = [same[(at + step) % len(same)] for step in range(1, min(len(same), CANDIDATES + 1))]
            swap = _best(one, [other for other in others if other.clip_id != one.clip_id], rules)
            if swap is not None:
                found[one.clip_id].append(swap)
    return {clip_id: tuple(sorted(swaps, key=lambda swap: swap.subject)) for clip_id, swaps in sorted(found.items())}


def _best(one: Appearance, others: Sequence[Appearance], rules: PairRules) -> Swap | None:
    best: tuple[tuple[int, float], Swap] | None = None
    for other in others:
        similarity = float(one.face @ other.face)
        if not rules.face_floor <= similarity < rules.face_ceiling:
            continue
        garments = _same_garments(one.garments, other.garments, rules)
        rank = (len(garments), round(similarity, 4))
        if best is None or rank > best[0]:
            swap = Swap(one.subject, other.clip_id, other.subject, round(min(1.0, similarity), 4), garments)
            best = (rank, swap)
    return best and best[1]


def _same_garments(
    mine: Sequence[Garment], theirs: Sequence[Garment], rules: PairRules
) -> dict[str, tuple[str, float]]:
    """Which of the other's garments are one's own: called the same, and alike between floor and ceiling."""
    pairs = [
        (similarity, own.entity, other.entity)
        for own in mine
        for other in theirs
        if own.look is not None and other.look is not None and head(own.words) == head(other.words)
        if rules.attribute_floor <= (similarity := float(own.look @ other.look)) < rules.attribute_ceiling
    ]
    matched: dict[str, tuple[str, float]] = {}
    taken: set[str] = set()
    for similarity, own_entity, other_entity in sorted(pairs, key=lambda p: (-round(p[0], 4), p[1], p[2])):
        if own_entity not in matched and other_entity not in taken:
            matched[own_entity] = (other_entity, round(min(1.0, similarity), 4))
            taken.add(other_entity)
    return matched


def head(words: str) -> str:
    """What a phrase is about: its last word ("an orange top" and "orange top" are both a top)."""
    return words.split()[-1].casefold() if words.split() else ""


def swapped(pair: Pair, swaps: Sequence[Swap], others: Mapping[str, Pair]) -> tuple[Pair, tuple[Dropped, ...]]:
    """The pair with its subjects shown by other clips, and what it therefore goes without.

    Words, spans, relations and the clip stay its own. A body shows face and clothes at once: it comes from the other
    clip when all the subject's garments do, and else there is none, since its own would show what was swapped.
    """
    by_subject = {swap.subject: swap for swap in swaps}
    dropped: list[Dropped] = []
    subjects: list[Subject] = []
    for subject in pair.subjects:
        swap = by_subject.get(subject.index)
        if swap is None:
            subjects.append(subject)
            continue
        other = others[swap.clip_id]
        shown = {r.entity: r for r in other.references}
        theirs = next(s for s in other.subjects if s.index == swap.of_subject)
        attributes = tuple(
            _from(attribute, shown[swap.garments[attribute.entity][0]], other, swap.garments[attribute.entity][1])
            if attribute.entity in swap.garments
            else attribute
            for attribute in subject.attributes
        )
        body = None
        if subject.body is not None:
            if theirs.body is not None and len(swap.garments) == len(subject.attributes):
                body = _from(subject.body, theirs.body, other, swap.similarity)
            else:
                told = f"its own would show what comes from clip {swap.clip_id}, which has none in the same clothes"
                dropped.append(
                    Dropped(entity=subject.body.entity, phrase=subject.noun.text, rule="cross_clip", detail=told)
                )
        face = _from(subject.face, theirs.face, other, swap.similarity)
        subjects.append(subject.model_copy(update={"face": face, "attributes": attributes, "body": body}))
    return pair.model_copy(update={"pairing": "cross_clip", "subjects": tuple(subjects)}), tuple(dropped)


def _from(own: Reference, theirs: Reference, other: Pair, similarity: float) -> Reference:
    """The other's picture under one's own name and words."""
    picture = ("still", "time_s", "box", "area_share", "score", "sharpness", "frontal", "visible")
    origin = Origin(
        clip=other.clip, width=other.width, height=other.height, entity=theirs.entity, similarity=similarity
    )
    return own.model_copy(update={name: getattr(theirs, name) for name in picture} | {"origin": origin})
