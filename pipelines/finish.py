"""From verdicts to a dataset: shards, index, tables, summary, card and report."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.audit.checking import check_dataset
from dataengine.audit.contact_sheet import contact_sheet
from dataengine.audit.report import write_report
from dataengine.config import CONF, AuditSettings, BuildSettings, load
from dataengine.engine import sources as inputs
from dataengine.engine.measurements import Ledger
from dataengine.engine.outlook import cost
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.survey import StageStanding
from dataengine.engine.worker import Counts
from dataengine.records import Quantiles, Quarantined, RunSummary, StageSummary
from dataengine.shards.card import RUN
from dataengine.shards.index import INDEX
from dataengine.store import Store
from pipelines.audit import aids_of
from pipelines.card import write_dataset_card
from pipelines.inventory import write_inventory
from pipelines.measure import Work
from pipelines.pack import pack
from pipelines.verdicts import KEPT, QUARANTINED, Verdicts


@dataclass(frozen=True)
class Measured:
    """All that stored measurements say of the sources."""

    ledgers: dict[str, Ledger]
    stages: dict[str, StageStanding]
    verdicts: Verdicts
    work: Work
    waiting: int = 0
    """Clips and uncut sources that nothing was decided on, because something of them is not measured."""


def finish(
    store: Store,
    pipeline: Pipeline,
    settings: BuildSettings,
    sources: inputs.Sources,
    measured: Measured,
    places: Sequence[str],
    started: float,
) -> RunSummary:
    """Write what the verdicts make: what is there already and still right stays. `started`: `time.perf_counter()`."""
    before = digests(store)
    write_inventory(store, sources)
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
        inputs=tuple(places),
        config=settings.model_dump(mode="json"),
    )
    store.write(RUN, summary.model_dump_json(indent=1).encode())
    # The report looks at every sample: at a large dataset that is most of a restart that changes nothing.
    if digests(store) != before or not store.exists("report.html"):
        contact_sheet(store)
        audit = load(AuditSettings, [(CONF / "audit.yaml", None)])
        check_dataset(store, audit, aids_of(audit), workers=os.cpu_count() or 1)
        write_report(store, audit)
        write_dataset_card(store)
    return summary


def digests(store: Store) -> dict[str, str]:
    """What the tables of a dataset hold, and so, by the index's hashes, what its shards hold."""
    return {
        name: hashlib.sha256(store.read(name)).hexdigest()
        for name in (INDEX, "clips.parquet", "quarantine.parquet")
        if store.exists(name)
    }


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
    verdicts.write_disputes()
    return write_quarantine(store, (*sources.unreadable, *verdicts.quarantined()))


def write_quarantine(store: Store, rows: Iterable[Quarantined]) -> list[Quarantined]:
    """`quarantine.parquet`: these rows, sorted."""
    quarantined = sorted(rows, key=lambda q: (q.stage, q.id))
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
