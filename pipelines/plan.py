"""What `build` would do, told before anything runs; a small sample is measured for it when asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ray
from rich.console import Console

from dataengine.audit.sampling import evenly
from dataengine.config import BuildSettings
from dataengine.engine import sources as inputs
from dataengine.engine.measurements import Ledger, Measurements, ledgers
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.plan import Plan, Rate, Unseen, before_gates, predict, stored_rate
from dataengine.engine.run import connect, cores
from dataengine.engine.survey import Census, StageStanding, survey
from dataengine.records import SourceVideo
from dataengine.store import Store
from pipelines.alone import alone, stoppable
from pipelines.measure import KNOWN, measure_sources
from pipelines.stages import compose


@dataclass(frozen=True)
class Extent:
    """How far stored results carry the sources."""

    stages: dict[str, StageStanding]
    waiting: tuple[SourceVideo, ...]
    """Sources with anything left to measure."""
    unseen: Unseen


def plan(
    places: Sequence[str],
    output: str,
    settings: BuildSettings,
    sample: int = 0,
    address: str | None = None,
    console: Console | None = None,
) -> Plan:
    """Predict a build. With `sample`, so many of the sources are measured first (and stay measured) for their rates.

    Raises what `build` raises.
    """
    store = Store.at(output)
    pipeline = compose(settings)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = inputs.identify_all(inputs.find(places), inputs.KnownSources(store.child(KNOWN)), pool.map)
    measurements = Measurements(store.child("measurements"))
    stored = ledgers(measurements, pipeline.fingerprints)
    extent = look(pipeline, measurements, stored, sources.videos)
    if address or sample:
        connect(address, pipeline.steps)
    if sample and extent.waiting:
        chosen = [extent.waiting[at] for at in evenly(len(extent.waiting), sample)]
        with alone(store), stoppable():
            measure_sources(store, pipeline, chosen, settings.prices, console or Console())
        stored = ledgers(measurements, pipeline.fingerprints)
        extent = look(pipeline, measurements, stored, sources.videos)
    processors = cores() if ray.is_initialized() else os.cpu_count() or 1
    return predict(pipeline, extent.stages, extent.unseen, _rates(measurements, stored), processors, settings.prices)


def look(
    pipeline: Pipeline, measurements: Measurements, stored: Mapping[str, Ledger], sources: Sequence[SourceVideo]
) -> Extent:
    """Survey the sources, reading no more than gates and the cut need."""
    census = Census(pipeline)
    needed = before_gates(pipeline)
    uncut: set[str] = set()
    waiting: dict[str, SourceVideo] = {}
    clips = 0
    for standing in survey(pipeline, measurements, stored, sources, lambda step: step.stage.name in needed):
        census.add(standing)
        row = standing.cargo.row
        clips += row.clip is not None
        if standing.waits:
            waiting[row.source.source_id] = row.source
            if row.clip is None:
                uncut.add(row.source.source_id)
    size = sum(source.size_bytes for source in sources)
    unseen = sum(source.size_bytes for source in sources if source.source_id in uncut)
    return Extent(census.stages, tuple(waiting.values()), Unseen(len(uncut), unseen, clips, size - unseen))


def _rates(measurements: Measurements, stored: Mapping[str, Ledger]) -> dict[str, Rate | None]:
    """Rates of today's fingerprints, or of the one with most rows before them."""
    rates: dict[str, Rate | None] = {}
    for stage, ledger in stored.items():
        rates[stage] = stored_rate(measurements, stage, [ledger])
        if rates[stage] is None:
            prints = {name.split("/")[1] for name in measurements.store.names(stage)}
            older = sorted((measurements.ledger(stage, print_) for print_ in prints), key=len, reverse=True)
            rates[stage] = stored_rate(measurements, stage, older)
    return rates
