"""Videos in, relational shards out: find, measure, decide, pack. As a Ray job: `python -m pipelines.build`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dataengine.config import BuildSettings, Prices
from dataengine.engine import sources as inputs
from dataengine.engine.measurements import Measurements
from dataengine.engine.run import connect, each
from dataengine.engine.survey import total
from dataengine.records import RunSummary, SourceVideo
from dataengine.store import REMOTE, Store
from pipelines.alone import alone, stoppable
from pipelines.corpus import revise
from pipelines.decide import decide, looks_at_the_corpus
from pipelines.facts import FactStore, grouped
from pipelines.finish import Measured, finish
from pipelines.inventory import read_forgotten, without
from pipelines.measure import KNOWN, Work, fold, measure_sources
from pipelines.preflight import preflight, preflight_nodes
from pipelines.stages import Decisions, compose
from pipelines.verdicts import ALONE, Verdicts


def build(
    places: Sequence[str],
    output: str,
    settings: BuildSettings,
    address: str | None = None,
    console: Console | None = None,
) -> RunSummary:
    """Build (or bring up to date) the shards in `output` from the videos at `places`.

    Results that are stored in `output` and still hold are reused, so a killed build goes on where it was. Raises
    `preflight.PreflightError` for what would stop it later, `inputs.InputError` for an input that does not exist,
    `engine.run.ClusterTooSmall` when the stages do not fit,
    `engine.lease.Busy` when another run works on `output`, `StoreError` when it cannot be written.
    """
    started = time.perf_counter()
    console = console or Console()
    cluster = address or os.environ.get("RAY_ADDRESS")
    preflight(settings, cluster is not None).require()
    store = Store.at(output)
    decisions = Decisions.of(settings, read_forgotten(store))
    pipeline = compose(settings, decisions)
    found = inputs.find(places)
    with alone(store):
        connect(address, pipeline.steps)
        if cluster:
            preflight_nodes(settings)
        with stoppable():
            sources = inputs.identify_all(found, inputs.KnownSources(store.child(KNOWN)), each)
            sources = replace(sources, videos=without(sources.videos, decisions.forgotten))
            console.print(_welcome(sources), highlight=False)
            facts = FactStore(store, pipeline, decisions.signed(pipeline))
            measured = bring_up_to_date(facts, sources.videos, settings.prices, console)
            absolute = [place if place.startswith(REMOTE) else str(Path(place).absolute()) for place in places]
            return finish(store, pipeline, settings, sources, measured, absolute, started)


def bring_up_to_date(
    facts: FactStore,
    sources: Sequence[SourceVideo],
    prices: Prices,
    console: Console,
    measuring: bool = True,
) -> Measured:
    """Decide on what is stored, measure what is missing (or leave it waiting), decide on that."""
    store, pipeline = facts.store, facts.pipeline
    measurements = Measurements(store.child("measurements"))
    groups = grouped(sources)
    stored = fold(measurements, pipeline)
    reached = decide(facts, stored, groups)
    waiting = [group for group in groups if reached[group.number].waiting]
    work = Work({}, {}, 0.0)
    if waiting and measuring:
        todo = [source for group in waiting for source in reached[group.number].waiting]
        standings = total(one.stages for one in reached.values())
        work = measure_sources(store, pipeline, todo, prices, console, standings)
        stored = fold(measurements, pipeline)
        reached |= decide(facts, stored, waiting)
    verdicts = Verdicts(store, len(groups))
    if looks_at_the_corpus(facts.decisions.settings.decide):
        revise(facts, stored, groups, Verdicts(store, len(groups), ALONE), verdicts)
    Verdicts(store, 0, ALONE).sweep()
    verdicts.sweep()
    facts.sweep(groups)
    standings = total(one.stages for one in reached.values())
    return Measured(stored, standings, verdicts, work, sum(one.clips for one in reached.values()))


def _welcome(sources: inputs.Sources) -> str:
    size = sum(video.size_bytes for video in sources.videos)
    extra = [f", duplicates: {sources.duplicates}"] if sources.duplicates else []
    extra += [f", other files skipped: {sources.skipped}"] if sources.skipped else []
    return f"videos: {len(sources.videos)}, {size / 1e6:.1f} MB{''.join(extra)}"


if __name__ == "__main__":
    from pipelines.cli import main

    main(["build"])
