"""Videos in, relational shards out: find, measure, decide, pack. As a Ray job: `python -m pipelines.build`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from dataengine.audit.contact_sheet import contact_sheet
from dataengine.audit.report import write_report
from dataengine.config import BuildSettings
from dataengine.engine import sources as inputs
from dataengine.engine.measurements import Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.progress import Tally, shown
from dataengine.engine.run import connect, each, run
from dataengine.engine.worker import Counts
from dataengine.records import Decision, Pair, Quarantined, Record, Rejected, RunSummary, StageSummary
from dataengine.shards.card import card
from dataengine.shards.index import write_index
from dataengine.store import Store
from pipelines.pack import pack
from pipelines.stages import compose


@dataclass(frozen=True)
class Verdicts:
    """What the decisions said of every clip."""

    pairs: tuple[Pair, ...]
    decisions: tuple[Decision, ...]
    rejected: tuple[Rejected, ...]
    quarantined: tuple[Quarantined, ...]


def build(
    places: Sequence[str],
    output: str,
    settings: BuildSettings,
    address: str | None = None,
    console: Console | None = None,
) -> RunSummary:
    """Build (or bring up to date) the shards in `output` from the videos at `places`.

    Results that are stored in `output` and still hold are reused, so a killed build goes on where it was. Raises
    `inputs.InputError` for an input that does not exist, `engine.run.ClusterTooSmall` when the stages do not fit.
    """
    started = time.perf_counter()
    console = console or Console()
    store = Store.at(output)
    pipeline = compose(settings)
    found = inputs.find(places)
    connect(address, pipeline.steps)

    sources = inputs.merge(each(inputs.identify, found.files), found.skipped)
    console.print(_welcome(sources), highlight=False)
    measurements = Measurements(store.child("measurements"))
    tally = Tally()
    with shown(tally, [step.stage.name for step in pipeline.steps], console):
        verdicts = _sort(run(pipeline, sources.videos, measurements, tally), sources.unreadable)

    rows = pack(store, measurements, pipeline, verdicts.pairs, settings.shards)
    with store.open_output("index.parquet") as stream:
        write_index(stream, rows)
    _write_quarantine(store, verdicts.quarantined)
    _write_clips(store, verdicts)
    summary = _summary(pipeline, settings, sources, verdicts, tally.snapshot(), time.perf_counter() - started)
    store.write("measurements/run.json", summary.model_dump_json(indent=1).encode())
    store.write("README.md", card(store).encode())
    write_report(store)
    contact_sheet(store)
    return summary


def _welcome(sources: inputs.Sources) -> str:
    size = sum(video.size_bytes for video in sources.videos)
    extra = [f", duplicates: {sources.duplicates}"] if sources.duplicates else []
    extra += [f", other files skipped: {sources.skipped}"] if sources.skipped else []
    return f"videos: {len(sources.videos)}, {size / 1e6:.1f} MB{''.join(extra)}"


def _sort(verdicts: Iterator[Record], unreadable: Sequence[Quarantined]) -> Verdicts:
    decisions: list[Decision] = []
    rejected: list[Rejected] = []
    quarantined: list[Quarantined] = list(unreadable)
    for verdict in verdicts:
        if isinstance(verdict, Decision):
            decisions.append(verdict)
        elif isinstance(verdict, Rejected):
            rejected.append(verdict)
        elif isinstance(verdict, Quarantined):
            quarantined.append(verdict)
    pairs = [d.outcome for d in decisions if isinstance(d.outcome, Pair)]
    rejected += [d.outcome for d in decisions if isinstance(d.outcome, Rejected)]
    return Verdicts(
        pairs=tuple(sorted(pairs, key=lambda p: p.key)),
        decisions=tuple(decisions),
        rejected=tuple(sorted(rejected, key=lambda r: (r.clip.source_id, r.clip.start_s))),
        quarantined=tuple(sorted(quarantined, key=lambda q: (q.stage, q.id))),
    )


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
    ]
)


def _write_quarantine(store: Store, quarantined: Sequence[Quarantined]) -> None:
    """`quarantine.parquet`: a row for everything that failed, with the reason."""
    table = pa.Table.from_pylist([q.model_dump() for q in quarantined], _QUARANTINE)
    with store.open_output("quarantine.parquet") as stream:
        pq.write_table(table, stream)


def _write_clips(store: Store, verdicts: Verdicts) -> None:
    """`clips.parquet`: every clip with what was decided, and which parts of it were dropped and why."""
    dropped = {
        d.outcome.clip.clip_id: [f"{p.entity}: {p.rule}: {p.detail}" for p in d.dropped] for d in verdicts.decisions
    }
    rows = [(p.clip, "kept", p.caption) for p in verdicts.pairs]
    rows += [(r.clip, r.rule, r.detail) for r in verdicts.rejected]
    rows.sort(key=lambda row: (row[0].source_id, row[0].start_s))
    table = pa.table(
        {
            "clip_id": pa.array([clip.clip_id for clip, _, _ in rows], pa.string()),
            "source_id": pa.array([clip.source_id for clip, _, _ in rows], pa.string()),
            "start_s": pa.array([clip.start_s for clip, _, _ in rows], pa.float64()),
            "end_s": pa.array([clip.end_s for clip, _, _ in rows], pa.float64()),
            "verdict": pa.array([verdict for _, verdict, _ in rows], pa.string()),
            "detail": pa.array([detail for _, _, detail in rows], pa.string()),
            "dropped": pa.array([dropped.get(clip.clip_id, []) for clip, _, _ in rows], pa.list_(pa.string())),
        }
    )
    with store.open_output("clips.parquet") as stream:
        pq.write_table(table, stream)


def _summary(
    pipeline: Pipeline,
    settings: BuildSettings,
    sources: inputs.Sources,
    verdicts: Verdicts,
    counts: dict[str, Counts],
    wall_s: float,
) -> RunSummary:
    stages = []
    for step in pipeline.steps:
        name, c = step.stage.name, counts.get(step.stage.name, Counts())
        stages.append(
            StageSummary(
                stage=name,
                fingerprint=pipeline.fingerprints[name],
                model=step.stage.model,
                done=c.done,
                cached=c.cached,
                gated=c.gated,
                quarantined=c.quarantined,
                seconds=round(c.seconds, 3),
            )
        )
    clips = len(verdicts.pairs) + len(verdicts.rejected) + sum(q.start_s is not None for q in verdicts.quarantined)
    return RunSummary(
        sources=len(sources.videos),
        duplicates=sources.duplicates,
        skipped=sources.skipped,
        clips=clips,
        pairs=len(verdicts.pairs),
        subjects=sum(len(pair.subjects) for pair in verdicts.pairs),
        quarantined=len(verdicts.quarantined),
        rejected=dict(sorted(Counter(r.rule for r in verdicts.rejected).items())),
        stages=tuple(stages),
        wall_s=round(wall_s, 3),
        config=settings.model_dump(mode="json"),
    )


if __name__ == "__main__":
    from pipelines.cli import main

    main(["build"])
