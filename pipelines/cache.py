"""The stored measurements of a dataset: which settings still use them, and measuring again what failed."""

from __future__ import annotations

import json

from dataengine.config import BuildSettings, check
from dataengine.engine.cache import failures
from dataengine.engine.measurements import Measurements
from dataengine.records import RunSummary
from dataengine.shards.card import RUN
from dataengine.store import Store, StoreError
from pipelines.stages import compose


def last_run(store: Store) -> RunSummary:
    """What the last finished build left. Raises `StoreError` when there is none."""
    if not store.exists(RUN):
        raise StoreError(f"{store.uri}: no finished build is here ({RUN} is missing): run `dataengine build` first")
    return RunSummary.from_json(store.read(RUN))


def settings_of_run(run: RunSummary) -> BuildSettings:
    """The settings of a finished build. Raises `ConfigError` when this version no longer knows them."""
    return check(BuildSettings, json.loads(json.dumps(run.config)))


def used(settings: BuildSettings) -> dict[str, str]:
    """Stage to fingerprint under these settings."""
    return compose(settings).fingerprints


def void_failures(store: Store, settings: BuildSettings, error: str | None = None) -> int:
    """Forget the failures (all, or of one class of error) that a build under these settings would reuse."""
    measurements = Measurements(store.child("measurements"))
    return sum(
        measurements.void(stage, print_, failed)
        for stage, print_ in used(settings).items()
        if (failed := failures(measurements, stage, print_, error))
    )
