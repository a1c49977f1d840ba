"""What the workers in one process share where it works on several batches at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@dataclass
class Spent:
    """Seconds, known when the work has ended."""

    wall: float = 0.0
    cpu: float = 0.0


class Shared:
    """Which stages are set up, who may work beside whom, and whose the time is.

    Of a second in which three batches are worked on, each gets a third: what a stage cost is the sum over its batches.
    """

    def __init__(self, places: int = 1, clock: Callable[[], tuple[float, float]] = _now) -> None:
        """`places`: batches that are worked on at the same time."""
        self.places = places
        self._clock = clock
        self._starting = threading.Lock()
        self._started: set[str] = set()
        self._changed = threading.Condition()
        self._working = 0
        self._alone = False
        self._asking = 0
        self._seen = clock()
        self._each = Spent()

    def once(self, name: str, function: Callable[[], None]) -> float:
        """Call it unless a call under that name has come back already; who comes meanwhile waits.

        Returns the seconds that this call of it took, 0 when it was not called.
        """
        with self._starting:
            if name in self._started:
                return 0.0
            began = self._clock()[0]
            function()
            self._started.add(name)
            return self._clock()[0] - began

    @contextmanager
    def working(self, alone: bool) -> Iterator[Spent]:
        """The block runs beside others, or `alone`: then it waits for the others, and new ones wait for it."""
        spent = Spent()
        with self._changed:
            self._asking += alone
            self._changed.wait_for(lambda: not self._working if alone else not (self._alone or self._asking))
            self._asking -= alone
            self._alone = alone
            self._count(+1)
            spent.wall, spent.cpu = -self._each.wall, -self._each.cpu
        try:
            yield spent
        finally:
            with self._changed:
                self._count(-1)
                self._alone = False
                spent.wall += self._each.wall
                spent.cpu += self._each.cpu
                self._changed.notify_all()

    def _count(self, more: int) -> None:
        """Give those who worked until now their part, then change their number."""
        wall, cpu = self._clock()
        if self._working:
            self._each.wall += (wall - self._seen[0]) / self._working
            self._each.cpu += (cpu - self._seen[1]) / self._working
        self._seen = wall, cpu
        self._working += more
