"""Counts what every stage does, across processes that may be killed at any time."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from dataengine.config import Prices
from dataengine.engine.metrics import Metrics
from dataengine.engine.outlook import cost
from dataengine.engine.worker import Counts

log = logging.getLogger(__name__)

ANSWER_S = 2.0
"""How long a snapshot waits: the actor answers at once, or is being restarted, which takes Ray some seconds."""


class Report(NamedTuple):
    """All that one worker process did in one stage so far; the `serial` tells the later of two."""

    serial: int
    counts: Counts


Book = dict[tuple[str, str], Report]
"""The last report of each worker process (its token) on each stage."""

NOTHING = Report(0, Counts())


class _Tally:
    """Runs as a Ray actor: the sum of what the workers reported, and its metrics.

    Workers report all that they did so far, so a report that is lost, repeated or late does no harm. When the actor was
    killed, `resume` gives back the reports it had; until then it exports nothing, or the metrics of work that was
    exported already would count twice.
    """

    def __init__(self, prices: Prices, gpus: Mapping[str, float]) -> None:
        self._prices, self._gpus = prices, gpus
        self._name = secrets.token_hex(8)
        self._book: Book = {}
        self._totals: dict[str, Counts] = {}
        self._metrics = Metrics()
        self._exports = not ray.get_runtime_context().was_current_actor_reconstructed

    def report(self, token: str, stage: str, report: Report) -> None:
        before = self._book.get((token, stage), NOTHING)
        if report.serial <= before.serial:
            return
        self._book[token, stage] = report
        more = difference(report.counts, before.counts)
        self._totals[stage] = self._totals.get(stage, Counts()) + more
        if self._exports:
            self._export({stage: more})

    def book(self) -> tuple[str, Book]:
        """This process's random name, and all reports."""
        return self._name, self._book

    def resume(self, known: Book) -> None:
        """Go on from the reports that an earlier process had: their metrics were exported."""
        if self._exports:
            return
        for (token, stage), report in known.items():
            self.report(token, stage, report)
        self._exports = True
        exported = totals(known)
        self._export({s: difference(c, exported.get(s, Counts())) for s, c in self._totals.items()})

    def _export(self, more: Mapping[str, Counts]) -> None:
        for stage, counts in more.items():
            self._metrics.count(stage, counts, self._gpus.get(stage, 0.0))
        self._metrics.set_cost(cost(self._totals, self._prices, self._gpus))


def difference(now: Counts, before: Counts) -> Counts:
    """What was counted between the two."""
    return Counts(*(getattr(now, f) - getattr(before, f) for f in Counts.__dataclass_fields__))


def totals(book: Book) -> dict[str, Counts]:
    """Counts by stage, over all workers."""
    sums: dict[str, Counts] = {}
    for (_, stage), report in book.items():
        sums[stage] = sums.get(stage, Counts()) + report.counts
    return sums


class Tally:
    """A handle on the counts of one run; cheap to send to workers, who call it to report.

    The counts outlive the process that sums them: Ray starts it again, the driver's handle gives back what it last
    read, and each worker reports again all that it did. `prices` and `gpus` (those that one worker of a stage holds)
    are for the metrics alone. Needs a connected Ray.
    """

    def __init__(self, prices: Prices | None = None, gpus: Mapping[str, float] | None = None) -> None:
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally)
        self.__setstate__(actor.remote(prices or Prices(), dict(gpus or {})))

    def __getstate__(self) -> Any:
        return self._actor

    def __setstate__(self, actor: Any) -> None:
        """A copy that was sent to another process is a reporter of its own."""
        self._actor = actor
        self._lock = threading.Lock()
        self._token = secrets.token_hex(8)
        self._done: dict[str, Report] = {}
        self._asked = ""
        self._known: Book = {}

    def __call__(self, stage: str, counts: Counts) -> None:
        """Add what was done just now. Does not wait."""
        with self._lock:
            serial, before = self._done.get(stage, NOTHING)
            self._done[stage] = Report(serial + 1, before + counts)
            self._actor.report.remote(self._token, stage, self._done[stage])

    def snapshot(self, timeout_s: float = ANSWER_S) -> dict[str, Counts]:
        """The counts by stage; what was known last when there is no answer in time. Never raises."""
        with self._lock:
            try:
                name, book = ray.get(self._actor.book.remote(), timeout=timeout_s)
            except RayError as error:
                log.debug("no answer from the tally, showing what was last known: %s", error)
                return totals(self._known)
            if name != self._asked:
                self._actor.resume.remote(self._known)
                self._asked = name
            for key, report in book.items():
                if report.serial > self._known.get(key, NOTHING).serial:
                    self._known[key] = report
            return totals(self._known)
