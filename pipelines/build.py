"""Videos in, relational shards out: find, measure, decide, pack. As a Ray job: `python -m pipelines.build`."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from dataengine.audit.checking import check_dataset
from dataengine.audit.contact_sheet import contact_sheet
from dataengine.audit.report import write_report
from dataengine.config import CONF, AuditSettings, BuildSettings, Prices, load
from dataengine.engine import sources as inputs
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.outlook import cost
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.run import connect, each
from dataengine.engine.survey import StageStanding, total
from dataengine.engine.worker import Counts
from dataengine.records import Quantiles, Quarantined, RunSummary, SourceVideo, StageSummary
from dataengine.shards.card import RUN, card
from dataengine.shards.index import INDEX
from dataengine.store import REMOTE, Store
from pipelines.alone import alone, stoppable
from pipelines.audit import aids_of
from pipelines.decide import KEPT, QUARANTINED, Verdicts, decide, grouped
from pipelines.measure import KNOWN, Work, fold, measure_sources
from pipelines.pack import pack
from pipelines.preflight import preflight, preflight_nodes
from pipelines.stages import compose


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
    audit = load(AuditSettings, [(CONF / "audit.yaml", None)])
    cluster = address or os.environ.get("RAY_ADDRESS")
    preflight(settings, cluster is not None).require()
    store = Store.at(output)
    pipeline = compose(settings)
    found = inputs.find(places)
    with alone(store):
        connect(address, pipeline.steps)
        if cluster:
            preflight_nodes(settings)
        with stoppable():
            before = _digests(store)
            sources = inputs.identify_all(found, inputs.KnownSources(store.child(KNOWN)), each)
            console.print(_welcome(sources), highlight=False)
            measured = bring_up_to_date(store, pipeline, sources.videos, settings.prices, console)
            pairs = pack(store, pipeline, measured.ledgers, measured.verdicts, settings.shards)
            quarantined = _write_tables(store, sources, measured.verdicts)
            summary = RunSummary(
                sources=len(sources.videos),
                duplicates=sources.duplicates,
                skipped=sources.skipped,
                **_clips(measured.verdicts),
                pairs=pairs,
                quarantined=len(quarantined),
                stages=tuple(_stage_summary(step, pipeline, measured, quarantined) for step in pipeline.steps),
                wall_s=round(time.perf_counter() - started, 3),
                measuring_s=round(measured.work.seconds, 3),
                cost=round(cost(measured.work.counts, settings.prices, measured.work.gpus), 4),
                inputs=tuple(place if place.startswith(REMOTE) else str(Path(place).absolute()) for place in places),
                config=settings.model_dump(mode="json"),
            )
            store.write(RUN, summary.model_dump_json(indent=1).encode())
            # The report looks at every sample: at a large dataset that is most of a restart that changes nothing.
            if _digests(store) != before or not store.exists("report.html"):
                store.write("README.md", card(store).encode())
                contact_sheet(store)
                check_dataset(store, audit, aids_of(audit), workers=os.cpu_count() or 1)
                write_report(store, audit)
    return summary


def _digests(store: Store) -> dict[str, str]:
    """What the tables of a dataset hold, and so, by the index's hashes, what its shards hold."""
    return {
        name: hashlib.sha256(store.read(name)).hexdigest()
        for name in (INDEX, "clips.parquet", "quarantine.parquet")
        if store.exists(name)
    }


@dataclass(frozen=True)
class Measured:
    """All that stored measurements say of the sources, with nothing left to measure."""

    ledgers: dict[str, Ledger]
    stages: dict[str, StageStanding]
    verdicts: Verdicts
    work: Work


def bring_up_to_date(
    store: Store, pipeline: Pipeline, sources: Sequence[SourceVideo], prices: Prices, console: Console
) -> Measured:
    """Decide on what is stored, measure what is missing, decide on that."""
    measurements = Measurements(store.child("measurements"))
    groups = grouped(sources)
    stored = fold(measurements, pipeline)
    reached = decide(store, pipeline, stored, groups)
    waiting = [group for group in groups if reached[group.number].waiting]
    work = Work({}, {}, 0.0)
    if waiting:
        todo = [source for group in waiting for source in reached[group.number].waiting]
        standings = total(one.stages for one in reached.values())
        work = measure_sources(store, pipeline, todo, prices, console, standings)
        stored = fold(measurements, pipeline)
        reached |= decide(store, pipeline, stored, waiting)
    verdicts = Verdicts(store, len(groups))
    verdicts.sweep()
    return Measured(stored, total(one.stages for one in reached.values()), verdicts, work)


def _welcome(sources: inputs.Sources) -> str:
    size = sum(video.size_bytes for video in sources.videos)
    extra = [f", duplicates: {sources.duplicates}"] if sources.duplicates else []
    extra += [f", other files skipped: {sources.skipped}"] if sources.skipped else []
    return f"videos: {len(sources.videos)}, {size / 1e6:.1f} MB{''.join(extra)}"


_QUARANTINE = pa.schema(
    [
        ("id", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("source_names", pa.list_(pa.string())),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("answers", pa.list_(pa.string())),
    ]
)


def _write_tables(store: Store, sources: inputs.Sources, verdicts: Verdicts) -> list[Quarantined]:
    """`clips.parquet`, and `quarantine.parquet`: a row for everything that failed, with the reason."""
    verdicts.write_clips()
    quarantined = sorted((*sources.unreadable, *verdicts.quarantined()), key=lambda q: (q.stage, q.id))
    table = pa.Table.from_pylist([q.model_dump() for q in quarantined], _QUARANTINE)
    with store.open_output("quarantine.parquet") as stream:
        pq.write_table(table, stream)
    return quarantined


def _clips(verdicts: Verdicts) -> dict[str, Any]:
    """What became of the clips, as the summary counts them."""
    counts = verdicts.counts()
    rejected = {rule: n for rule, n in sorted(counts.items()) if rule not in (KEPT, QUARANTINED)}
    failed = sum(q.start_s is not None for q in verdicts.quarantined())
    subjects = sum(kept.name.subjects for kept in verdicts.kept())
    return {"clips": counts[KEPT] + sum(rejected.values()) + failed, "rejected": rejected, "subjects": subjects}


def _stage_summary(
    step: Step, pipeline: Pipeline, measured: Measured, quarantined: Sequence[Quarantined]
) -> StageSummary:
    name = step.stage.name
    did, standing = measured.work.counts.get(name, Counts()), measured.stages.get(name, StageStanding())
    return StageSummary(
        stage=name,
        fingerprint=pipeline.fingerprints[name],
        model=step.stage.model,
        done=did.done,
        cached=max(0, standing.stored - did.done),
        gated=standing.spared,
        quarantined=standing.failed,
        seconds=round(did.seconds, 3),
        loading_seconds=round(did.loading_seconds, 3),
        cpu_seconds=round(did.cpu_seconds, 3),
        gpu_seconds=round(did.seconds * measured.work.gpus.get(name, 0.0), 3),
        bytes=did.bytes,
        row_seconds=_quantiles(measured.ledgers[name]),
        errors=dict(sorted(Counter(q.error for q in quarantined if q.stage == name).items())),
    )


def _quantiles(ledger: Ledger) -> Quantiles | None:
    if not len(ledger):
        return None
    p50, p90, p99, most = np.quantile(ledger.seconds, (0.5, 0.9, 0.99, 1.0)).round(4).tolist()
    return Quantiles(p50=p50, p90=p90, p99=p99, max=most)


if __name__ == "__main__":
    from pipelines.cli import main

    main(["build"])
