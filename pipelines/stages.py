"""Which stages a build runs, in which order, and the decisions between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dataengine.config import BuildSettings, StageSettings, digest
from dataengine.decide.clips import plan_clips
from dataengine.decide.gates import gate_faces
from dataengine.decide.pairs import Measured, decide_pair
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.measure.background import BackgroundStage
from dataengine.measure.caption import CaptionStage
from dataengine.measure.encode import EncodeStage
from dataengine.measure.faces import FacesStage
from dataengine.measure.frames import FramesStage
from dataengine.measure.ground import GroundStage
from dataengine.measure.probe import ProbeStage
from dataengine.measure.quality import QualityStage
from dataengine.measure.segment import SegmentStage
from dataengine.measure.shots import ShotsStage
from dataengine.records import (
    Background,
    Caption,
    Clip,
    Decision,
    EncodedClip,
    Grounding,
    People,
    Provenance,
    Quality,
    Rejected,
    Segmentation,
    ShotScores,
    Stills,
)
from dataengine.stage import Row, Stage, provenance


@dataclass(frozen=True)
class Decisions:
    """The pure decisions of a build as the engine calls them."""

    settings: BuildSettings
    provenance: Provenance

    def cut(self, row: Row) -> tuple[Clip, ...]:
        return plan_clips(row.id, row[ShotScores], self.settings.decide.clips)

    def admit(self, row: Row) -> Rejected | None:
        """Spares the stages behind the face detector clips without a usable face."""
        assert row.clip is not None
        reason = gate_faces(row[People], self.settings.decide.filters)
        return Rejected(clip=row.clip, rule=reason.rule, detail=reason.detail) if reason else None

    def finish(self, row: Row) -> Decision:
        assert row.clip is not None
        measured = Measured(
            clip=row.clip,
            source_names=row.source.names,
            stills=row[Stills],
            people=row[People],
            caption=row[Caption],
            grounding=row[Grounding],
            segmentation=row[Segmentation],
            background=row[Background],
            encoded=row[EncodedClip],
            quality=row[Quality],
        )
        return decide_pair(measured, self.provenance, self.settings.decide, self.settings.seed)


SOURCE_STAGES: tuple[type[Stage], ...] = (ProbeStage, ShotsStage)
CLIP_STAGES: tuple[type[Stage], ...] = (
    FramesStage,
    QualityStage,
    FacesStage,
    CaptionStage,
    GroundStage,
    SegmentStage,
    BackgroundStage,
    EncodeStage,
)
"""All stages, in order; each is configured by the section of its name in `Stages`."""


def make(kind: type[Stage], settings: BuildSettings) -> Step:
    """A stage as configured. Its model is chosen here and loaded where it runs; its weights need not be here."""
    section: StageSettings = getattr(settings.stages, kind.name)
    configured: Callable[[StageSettings], Stage] = kind
    return Step(configured(section), section.resources)


def steps(settings: BuildSettings) -> tuple[Step, ...]:
    """All stages as configured, with or without their weights."""
    return tuple(make(kind, settings) for kind in (*SOURCE_STAGES, *CLIP_STAGES))


def compose(settings: BuildSettings) -> Pipeline:
    """The pipeline of a build. Raises `MissingWeightsError` for the first weights that are not on this machine."""
    draft = Decisions(settings, Provenance(stages=(), decided_by=digest(settings.decide)))
    pipeline = Pipeline(
        source_steps=tuple(make(kind, settings) for kind in SOURCE_STAGES),
        cut=draft.cut,
        clip_steps=tuple(
            replace(make(kind, settings), admit=draft.admit if kind is CaptionStage else None) for kind in CLIP_STAGES
        ),
        finish=draft.finish,
        verdict=Decision,
    )
    prints = pipeline.fingerprints
    stages = tuple(provenance(step.stage, prints[step.stage.name]) for step in pipeline.steps)
    signed = replace(draft, provenance=draft.provenance.model_copy(update={"stages": stages}))
    return replace(pipeline, finish=signed.finish)
