"""A dataset whose measurements are drawn instead of measured: what decides and packs it is real, and takes seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from dataengine.config import BuildSettings, load
from dataengine.decide.facts import Measured
from dataengine.engine.measurements import Measurements, Outcome
from dataengine.engine.sources import Sources
from dataengine.records import (
    Box,
    Clip,
    Look,
    Looks,
    People,
    Probe,
    Quality,
    Record,
    RunSummary,
    ShotScores,
    SourceVideo,
    Stills,
)
from dataengine.store import Store
from pipelines.build import bring_up_to_date
from pipelines.facts import FactStore
from pipelines.finish import finish
from pipelines.stages import Decisions, compose

SECONDS = 1.0
"""Of every source: one clip."""


@dataclass(frozen=True)
class DrawnClip:
    """What is drawn on a source beside the shapes: who its people are, and how good its pictures."""

    faces: tuple[tuple[float, ...], ...] = ()
    """An embedding for each person."""
    motion: float = 0.2
    hashes: tuple[str, ...] = ()


def unit(*values: float) -> tuple[float, ...]:
    vector = np.array(values) / np.linalg.norm(values)
    return tuple(float(v) for v in vector)


def source_of(number: int) -> SourceVideo:
    source_id = f"{number:024x}"
    return SourceVideo(
        source_id=source_id, uri=f"/gone/{number}.mp4", names=(f"day{number % 2}/{number}.mp4",), size_bytes=9
    )


def records(number: int, measured: Measured, drawn: DrawnClip) -> tuple[Clip, dict[type[Record], Record]]:
    """The clip of a source and its records, by kind."""
    clip = Clip.of(source_of(number).source_id, 0.0, SECONDS)
    shift = measured.clip.start_s
    stills = Stills(
        width=measured.stills.width,
        height=measured.stills.height,
        stills=tuple(s.model_copy(update={"time_s": s.time_s - shift}) for s in measured.stills.stills),
    )
    people = [
        person.model_copy(
            update={
                "sightings": tuple(
                    s.model_copy(update={"embedding": drawn.faces[person.index] if drawn.faces else ()})
                    for s in person.sightings
                )
            }
        )
        for person in measured.people.people
    ]
    quality = Quality(
        sharpness=(90.0, 80.0, 70.0),
        brightness=(0.5,) * 3,
        clipped=(0.01,) * 3,
        motion=drawn.motion,
        camera_motion=0.0,
        overlay_share=0.0,
        aesthetic=None,
        content=Box(0, 0, 320, 180),
        hashes=drawn.hashes or tuple(f"{(number * 0x9E3779B97F4A7C15 * (k + 1)) % 2**64:016x}" for k in range(3)),
    )
    looks = Looks(
        looks=tuple(
            Look(entity=m.entity, still=m.still, vector=unit(1.0, 0.1 * m.still, float(m.entity[1])))
            for m in measured.segmentation.masks
            if ".a" in m.entity
        )
    )
    made: tuple[Record, ...] = (
        stills, quality, People(people=tuple(people)), measured.caption, measured.grounding, measured.segmentation,
        looks, measured.background, measured.encoded,
    )  # fmt: skip
    return clip, {type(record): record for record in made}


def draw(out: Path, clips: Sequence[DrawnClip], measure: Callable[[int], Measured], *overrides: str) -> RunSummary:
    """Store the measurements of a clip of one source each, and build from them."""
    settings = load(BuildSettings, [], ["decide.pairs.val_share=0", *overrides])
    store = Store.at(out)
    decisions = Decisions.of(settings)
    pipeline = compose(settings, decisions)
    measurements = Measurements(store.child("measurements"))
    outcomes: dict[str, list[Outcome]] = {step.stage.name: [] for step in pipeline.steps}
    for number, drawn in enumerate(clips):
        source = source_of(number)
        probe = Probe(
            width=320, height=180, rotation=0, duration_s=SECONDS, fps=12, frames=12, codec="h264",
            pixel_format="yuv420p", bit_depth=8,
        )  # fmt: skip
        shots = ShotScores(
            detector="drawn", floor=0.02, frame_s=1 / 12, duration_s=SECONDS, scores=(), content=Box(0, 0, 320, 180)
        )
        clip, found = records(number, measure(number), drawn)
        for step in pipeline.steps:
            of_source: Mapping[type[Record], Record] = {Probe: probe, ShotScores: shots}
            row_id = source.source_id if step in pipeline.source_steps else clip.clip_id
            result = of_source.get(step.stage.writes) or found[step.stage.writes]
            outcomes[step.stage.name].append(Outcome(row_id, result, 0.1))
    for stage, done in outcomes.items():
        for start in range(0, len(done), 64):
            measurements.commit(stage, pipeline.fingerprints[stage], done[start : start + 64])
    sources = Sources(tuple(source_of(number) for number in range(len(clips))), (), 0)
    facts = FactStore(store, pipeline, decisions.signed(pipeline))
    started = time.perf_counter()
    measured = bring_up_to_date(facts, sources.videos, settings.prices, Console(quiet=True), measuring=False)
    assert not measured.waiting
    return finish(store, pipeline, settings, sources, measured, ("/gone",), started)


def people_of(measured: Measured, people: int) -> Measured:
    """The first so many people of a drawn clip."""
    return replace(measured, people=People(people=measured.people.people[:people]))
