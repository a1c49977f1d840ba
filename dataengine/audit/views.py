"""What the page is told of a sample: plain records, with all numbers worked out and nothing left to look up.

Texts are as they are stored, hostile ones too: the page puts them into text nodes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from dataengine.audit.cards import svg_path
from dataengine.audit.catalog import Place
from dataengine.audit.checks import Aids, Finding, Matrix
from dataengine.audit.events import Action, Event, ReasonCode
from dataengine.audit.media import still_frames
from dataengine.audit.palette import colour_of
from dataengine.audit.scene import MaskPixels, UnreadableSample
from dataengine.audit.showing import Shown
from dataengine.audit.state import SampleState
from dataengine.config import CheckLimits
from dataengine.records import Box, EntityId, Kind, Pair, Record, Reference, StageProvenance
from dataengine.shards.index import IndexRow

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
    other_clip: bool = Field(description="it was cut from another clip")
    located: bool = Field(description="it stands in a frame of this clip, at its box")


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
    match: float | None = Field(description="how well its words fit the subject's body, where there is a scorer")


class ScoreRow(Record):
    attribute: EntityId
    text: str
    owner: int
    scores: tuple[ScoreView, ...]
    margin: float | None = Field(description="evidence (mean of the witnesses) for its owner less that for the next")
    alarm: bool = Field(description="the lead is too small, or somebody else leads")


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


def entities_of(shown: Shown, pixels: Mapping[EntityId, MaskPixels]) -> tuple[EntityView, ...]:
    """Every reference as it is now; `pixels` are the masks that there are."""
    numbers = {reference.entity: number for number, reference in enumerate(shown.stored.references)}
    frames = still_frames(shown.stored)

    def view(reference: Reference) -> EntityView:
        name, span = reference.entity, reference.phrase.span
        mask = pixels.get(name)
        ours = reference.origin is None
        return EntityView(
            id=name,
            kind=reference.kind,
            subject=int(name[1:].split(".")[0]) if name.startswith("s") else None,
            colour=colour_of(name).name,
            text=reference.phrase.text,
            span=(0, 0) if span is None else (span.start, span.end),
            still=reference.still,
            frame=frames[reference.still] if ours and 0 <= reference.still < len(frames) else 0,
            box=reference.box,
            area_share=reference.area_share,
            score=reference.score,
            sharpness=reference.sharpness,
            frontal=reference.frontal,
            visible=reference.visible,
            reference=numbers[shown.origins[name]],
            has_mask=ours and reference.mask_member is not None and name not in shown.cuts,
            outline="" if mask is None or not ours else svg_path(mask),
            cut_anew=name in shown.cuts,
            other_clip=not ours,
            located=reference.located,
        )

    return tuple(view(reference) for reference in shown.pair.references)


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


def matrix_of(pair: Pair, cells: Matrix, limits: CheckLimits) -> tuple[ScoreRow, ...]:
    """All attributes by all subjects, and by how much each owner leads."""
    rows = []
    for subject in pair.subjects:
        for attribute in subject.attributes:
            row = {rival.index: cells[attribute.entity, rival.index] for rival in pair.subjects}
            own = row[subject.index].evidence
            rivals = [c.evidence for index, c in row.items() if index != subject.index and c.evidence is not None]
            margin = own - max(rivals) if own is not None and rivals else None
            made = ScoreRow(
                attribute=attribute.entity,
                text=attribute.phrase.text,
                owner=subject.index,
                scores=tuple(
                    ScoreView(subject=index, votes=cell.votes, inside=cell.inside, match=cell.match)
                    for index, cell in row.items()
                ),
                margin=margin,
                alarm=margin is not None and margin < limits.swap_margin,
            )
            rows.append(made)
    return tuple(rows)


def bare_view(generation: int, position: int, place: Place, row: IndexRow, state: StateView) -> SampleView:
    """What the index alone knows."""
    return SampleView(
        generation=generation,
        position=position,
        key=place.key,
        split=row.split,
        source=row.source_id,
        width=row.width,
        height=row.height,
        fps=0.0,
        frames=0,
        caption=row.caption[:MAX_CAPTION],
        caption_length=len(row.caption),
        risk=place.risk,
        state=state,
    )


def full_view(bare: SampleView, shown: Shown, limits: CheckLimits, aids: Aids, stored: Sequence[Finding]) -> SampleView:
    """The view of a sample whose record could be read; where pictures are damaged, it is told without them."""
    pair = shown.pair
    told: dict[str, Any] = {
        "stale": shown.stale,
        "source_names": pair.source_names[:20],
        "start_s": pair.clip.start_s,
        "pairing": pair.pairing,
        "licence": pair.licence,
        "fps": pair.fps,
        "frames": pair.frames,
        "stills": still_frames(shown.stored),
        "caption": pair.caption[:MAX_CAPTION],
        "caption_length": len(pair.caption),
        "subjects": subjects_of(pair),
        "provenance": pair.provenance.stages,
        "decided_by": pair.provenance.decided_by,
    }
    try:
        told["entities"] = entities_of(shown, shown.scene.masks)
        told["matrix"] = matrix_of(pair, shown.matrix(limits, aids), limits)
        found = shown.findings(limits, aids, stored)
        told["findings"] = tuple(FindingView(**dict(one)) for one in sorted(found, key=lambda one: one.passed))
    except UnreadableSample as error:
        told |= {"problem": str(error), "entities": entities_of(shown, {}), "findings": _failed(stored)}
    return bare.model_copy(update=told)


def _failed(stored: Sequence[Finding]) -> tuple[FindingView, ...]:
    return tuple(FindingView(**dict(finding)) for finding in stored if not finding.passed)


def _event(event: Event) -> EventView:
    return EventView(id=event.id, at=event.at, action=event.action)


def _opinion(state: SampleState) -> OpinionView:
    return OpinionView(auditor=state.auditor, verdict=state.verdict, reasons=state.reasons, repairs=len(state.repairs))
