"""Timing of several ways to do the same: in turns, so that a busy machine slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Took(NamedTuple):
    """Seconds of the clock and of the processor."""

    wall: float
    cpu: float


def best(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Took]:
    """Each way's fastest round, by the clock and by the processor, of as many as there are."""
    found: dict[str, Took] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            took = Took(time.perf_counter() - wall, time.process_time() - cpu)
            before = found.get(name, took)
            found[name] = Took(min(took.wall, before.wall), min(took.cpu, before.cpu))
    return found
