"""Counts that outlive the process which holds them, on a real Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import ray

from dataengine.engine.tally import Report, Tally, difference, totals
from dataengine.engine.worker import Counts


@ray.remote(num_cpus=0)
class Reporter:
    """A worker with a handle that was sent to it."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def report(self, stage: str, counts: Counts) -> None:
        self.tally(stage, counts)


def soon(tally: Tally, told: Callable[[dict[str, Counts]], bool]) -> dict[str, Counts]:
    """The first snapshot that says so; the last one when none did for a minute."""
    patience = time.monotonic() + 60
    while not told(counts := tally.snapshot()) and time.monotonic() < patience:
        time.sleep(0.05)
    return counts


def kill_actor(tally: Tally) -> None:
    pid = ray.get(tally._actor.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGKILL)


def test_arithmetic() -> None:
    book = {
        ("w1", "faces"): Report(3, Counts(done=2, seconds=1.5, bytes=10)),
        ("w2", "faces"): Report(1, Counts(done=1, cached=4)),
        ("w1", "shots"): Report(1, Counts(quarantined=1)),
    }
    sums = totals(book)
    assert sums == {"faces": Counts(done=3, cached=4, seconds=1.5, bytes=10), "shots": Counts(quarantined=1)}
    assert difference(sums["faces"], Counts(done=1, seconds=0.5)) == Counts(done=2, cached=4, seconds=1.0, bytes=10)


@pytest.mark.usefixtures("ray_here")
def test_reports_of_all_processes_add_up() -> None:
    tally = Tally()
    workers = [Reporter.remote(tally) for _ in range(2)]
    for n in range(3):
        ray.get([worker.report.remote("faces", Counts(done=n, cpu_seconds=0.5)) for worker in workers])
    tally("shots", Counts(cached=7))
    assert soon(tally, lambda counts: len(counts) == 2 and counts["faces"].done == 6) == {
        "faces": Counts(done=6, cpu_seconds=3.0),
        "shots": Counts(cached=7),
    }


@pytest.mark.usefixtures("ray_here")
def test_late_and_repeated_reports_do_no_harm() -> None:
    tally = Tally()
    for serial, done in ((1, 2), (3, 7), (2, 5), (3, 7)):
        tally._actor.report.remote("worker", "faces", Report(serial, Counts(done=done)))
    assert soon(tally, lambda counts: "faces" in counts) == {"faces": Counts(done=7)}


@pytest.mark.usefixtures("ray_here")
def test_a_killed_tally_comes_back_with_all_counts_and_none_twice() -> None:
    tally = Tally()
    gone, stays = Reporter.remote(tally), Reporter.remote(tally)
    ray.get([gone.report.remote("faces", Counts(done=5)), stays.report.remote("faces", Counts(done=1))])
    soon(tally, lambda counts: counts.get("faces") == Counts(done=6))
    ray.kill(gone)  # it can never report again
    for n in range(1, 3):
        kill_actor(tally)
        assert tally.snapshot(timeout_s=0)["faces"].done == 5 + n  # what is known, without waiting for the restart
        ray.get(stays.report.remote("faces", Counts(done=1)))
        assert soon(tally, lambda counts, want=6 + n: counts["faces"].done >= want) == {"faces": Counts(done=6 + n)}
    assert ray.get(tally._actor.book.remote())[1] == tally._known  # and the new process knows it as well


@pytest.mark.usefixtures("ray_here")
def test_a_snapshot_answers_without_an_actor() -> None:
    tally = Tally()
    tally("faces", Counts(done=1))
    soon(tally, lambda counts: "faces" in counts)
    ray.kill(tally._actor)  # for good
    assert tally.snapshot() == {"faces": Counts(done=1)}
    tally("faces", Counts(done=1))


@pytest.mark.usefixtures("ray_here")
def test_threads_may_share_a_handle() -> None:
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally("faces", Counts(done=1)) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert soon(tally, lambda counts: counts.get("faces", Counts()).done >= 200) == {"faces": Counts(done=200)}
