"""The typed records every room speaks.

A record is frozen, refuses unknown fields, and has one JSON form: what is stored, what is sent between processes and
what `schemas/*.schema.json` describes are the same.
Units: times in seconds, boxes in pixels (xyxy, half open), shares in 0…1.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

SCHEMA_VERSION = 2
"""Raised when a stored `Pair` changes in a way that an older reader cannot read."""

STILL_POSITIONS = (0.05, 0.50, 0.95)
"""Where in a clip the three stills are taken, as shares of its length (LumosX, section "data")."""

EntityId = Annotated[str, Field(pattern=r"^(s\d+(\.(face|body|a\d+))?|o\d+|bg)$")]
"""One thing in a clip: `s0` a subject; `s0.face`, `s0.body`, `s0.a0` its parts; `o0` an object; `bg` the background."""

Share = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["face", "attribute", "body", "object", "background"]


def _blob_out(value: bytes, info: SerializationInfo) -> Any:
    """Bytes go to the list that `Record.pack` gives, in order; the JSON keeps their place in it."""
    if isinstance(info.context, list):
        info.context.append(value)
        return len(info.context) - 1
    return base64.b64encode(value).decode("ascii") if info.mode == "json" else value


def _blob_in(value: Any, info: ValidationInfo) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return info.context[value] if info.context is not None else b""
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    raise ValueError("expected bytes, base64 text or the number of a blob")


Blob = Annotated[
    bytes,
    PlainSerializer(_blob_out),
    PlainValidator(_blob_in),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "integer", "minimum": 0}],
            "description": "the bytes as base64, or the number of the blob that stands beside the JSON",
        }
    ),
]
"""Encoded media inside a record. `Record.pack` keeps them out of the JSON, so that decisions read the JSON alone."""


class Record(BaseModel):
    """Base of all records: immutable and strict about field names."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    def to_json(self) -> str:
        """The record's one JSON form; blobs are base64."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read `to_json` back. Raises pydantic's `ValidationError` naming every wrong field."""
        return cls.model_validate_json(text)

    def pack(self) -> tuple[str, list[bytes]]:
        """The record as JSON and its blobs beside it."""
        blobs: list[bytes] = []
        return self.model_dump_json(context=blobs), blobs

    @classmethod
    def unpack(cls, text: str | bytes, blobs: Sequence[bytes] | None) -> Self:
        """Read `pack` back. With `blobs=None` only the JSON is there and every blob reads as empty bytes."""
        return cls.model_validate_json(text, context=blobs)


class Box(NamedTuple):
    """A rectangle in pixels: left, top, right, bottom; the right and bottom edges are outside."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return max(0.0, self.x1 - self.x0)

    @property
    def height(self) -> float:
        return max(0.0, self.y1 - self.y0)

    @property
    def area(self) -> float:
        return self.width * self.height

    def intersection(self, other: Box) -> Box:
        """The common rectangle (area 0 when they do not meet)."""
        return Box(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))

    def clipped(self, width: float, height: float) -> Box:
        """The part that lies inside an image of that size."""
        return self.intersection(Box(0, 0, width, height))


class Span(NamedTuple):
    """Characters `start … end` (half open) of a caption, counted in Unicode code points."""

    start: int
    end: int

    def of(self, text: str) -> str:
        return text[self.start : self.end]


class Mask(Record):
    """A binary mask as COCO's compressed run-length encoding (`pycocotools.mask`)."""

    height: int
    width: int
    counts: str


class GivenBox(Record):
    """Where a phrase of a given caption is, as it came with the video."""

    phrase: str = Field(min_length=1, max_length=200)
    box: Box
    time_s: float | None = Field(None, ge=0, description="of the frame it is in; None: it holds for the whole video")

    @model_validator(mode="after")
    def _has_an_area(self) -> Self:
        if not (all(map(math.isfinite, self.box)) and self.box.area > 0):
            raise ValueError(f"the box {tuple(self.box)} of {self.phrase!r} is empty")
        return self


class SourceVideo(Record):
    """One video file by content. Copies of a file are one source with several names.

    A file that came with a caption is another source than the same file without, or with another caption: what was
    asked about it depends on the caption.
    """

    source_id: str = Field(description="hash of the file's bytes, and of the caption that came with it")
    uri: str = Field(description="where it is read from: a local path or a URI")
    names: tuple[str, ...] = Field(description="path below the input folder of every copy, sorted")
    size_bytes: int
    caption: str | None = Field(None, description="given with the video; part of what `source_id` is the hash of")
    boxes: tuple[GivenBox, ...] = Field((), description="given with the caption, and part of the hash as well")


class GivenVideo(Record):
    """A line of a table of videos (`*.videos.jsonl`): a file, and the caption that somebody gave it."""

    uri: str = Field(description="a local path below the table's folder, or an absolute path, or a URI")
    name: str = Field(description="what the video is called in tables and messages")
    caption: str = Field(min_length=1, max_length=16_384)
    boxes: tuple[GivenBox, ...] = Field((), max_length=64)


class Clip(Record):
    """A span of a source that lies inside one shot."""

    clip_id: str = Field(description="hash of source id and span")
    source_id: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @classmethod
    def of(cls, source_id: str, start_s: float, end_s: float) -> Clip:
        """A clip named by its content: the source's hash and the span to the microsecond, no path, no row number."""
        start_s, end_s = round(start_s, 6), round(end_s, 6)
        name = f"{source_id}:{start_s:.6f}:{end_s:.6f}"
        return cls(
            clip_id=hashlib.sha256(name.encode()).hexdigest()[:24], source_id=source_id, start_s=start_s, end_s=end_s
        )


# --- What a vision-language model answers: decoding is constrained to these, so lengths are bounded -------------------

Words = Annotated[str, Field(min_length=1, max_length=100)]
"""A phrase copied from a caption."""


class CaptionAnswer(Record):
    """To "what does the clip show?"."""

    caption: str = Field(min_length=1, max_length=1600)


class PersonWords(Record):
    """A person in a caption's own words."""

    noun: Words
    attributes: tuple[Words, ...] = Field(max_length=3)


class EntitiesAnswer(Record):
    """To "whom and what does the caption name?"."""

    people: tuple[PersonWords, ...] = Field(max_length=6)
    objects: tuple[Words, ...] = Field(max_length=6)
    background: str = Field(max_length=100, description="empty where the caption names none")


class RepairAnswer(Record):
    """To "what exactly does the caption say for these?": one an asked phrase, empty where nothing fits."""

    phrases: tuple[Annotated[str, Field(max_length=100)], ...] = Field(max_length=36)


class Choice(Record):
    """Whose a phrase is."""

    phrase: Words
    person: int = Field(ge=0, le=99, description="number of a box; 0 is nobody of them")


class OwnershipAnswer(Record):
    """To "which of the numbered people is it, or wears it?": one choice an asked phrase, in order."""

    choices: tuple[Choice, ...] = Field(max_length=36)


# --- Measurements: what the costly stages write, raw and with scores --------------------------------------------------


class Probe(Record):
    """What the container says of a source, checked by decoding its first frame. Sizes are as displayed (rotated)."""

    width: int
    height: int
    rotation: int
    duration_s: float
    fps: float
    frames: int
    codec: str
    pixel_format: str
    bit_depth: int


class FrameScore(NamedTuple):
    """A frame's presentation time and the detector's score for "a shot changes here"."""

    time_s: float
    score: float


class ShotScores(Record):
    """Per-frame shot-change scores, but for frames under `floor`. Cutting is a decision (`decide.clips`)."""

    detector: str
    floor: float
    frame_s: float = Field(description="length of one frame: a scored frame covers time_s … time_s + frame_s")
    duration_s: float
    scores: tuple[FrameScore, ...]
    content: Box = Field(description="the picture without black bars")


class Still(Record):
    """One frame of a clip, exact by presentation time, as JPEG."""

    time_s: float = Field(description="seconds from the source's start")
    image: Blob


class Stills(Record):
    """The frames at 5, 50 and 95 % of a clip; every later stage looks at these."""

    width: int
    height: int
    stills: tuple[Still, ...]


class Quality(Record):
    """How good a clip's pictures are, before anything is known of what they show. One value a still where plural."""

    sharpness: tuple[float, ...] = Field(description="variance of the Laplacian at 360 lines of height")
    brightness: tuple[Share, ...] = Field(description="mean luma")
    clipped: tuple[Share, ...] = Field(description="pixels that are black or white altogether")
    motion: float = Field(description="median length of the optical flow, in frame heights a second")
    camera_motion: float = Field(description="the part of it that is the camera's, in the same unit")
    overlay_share: Share = Field(description="area of subtitles, watermarks and other lettering that stands still")
    aesthetic: float | None = Field(description="1…10; None where no model was configured")
    content: Box = Field(description="the picture without black bars")
    hashes: tuple[str, ...] = Field(description="perceptual hash of each still, 64 bits in hex")
    nsfw: tuple[Share, ...] | None = Field(None, description="None where no model was configured")


class Sighting(Record):
    """One person in one still."""

    still: int
    face: Box
    face_score: float
    landmarks: tuple[tuple[float, float], ...] = Field(description="eyes, nose, mouth corners as x, y; may be empty")
    body: Box
    body_score: float | None = Field(description="None when the box was derived from the face and not detected")
    sharpness: float = Field(description="variance of the Laplacian over the face")
    frontal: Share | None = Field(None, description="1 looks into the camera, 0 is a profile; None without landmarks")
    visible: Share | None = Field(None, description="of the face: not cut off by the frame and not covered")
    embedding: tuple[float, ...] = Field((), description="identity, of unit length; empty where no model gives one")


class Person(Record):
    """The same person over a clip's stills."""

    index: int
    sightings: tuple[Sighting, ...]

    @property
    def embedding(self) -> tuple[float, ...]:
        """The mean of the sightings' embeddings, of unit length; empty where none has one."""
        known = [s.embedding for s in self.sightings if s.embedding]
        mean = [sum(values) / len(known) for values in zip(*known, strict=True)]
        length = math.sqrt(sum(value * value for value in mean))
        return tuple(value / length for value in mean) if length else ()


class People(Record):
    """The people of a clip, left to right by the mean centre of their faces."""

    people: tuple[Person, ...]


class Phrase(Record):
    """Words of a caption. `span` is None while nobody has found them in it."""

    text: str
    span: Span | None


class Vote(Record):
    """How strongly an annotator ties a phrase to a person: shares of one phrase sum to at most 1."""

    person: int
    share: Share


class Mention(Record):
    """A phrase with the annotator's votes on whose it is."""

    phrase: Phrase
    votes: tuple[Vote, ...]

    @property
    def owner(self) -> Vote | None:
        """The person with the most votes; None without votes or when two people tie."""
        ranked = sorted(self.votes, key=lambda vote: -vote.share)
        tied = len(ranked) > 1 and ranked[0].share == ranked[1].share
        return None if tied or not ranked else ranked[0]

    @property
    def margin(self) -> float:
        """The votes for the first person less those for the second; 0 without votes."""
        shares = sorted((vote.share for vote in self.votes), reverse=True)
        return shares[0] - (shares[1] if len(shares) > 1 else 0.0) if shares else 0.0


class PersonMention(Record):
    """A person as the caption names it, with what the caption says that person wears or has."""

    noun: Mention
    attributes: tuple[Mention, ...]


class Caption(Record):
    """A clip's caption and the entities copied from it. The i-th of `people` is subject `s<i>`."""

    text: str
    people: tuple[PersonMention, ...]
    objects: tuple[Phrase, ...]
    background: Phrase | None
    answers: tuple[str, ...] = Field(
        description="what the model answered, raw, each behind its question's name: `caption: …`; none from rules"
    )


class GroundedBox(Record):
    """Where a phrase was found in a still."""

    entity: EntityId
    still: int
    box: Box
    score: float


class Grounding(Record):
    boxes: tuple[GroundedBox, ...] = Field(description="candidates; those of an entity in a still best first")

    @property
    def best(self) -> dict[tuple[str, int], GroundedBox]:
        """The best box by entity and still: the one that is cut out."""
        return {(box.entity, box.still): box for box in reversed(self.boxes)}


class EntityMask(Record):
    """The pixels of an entity in a still."""

    entity: EntityId
    still: int
    box: Box = Field(description="the smallest one of whole pixels around the mask's")
    mask: Mask
    score: float = Field(description="the segmenter's own quality estimate (SAM: predicted IoU)")
    stability: Share | None = Field(None, description="IoU of the mask cut at a lower and a higher threshold")


class Segmentation(Record):
    masks: tuple[EntityMask, ...]


class Look(Record):
    """What an entity looks like in a still, as a vector that is near where the same thing is seen again."""

    entity: EntityId
    still: int
    vector: tuple[float, ...] = Field(description="of unit length")


class Looks(Record):
    """The looks of a clip's attributes."""

    looks: tuple[Look, ...]


class Background(Record):
    """The clip's scene without its people and objects."""

    image: Blob = Field(description="PNG of the clip's size")
    seen_share: Share = Field(description="pixels inside the removed regions that some other frame showed")
    filled_share: Share = Field(description="pixels of the whole image that no frame showed and an inpainter filled")


class EncodedClip(Record):
    """The clip as it goes into a shard."""

    mp4: Blob
    width: int
    height: int
    fps: float
    frames: int


# --- Decisions: what goes into a shard --------------------------------------------------------------------------------


class Origin(Record):
    """Another clip that a reference was cut from. The reference's still, time, box and mask are that clip's."""

    clip: Clip
    width: int = Field(description="of that clip's frame")
    height: int
    entity: EntityId = Field(description="what it is called there")
    similarity: float = Field(description="cosine between it and what the sample's own clip shows")


class Reference(Record):
    """A reference image and the words it is bound to."""

    entity: EntityId
    kind: Kind
    phrase: Phrase
    member: str = Field(description="the image's name in the sample, after the key: `s0.face.png`")
    mask_member: str | None = Field(description="the mask in the clip's frame, if the reference was cut by one")
    still: int
    time_s: float = Field(description="seconds from the clip's start")
    box: Box = Field(description="where it stands in the clip's frame")
    area_share: Share = Field(description="its pixels as a share of the frame")
    score: float = Field(description="the measuring model's score; 1 where it gives none")
    sharpness: float | None = Field(None, description="of a face: variance of the Laplacian over it")
    frontal: Share | None = Field(None, description="of a face: 1 looks into the camera, 0 is a profile")
    visible: Share | None = Field(None, description="of a face: not cut off by the frame and not covered")
    origin: Origin | None = Field(None, description="the clip it was cut from; None for the sample's own")
    placed: bool = Field(
        True, description="False: nobody knows where in the clip it stands; its box has its size alone"
    )

    @property
    def located(self) -> bool:
        """Whether still and box are a place in the sample's own clip."""
        return self.placed and self.origin is None

    @model_validator(mode="after")
    def _phrase_is_tied(self) -> Self:
        if self.phrase.span is None:
            raise ValueError(f"reference {self.entity}: its phrase {self.phrase.text!r} has no span in the caption")
        return self


class Subject(Record):
    """A face with its own attributes: the relation that this project exists for."""

    index: int
    noun: Phrase
    face: Reference
    attributes: tuple[Reference, ...] = Field(max_length=3)
    body: Reference | None
    owner_share: Share = Field(description="the annotator's agreement that this face is the subject the caption names")
    likeness: float | None = Field(
        None, description="least cosine between the embeddings of the person's sightings; None with fewer than two"
    )


class Relation(Record):
    """How strongly one attribute is tied to one subject, by each witness; None where a witness says nothing."""

    attribute: EntityId
    subject: int
    votes: Share | None = Field(description="the annotator's, for this subject's person")
    inside: Share | None = Field(
        description="of the attribute's pixels, inside this subject's body box in the still of the reference"
    )


class PairQuality(Record):
    """How good a sample's pictures are; None where nothing measured it. The worst still counts."""

    sharpness: float | None = Field(None, description="least variance of the Laplacian, at 360 lines of height")
    brightness: Share | None = Field(None, description="mean luma of all stills")
    clipped: Share | None = Field(None, description="most pixels of a still that are black or white altogether")
    motion: float | None = Field(None, description="median optical flow, in frame heights a second")
    overlay_share: Share | None = Field(None, description="area of lettering that stands still")
    aesthetic: float | None = Field(None, description="1…10")
    nsfw: Share | None = Field(None, description="the highest score of a still")
    hashes: tuple[str, ...] | None = Field(None, description="perceptual hash of each still, 64 bits in hex")


class StageProvenance(Record):
    """Which code, model, prompt and parameters made one of a sample's measurements."""

    stage: str
    version: int = Field(description="version of the stage's code")
    fingerprint: str
    model: str
    revision: str
    prompt: str = Field(description="hash of the prompt; empty where the stage has none")
    parameters: dict[str, Any]


class Provenance(Record):
    stages: tuple[StageProvenance, ...]
    decided_by: str = Field(description="hash of the decision parameters")
    events: tuple[int, ...] = Field(
        (), description="audit events that the sample was repaired by; `audit/applied.parquet` has them"
    )


class Pair(Record):
    """One training sample: `KEY.json` of a shard."""

    schema_version: int = SCHEMA_VERSION
    key: str = Field(pattern=r"^[0-9a-z_-]+$", description="unique in the dataset; no dots (webdataset splits there)")
    split: Literal["train", "val"]
    pairing: Literal["in_clip", "cross_clip"]
    clip: Clip
    source_names: tuple[str, ...]
    width: int
    height: int
    fps: float
    frames: int
    caption: str
    subjects: tuple[Subject, ...]
    objects: tuple[Reference, ...]
    background: Reference | None
    relations: tuple[Relation, ...] = Field((), description="all attributes by all subjects, of the sample's own clip")
    quality: PairQuality = PairQuality()
    licence: str | None = Field(None, description="of the source, as it was given")
    provenance: Provenance

    @property
    def references(self) -> tuple[Reference, ...]:
        """All references in the model's order: background, objects, each subject's face and attributes; then bodies."""
        head = (*(() if self.background is None else (self.background,)), *self.objects)
        groups = (r for s in self.subjects for r in (s.face, *s.attributes))
        bodies = (s.body for s in self.subjects if s.body is not None)
        return (*head, *groups, *bodies)

    def frame_of(self, reference: Reference) -> tuple[int, int]:
        """Width and height of the frame that a reference was cut from: boxes and masks are that frame's."""
        origin = reference.origin
        return (self.width, self.height) if origin is None else (origin.width, origin.height)

    @model_validator(mode="after")
    def _pairing_is_told(self) -> Self:
        """Whether references come from other clips shows in `pairing`."""
        foreign = any(reference.origin is not None for reference in self.references)
        if foreign != (self.pairing == "cross_clip"):
            raise ValueError(f"{self.key}: pairing {self.pairing}, and references from other clips: {foreign}")
        return self

    @model_validator(mode="after")
    def _spans_are_ties(self) -> Self:
        """Every phrase stands in the caption where its span says, and no two entities share a character.

        A body reference is the subject's own noun again, so it shares the noun's span.
        """
        taken: dict[int, str] = {}
        for reference in self.references:
            span = reference.phrase.span
            if span is None or not 0 <= span.start < span.end <= len(self.caption):
                raise ValueError(f"{self.key}: {reference.entity}: span {span} is outside the caption")
            if span.of(self.caption) != reference.phrase.text:
                raise ValueError(
                    f"{self.key}: {reference.entity}: the caption says {span.of(self.caption)!r} at {tuple(span)}, "
                    f"not {reference.phrase.text!r}"
                )
            owner = re.sub(r"\.(face|body)$", "", reference.entity)
            for position in range(span.start, span.end):
                if taken.setdefault(position, owner) != owner:
                    raise ValueError(f"{self.key}: {owner} and {taken[position]} share characters of the caption")
        return self


class Rejected(Record):
    """A clip that gives no pair: the rule that refused it and what it saw. No error: other rules may accept it."""

    clip: Clip
    rule: str
    detail: str


class Reason(NamedTuple):
    """Why a decision refused something: the rule (its key under `decide` where it has one) and what it saw."""

    rule: str
    detail: str


class Witness(Record):
    """What ties a phrase to one person of a clip: the annotator's votes, and its pixels in one still."""

    person: int
    still: int | None = Field(description="None where no still has a mask of it")
    votes: Share | None
    inside: Share | None = Field(description="of its pixels, inside this person's body box in that still")


class Dropped(Record):
    """A part of a clip that its pair goes without, and why."""

    entity: EntityId
    phrase: str
    rule: str
    detail: str
    witnesses: tuple[Witness, ...] = Field((), description="of whose it is, where they do not agree")


class Decision(Record):
    """What became of a measured clip."""

    outcome: Pair | Rejected
    dropped: tuple[Dropped, ...]


class Quarantined(Record):
    """A row that a stage could not process: what failed, on which input, and why."""

    id: str = Field(description="source id or clip id; for a file that cannot be read, a hash of its name")
    stage: str
    error: str = Field(description="class of the error")
    message: str
    attempts: int
    source_names: tuple[str, ...]
    start_s: float | None = None
    end_s: float | None = None
    answers: tuple[str, ...] = Field((), description="what a model answered, as in `Caption`, where that is the reason")


# --- What a run tells of itself ---------------------------------------------------------------------------------------


class Quantiles(Record):
    """Seconds that single rows took."""

    p50: float
    p90: float
    p99: float
    max: float


class StageSummary(Record):
    """What one stage did in one run."""

    stage: str
    fingerprint: str
    model: str
    done: int = Field(description="rows measured in this run")
    cached: int = Field(description="rows whose results were stored before it")
    gated: int = Field(description="rows that an earlier gate or failure spared this stage")
    quarantined: int = Field(description="rows that failed here, in this run or before")
    seconds: float = Field(description="wall seconds inside the stage in this run, model loading left out")
    loading_seconds: float = Field(0.0, description="wall seconds of loading models and warming them up, all workers")
    cpu_seconds: float = Field(description="processor seconds of the same, all threads")
    gpu_seconds: float = Field(description="`seconds` times the GPUs that a worker holds")
    bytes: int = Field(description="committed in this run")
    row_seconds: Quantiles | None = Field(description="over all stored results, whichever run made them")
    errors: dict[str, int] = Field(description="quarantined rows by class of error")


class RunSummary(Record):
    """`measurements/run.json`: the last build of an output folder."""

    sources: int
    duplicates: int = Field(description="files whose content another file has")
    skipped: int = Field(description="files without a video's extension")
    clips: int
    pairs: int
    subjects: int
    quarantined: int
    rejected: dict[str, int] = Field(description="clips by the rule that refused them")
    stages: tuple[StageSummary, ...]
    wall_s: float
    measuring_s: float = Field(description="of `wall_s`: from the first row measured to the last; 0 when none was")
    cost: float = Field(description="CPU and GPU time at the configured prices")
    inputs: tuple[str, ...] = Field(description="what was built from: absolute paths or URIs")
    config: dict[str, Any]
