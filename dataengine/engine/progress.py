"""Counts what every stage does, across processes, and shows it: bars for a person, a line now and then for a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dataengine.engine.worker import Counts

log = logging.getLogger(__name__)

REFRESH_S = 0.5
LOG_EVERY_S = 15.0


class _Tally:
    """Runs as a Ray actor: the sum of what the workers reported."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {}

    def add(self, stage: str, counts: Counts) -> None:
        self.counts[stage] = self.counts.get(stage, Counts()) + counts

    def snapshot(self) -> dict[str, Counts]:
        return self.counts


class Tally:
    """A handle on the counts of one run; cheap to send to workers, who call it to report."""

    def __init__(self) -> None:
        self._actor = ray.remote(num_cpus=0)(_Tally).remote()

    def __call__(self, stage: str, counts: Counts) -> None:
        self._actor.add.remote(stage, counts)

    def snapshot(self) -> dict[str, Counts]:
        return ray.get(self._actor.snapshot.remote())


@contextmanager
def shown(tally: Tally, stages: Sequence[str], console: Console) -> Iterator[None]:
    """Show the tally while the block runs."""
    stop = threading.Event()
    follow = _bars if console.is_terminal else _lines
    thread = threading.Thread(target=follow, args=(tally, stages, console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bars(tally: Tally, stages: Sequence[str], console: Console, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:>5}/{task.fields[of]:<5}"),
        TextColumn("{task.fields[note]}", style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=None, of="?", note="") for name in stages}
        finished = False
        while not finished:
            finished = stop.wait(REFRESH_S)
            _update(progress, tasks, tally.snapshot())


def _update(progress: Progress, tasks: dict[str, TaskID], counts: dict[str, Counts]) -> None:
    """A stage's total is what has come out of the stage before it: the stream's end is not known while it runs."""
    before = 0
    for name, task in tasks.items():
        c = counts.get(name, Counts())
        seen = c.done + c.cached + c.gated + c.quarantined
        total = max(before, seen)
        progress.update(task, completed=seen, total=total or None, of=total or "?", note=note(c))
        before = seen


def note(counts: Counts) -> str:
    """For instance `12 cached, 1 quarantined, 3.4 rows/s`."""
    parts = [f"{n} {word}" for n, word in ((counts.cached, "cached"), (counts.gated, "spared")) if n]
    parts += [f"{counts.quarantined} quarantined"] if counts.quarantined else []
    parts += [f"{counts.done / counts.seconds:.1f} rows/s"] if counts.seconds > 0 else []
    return ", ".join(parts)


def _lines(tally: Tally, stages: Sequence[str], console: Console, stop: threading.Event) -> None:
    last, shown_at = "", time.monotonic()
    finished = False
    while not finished:
        finished = stop.wait(REFRESH_S)
        if not finished and time.monotonic() - shown_at < LOG_EVERY_S:
            continue
        counts = tally.snapshot()
        line = " · ".join(f"{n} {c.done + c.cached}" for n in stages if (c := counts.get(n)))
        if line and line != last:
            console.print(f"  {line}", highlight=False, soft_wrap=True)
        last, shown_at = line, time.monotonic()
