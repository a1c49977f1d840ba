"""From phrases and images to a pair: whose words are where in the caption, and what is left out for want of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from pydantic import ValidationError

from dataengine.records import (
    Box,
    Clip,
    Dropped,
    EncodedClip,
    Kind,
    Pair,
    Phrase,
    Provenance,
    Reason,
    Reference,
    Span,
    Subject,
)
from dataengine.shards.importers.contract import Imported, ImportRefused
from dataengine.shards.losses import LossCount
from dataengine.spans import resolve_all

MAX_ATTRIBUTES = 3
_LAST = 1 << 40


@dataclass(frozen=True)
class Place:
    """Where a reference stands in the clip. Without one its box has its size alone."""

    box: Box
    still: int
    time_s: float


@dataclass(frozen=True)
class Shown:
    """An image (PNG, of its box's size) with the phrase that it shows."""

    phrase: str
    png: bytes
    width: int
    height: int
    shown: int
    """Pixels that belong to it."""
    mask_png: bytes | None = None
    """Over the whole frame."""
    place: Place | None = None
    score: float = 1.0


@dataclass(frozen=True)
class Person:
    """A subject as a format describes it."""

    index: int
    noun: str
    face: Shown | None
    attributes: tuple[Shown, ...] = ()
    body: Shown | None = None


@dataclass
class Draft:
    """A sample in the making. Words are looked for together, as `spans.resolve_all` does: nouns, attributes, objects,
    background; what has none, or none of its own, is dropped with the reason.
    """

    key: str
    clip: EncodedClip
    caption: str
    people: tuple[Person, ...]
    objects: tuple[Shown, ...]
    background: Shown | None
    dropped: list[Dropped] = field(default_factory=list)
    losses: LossCount = field(default_factory=LossCount)
    media: dict[str, bytes] = field(default_factory=dict)

    def finish(
        self, provenance: Provenance, source_name: str, source_id: str = "", span: tuple[float, float] | None = None
    ) -> Imported:
        """The sample. Without a source's id the clip is its own source. Raises `ImportRefused` when nobody is left."""
        self.media["mp4"] = self.clip.mp4
        spans = iter(self._spans())
        subjects = []
        for person in self.people:
            noun = next(spans)
            attributes = _as_read([(shown, next(spans)) for shown in person.attributes])
            subject = self._subject(person, noun, attributes)
            if subject is not None:
                subjects.append(subject)
        objects = [
            self._reference(f"o{number}", "object", shown, span)
            for number, (shown, span) in enumerate(_as_read([(shown, next(spans)) for shown in self.objects]))
        ]
        background = None
        if self.background is not None:
            background = self._reference("bg", "background", self.background, next(spans))
        if not subjects:
            why = self.dropped[0].detail if self.dropped else "there is none"
            raise ImportRefused(f"no subject is left: {why}")
        source_id = source_id or sha256(self.clip.mp4).hexdigest()[:24]
        start_s, end_s = span or (0.0, round(self.clip.frames / self.clip.fps, 6))
        try:
            pair = Pair(
                key=self.key,
                split="train",
                pairing="in_clip",
                clip=Clip.of(source_id, start_s, end_s),
                source_names=(source_name,),
                width=self.clip.width,
                height=self.clip.height,
                fps=self.clip.fps,
                frames=self.clip.frames,
                caption=self.caption,
                subjects=tuple(subjects),
                objects=tuple(reference for reference in objects if reference is not None),
                background=background,
                provenance=provenance,
            )
        except ValidationError as error:
            raise ImportRefused(f"it makes no pair: {error.errors()[0]['msg']}") from error
        return Imported(pair, self.media, tuple(self.dropped), self.losses)

    def _spans(self) -> Sequence[Span | Reason]:
        phrases = [p for person in self.people for p in (person.noun, *(a.phrase for a in person.attributes))]
        phrases += [shown.phrase for shown in self.objects]
        phrases += [] if self.background is None else [self.background.phrase]
        return resolve_all(self.caption, phrases)

    def _subject(
        self, person: Person, noun: Span | Reason, attributes: Sequence[tuple[Shown, Span | Reason]]
    ) -> Subject | None:
        entity = f"s{person.index}"
        if isinstance(noun, Reason):
            self._drop(entity, person.noun, noun)
            return None
        if person.face is None:
            self._drop(entity, person.noun, Reason("faces", f"{person.noun!r} has no face"))
            return None
        face = self._reference(f"{entity}.face", "face", person.face, noun)
        assert face is not None
        kept: list[Reference] = []
        for number, (shown, span) in enumerate(attributes):
            name = f"{entity}.a{number}"
            if isinstance(span, Span) and len(kept) == MAX_ATTRIBUTES:
                self._drop(name, shown.phrase, Reason("max_attributes", f"a subject has at most {MAX_ATTRIBUTES}"))
                continue
            reference = self._reference(name, "attribute", shown, span)
            if reference is not None:
                kept.append(reference)
        body = None if person.body is None else self._reference(f"{entity}.body", "body", person.body, noun)
        return Subject(
            index=person.index, noun=face.phrase, face=face, attributes=tuple(kept), body=body, owner_share=1.0
        )

    def _reference(self, entity: str, kind: Kind, shown: Shown, span: Span | Reason) -> Reference | None:
        if isinstance(span, Reason):
            self._drop(entity, shown.phrase, span)
            return None
        place = shown.place or Place(Box(0, 0, shown.width, shown.height), 0, 0.0)
        member = f"{entity}.png"
        self.media[member] = shown.png
        if shown.mask_png is not None:
            self.media[f"{entity}.mask.png"] = shown.mask_png
        return Reference(
            entity=entity,
            kind=kind,
            phrase=Phrase(text=span.of(self.caption), span=span),
            member=member,
            mask_member=None if shown.mask_png is None else f"{entity}.mask.png",
            still=place.still,
            time_s=place.time_s,
            box=place.box,
            area_share=min(1.0, shown.shown / (self.clip.width * self.clip.height)),
            score=shown.score,
            placed=shown.place is not None,
        )

    def _drop(self, entity: str, phrase: str, reason: Reason) -> None:
        self.dropped.append(Dropped(entity=entity, phrase=phrase, rule=reason.rule, detail=reason.detail))


def _as_read(found: list[tuple[Shown, Span | Reason]]) -> list[tuple[Shown, Span | Reason]]:
    """In the order of the caption, as our own pairs are; what is not in it comes last."""
    return sorted(found, key=lambda pair: pair[1].start if isinstance(pair[1], Span) else _LAST)
