"""One stage at work: reuse what is stored, measure the rest, isolate bad rows, commit. Plain Python, no Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Queue
from typing import TypeVar, cast

import pyarrow as pa

from dataengine.engine.cargo import Cargo, from_table, to_table
from dataengine.engine.measurements import CommittedIds, Measurements, Outcome
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.records import Quarantined, Record
from dataengine.stage import Row

log = logging.getLogger(__name__)

T = TypeVar("T")

TRANSIENT = (ConnectionError,)
"""Errors that may pass: tried again, with a pause that doubles. Every other error is the row's own and final."""
ATTEMPTS = 3
PAUSE_S = 0.5


class RowTimeout(Exception):
    """A row took longer than its stage's `row_timeout_s`."""


@dataclass(frozen=True)
class Counts:
    """What a stage did with some rows."""

    done: int = 0
    cached: int = 0
    gated: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    """Wall seconds inside the stage."""
    cpu_seconds: float = 0.0
    bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


@dataclass
class StageWorker:
    """Runs one step of a pipeline on tables of rows; the same object serves Ray and a plain test.

    `committed` says, for every stage by name, what was stored before the run began.
    """

    pipeline: Pipeline
    step: Step
    measurements: Measurements
    committed: Mapping[str, CommittedIds]
    report: Callable[[str, Counts], None] = lambda stage, counts: None
    _ready: bool = field(default=False, init=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        name = self.step.stage.name
        cargo, gated = self._gate(from_table(table, self.pipeline))
        live = [c for c in cargo if c.fate is None]
        stored = self._stored([c.row for c in live])
        todo = [c.row for c in live if c.row.id not in stored]
        started = time.perf_counter()
        outcomes = self._measure(todo) if todo else []
        seconds = sum(o.seconds for o in outcomes)
        if outcomes:
            self.measurements.commit(name, self.pipeline.fingerprints[name], outcomes)
            log.debug("%s: %d rows in %.2f s", name, len(outcomes), time.perf_counter() - started)
        results = stored | {o.id: o.result for o in outcomes}
        cargo = [c if c.fate else _with(c, results[c.row.id]) for c in cargo]
        failed = sum(isinstance(r, Quarantined) for r in results.values())
        done = sum(not isinstance(o.result, Quarantined) for o in outcomes)
        cached = sum(not isinstance(r, Quarantined) for r in stored.values())
        self.report(name, Counts(done, cached, gated, failed, seconds))
        return to_table(cargo, self.pipeline, self._is_read_later, self._is_looked_at_later)

    def _gate(self, cargo: Sequence[Cargo]) -> tuple[list[Cargo], int]:
        admit = self.step.admit
        passed = []
        for item in cargo:
            refusal = admit(item.row) if admit and item.fate is None else None
            passed.append(item.stopped(refusal) if refusal else item)
        return passed, sum(item.fate is not None for item in passed)

    def _stored(self, rows: Sequence[Row]) -> dict[str, Record | Quarantined]:
        """What this stage already has for these rows.

        Blobs are read only for rows that a later stage which looks at them still has to measure.
        """
        stage = self.step.stage
        places = self.measurements.ids_of((r.id for r in rows), self.committed[stage.name])
        wanted: set[str] = set()
        for reader in self.pipeline.readers_after(stage.name, stage.writes):
            wanted |= places.keys() - self.measurements.ids_of(places, self.committed[reader]).keys()
        read = self.measurements.read({i: p for i, p in places.items() if i in wanted}, blobs=True)
        read |= self.measurements.read({i: p for i, p in places.items() if i not in wanted}, blobs=False)
        return {
            i: Quarantined.from_json(s.failure) if s.failure else stage.writes.unpack(s.record or "", s.blobs)
            for i, s in read.items()
        }

    def _measure(self, rows: Sequence[Row]) -> list[Outcome]:
        if not self._ready:
            self.step.stage.setup()
            self._ready = True
        started = time.perf_counter()
        try:
            results = self._process(rows)
        except Exception as error:
            if len(rows) == 1:
                return [Outcome(rows[0].id, self._quarantine(rows[0], error), time.perf_counter() - started)]
            log.info("%s: a batch of %d failed (%s), trying its rows alone", self.step.stage.name, len(rows), error)
            return [outcome for row in rows for outcome in self._measure([row])]
        each = (time.perf_counter() - started) / len(rows)
        return [Outcome(row.id, result, each) for row, result in zip(rows, results, strict=True)]

    def _process(self, rows: Sequence[Row]) -> Sequence[Record]:
        """The stage's own work, bounded in time. Raises what the stage raises, or `RowTimeout`."""
        limit = self.step.resources.row_timeout_s * len(rows)
        for attempt in range(1, ATTEMPTS):
            try:
                return bounded(partial(self.step.stage.process, rows), limit)
            except TRANSIENT as error:
                log.warning("%s: %s; attempt %d of %d", self.step.stage.name, error, attempt, ATTEMPTS)
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
        return bounded(partial(self.step.stage.process, rows), limit)

    def _quarantine(self, row: Row, error: Exception) -> Quarantined:
        return quarantine(row, self.step.stage.name, error, ATTEMPTS if isinstance(error, TRANSIENT) else 1)

    def _is_read_later(self, kind: type[Record]) -> bool:
        """Measurements of a source travel to the cut, all others to their last reader or to the end."""
        if self.step in self.pipeline.source_steps:
            return True
        return kind in self.pipeline.keeps or self._is_looked_at_later(kind)

    def _is_looked_at_later(self, kind: type[Record]) -> bool:
        return bool(self.pipeline.readers_after(self.step.stage.name, kind))


def bounded(function: Callable[[], T], limit_s: float) -> T:
    """The function's result, or `RowTimeout` after that many seconds.

    It runs in a thread of its own, the only way to stop waiting for native code. After a timeout the thread is left to
    itself; it is a daemon, so that the process can still end.
    """
    results: Queue[tuple[T | None, BaseException | None]] = Queue()

    def work() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=limit_s)
    except Empty:
        raise RowTimeout(f"still running after {limit_s:g} s (resources.row_timeout_s)") from None
    if error is not None:
        raise error
    return cast(T, result)


def quarantine(row: Row, stage: str, error: Exception, attempts: int = 1) -> Quarantined:
    """The record of a row that failed, in words a person understands."""
    # The name below the input folder, not this machine's path: the table is the same wherever the run was.
    message = (str(error) or repr(error)).replace(row.source.uri, row.source.names[0])
    return Quarantined(
        id=row.id,
        stage=stage,
        error=type(error).__name__,
        message=message,
        attempts=attempts,
        source_names=row.source.names,
        start_s=row.clip.start_s if row.clip else None,
        end_s=row.clip.end_s if row.clip else None,
    )


def _with(cargo: Cargo, result: Record | Quarantined) -> Cargo:
    return cargo.stopped(result) if isinstance(result, Quarantined) else Cargo(cargo.row.with_record(result))
