"""Decides again on stored measurements alone: no model runs and no video is read."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from dataengine import config
from dataengine.config import ConfigError
from dataengine.engine.run import connect
from dataengine.records import RunSummary
from dataengine.store import Store
from pipelines.alone import alone, stoppable
from pipelines.build import bring_up_to_date
from pipelines.cache import last_run, settings_of_run
from pipelines.facts import FactStore
from pipelines.finish import finish
from pipelines.inventory import read_forgotten, read_inventory
from pipelines.stages import Decisions, compose

CHANGEABLE = ("decide.", "shards.", "seed=")


def redecide(
    output: str, overrides: Sequence[str], address: str | None = None, console: Console | None = None
) -> tuple[RunSummary, int]:
    """Bring a dataset to the last build's settings with `overrides` of its decisions.

    Returns the summary, and how many clips now wait for stages that never measured them: `build` does that. Raises
    `ConfigError` for a setting of a stage, `StoreError` when there is no dataset, and what `build` raises.
    """
    started = time.perf_counter()
    for override in overrides:
        if not override.startswith(CHANGEABLE):
            raise ConfigError(f"{override}: deciding again changes decide.*, shards.* and seed; `build` changes stages")
    store = Store.at(output)
    run = last_run(store)
    settings = config.changed(settings_of_run(run), overrides)
    decisions = Decisions.of(settings, read_forgotten(store))
    pipeline = compose(settings, decisions)
    sources = read_inventory(store, run.skipped)
    with alone(store):
        connect(address)
        with stoppable():
            facts = FactStore(store, pipeline, decisions.signed(pipeline))
            quiet = console or Console(quiet=True)
            measured = bring_up_to_date(facts, sources.videos, settings.prices, quiet, measuring=False)
            return finish(store, pipeline, settings, sources, measured, run.inputs, started), measured.waiting
