"""A pipeline as one streaming Ray Data job: pools of actors, rows flowing between them as they are done."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from dataengine.engine.cargo import cut, from_table, of_sources, to_table
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.pipeline import Pipeline, Step, pools
from dataengine.engine.sharing import Shared
from dataengine.engine.tally import Tally
from dataengine.engine.witness import Witness
from dataengine.engine.worker import StageWorker
from dataengine.records import SourceVideo
from dataengine.stage import Outage
from dataengine.store import StoreError

log = logging.getLogger(__name__)

RAY_CPUS = 1.0
"""What one of Ray Data's own tasks (forming batches) counts for; without room for it the stream stands still."""

WAIT_FOR_NODES_S = 300.0
"""How long a cluster's nodes have to join: on Kubernetes and Slurm the driver often starts before them."""
LOOK_S = 5.0

T = TypeVar("T")
U = TypeVar("U")

BATCH_BYTES = 256_000_000
"""Sources of so many bytes are a batch, however few they are: what a kill loses stays small."""


class ClusterTooSmall(RuntimeError):
    """The stages' declared resources do not fit the cluster, so the run would wait for ever."""


def connect(address: str | None = None, steps: Sequence[Step] = ()) -> None:
    """Start Ray in this process, or join the cluster at `address`, with room for all of `steps` at once.

    A local Ray is told of as many cores as the stages ask for: they share the machine by time slices, and a pool that
    could not start would block the whole stream. On a cluster they must fit, if need be after its nodes have joined:
    raises `ClusterTooSmall`.
    """
    heads = [pool[0].resources for pool in pools(steps)]
    cpus = sum(head.workers * head.cpus for head in heads) + RAY_CPUS
    most = sum(head.most_workers * head.cpus for head in heads) + RAY_CPUS
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        address = address or os.environ.get("RAY_ADDRESS")  # set in a submitted job
        if address:
            ray.init(address=address, **quiet)
        else:
            # Ray warns of each actor whose arguments lie in the object store; here the driver keeps them alive.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            with _silent_core(), uninterrupted():
                ray.init(
                    address="local",  # not a cluster that somebody else left here
                    num_cpus=max(os.cpu_count() or 1, math.ceil(most)),
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",  # nobody else's business
                    **quiet,
                )
    gpus = sum(head.workers * head.gpus for head in heads)
    waited_s = 0.0
    while (total := ray.cluster_resources()).get("CPU", 0) < cpus or total.get("GPU", 0) < gpus:
        if address and waited_s < WAIT_FOR_NODES_S:
            if not waited_s:
                log.warning("waiting for nodes: %g CPUs and %g GPUs are needed, %s are there", cpus, gpus, total)
            time.sleep(LOOK_S)
            waited_s += LOOK_S
            continue
        raise ClusterTooSmall(
            f"the stages ask for {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {total.get('CPU', 0):g} and "
            f"{total.get('GPU', 0):g}: lower stages.*.resources (workers, cpus, gpus) or add nodes"
        )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: Ray's start, cut off half-way, leaves locks that its end waits for."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


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


def measure(
    pipeline: Pipeline,
    sources: Sequence[SourceVideo],
    measurements: Measurements,
    ledgers: Mapping[str, Ledger],
    tally: Tally,
    run: str,
) -> None:
    """Measure all that is not in `ledgers` of these sources and of their clips, and commit it.

    `run` names the run, for the notes of its workers. Needs `connect`. Raises `StoreError` when results cannot be
    stored, and what a stage raises that cannot be set up.
    """
    if not sources:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # a run may have one row to do

    shared = ray.put(dict(ledgers))
    job = partial(_measure, pipeline=pipeline, measurements=measurements, ledgers=shared, tally=tally, run=run)
    head = pipeline.source_steps[0].resources
    data = ray.data.from_arrow([of_sources(group, pipeline) for group in source_batches(sources, head.batch)])
    for pool in pools(pipeline.source_steps):
        data = job(data, pool=pool)
    if pipeline.clip_steps:
        # A source's clips come as one block: split, or one worker would get all clips of a film.
        data = data.repartition(target_num_rows_per_block=pipeline.clip_steps[0].resources.batch)
    for pool in pools(pipeline.clip_steps):
        data = job(data, pool=pool)
    try:
        for _ in data.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
            pass
    except RayError as error:
        raise _cause(error) from error


def source_batches(sources: Sequence[SourceVideo], rows: int) -> Iterator[list[SourceVideo]]:
    """Sources that are measured and committed together: small files share a part, a film has one of its own."""
    batch: list[SourceVideo] = []
    for source in sources:
        size = sum(video.size_bytes for video in batch) + source.size_bytes
        if batch and (len(batch) == rows or size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(source)
    if batch:
        yield batch


def _cause(error: RayError) -> BaseException:
    """What went wrong in the worker, without Ray's wrapping, where it can be told."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StoreError | Outage):
            return cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) and inner is not cause else cause.__cause__
    return error


def cores() -> int:
    """Processor cores there are to work with: the cluster's, or this machine's (of which a local Ray is told more)."""
    here = os.cpu_count() or 1
    return here if len(ray.nodes()) < 2 else max(here, int(ray.cluster_resources().get("CPU", 1)))


def each(function: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """`function` of every item as Ray tasks, in order, with a bounded number under way."""
    # Ray takes plain functions only. A worker or node that dies is no reason to stop.
    if len(items) < 2:  # not worth another process
        yield from map(function, items)
        return
    remote = ray.remote(num_cpus=RAY_CPUS, max_retries=-1)(lambda item: function(item))
    width = cores()
    waiting = [remote.remote(item) for item in items[:width]]
    for position in range(len(items)):
        try:
            yield ray.get(waiting.pop(0))
        except RayError as error:
            raise _cause(error) from error
        if position + width < len(items):
            waiting.append(remote.remote(items[position + width]))


class _Actor:
    """The workers of a pool as Ray Data wants them: made once per process, the ledgers fetched from Ray's store.

    Each batch in flight has a set of its own.
    """

    def __init__(
        self, pipeline: Pipeline, pool: Sequence[Step], measurements: Measurements, ledgers: Any, tally: Tally, run: str
    ) -> None:
        if not pool[0].resources.gpus:
            # Ray leaves them all visible to a worker that was given none; its models would take the first one.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.pipeline = pipeline
        self.cuts = bool(pipeline.clip_steps) and pool[-1] is pipeline.source_steps[-1]
        stored: Mapping[str, Ledger] = ray.get(ledgers[0])
        shared = Shared(pool[0].resources.in_flight)
        self.idle: SimpleQueue[list[StageWorker]] = SimpleQueue()
        for _ in range(shared.places):
            self.idle.put(
                [StageWorker(pipeline, step, measurements, stored, tally, Witness(run), shared) for step in pool]
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        workers = self.idle.get()  # as many threads call as there are places
        try:
            for worker in workers:
                table = worker(table)
        finally:
            self.idle.put(workers)
        return cut_table(table, self.pipeline) if self.cuts else table


def _measure(
    data: Dataset,
    pipeline: Pipeline,
    pool: Sequence[Step],
    measurements: Measurements,
    ledgers: Any,
    tally: Tally,
    run: str,
) -> Dataset:
    resources = pool[0].resources
    return data.map_batches(
        _Actor,
        # The reference travels inside a list, or Ray would replace it by its value in every task.
        fn_constructor_args=(pipeline, pool, measurements, [ledgers], tally, run),
        batch_format="pyarrow",
        batch_size=resources.batch,
        compute=ActorPoolStrategy(
            min_size=resources.workers,
            max_size=resources.most_workers,
            max_concurrent_calls_per_actor=resources.in_flight,
            enable_true_multi_threading=resources.in_flight > 1,
        ),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
    )


def cut_table(table: pa.Table, pipeline: Pipeline) -> pa.Table:
    """The clips of a source; a source that was stopped, or cannot be cut, goes on as the one row it is."""
    out = [c for item in from_table(table, pipeline) for c in ([item] if item.fate else cut(item.row, pipeline))]
    clip_reads = {kind for step in pipeline.clip_steps for kind in step.stage.reads}
    return to_table(out, pipeline, clip_reads.__contains__, clip_reads.__contains__)
