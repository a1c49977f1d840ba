"""What decisions look at: a clip's measurements boiled down to numbers and words that no rule changes.

A mask becomes its area and the shares of it inside each body, a phrase its place in the caption. That is the slow half
of deciding, and it is the same for every threshold: it is done once and stored (`pipelines/facts.py`), so that deciding
again reads about a kilobyte a clip. Structs of msgspec and not `Record`s: they are made again from measurements at any
time, no other program reads them, and reading is what counts (about twenty times as fast).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import mul

import msgspec

from dataengine import masks, phrases, spans
from dataengine.records import (
    Background,
    Box,
    Caption,
    Clip,
    EncodedClip,
    EntityMask,
    Grounding,
    Looks,
    Mention,
    PairQuality,
    People,
    Person,
    Phrase,
    Quality,
    Reason,
    Segmentation,
    Sighting,
    Span,
    Stills,
)

VERSION = 1
"""Raise it when the same measurements give other facts."""


@dataclass(frozen=True)
class Measured:
    """All that is known of a clip. Media inside the records are not looked at and may be empty bytes."""

    clip: Clip
    source_names: tuple[str, ...]
    stills: Stills
    people: People
    caption: Caption
    grounding: Grounding
    segmentation: Segmentation
    background: Background
    encoded: EncodedClip
    quality: Quality | None = None
    looks: Looks | None = None


class _Struct(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Face(_Struct, frozen=True):
    """A person's face in one still."""

    still: int
    box: Box
    score: float
    sharpness: float
    frontal: float | None
    visible: float | None

    @property
    def px(self) -> float:
        """Its short side."""
        return min(self.box.x1 - self.box.x0, self.box.y1 - self.box.y0)


class PersonFacts(_Struct, frozen=True):
    index: int
    faces: tuple[Face, ...]
    likeness: float | None


class PictureFacts(_Struct, frozen=True):
    """What is known of a clip before the costly stages: the gate judges by it alone."""

    seconds: float
    people: tuple[PersonFacts, ...]
    sharpness: float | None = None
    brightness: float | None = None
    clipped: float | None = None
    motion: float | None = None
    camera_motion: float | None = None
    overlay: float | None = None
    aesthetic: float | None = None
    nsfw: float | None = None
    hashes: tuple[str, ...] | None = None

    @property
    def quality(self) -> PairQuality:
        return PairQuality(
            sharpness=self.sharpness,
            brightness=self.brightness,
            clipped=self.clipped,
            motion=self.motion,
            overlay_share=self.overlay,
            aesthetic=self.aesthetic,
            nsfw=self.nsfw,
            hashes=self.hashes,
        )


class Words(_Struct, frozen=True):
    """A phrase: where it stands in the caption, or why it cannot be tied, and the annotator's votes on whose it is."""

    text: str
    span: Span | None
    untied: Reason | None
    """Why there is no span, whatever else is claimed."""
    unfit: Reason | None
    """Why it cannot be an attribute or object."""
    votes: dict[int, float]


class SubjectWords(_Struct, frozen=True):
    noun: Words
    attributes: tuple[Words, ...]


class MaskFacts(_Struct, frozen=True):
    """An entity's pixels in one still."""

    still: int
    box: Box
    area_share: float
    score: float
    stability: float | None
    grounded: float
    """The score of the box it was cut from; 1 where it came with a face."""
    inside: dict[int, float]
    """Shares of its pixels inside the body boxes of everybody whom a face shows in that still, by person."""


class Facts(_Struct, frozen=True):
    """A clip that every stage has measured."""

    width: int
    height: int
    fps: float
    frames: int
    still_times_s: tuple[float, ...]
    """Seconds from the clip's start."""
    caption: str
    subjects: tuple[SubjectWords, ...]
    objects: tuple[Words, ...]
    background: Words | None
    background_filled: float
    masks: dict[str, tuple[MaskFacts, ...]]


def pictures_of(clip: Clip, people: People, quality: Quality | None) -> PictureFacts:
    persons = tuple(of_person(person) for person in people.people)
    if quality is None:
        return PictureFacts(clip.seconds, persons)
    return PictureFacts(
        seconds=clip.seconds,
        people=persons,
        sharpness=min(quality.sharpness),
        brightness=sum(quality.brightness) / len(quality.brightness),
        clipped=max(quality.clipped),
        motion=quality.motion,
        camera_motion=quality.camera_motion,
        overlay=quality.overlay_share,
        aesthetic=quality.aesthetic,
        nsfw=None if quality.nsfw is None else max(quality.nsfw),
        hashes=quality.hashes,
    )


def of_person(person: Person) -> PersonFacts:
    return PersonFacts(person.index, tuple(_face(s) for s in person.sightings), likeness(person))


def likeness(person: Person) -> float | None:
    """Least cosine between the embeddings of a person's sightings; None with fewer than two."""
    known = [s.embedding for s in person.sightings if s.embedding]
    return min((sum(map(mul, a, b)) for a, b in combinations(known, 2)), default=None)


def facts_of(measured: Measured) -> Facts:
    """Raises `ValueError` when stills, masks and the encoded clip differ in size: boxes would not fit the clip."""
    clip, stills, encoded, caption = measured.clip, measured.stills, measured.encoded, measured.caption
    if (stills.width, stills.height) != (encoded.width, encoded.height):
        raise ValueError(
            f"clip {clip.clip_id}: its stills are {stills.width}x{stills.height} and its encoded frames "
            f"{encoded.width}x{encoded.height}: measure frames and encode again with the same code"
        )
    grounded = {place: found.score for place, found in measured.grounding.best.items()}
    found: dict[str, list[MaskFacts]] = {}
    for mask in measured.segmentation.masks:
        if (mask.mask.width, mask.mask.height) != (stills.width, stills.height):
            raise ValueError(
                f"clip {clip.clip_id}: the mask of {mask.entity} in still {mask.still} is {mask.mask.width}x"
                f"{mask.mask.height}, the still {stills.width}x{stills.height}: measure segment again"
            )
        score = grounded.get((mask.entity, mask.still), 1.0)
        found.setdefault(mask.entity, []).append(of_mask(mask, score, measured.people))
    return Facts(
        width=encoded.width,
        height=encoded.height,
        fps=encoded.fps,
        frames=encoded.frames,
        still_times_s=tuple(round(max(0.0, still.time_s - clip.start_s), 6) for still in stills.stills),
        caption=caption.text,
        subjects=tuple(
            SubjectWords(_mention(caption.text, p.noun), tuple(_mention(caption.text, a) for a in p.attributes))
            for p in caption.people
        ),
        objects=tuple(words_of(caption.text, wanted) for wanted in caption.objects),
        background=None if caption.background is None else words_of(caption.text, caption.background),
        background_filled=measured.background.filled_share,
        masks={entity: tuple(of_entity) for entity, of_entity in found.items()},
    )


def of_mask(found: EntityMask, grounded: float, people: People) -> MaskFacts:
    """`grounded`: the grounder's score of the box that the mask was cut from.

    Shares are of the mask's *own* area: 0.996 on right owners and 0 elsewhere, where IoU gives 0.12 to 0.44.
    """
    bodies = {p.index: s.body for p in people.people for s in p.sightings if s.still == found.still}
    return MaskFacts(
        still=found.still,
        box=found.box,
        area_share=masks.area(found.mask) / (found.mask.width * found.mask.height),
        score=found.score,
        stability=found.stability,
        grounded=grounded,
        inside={person: masks.share_inside(found.mask, found.box, body) for person, body in bodies.items()},
    )


def words_of(caption: str, phrase: Phrase, votes: dict[int, float] | None = None) -> Words:
    span = spans.resolve(caption, phrase)
    if isinstance(span, Reason):
        return Words(phrase.text, None, span, phrases.unfit(phrase.text), votes or {})
    return Words(phrase.text, span, None, phrases.unfit(phrase.text), votes or {})


def _mention(caption: str, mention: Mention) -> Words:
    return words_of(caption, mention.phrase, {vote.person: vote.share for vote in mention.votes})


def _face(sighting: Sighting) -> Face:
    return Face(
        still=sighting.still,
        box=sighting.face,
        score=sighting.face_score,
        sharpness=sighting.sharpness,
        frontal=sighting.frontal,
        visible=sighting.visible,
    )


def meeting(span: Span, taken: Sequence[Span]) -> Span | None:
    """The first of `taken` that shares a character with the span."""
    return next((other for other in taken if span.start < other.end and other.start < span.end), None)
