"""A pipeline as one streaming Ray Data job: pools of actors, rows flowing between them as they are done."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from dataengine.engine.cargo import Cargo, from_table, of_sources, to_table
from dataengine.engine.measurements import CommittedIds, Measurements
from dataengine.engine.pipeline import Pipeline, Step, pools
from dataengine.engine.progress import Tally
from dataengine.engine.worker import StageWorker, quarantine
from dataengine.records import Clip, Quarantined, Record, Rejected, SourceVideo
from dataengine.stage import Row

log = logging.getLogger(__name__)

RAY_CPUS = 1.0
"""What one of Ray Data's own tasks (forming batches) counts for; without room for it the stream stands still."""

T = TypeVar("T")
U = TypeVar("U")

TASK_CPUS = 0.1
"""What cutting, deciding and packing count for: light work that must always find room beside the stages."""


class ClusterTooSmall(RuntimeError):
    """The stages' declared resources do not fit the cluster, so the run would wait for ever."""


def connect(address: str | None = None, steps: Sequence[Step] = ()) -> None:
    """Start Ray in this process, or join the cluster at `address`, with room for all of `steps` at once.

    A local Ray is told of as many cores as the stages ask for: they share the machine by time slices, and a pool that
    could not start would block the whole stream. On a cluster they must fit: raises `ClusterTooSmall`.
    """
    heads = [pool[0].resources for pool in pools(steps)]
    cpus = sum(head.workers * head.cpus for head in heads) + 4 * TASK_CPUS + RAY_CPUS
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address:
            ray.init(address=address, **quiet)
        else:
            # Ray warns of each actor whose arguments lie in the object store; here the driver keeps them alive.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            with _silent_core():
                ray.init(num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)), include_dashboard=False, **quiet)
    total = ray.cluster_resources()
    gpus = sum(head.workers * head.gpus for head in heads)
    if total.get("CPU", 0) < cpus or total.get("GPU", 0) < gpus:
        raise ClusterTooSmall(
            f"the stages ask for {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {total.get('CPU', 0):g} and "
            f"{total.get('GPU', 0):g}: lower stages.*.resources (workers, cpus, gpus) or add nodes"
        )


@contextmanager
def _silent_core() -> Iterator[None]:
    """Keeps Ray's C++ core from announcing on stderr that its log level was set; its errors come as exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def run(
    pipeline: Pipeline,
    sources: Sequence[SourceVideo],
    measurements: Measurements,
    tally: Tally,
) -> Iterator[Record]:
    """Measure all sources and give, in their order, the verdict on every clip.

    That is what `pipeline.finish` returned, a `Rejected` for what a gate refused, a `Quarantined` for what failed.
    What is stored already is reused. Needs `connect`. Raises Ray's error when a stage cannot be set up at all.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    committed = {name: measurements.committed(name, print_) for name, print_ in pipeline.fingerprints.items()}
    shared = ray.put(committed)
    rows = [of_sources([source], pipeline) for source in sources]
    data = ray.data.from_arrow(rows) if rows else ray.data.from_arrow([of_sources([], pipeline)])
    for pool in pools(pipeline.source_steps):
        data = _measure(data, pipeline, pool, measurements, shared, tally)
    data = data.map_batches(
        partial(_cut, pipeline=pipeline), batch_format="pyarrow", batch_size=1, num_cpus=TASK_CPUS, zero_copy_batch=True
    )
    for pool in pools(pipeline.clip_steps):
        data = _measure(data, pipeline, pool, measurements, shared, tally)
    data = data.map_batches(
        partial(_finish, pipeline=pipeline), batch_format="pyarrow", batch_size=None, num_cpus=TASK_CPUS
    )
    kinds = {kind.__name__: kind for kind in (pipeline.verdict, Rejected, Quarantined)}
    for batch in data.iter_batches(batch_format="pyarrow", batch_size=None):
        for row in batch.to_pylist():
            yield kinds[row["kind"]].from_json(row["verdict"])


def each(function: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """`function` of every item as Ray tasks, in order, with a bounded number under way."""
    remote = ray.remote(num_cpus=TASK_CPUS)(lambda item: function(item))  # ray takes plain functions only
    width = 2 * (os.cpu_count() or 1)
    waiting = [remote.remote(item) for item in items[:width]]
    for position in range(len(items)):
        yield ray.get(waiting.pop(0))
        if position + width < len(items):
            waiting.append(remote.remote(items[position + width]))


class _Actor:
    """The workers of a pool as Ray Data wants them: made once per process, the index fetched from Ray's store."""

    def __init__(
        self, pipeline: Pipeline, pool: Sequence[Step], measurements: Measurements, committed: Any, tally: Tally
    ) -> None:
        stored: Mapping[str, CommittedIds] = ray.get(committed[0])
        self.workers = [StageWorker(pipeline, step, measurements, stored, tally) for step in pool]

    def __call__(self, table: pa.Table) -> pa.Table:
        for worker in self.workers:
            table = worker(table)
        return table


def _measure(
    data: Dataset, pipeline: Pipeline, pool: Sequence[Step], measurements: Measurements, committed: Any, tally: Tally
) -> Dataset:
    resources = pool[0].resources
    # Blocks of one batch each: the next pool starts on the first batch while this one is at the second.
    return data.repartition(target_num_rows_per_block=resources.batch).map_batches(
        _Actor,
        # The reference travels inside a list, or Ray would replace it by its value in every task.
        fn_constructor_args=(pipeline, pool, measurements, [committed], tally),
        batch_format="pyarrow",
        batch_size=resources.batch,
        compute=ActorPoolStrategy(size=resources.workers),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
    )


def _cut(table: pa.Table, pipeline: Pipeline) -> pa.Table:
    """A source's clips; a source that failed, or that cannot be cut, goes on as the one row it is."""
    out: list[Cargo] = []
    for item in from_table(table, pipeline):
        try:
            clips = [] if item.fate else pipeline.cut(item.row)
        except Exception as error:
            item = item.stopped(quarantine(item.row, "cut", error))
            clips = []
        if not clips and item.fate is None:
            item = item.stopped(_uncut(item.row))
        out += [Cargo(Row(item.row.source, clip, item.row.records)) for clip in clips] or [item]
    clip_reads = {kind for step in pipeline.clip_steps for kind in step.stage.reads}
    return to_table(out, pipeline, lambda kind: kind in clip_reads or kind in pipeline.keeps, clip_reads.__contains__)


def _uncut(row: Row) -> Rejected:
    whole = Clip.of(row.source.source_id, 0.0, 0.0)
    return Rejected(clip=whole, rule="clips", detail=f"{row.source.names[0]}: no shot is long enough for a clip")


def _finish(table: pa.Table, pipeline: Pipeline) -> pa.Table:
    verdicts: list[Record] = []
    for item in from_table(table, pipeline):
        try:
            verdicts.append(item.fate or pipeline.finish(item.row))
        except Exception as error:
            verdicts.append(quarantine(item.row, "decide", error))
    kinds = [type(v).__name__ for v in verdicts]
    return pa.table({"kind": kinds, "verdict": [v.to_json() for v in verdicts]})
