"""OpenS2V-5M with owners: its labels are flat, so who wears what is found out here and decided by `decide`'s rules.

Faces are found on the labelled frame. Person labels that cover the same pixels are one person under several names; the
one around a face is a subject. What else is labelled votes for each subject by the share of its pixels inside that
subject's mask; from there on it is a clip like any other: `decide.ownership` refuses what is unsure, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine.config import DecideSettings, FaceSettings
from dataengine.decide.facts import Measured
from dataengine.decide.pairs import decide_pair
from dataengine.measure.faces import FacesStage
from dataengine.records import (
    Background,
    Box,
    Caption,
    Clip,
    EntityMask,
    GroundedBox,
    Grounding,
    Mention,
    Pair,
    People,
    Person,
    PersonMention,
    Phrase,
    Provenance,
    Segmentation,
    Sighting,
    SourceVideo,
    Still,
    Stills,
    Vote,
)
from dataengine.shards.assembly import assemble
from dataengine.shards.importers.contract import Imported, ImportRefused, Item, Refusal, provenance
from dataengine.shards.importers.opens2v import FlatSample, Label, OpenS2VSource
from dataengine.shards.losses import LossCount
from dataengine.spans import occurrences
from dataengine.stage import Row
from dataengine.stage import provenance as stage_provenance

PEOPLE = frozenset(("person", "human", "man", "woman", "boy", "girl", "child", "individual", "human head"))
"""Labels that are people beside those that the dataset's own tags call subjects."""
SAME = 0.7
"""Masks with this IoU are of one person or thing."""
MOST = 3
AROUND_FACE = 0.5
"""A person has a face when its mask covers this share of the face's box."""
SOMEBODY = 0.1
"""What has a smaller share of its pixels on people is an object, not something worn."""


@dataclass(frozen=True)
class OpenS2V:
    """Implements `Importer`."""

    source: OpenS2VSource
    faces: FaceSettings
    rules: DecideSettings
    seed: int = 0
    format: str = "opens2v"
    version: int = 1

    def options(self) -> dict[str, Any]:
        return {"faces": self.faces.parameters(), "decide": self.rules.model_dump(mode="json"), "seed": self.seed}

    def items(self) -> Iterator[Item | Refusal]:
        return self.source.items()

    def read(self, item: Item) -> Imported:
        sample = self.source.read(item)
        losses = LossCount()
        measured = measure(sample, self._people(sample), losses)
        outcome = decide_pair(measured, self._provenance(sample), self.rules, self.seed)
        if not isinstance(outcome.outcome, Pair):
            raise ImportRefused(f"{outcome.outcome.rule}: {outcome.outcome.detail}")
        members = dict(
            assemble(outcome.outcome, measured.stills, measured.segmentation, measured.background, measured.encoded)
        )
        losses.add("scores of OpenS2V", "a record has no place for them", sample.name)
        return Imported(outcome.outcome, {n: d for n, d in members.items() if n != "json"}, outcome.dropped, losses)

    def _people(self, sample: FlatSample) -> People:
        stage = _faces(self.faces)
        source = SourceVideo(source_id="", uri="", names=(sample.video_name,), size_bytes=0)
        return stage.process([Row(source, None, {Stills: _stills(sample)})])[0]

    def _provenance(self, sample: FlatSample) -> Provenance:
        imported = provenance(self, sample.name, video=sample.video_name)
        faces = stage_provenance(_faces(self.faces), imported.stages[0].fingerprint)
        return imported.model_copy(update={"stages": (*imported.stages, faces), "decided_by": "opens2v import"})


@lru_cache(maxsize=1)
def _faces(settings: FaceSettings) -> FacesStage:
    """The detector, loaded once a process."""
    stage = FacesStage(settings)
    stage.setup()
    return stage


def _stills(sample: FlatSample) -> Stills:
    buffer = BytesIO()
    Image.fromarray(sample.frame).save(buffer, "JPEG", quality=95, subsampling=0)
    still = Still(time_s=sample.start_s + sample.time_s, image=buffer.getvalue())
    return Stills(width=sample.clip.width, height=sample.clip.height, stills=(still,))


# --- From flat labels to what the stages would have measured ----------------------------------------------------------


def measure(sample: FlatSample, seen: People, losses: LossCount) -> Measured:
    """The sample as measurements: people by face and mask, words by their place in the caption, votes by pixels.

    Raises `ImportRefused` when no labelled person has a face and words of its own.
    """
    bodies, things = _sorted(sample, losses)
    words = _Words(sample, losses)
    faces = _faces_of(bodies, seen)
    nouns = [words.noun(body, [other for other in bodies if other is not body]) for body in bodies]
    order = sorted(range(len(bodies)), key=lambda i: (faces[i] is None or nouns[i] is None, faces[i] is None, i))
    subjects = [noun for i in order if faces[i] is not None and (noun := nouns[i]) is not None]
    if not subjects:
        raise ImportRefused(
            f"{len(bodies)} people labelled, {sum(f is not None for f in faces)} of them with a face of their own, "
            f"{sum(n is not None for n in nouns)} with words of their own in the caption, nobody with both"
        )
    masks = [bodies[i][0].pixels for i in order]
    found = [(f"s{number}.body", bodies[order[number]][0]) for number in range(len(subjects))]
    objects = [thing for thing in things if sum(_inside(thing, masks)) < SOMEBODY]
    worn = [(thing, _votes(thing, masks)) for thing in things if sum(_inside(thing, masks)) >= SOMEBODY]
    mentions = []
    for number, noun in enumerate(subjects):
        mine = [(thing, votes) for thing, votes in worn if _first(votes) == number]
        if len(mine) > MOST:
            losses.add("attributes", f"a subject has at most {MOST}: the best scored were taken", sample.name)
            mine = sorted(mine, key=lambda one: -one[0].score)[:MOST]
        found += [(f"s{number}.a{place}", thing) for place, (thing, _) in enumerate(mine)]
        attributes = tuple(Mention(phrase=words.of(thing.phrase), votes=votes) for thing, votes in mine)
        mention = Mention(phrase=noun, votes=(Vote(person=number, share=1.0),))
        mentions.append(PersonMention(noun=mention, attributes=attributes))
    for _, votes in worn:
        if _first(votes) >= len(subjects):
            losses.add("labels", "on people without a face, or without words of their own", sample.name)
    found += [(f"o{number}", thing) for number, thing in enumerate(objects)]
    background = next((p for p in map(words.of, sample.backgrounds) if p.span is not None), None)
    return Measured(
        clip=Clip.of(hashlib.sha256(sample.source.encode()).hexdigest()[:24], sample.start_s, sample.end_s),
        source_names=(sample.video_name,),
        stills=_stills(sample),
        people=People(
            people=tuple(
                _person(number, face, bodies[i][0].box)
                for number, i in enumerate(order)
                if (face := faces[i]) is not None
            )
        ),
        caption=Caption(
            text=sample.caption,
            people=tuple(mentions),
            objects=tuple(words.of(thing.phrase) for thing in objects),
            background=background if sample.background is not None else None,
            answers=(),
        ),
        grounding=Grounding(boxes=tuple(GroundedBox(entity=e, still=0, box=x.box, score=1.0) for e, x in found)),
        segmentation=Segmentation(
            masks=tuple(EntityMask(entity=e, still=0, box=x.box, mask=x.mask, score=1.0) for e, x in found)
        ),
        background=Background(
            image=sample.background or b"", seen_share=0.0, filled_share=round(float(np.any(masks, axis=0).mean()), 4)
        ),
        encoded=sample.clip,
    )


Body = list[Label]
"""One person, under all the names that its mask was labelled with; the best scored first."""


def _sorted(sample: FlatSample, losses: LossCount) -> tuple[list[Body], list[Label]]:
    """People, and things by one label each. A label that names scenery is neither."""
    people = [x for x in sample.labels if x.phrase in sample.subjects or x.phrase.casefold() in PEOPLE]
    scenery = {phrase.casefold() for phrase in sample.backgrounds}
    bodies = _grouped(people)
    by_phrase: dict[str, list[Label]] = {}
    for label in sample.labels:
        if label not in people and label.phrase.casefold() not in scenery:
            by_phrase.setdefault(label.phrase.casefold(), []).append(label)
    things = []
    for same in by_phrase.values():
        apart = _grouped(same)
        if len(apart) == 1:
            things.append(apart[0][0])
        else:
            losses.add("labels", "several things go by one phrase: the caption may mean either", sample.name)
    return bodies, things


def _grouped(labels: Sequence[Label]) -> list[Body]:
    """Labels whose masks cover the same pixels, together."""
    groups: list[Body] = []
    for label in sorted(labels, key=lambda label: -label.score):
        same = next((group for group in groups if _iou(group[0].pixels, label.pixels) >= SAME), None)
        if same is None:
            groups.append([label])
        else:
            same.append(label)
    return groups


def _faces_of(bodies: Sequence[Body], seen: People) -> list[Sighting | None]:
    """Each body's face: the only one in its mask; a face belongs to the smallest mask around it."""
    owned: dict[int, list[Sighting]] = {}
    for person in seen.people:
        sighting = person.sightings[0]
        around = [i for i, body in enumerate(bodies) if _covered(body[0].pixels, sighting.face) >= AROUND_FACE]
        if around:
            owned.setdefault(min(around, key=lambda i: int(bodies[i][0].pixels.sum())), []).append(sighting)
    return [owned[i][0] if len(owned.get(i, ())) == 1 else None for i in range(len(bodies))]


def _person(number: int, face: Sighting, body: Box) -> Person:
    return Person(index=number, sightings=(face.model_copy(update={"body": body, "body_score": 1.0}),))


def _inside(thing: Label, people: Sequence[NDArray[np.bool_]]) -> list[float]:
    """The share of a thing's pixels on each person; a pixel of several people counts for each."""
    return [float((thing.pixels & person).sum() / thing.pixels.sum()) for person in people]


def _votes(thing: Label, people: Sequence[NDArray[np.bool_]]) -> tuple[Vote, ...]:
    """Containment as votes: shares of all people sum to at most 1."""
    inside = _inside(thing, people)
    total = max(1.0, sum(inside))
    return tuple(Vote(person=i, share=round(share / total, 4)) for i, share in enumerate(inside))


def _first(votes: Sequence[Vote]) -> int:
    return max(votes, key=lambda vote: vote.share).person


@dataclass(frozen=True)
class _Words:
    """Where phrases stand. A long caption names a thing again and again: its first place introduces it, and is taken
    when nobody else goes by the same words.
    """

    sample: FlatSample
    losses: LossCount

    def of(self, phrase: str) -> Phrase:
        places = occurrences(self.sample.caption, phrase)
        if not places:
            return Phrase(text=phrase, span=None)
        if len(places) > 1:
            self.losses.add("further mentions", "a reference is bound to one place: the first", self.sample.name)
        return Phrase(text=places[0].of(self.sample.caption), span=places[0])

    def noun(self, body: Body, others: Sequence[Body]) -> Phrase | None:
        """The best scored of a person's names that stands in the caption and is no other person's; None without."""
        taken = {label.phrase.casefold() for other in others for label in other}
        named = (self.of(label.phrase) for label in body if label.phrase.casefold() not in taken)
        return next((phrase for phrase in named if phrase.span is not None), None)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def _covered(pixels: NDArray[np.bool_], box: Box) -> float:
    height, width = pixels.shape
    x0, y0, x1, y1 = (round(v) for v in box.clipped(width, height))
    inside = pixels[y0:y1, x0:x1]
    return float(inside.mean()) if inside.size else 0.0
