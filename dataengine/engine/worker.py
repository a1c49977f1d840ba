"""One stage at work: reuse what is stored, measure the rest, isolate bad rows, commit. Plain Python, no Ray."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import pyarrow as pa

from dataengine.engine.cargo import Cargo, from_table, quarantined, to_table
from dataengine.engine.measurements import Ledger, Measurements, Outcome
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.sharing import Shared
from dataengine.engine.witness import Witness
from dataengine.records import Quarantined, Record
from dataengine.stage import BadInput, Outage, Row

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3
"""Tries of a row that fails with an error that may pass, with a pause that doubles. Every other error is final."""
PAUSE_S = 0.5
KILLS = 3
"""A row on which, alone, so many processes were killed without a word (out of memory, mostly) is the reason for it."""

_SYSTEM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""No row's fault: the run stops."""


class RowTimeout(Exception):
    """A row took longer than its stage's `row_timeout_s`."""


class ProcessCrashed(Exception):
    """Native code crashed on a row and took its process along."""


class ProcessKilled(Exception):
    """Processes were killed from outside while they worked on a row alone."""


@dataclass(frozen=True)
class Counts:
    """What a stage did with some rows."""

    done: int = 0
    cached: int = 0
    gated: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    """Wall seconds inside the stage; a second that a process gave to several batches is shared among them."""
    cpu_seconds: float = 0.0
    bytes: int = 0
    loading_seconds: float = 0.0
    """Wall seconds of `Stage.setup`, which `seconds` leaves out."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


_Result = SimpleQueue[tuple[Any, BaseException | None]]
_Calls = SimpleQueue[tuple[Callable[[], Any], _Result] | None]


class StageThread:
    """The one thread that a stage's work runs in, so that waiting for it can end: nothing else stops native code.

    It stays the same from batch to batch: memory that one thread freed is not always another's to use, and processes
    grew by hundreds of megabytes. After a timeout it is left to itself, and the next call starts another; it is a
    daemon, so that the process can still end.
    """

    def __init__(self) -> None:
        self._calls: _Calls | None = None

    def run(self, function: Callable[[], T], limit_s: float) -> T:
        """The function's result. Raises what it raises, or `RowTimeout` after that many seconds."""
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(target=self._work, args=(self._calls,), daemon=True, name="stage").start()
        results: _Result = SimpleQueue()
        self._calls.put((function, results))
        try:
            result, error = results.get(timeout=limit_s)
        except Empty:
            self._calls.put(None)  # should it ever come back
            self._calls = None
            raise _timeout(limit_s) from None
        if error is not None:
            raise error
        return result

    @staticmethod
    def _work(calls: _Calls) -> None:
        while (call := calls.get()) is not None:
            function, results = call
            try:
                results.put((function(), None))
            except BaseException as error:
                results.put((None, error))


@dataclass
class StageWorker:
    """Runs one step of a pipeline on tables of rows; the same object serves Ray and a plain test.

    `ledgers` say, for every stage by name, what was stored before the run began. With a `witness` the worker may end
    its own process: whoever starts it again gives it the same rows, and it then knows which of them were the reason.

    A process that works on several batches at once has a worker for each, and they share `shared` and the stage, which
    must bear being called so. What it dies of cannot be told from what else went on in it: the rows of all those
    batches are then worked on one by one and alone, and only what happens to a row alone is held against it.
    """

    pipeline: Pipeline
    step: Step
    measurements: Measurements
    ledgers: Mapping[str, Ledger]
    report: Callable[[str, Counts], None] = lambda stage, counts: None
    witness: Witness | None = None
    shared: Shared = field(default_factory=Shared)
    _thread: StageThread = field(default_factory=StageThread, init=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        cargo, gated = self._gate(from_table(table, self.pipeline))
        live = [c.row for c in cargo if c.fate is None]
        results = self._stored(live)
        failed = sum(isinstance(r, Quarantined) for r in results.values())
        counts = Counts(cached=len(results) - failed, gated=gated, quarantined=failed)
        todo = [row for row in live if row.id not in results]
        if todo:
            measured, did = self._measured(todo)
            results, counts = results | measured, counts + did
        self.report(self.step.stage.name, counts)
        cargo = [c if c.fate else _with(c, results[c.row.id]) for c in cargo]
        return to_table(cargo, self.pipeline, self._is_read_later, self._is_looked_at_later)

    def _gate(self, cargo: Sequence[Cargo]) -> tuple[list[Cargo], int]:
        passed = [gated(item, self.step) for item in cargo]
        return passed, sum(item.fate is not None for item in passed)

    def _stored(self, rows: Sequence[Row]) -> dict[str, Record | Quarantined]:
        """What this stage already has for these rows.

        Media are read only for rows that a later stage which looks at them still has to measure.
        """
        stage = self.step.stage
        ledger = self.ledgers[stage.name]
        ids = ledger.has([r.id for r in rows])
        wanted: set[str] = set()
        for reader in self.pipeline.readers_after(stage.name, stage.writes):
            wanted |= ids - self.ledgers[reader].has(sorted(ids))
        stored = self.measurements.media(ledger, sorted(wanted))
        stored |= self.measurements.records(ledger, sorted(ids - wanted))
        return {i: s.result(stage.writes) for i, s in stored.items()}

    def _measured(self, rows: Sequence[Row]) -> tuple[dict[str, Record | Quarantined], Counts]:
        """Measure rows and commit them as one part, unless that very part is there already."""
        stage, print_ = self.step.stage, self.pipeline.fingerprints[self.step.stage.name]
        ids = [row.id for row in rows]
        again = self.measurements.committed(stage.name, print_, ids)
        if again is not None:
            return {i: s.result(stage.writes) for i, s in again.items()}, Counts()
        loading_s = self.shared.once(stage.name, stage.setup)
        outcomes = [outcome for batch, alone in self._batches(rows) for outcome in self._attempt(batch, alone)]
        committed = self.measurements.commit(stage.name, print_, outcomes)
        self._forget(rows)
        failed = sum(isinstance(o.result, Quarantined) for o in outcomes)
        counts = Counts(
            done=len(outcomes) - failed,
            quarantined=failed,
            seconds=sum(o.seconds for o in outcomes),
            cpu_seconds=sum(o.cpu_seconds for o in outcomes),
            bytes=committed,
            loading_seconds=loading_s,
        )
        log.debug("%s: %d rows (%s …) in %.2f s", stage.name, len(rows), ids[0], counts.seconds)
        return {o.id: o.result for o in outcomes}, counts

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], bool]]:
        """All rows at once, alone where nothing else can go on; one by one and alone when a process died on them."""
        alone = self.shared.places == 1
        if (len(rows) > 1 or not alone) and self._died(rows, alone):
            log.warning("%s: a process died on rows %s: now one by one", self.step.stage.name, ", ".join(_ids(rows)))
            yield from (([row], True) for row in rows)
        else:
            yield rows, alone

    def _died(self, rows: Sequence[Row], alone: bool) -> bool:
        return self.witness is not None and self.witness.deaths(self._note(alone), _ids(rows)).times > 0

    def _note(self, alone: bool) -> str:
        """What the witness calls work on this stage."""
        return self.step.stage.name if alone else f"{self.step.stage.name} beside others"

    def _attempt(self, rows: Sequence[Row], alone: bool) -> list[Outcome]:
        blamed = self._blamed(rows[0]) if alone and len(rows) == 1 else None
        if blamed is not None:
            return [Outcome(rows[0].id, blamed, 0.0)]
        try:
            with self.shared.working(alone) as spent:
                pairs = zip(rows, self._watched(rows, alone), strict=True)
                results: Sequence[Record] = [self._judged(*pair) for pair in pairs]
        except Exception as error:
            if isinstance(error, Outage) or (isinstance(error, OSError) and error.errno in _SYSTEM):
                raise
            if len(rows) > 1:
                log.info("%s: a batch of %d failed (%s), now one by one", self.step.stage.name, len(rows), error)
                return [o for row in rows for o in self._attempt([row], alone or self._died([row], alone))]
            tries = ATTEMPTS if may_pass(error) else 1
            results = [quarantined(rows[0], self.step.stage.name, error, tries)]
        wall, cpu = spent.wall / len(rows), spent.cpu / len(rows)
        return [Outcome(row.id, result, wall, cpu) for row, result in zip(rows, results, strict=True)]

    def _judged(self, row: Row, result: Record | BadInput) -> Record:
        return quarantined(row, self.step.stage.name, result) if isinstance(result, BadInput) else result

    def _watched(self, rows: Sequence[Row], alone: bool) -> Sequence[Record | BadInput]:
        if self.witness is None:
            return self._process(rows)
        name, ids = self._note(alone), _ids(rows)
        with self.witness.watching(name, ids):
            try:
                return self._process(rows)
            except RowTimeout as error:
                # Nothing but the end of the process stops native code that hangs.
                log.warning("%s: rows %s: %s; starting the process anew", name, ", ".join(ids), error)
                self.witness.hung(name, ids)
                os._exit(1)

    def _process(self, rows: Sequence[Row]) -> Sequence[Record | BadInput]:
        """The stage's own work, bounded in time. Raises what the stage raises, or `RowTimeout`."""
        for attempt in range(1, ATTEMPTS):
            try:
                return self._thread.run(partial(self.step.stage.process, rows), self._limit_s(len(rows)))
            except Exception as error:
                if not may_pass(error):
                    raise
                log.warning("%s: rows %s: %s; attempt %d of %d", self.step.stage.name, ", ".join(_ids(rows)), error,
                            attempt, ATTEMPTS)  # fmt: skip
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
        return self._thread.run(partial(self.step.stage.process, rows), self._limit_s(len(rows)))

    def _limit_s(self, rows: int) -> float:
        return self.step.resources.row_timeout_s * rows

    def _blamed(self, row: Row) -> Quarantined | None:
        """The verdict on a row that processes died on while it was alone; None when it deserves a try."""
        deaths = self.witness.deaths(self._note(alone=True), [row.id]) if self.witness else None
        if deaths is None or not deaths.times:
            return None
        error: Exception
        if deaths.hung:
            error = _timeout(self._limit_s(1))
        elif deaths.crash:
            error = ProcessCrashed(f"native code crashed on it: {deaths.crash}")
        elif deaths.times >= KILLS:
            error = ProcessKilled(f"{KILLS} processes were killed while they worked on it alone (out of memory?)")
        else:
            return None
        return quarantined(row, self.step.stage.name, error, KILLS if isinstance(error, ProcessKilled) else 1)

    def _forget(self, rows: Sequence[Row]) -> None:
        if self.witness:
            for batch in ([*rows], *([row] for row in rows)):
                for alone in (True, False):
                    self.witness.forget(self._note(alone), _ids(batch))

    def _is_read_later(self, kind: type[Record]) -> bool:
        """Measurements of a source travel to the cut, those of a clip to their last reader."""
        return self.step in self.pipeline.source_steps or self._is_looked_at_later(kind)

    def _is_looked_at_later(self, kind: type[Record]) -> bool:
        return bool(self.pipeline.readers_after(self.step.stage.name, kind))


def gated(cargo: Cargo, step: Step) -> Cargo:
    """The row as it enters a step: stopped if the step's gate refuses it."""
    if cargo.fate is not None or step.admit is None:
        return cargo
    try:
        refusal = step.admit(cargo.row)
    except Exception as error:
        return cargo.stopped(quarantined(cargo.row, step.stage.name, error))
    return cargo if refusal is None else cargo.stopped(refusal)


def may_pass(error: BaseException | None) -> bool:
    """Whether trying again can help: a lost or silent connection, or a store that says so, here or as the cause."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "transient", False):
            return True
        error = error.__cause__ or error.__context__
    return False


def _timeout(limit_s: float) -> RowTimeout:
    return RowTimeout(f"still running after {limit_s:g} s (resources.row_timeout_s)")


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row.id for row in rows]


def _with(cargo: Cargo, result: Record | Quarantined) -> Cargo:
    return cargo.stopped(result) if isinstance(result, Quarantined) else Cargo(cargo.row.with_record(result))
