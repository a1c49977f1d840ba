"""Processes that end with this one, however it ends.

A worker that is killed, or that ends itself over a row that hangs, runs no clean-up of its own, and a server that it
had started would keep its GPU for ever. A small process of nothing but the standard library holds one end of a pipe
whose other end only this process has, and kills what it was told to when that end closes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress


def tie(pids: Iterable[int]) -> None:
    """Kill these processes when this one ends. They are known by handle, not by number: numbers are given out again."""
    subprocess.Popen(  # noqa: S603  our own file
        [sys.executable, "-S", "-E", __file__, *map(str, pids)], stdin=subprocess.PIPE, start_new_session=True
    )


def _wait(pids: Iterable[int]) -> None:
    handles = []
    for pid in pids:
        with suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    sys.stdin.buffer.read()  # nothing is ever written: it returns when the other end is closed
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


if __name__ == "__main__":
    _wait([int(pid) for pid in sys.argv[1:]])
