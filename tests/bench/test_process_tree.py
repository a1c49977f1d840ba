"""The measuring itself: what a child allocates, privately and shared, is what is found."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import process_tree

MIB = 1 << 20

PRIVATE = "b = bytearray(64 << 20)"
# Filled through the descriptor and mapped by nobody, as the part of Ray's object store that no process has open.
SHARED = "import os; f = os.memfd_create('store'); [os.write(f, bytes(1 << 20)) for _ in range(64)]"
# A grandchild that burns half a second and ends.
BUSY = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "'import time\\nwhile time.process_time() < 0.5: pass'], check=True)"
)


def started(code: str) -> subprocess.Popen[bytes]:
    """A Python that has run `code` and waits."""
    script = f"{code}\nprint('ready', flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_private_and_shared_memory_of_a_child_count() -> None:
    with started("pass") as idle, started(PRIVATE) as private, started(SHARED) as shared:
        before, grown, stored = (process_tree.memory(child.pid) for child in (idle, private, shared))
        ours = process_tree.tree(os.getpid())
        for child in (idle, private, shared):
            child.communicate(b"\n")
    assert {idle.pid, private.pid, shared.pid} < set(ours)
    assert abs(grown.private - before.private - 64 * MIB) < 2 * MIB
    assert grown.shared == before.shared == 0
    assert stored.shared == 64 * MIB
    assert abs(stored.private - before.private) < 2 * MIB + MIB


def test_processor_time_of_grandchildren_that_ended_counts() -> None:
    with process_tree.watched(os.getpid(), every_s=0.02) as watch, started(BUSY) as child:
        child.communicate(b"\n")
    load = watch.load()
    assert load.cpu_s >= 0.4
    assert load.free_s(os.cpu_count() or 1) >= load.cpu_s - 0.1


def test_the_peak_is_seen_after_it_passed() -> None:
    with process_tree.watched(os.getpid(), every_s=0.02) as watch, started(PRIVATE) as child:
        whole = len(watch.samples) + 2  # the second sample from now began while the child was there
        while len(watch.samples) < whole:
            time.sleep(0.01)
        child.communicate(b"\n")
    assert watch.at_peak.total >= process_tree.memory(os.getpid()).total + 60 * MIB
