"""Ray Train: workers train as one process does, and a worker that is killed costs a restart from the checkpoint."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
from tiny_runs import settings, train

from dataengine.lumosx import checkpoint
from dataengine.lumosx.metrics import read_metrics
from dataengine.lumosx.trainer import CHECKPOINTS
from pipelines.train import train_on_ray

CHOSEN = ("steps=24", "optimizer.schedule=constant", "validation.every_steps=24")


def kill_a_worker(run: Path, killed: list[int]) -> None:
    """Once a checkpoint is there, `kill -9` one of this session's Ray Train workers."""
    while not checkpoint.found(run / CHECKPOINTS):
        time.sleep(0.05)
    for child in psutil.Process().children(recursive=True):  # of this process's own Ray, and no other's
        if child.name().startswith("ray::RayTrainW") or "ray::RayTrainWorker" in " ".join(child.cmdline()):
            killed.append(child.pid)
            child.kill()
            return


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_workers_one_of_them_killed(dataset: Path, tmp_path: Path, ray_here: None) -> None:
    run, killed = tmp_path / "ray", list[int]()
    watcher = threading.Thread(target=kill_a_worker, args=(run, killed), daemon=True)
    watcher.start()
    result = train_on_ray(str(dataset), run, settings(*CHOSEN, "batch=1"), workers=2, retries=2)
    assert killed, "the test killed nobody"
    expected = train(dataset, tmp_path / "here", settings(*CHOSEN, "batch=2"))
    assert result.steps == 24
    losses, alone = ([m.loss for m in read_metrics(folder)[0]] for folder in (run, tmp_path / "here"))
    assert losses == pytest.approx(alone, abs=1e-3), "each step once, as without a death and without Ray"
    assert result.after == pytest.approx(expected.after, abs=1e-2)
