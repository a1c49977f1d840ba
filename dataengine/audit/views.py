"""What the page is told of a sample: plain records, with all numbers worked out and nothing left to look up.

Texts are as they are stored, hostile ones too: the page puts them into text nodes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import AwareDatetime, Field

from dataengine import masks
from dataengine.audit.cards import svg_path
from dataengine.audit.checks import containment
from dataengine.audit.events import Action, Event, ReasonCode
from dataengine.audit.media import still_frames
from dataengine.audit.palette import colour_of
from dataengine.audit.repairs import Repaired
from dataengine.audit.scene import MaskPixels
from dataengine.audit.state import SampleState
from dataengine.records import Box, EntityId, Kind, Pair, Record, Reference, StageProvenance

MAX_CAPTION = 20_000
"""Characters of a caption that the page shows; the rest is counted."""


class EntityView(Record):
    """A reference: where it stands, what it is called, whose it is."""

    id: EntityId
    kind: Kind
    subject: int | None = Field(description="whose it is; None for objects and the background")
    colour: str = Field(description="class of the palette: `s0`, `o`, `bg`")
    text: str
    span: tuple[int, int] = Field(description="in code points of the caption")
    still: int
    frame: int = Field(description="the number of that still's frame in the clip")
    box: Box
    area_share: float
    score: float
    sharpness: float | None
    frontal: float | None
    visible: float | None
    reference: int = Field(description="number of its picture and mask among the stored references")
    has_mask: bool = Field(description="whether the stored mask is the one that counts")
    outline: str = Field(description="of its mask, as the `d` of an SVG path in the clip's pixels; empty without one")
    cut_anew: bool = Field(description="its picture will be cut from another still when repairs are applied")
    other_clip: bool = Field(description="it was cut from another clip, so it stands in no frame of this one")


class SubjectView(Record):
    index: int
    noun: str
    colour: str
    owner_share: float
    likeness: float | None
    entities: tuple[EntityId, ...] = Field(description="face, attributes, body")


class ScoreView(Record):
    """What ties one attribute to one subject, by each witness; None where it says nothing."""

    subject: int
    votes: float | None
    inside: float | None = Field(description="of the attribute's pixels, inside the subject's body")


class ScoreRow(Record):
    attribute: EntityId
    text: str
    owner: int
    scores: tuple[ScoreView, ...]
    margin: float | None = Field(description="least lead of its owner over the next subject, over all witnesses")


class FindingView(Record):
    check: str
    entity: str
    score: float
    passed: bool
    reason: str


class EventView(Record):
    """An event in force."""

    id: int
    at: AwareDatetime
    action: Action


class OpinionView(Record):
    """What another auditor says."""

    auditor: str
    verdict: Literal["accept", "reject", "unsure"] | None
    reasons: tuple[ReasonCode, ...]
    repairs: int


class StateView(Record):
    """What the asking auditor says."""

    verdict: Literal["accept", "reject", "unsure"] | None = None
    reasons: tuple[ReasonCode, ...] = ()
    note: str = ""
    events: tuple[EventView, ...] = ()
    others: tuple[OpinionView, ...] = Field((), description="shown only after an own verdict, so that they do not lead")

    @classmethod
    def of(cls, own: SampleState | None, others: Sequence[SampleState]) -> StateView:
        if own is None:
            return cls()
        verdict = own.last_verdict
        return cls(
            verdict=own.verdict,
            reasons=own.reasons,
            note="" if verdict is None else verdict.note,
            events=tuple(_event(event) for event in own.events),
            others=() if verdict is None else tuple(_opinion(state) for state in others if state.events),
        )


class SampleView(Record):
    """A sample with the asking auditor's repairs applied. Where `problem` is set, what depends on it is empty."""

    generation: int
    position: int
    key: str
    problem: str | None = Field(None, description="why the sample cannot be shown whole")
    stale: str | None = Field(None, description="why repairs in force no longer apply")
    split: str
    source: str
    source_names: tuple[str, ...] = ()
    start_s: float | None = None
    pairing: str = "in_clip"
    licence: str | None = None
    width: int
    height: int
    fps: float
    frames: int
    stills: tuple[int, ...] = Field((), description="frame numbers of the three stills")
    caption: str
    caption_length: int = Field(description="in code points; `caption` is cut to the first of them")
    subjects: tuple[SubjectView, ...] = ()
    entities: tuple[EntityView, ...] = ()
    matrix: tuple[ScoreRow, ...] = ()
    findings: tuple[FindingView, ...] = ()
    risk: float | None = None
    provenance: tuple[StageProvenance, ...] = ()
    decided_by: str = ""
    state: StateView = StateView()


def entities_of(stored: Pair, now: Repaired, pixels: Mapping[EntityId, MaskPixels]) -> tuple[EntityView, ...]:
    """Every reference of the repaired pair; `pixels` are the masks by their new names."""
    numbers = {reference.entity: number for number, reference in enumerate(stored.references)}
    frames = still_frames(stored)
    return tuple(_entity(reference, now, numbers, frames, pixels, stored.fps) for reference in now.pair.references)


def _entity(
    reference: Reference,
    now: Repaired,
    numbers: Mapping[EntityId, int],
    frames: tuple[int, ...],
    pixels: Mapping[EntityId, MaskPixels],
    fps: float,
) -> EntityView:
    name = reference.entity
    span = reference.phrase.span
    mask = pixels.get(name)
    known = 0 <= reference.still < len(frames) and reference.origin is None
    return EntityView(
        id=name,
        kind=reference.kind,
        subject=int(name[1:].split(".")[0]) if name.startswith("s") else None,
        colour=colour_of(name).name,
        text=reference.phrase.text,
        span=(0, 0) if span is None else (span.start, span.end),
        still=reference.still,
        frame=frames[reference.still] if known else int(reference.time_s * fps + 1e-4),
        box=reference.box,
        area_share=reference.area_share,
        score=reference.score,
        sharpness=reference.sharpness,
        frontal=reference.frontal,
        visible=reference.visible,
        reference=numbers[now.origins[name]],
        has_mask=reference.mask_member is not None and name not in now.cuts and reference.origin is None,
        outline="" if mask is None or reference.origin is not None else svg_path(mask),
        cut_anew=name in now.cuts,
        other_clip=reference.origin is not None,
    )


def subjects_of(pair: Pair) -> tuple[SubjectView, ...]:
    return tuple(
        SubjectView(
            index=subject.index,
            noun=subject.noun.text,
            colour=colour_of(f"s{subject.index}").name,
            owner_share=subject.owner_share,
            likeness=subject.likeness,
            entities=tuple(
                reference.entity
                for reference in (subject.face, *subject.attributes, subject.body)
                if reference is not None
            ),
        )
        for subject in pair.subjects
    )


def masks_now(stored: Mapping[EntityId, MaskPixels], now: Repaired) -> dict[EntityId, MaskPixels]:
    """The masks of a repaired pair by its new names: the stored ones renamed, those cut anew decoded."""
    found = {name: stored[origin] for name, origin in now.origins.items() if origin in stored}
    for name, cut in now.cuts.items():
        if cut.mask is not None:
            found[name] = masks.decode(cut.mask)
    return found


def matrix_of(pair: Pair, pixels: Mapping[EntityId, MaskPixels]) -> tuple[ScoreRow, ...]:
    """All attributes by all subjects. Pairs without stored relations are measured on the masks, as far as those go."""
    told = {(relation.attribute, relation.subject): relation for relation in pair.relations}
    rows = []
    for subject in pair.subjects:
        for attribute in subject.attributes:
            scores = []
            for rival in pair.subjects:
                relation = told.get((attribute.entity, rival.index))
                inside = containment(attribute, rival, pixels) if relation is None else relation.inside
                votes = None if relation is None else relation.votes
                scores.append(ScoreView(subject=rival.index, votes=votes, inside=inside))
            row = ScoreRow(
                attribute=attribute.entity,
                text=attribute.phrase.text,
                owner=subject.index,
                scores=tuple(scores),
                margin=_margin(scores, subject.index),
            )
            rows.append(row)
    return tuple(rows)


def _margin(scores: Sequence[ScoreView], owner: int) -> float | None:
    leads = []
    for witness in ("votes", "inside"):
        known = {score.subject: getattr(score, witness) for score in scores if getattr(score, witness) is not None}
        rivals = [value for subject, value in known.items() if subject != owner]
        if owner in known and rivals:
            leads.append(known[owner] - max(rivals))
    return min(leads, default=None)


def _event(event: Event) -> EventView:
    return EventView(id=event.id, at=event.at, action=event.action)


def _opinion(state: SampleState) -> OpinionView:
    return OpinionView(auditor=state.auditor, verdict=state.verdict, reasons=state.reasons, repairs=len(state.repairs))
