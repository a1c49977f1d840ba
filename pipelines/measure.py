"""Measures what is missing of some sources, and shows how it goes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex

from rich.console import Console

from dataengine.config import Prices
from dataengine.engine.measurements import Ledger, Measurements, ledgers
from dataengine.engine.pipeline import Pipeline, pools
from dataengine.engine.progress import shown
from dataengine.engine.run import each, measure
from dataengine.engine.survey import StageStanding
from dataengine.engine.tally import Tally
from dataengine.engine.worker import Counts
from dataengine.records import SourceVideo
from dataengine.store import Store

KNOWN = "measurements/sources"
"""Where a dataset remembers which file is which source."""


FEW_PARTS = 1000
"""So many parts are read faster here than another process starts."""


@dataclass(frozen=True)
class Work:
    """What a run measured."""

    counts: dict[str, Counts]
    gpus: dict[str, float]
    """GPUs that a worker of each stage holds."""
    seconds: float
    """Wall seconds."""


def measure_sources(
    store: Store,
    pipeline: Pipeline,
    sources: Sequence[SourceVideo],
    prices: Prices,
    console: Console,
    standings: Mapping[str, StageStanding] | None = None,
) -> Work:
    """Bring these sources up to date; `standings`, if known, tell the progress display how much there is to do.

    Needs `engine.run.connect`.
    """
    measurements = Measurements(store.child("measurements"))
    stored = fold(measurements, pipeline)
    gpus = {step.stage.name: pool[0].resources.gpus for pool in pools(pipeline.steps) for step in pool}
    tally = Tally(prices, gpus)
    started = time.perf_counter()
    with shown(tally, _expected(pipeline, standings), prices, console, gpus):
        measure(pipeline, sources, measurements, stored, tally, run=token_hex(8))
    seconds = time.perf_counter() - started
    return Work(tally.snapshot(timeout_s=30), gpus, seconds)


def fold(measurements: Measurements, pipeline: Pipeline) -> dict[str, Ledger]:
    """The ledgers of all stages, after new parts were put into summaries."""
    prints = pipeline.fingerprints
    fresh = {stage: len(measurements.unfolded(stage, print_)) for stage, print_ in prints.items()}
    work = [(stage, print_) for stage, print_ in prints.items() if fresh[stage]]
    tasks = each if max(fresh.values()) > FEW_PARTS else map
    for _ in tasks(lambda item: measurements.fold(*item), work):
        pass
    return ledgers(measurements, prints)


def _expected(pipeline: Pipeline, standings: Mapping[str, StageStanding] | None) -> dict[str, int | None]:
    """Rows that a stage will see; None while sources are not cut and nobody knows how many clips they will give."""
    if standings is None:
        return {step.stage.name: None for step in pipeline.steps}
    uncut = any(standings[step.stage.name].waiting for step in pipeline.source_steps)
    return {
        step.stage.name: None
        if uncut and step in pipeline.clip_steps
        else standings[step.stage.name].waiting + standings[step.stage.name].behind
        for step in pipeline.steps
    }
