"""Where a run stands, how fast it goes, when it ends and what it costs: arithmetic on the workers' counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from dataengine.config import Prices
from dataengine.engine.worker import Counts

WINDOW_S = 60.0
WINDOW_ROWS = 10
"""A rate is over the last minute, or over the last ten rows where these took longer."""


def cost(counts: Mapping[str, Counts], prices: Prices, gpus: Mapping[str, float]) -> float:
    """Processor and GPU time at `prices`; `gpus` are those that one worker of a stage holds (none: 0)."""
    cpu_hours = sum(c.cpu_seconds for c in counts.values()) / 3600
    gpu_hours = sum(c.seconds * gpus.get(stage, 0.0) for stage, c in counts.items()) / 3600
    return cpu_hours * prices.cpu_hour + gpu_hours * prices.gpu_hour


def seen(counts: Counts) -> int:
    """Rows that came through a stage, whatever became of them."""
    return counts.cached + handled(counts)


def handled(counts: Counts) -> int:
    """Rows that came through without a stored result: measured, failed or spared."""
    return counts.done + counts.quarantined + counts.gated


def total(counts: Counts, coming: int | None, expected: int | None) -> int | None:
    """Rows that a stage will have handled at the end, as far as is known now.

    Where nobody knows what to expect it is what is `coming` from the stage before; None while that says nothing, which
    is so for the first stage and for the one behind the cut, where a source becomes many rows.
    """
    if expected is not None:
        return max(expected, handled(counts))
    if coming is None or coming < seen(counts):
        return None
    return coming - counts.cached


def eta(handled: int, total: int | None, rate: float | None) -> float | None:
    """Seconds until a stage is through; None while that is unknown."""
    if total is None:
        return None
    if handled >= total:
        return 0.0
    return (total - handled) / rate if rate else None


class Pace:
    """How many rows a second a stage handles: by the wall clock, whatever the number of its workers."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, handled: int) -> None:
        """Remember that `handled` rows were through at `now_s`."""
        if handled > (self._changes[-1][1] if self._changes else 0):
            self._changes.append((now_s, handled))
        while len(self._changes) > 1 and self._covers_window(self._changes[1], now_s):
            self._changes.popleft()

    def _covers_window(self, change: tuple[float, int], now_s: float) -> bool:
        return now_s - change[0] >= WINDOW_S and self._changes[-1][1] - change[1] >= WINDOW_ROWS

    def rate(self, now_s: float) -> float | None:
        """Rows a second; None until a second batch came, because nobody knows when the first began."""
        if len(self._changes) < 2:
            return None
        since_s, rows = self._changes[0]
        return (self._changes[-1][1] - rows) / (now_s - since_s)


@dataclass(frozen=True)
class StageOutlook:
    """One stage now."""

    stage: str
    counts: Counts
    handled: int
    total: int | None
    rate: float | None
    """Rows a second, by the wall clock."""
    eta_s: float | None
    certain: bool
    """Whether the total was known before the run."""


@dataclass(frozen=True)
class Outlook:
    """A whole run now."""

    standings: tuple[StageOutlook, ...]
    elapsed_s: float
    cost: float

    @property
    def quarantined(self) -> int:
        return sum(s.counts.quarantined for s in self.standings)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end, those of the slowest stage: rows stream through all stages at once."""
        return max((s.eta_s for s in self.standings if s.eta_s is not None), default=None)

    @property
    def eta_is_bound(self) -> bool:
        """Whether it may take longer than `eta_s`: a stage has not shown its pace, or more rows may come."""
        return any(s.eta_s is None or not s.certain for s in self.standings)


class Watch:
    """Follows the counts of one run. Times are of one monotonic clock."""

    def __init__(
        self, expected: Mapping[str, int | None], prices: Prices, gpus: Mapping[str, float], started_s: float
    ) -> None:
        self._expected, self._prices, self._gpus, self._started_s = dict(expected), prices, dict(gpus), started_s
        self._paces = {stage: Pace() for stage in expected}

    def look(self, counts: Mapping[str, Counts], now_s: float, finished: bool = False) -> Outlook:
        """The run by `counts` at `now_s`. A `finished` run has no rows left, whatever was expected."""
        standings: list[StageOutlook] = []
        coming: int | None = None
        for stage, expected in self._expected.items():
            c, pace = counts.get(stage, Counts()), self._paces[stage]
            pace.note(now_s, handled(c))
            rate = pace.rate(now_s)
            of = handled(c) if finished else total(c, coming, expected)
            standings.append(
                StageOutlook(
                    stage, c, handled(c), of, rate, eta(handled(c), of, rate), finished or expected is not None
                )
            )
            coming = seen(c) if of is None else c.cached + of
        return Outlook(tuple(standings), now_s - self._started_s, cost(counts, self._prices, self._gpus))
