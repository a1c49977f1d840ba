"""Which stages a build runs, in which order, and the decisions between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dataengine.config import BuildSettings, StageSettings, digest
from dataengine.decide.block import BlockList, Forgotten
from dataengine.decide.clips import plan_clips
from dataengine.decide.facts import Facts, Measured, PictureFacts, facts_of, pictures_of
from dataengine.decide.gates import gate
from dataengine.decide.licences import Licences
from dataengine.decide.pairs import Case, decide
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.measure.background import BackgroundStage
from dataengine.measure.caption import CaptionStage
from dataengine.measure.encode import EncodeStage
from dataengine.measure.faces import FacesStage
from dataengine.measure.frames import FramesStage
from dataengine.measure.ground import GroundStage
from dataengine.measure.looks import LooksStage
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
    Looks,
    People,
    Provenance,
    Quality,
    Rejected,
    Segmentation,
    ShotScores,
    SourceVideo,
    Stills,
)
from dataengine.stage import Row, Stage, provenance


@dataclass(frozen=True)
class Decisions:
    """The pure decisions of a build as the engine and the pass over stored facts call them."""

    settings: BuildSettings
    provenance: Provenance
    block: BlockList = field(default_factory=BlockList)
    licences: Licences = field(default_factory=Licences)
    forgotten: Forgotten = field(default_factory=Forgotten)

    @classmethod
    def of(cls, settings: BuildSettings, forgotten: Forgotten | None = None) -> Decisions:
        """Raises `ConfigError` for a block list or a table of licences that cannot be read."""
        rules = settings.decide
        return cls(
            settings,
            Provenance(stages=(), decided_by=digest(rules)),
            BlockList.read(rules.block),
            Licences.read(rules.licences, rules.licence),
            forgotten or Forgotten(),
        )

    def signed(self, pipeline: Pipeline) -> Decisions:
        """The same, with the stages that make a pipeline's measurements in every pair's provenance."""
        prints = pipeline.fingerprints
        stages = tuple(provenance(step.stage, prints[step.stage.name]) for step in pipeline.steps)
        return replace(self, provenance=self.provenance.model_copy(update={"stages": stages}))

    def cut(self, row: Row) -> tuple[Clip, ...]:
        """What was forgotten is no clip: nothing of it is measured, stored or listed again."""
        clips = plan_clips(row.id, row[ShotScores], self.settings.decide.clips)
        return tuple(clip for clip in clips if not self.forgotten.has(clip))

    def admit(self, row: Row) -> Rejected | None:
        """Spares the costly stages clips that are blocked, or whose pictures or faces are not good enough."""
        assert row.clip is not None
        pictures = pictures_of(row.clip, row[People], row[Quality])
        faces = {p.index: np.array(p.embedding, np.float32) if p.embedding else None for p in row[People].people}
        return self.refusal(row.source, row.clip, pictures, faces)

    def refusal(
        self,
        source: SourceVideo,
        clip: Clip,
        pictures: PictureFacts,
        faces: Mapping[int, NDArray[np.float32] | None],
    ) -> Rejected | None:
        """Why a clip is not worth the costly stages, by what is known before them. `faces`: embeddings by person."""
        reason = (
            self.block.check_source(source)
            or self.block.check_faces(faces)
            or gate(pictures, self.settings.decide.filters)
        )
        return None if reason is None else Rejected(clip=clip, rule=reason.rule, detail=reason.detail)

    def measured(self, row: Row) -> Measured:
        """All records of a clip that every stage has measured."""
        assert row.clip is not None
        return Measured(
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
            looks=row[Looks] if Looks in row.records else None,
        )

    def decide(self, source: SourceVideo, clip: Clip, pictures: PictureFacts, facts: Facts) -> Decision:
        """The pair of a clip that was not refused before, or why there is none."""
        case = Case(clip, source.names, pictures, facts, self.licences.of(source))
        return decide(case, self.provenance, self.settings.decide, self.settings.seed)

    def finish(self, row: Row) -> Decision:
        """Straight from measurements."""
        measured = self.measured(row)
        pictures = pictures_of(measured.clip, measured.people, measured.quality)
        return self.decide(row.source, measured.clip, pictures, facts_of(measured))


SOURCE_STAGES: tuple[type[Stage], ...] = (ProbeStage, ShotsStage)
CLIP_STAGES: tuple[type[Stage], ...] = (
    FramesStage,
    QualityStage,
    FacesStage,
    CaptionStage,
    GroundStage,
    SegmentStage,
    LooksStage,
    BackgroundStage,
    EncodeStage,
)
"""All stages, in order; each is configured by the section of its name in `Stages`."""


def stages(settings: BuildSettings) -> tuple[type[Stage], ...]:
    """The stages that these settings ask for, in order."""
    return (*SOURCE_STAGES, *clip_stages(settings))


def clip_stages(settings: BuildSettings) -> tuple[type[Stage], ...]:
    looked_at = settings.stages.looks.encoder != "none"
    return tuple(kind for kind in CLIP_STAGES if kind is not LooksStage or looked_at)


GATED = CaptionStage.name
"""The stage before which clips are judged by what is known of them: the first that costs much."""


def make(kind: type[Stage], settings: BuildSettings) -> Step:
    """A stage as configured. Its model is chosen here and loaded where it runs; its weights need not be here."""
    section: StageSettings = getattr(settings.stages, kind.name)
    configured: Callable[[StageSettings], Stage] = kind
    return Step(configured(section), section.resources)


def steps(settings: BuildSettings) -> tuple[Step, ...]:
    """All stages as configured, with or without their weights."""
    return tuple(make(kind, settings) for kind in stages(settings))


def compose(settings: BuildSettings, decisions: Decisions | None = None) -> Pipeline:
    """The pipeline of a build. Raises `MissingWeightsError` for the first weights that are not on this machine."""
    draft = decisions or Decisions.of(settings)
    pipeline = Pipeline(
        source_steps=tuple(make(kind, settings) for kind in SOURCE_STAGES),
        cut=draft.cut,
        clip_steps=tuple(
            replace(step, admit=draft.admit, admit_reads=(People, Quality)) if step.stage.name == GATED else step
            for step in (make(kind, settings) for kind in clip_stages(settings))
        ),
        finish=draft.finish,
        verdict=Decision,
    )
    return replace(pipeline, finish=draft.signed(pipeline).finish)
