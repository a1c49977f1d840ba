"""A training ends by steps or by time, and knows how far it is."""

from __future__ import annotations

import time

import pytest

from dataengine.world.training.clock import Clock


def test_whichever_ends_first_counts() -> None:
    assert Clock(8).share(2) == 0.25
    assert Clock(8).share(9) == 1
    half = time.monotonic() - 60
    assert Clock(None, 2, began=half).share(10**6) == pytest.approx(0.5, abs=0.01)
    assert Clock(4, 2, began=half).share(3) == 0.75
    assert Clock(100, 2, spent_s=30, began=half).share(1) == pytest.approx(0.75, abs=0.01)
    assert Clock(None, 0.5, began=half).share(0) == 1
