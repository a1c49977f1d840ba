"""What a training leaves beside its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dataengine.world.training.log import Losses, Point, log_training, read_log


def test_a_log_counts_weights_and_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file, size in zip(files, (30, 12), strict=True):
        file.write_bytes(bytes(size))
    (tmp_path / "resume.pt").write_bytes(bytes(1000))
    log = log_training(
        tmp_path,
        "small",
        weights=[torch.zeros(2, 3), torch.zeros(4)],
        files=files,
        steps=7,
        seed=1,
        cpu_s=93,
        wall_s=186,
        curve=[Point(step=7, loss=0.5)],
    )
    assert (log.parameters, log.bytes, log.cpu_minutes, log.minutes, log.device) == (10, 42, 1.6, 3.1, "cpu")
    assert read_log(tmp_path) == log


@pytest.mark.parametrize(("steps", "points"), [(1, [1]), (5, [1, 2, 3, 4, 5]), (45, [*range(2, 45, 2), 45])])
def test_a_curve_has_the_mean_loss_since_its_last_point(steps: int, points: list[int]) -> None:
    told: list[str] = []
    losses = Losses(steps, told.append)
    for step in range(steps):
        losses.add(step, float(step))
    assert [point.step for point in losses.curve] == points
    before = [0, *points]
    for start, point in zip(before, losses.curve, strict=False):
        assert point.loss == pytest.approx((start + point.step - 1) / 2)
    assert len(told) == len(points)
