"""The windows of a run are known before its clips are opened: those that its examples then show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import settings

from dataengine.lumosx import data
from dataengine.lumosx.data import Example, ExampleMaker
from dataengine.lumosx.order import Curriculum, Size, Traits
from dataengine.lumosx.settings import DataSettings
from dataengine.lumosx.windows import Window, mirrored, run_windows, window_start
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

BUCKETS = "data.buckets=[[48,80,5],[48,48,9]]"


@pytest.mark.parametrize("window", ["center", "random"])
@pytest.mark.parametrize("flip_share", [0.0, 0.5])
def test_windows_are_those_that_examples_show(
    dataset: Path, window: str, flip_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings("steps=6", f"data.window={window}", f"data.flip_share={flip_share}", BUCKETS, "data.cache_mb=0")
    samples = PairDataset(Store.at(dataset), "train")
    named = set(run_windows(samples.index, chosen, per_step=2))
    shown: list[tuple[Size, float]] = []

    def read(mp4: bytes, size: Size, fps: float, start_s: float) -> np.ndarray:
        shown.append((size, start_s))
        return np.zeros((size.frames, size.height, size.width, 3), np.uint8)

    turned: list[bool] = []
    monkeypatch.setattr(data, "read_window", read)
    monkeypatch.setattr(data, "is_mirrored", lambda *args: turned.append(real(*args)) or turned[-1])
    maker = ExampleMaker(samples, chosen.data, chosen.seed)
    order = Curriculum(Traits.of(samples.index), chosen.data, 2, chosen.seed)
    found = set()
    for position in range(12):
        place = order.place(position)
        assert isinstance(maker.make(place.index, place.epoch, position, place.size), Example)
        found.add(Window(place.index, *shown[-1], turned[-1]))
    if window == "random":
        assert named == found
        assert len({w.start_s for w in named}) > 5
    else:
        assert found <= named
        assert len(named) == 5 * (2 if flip_share else 1)
    assert any(w.mirrored for w in named) == bool(flip_share)


real = data.is_mirrored


def test_a_window_stays_inside_the_clip() -> None:
    size = Size(48, 80, 17)
    assert window_start(3.0, size, DataSettings()) == 1.0
    assert window_start(0.5, size, DataSettings()) == 0.0
    drawn = [window_start(3.0, size, DataSettings(window="random"), 1, epoch, "k") for epoch in range(50)]
    assert 0 <= min(drawn) < 0.5 < 1.5 < max(drawn) <= 2.0
    assert all(start == round(start, 6) for start in drawn)


def test_mirroring_turns_the_width_alone() -> None:
    image = np.arange(24).reshape(2, 2, 2, 3)
    assert np.array_equal(mirrored(image)[:, :, 0], image[:, :, 1])
    assert mirrored(image).flags.c_contiguous
