"""Be the only run on an output, and end in an orderly way: by a signal, by a lost lease, or because all is done."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dataengine.engine.lease import hold
from dataengine.store import Store


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it takes the machine away."""


def command_line() -> str:
    """How this process was started, as one would type it again."""
    return shlex.join(["dataengine", *sys.argv[1:]])


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Hold the output's lease, after removing what a killed run left half-written.

    Raises `Busy` when another run holds it, `LeaseLost` when it was lost meanwhile.
    """

    def interrupt(reason: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with hold(store, command_line(), on_lost=interrupt) as lease:
        store.sweep()
        try:
            yield
        except KeyboardInterrupt:
            lease.check()
            raise


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM stops the block as Ctrl-C does. Enter it after `connect`: Ray sets a handler of its own at its start."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
