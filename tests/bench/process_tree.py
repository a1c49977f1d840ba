"""What a process and everything it started takes of a Linux machine: memory, and processor time beside that of others.

Memory is what would be free again if the whole tree were gone. Private and file pages count by their share (PSS of
`/proc/<pid>/smaps_rollup`), and shared-memory files (Ray's object store) by their filled blocks, whether or not a
living process has touched them.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024
_BLOCK = 512
_SHARED = ("/dev/shm/", "/memfd:")


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    private: int
    shared: int
    by_name: dict[str, int]
    """The private part by the processes' names."""

    @property
    def total(self) -> int:
        return self.private + self.shared


def tree(root: int) -> list[int]:
    """The process and all its descendants that are alive."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                children[int(_stat(int(entry.name))[1])].append(int(entry.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def memory(root: int) -> Memory:
    """What the tree of `root` holds now. Processes that end meanwhile do not count."""
    mapped, files, by_name = 0, {}, defaultdict(int)
    for pid in tree(root):
        with suppress(OSError):
            values = _rollup(pid)
            mapped += values["Pss_Shmem"]
            by_name[_name(pid)] += values["Pss"] - values["Pss_Shmem"]
            files |= _shared_files(pid)
    return Memory(sum(by_name.values()), max(mapped, sum(files.values())), dict(by_name))


@dataclass(frozen=True)
class Load:
    """Seconds: of the clock, of the processor in a tree, and of the processor in everything else."""

    wall_s: float
    cpu_s: float
    others_s: float

    def free_s(self, cores: float) -> float:
        """Processor seconds that were there for the tree: all cores, less what others took."""
        return cores * self.wall_s - self.others_s


class Sample(NamedTuple):
    """Totals up to a time (`time.time`): of the tree since it is watched, of the machine since it started."""

    time: float
    cpu_s: float
    machine_s: float


@dataclass
class Watch:
    """What a tree took while it was watched. Complete when the block has ended."""

    at_peak: Memory = field(default_factory=lambda: Memory(0, 0, {}))
    shared: int = 0
    """The most shared memory at any time, in bytes."""
    samples: list[Sample] = field(default_factory=list)
    _cpu: dict[int, tuple[str, float]] = field(default_factory=dict)
    _before: dict[int, tuple[str, float]] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """Processor seconds of the tree; of a process that ended, those up to its last sample."""
        return sum(self.cpu_by_name.values())

    @property
    def cpu_by_name(self) -> dict[str, float]:
        seconds: dict[str, float] = defaultdict(float)
        for pid, (name, value) in self._cpu.items():
            seconds[name] += value - self._before.get(pid, ("", 0.0))[1]
        return dict(seconds)

    def load(self, start: float = 0.0, end: float = math.inf) -> Load:
        """Between two times (`time.time`), to the nearest samples; the whole block by default."""
        inside = [s for s in self.samples if start <= s.time <= end]
        first, last = inside[0], inside[-1]
        cpu = last.cpu_s - first.cpu_s
        others = max(0.0, last.machine_s - first.machine_s - cpu)
        return Load(last.time - first.time, cpu, others)

    def _sample(self, root: int) -> None:
        self._cpu |= _cpu_s(root)
        self.samples.append(Sample(time.time(), self.cpu_s, _machine_s()))
        now = memory(root)
        self.shared = max(self.shared, now.shared)
        if now.total > self.at_peak.total:
            self.at_peak = now


@contextmanager
def watched(root: int, every_s: float = 0.5) -> Iterator[Watch]:
    """Samples the tree of `root` while the block runs, in a thread."""
    watch, stop = Watch(_before=_cpu_s(root)), threading.Event()

    def sample() -> None:
        watch._sample(root)
        while not stop.wait(every_s):
            watch._sample(root)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
        watch._sample(root)


def _machine_s() -> float:
    """Processor seconds that all processes of this machine (and its host, if it is a guest) have used."""
    user, nice, system, _, _, irq, soft, steal = (_PROC / "stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, soft, steal))) * _TICK_S


def _cpu_s(root: int) -> dict[int, tuple[str, float]]:
    """Name and processor seconds of every living process of the tree. Ray's workers change their names."""
    seconds = {}
    for pid in tree(root):
        with suppress(OSError):
            seconds[pid] = _name(pid), sum(int(value) for value in _stat(pid)[11:13]) * _TICK_S
    return seconds


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/<pid>/stat` behind the name, which may hold anything: state, parent, …"""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _rollup(pid: int) -> dict[str, int]:
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * _KIB for line in lines}


def _name(pid: int) -> str:
    """Ray's workers tell in their command line what they run: `ray::MapWorker(…)`."""
    words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].split()
    return Path(words[0].decode(errors="replace")).name if words else "?"


def _shared_files(pid: int) -> dict[tuple[int, int], int]:
    """Bytes filled in each shared-memory file that the process holds open."""
    found = {}
    for link in (_PROC / str(pid) / "fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(_SHARED):
                status = link.stat()
                found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return found
