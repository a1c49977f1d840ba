"""The data of the next steps, made by other processes while the network learns from the last one's."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerError(RuntimeError):
    """A worker could not make an item, or ended before its time."""


def ahead(make: Callable[[int], T], steps: range, workers: int) -> Generator[T]:
    """`make(step)` for every step, in order.

    Worker `i` makes every `workers`-th item from the i-th on, with a copy of `make` of its own: one that keeps
    something between steps keeps it per worker. It holds a finished item until it is asked for, and is by so much
    ahead. Items should be of numpy arrays and what pickle knows: torch shares tensors between processes through files
    that outlive neither.

    Args:
        make: can be pickled. With no worker it is called in this process.
        steps: what `make` is called with.
        workers: processes, started by `spawn`, one thread each; they end when the iterator is closed.

    Raises:
        WorkerError: for an item that could not be made, with the worker's traceback.
    """
    if workers == 0:
        yield from map(make, steps)
        return
    context = multiprocessing.get_context("spawn")
    running = []
    try:
        for i in range(min(workers, len(steps))):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(make, steps[i::workers], there), daemon=True)
            process.start()
            there.close()  # the worker's own end is the last one: when it is gone, reading ends
            running.append((process, here))
        for i, step in enumerate(steps):
            process, here = running[i % len(running)]
            try:
                item, error = here.recv()
            except EOFError:
                process.join()
                raise WorkerError(f"the worker of step {step} ended with exit code {process.exitcode}") from None
            if error:
                raise WorkerError(f"the data of step {step} could not be made:\n{error}")
            yield item
    finally:
        for process, here in running:
            here.close()
            process.terminate()
            process.join()


def _work(make: Callable[[int], Any], steps: range, line: Connection) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):  # nobody reads any longer
        for step in steps:
            try:
                made, error = make(step), ""
            except Exception:
                made, error = None, traceback.format_exc()
            line.send((made, error))
