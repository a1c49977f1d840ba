"""Items made ahead by other processes: in order, with what a worker keeps, and with its errors."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine.world.training.ahead import WorkerError, ahead


@dataclass
class Counting:
    """Gives the step, the process and how many items that process has made before."""

    fails_at: int = -1
    dies_at: int = -1
    before: list[int] = field(default_factory=list)

    def __call__(self, step: int) -> NDArray[np.int64]:
        if step == self.fails_at:
            raise ValueError("no such item")
        if step == self.dies_at:
            os._exit(7)
        self.before.append(step)
        return np.array([step, os.getpid(), len(self.before) - 1])


def test_order_and_state_of_workers() -> None:
    items = np.stack(list(ahead(Counting(), range(3, 14), 2)))
    assert items[:, 0].tolist() == list(range(3, 14))
    assert len(set(items[0::2, 1])) == len(set(items[1::2, 1])) == 1
    assert items[0, 1] != items[1, 1] and os.getpid() not in items[:, 1]
    assert items[:, 2].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert not multiprocessing.active_children()


def test_errors_and_ends() -> None:
    made = ahead(Counting(fails_at=1), range(3), 1)
    assert next(made)[0] == 0
    with pytest.raises(WorkerError, match=r"(?s)step 1 .*no such item"):
        next(made)
    endless = ahead(Counting(), range(10**9), 1)
    assert next(endless)[0] == 0
    endless.close()
    with pytest.raises(WorkerError, match="step 1 ended with exit code 7"):
        list(ahead(Counting(dies_at=1), range(3), 1))
    assert not multiprocessing.active_children()


def test_no_worker() -> None:
    items = np.stack(list(ahead(Counting(), range(3), 0)))
    assert items.tolist() == [[step, os.getpid(), step] for step in range(3)]
