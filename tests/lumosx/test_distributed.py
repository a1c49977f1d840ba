"""Several ranks train as one: torchrun and gloo for real, split parameters, and a run that goes on with fewer ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import TINY, settings, train, write_base

from dataengine.lumosx import checkpoint
from dataengine.lumosx.metrics import read_metrics
from dataengine.lumosx.trainer import CHECKPOINTS, TrainResult

COMMON = ("optimizer.schedule=constant", "data.text_dropout=0", "model.layers=2")


def torchrun(data: Path, run: Path, *overrides: str, ranks: int = 2) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
        "-m", "--", "pipelines.cli", "train", "--data", str(data), "--run", str(run), *TINY, *COMMON, *overrides,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def losses(run: Path) -> list[float | None]:
    return [metrics.loss for metrics in read_metrics(run)[0]]


def agree(run: Path, result: TrainResult) -> None:
    """A run's checkpoint holds the same weights, averages and moments as a result's, whole ones."""
    newest = checkpoint.found(run / CHECKPOINTS)[0]
    assert newest.name == result.checkpoint.name
    for name in (checkpoint.MODEL, checkpoint.EMA, checkpoint.OPTIMIZER):
        left, right = load_file(newest / name), load_file(result.checkpoint / name)
        assert {key: tensor.shape for key, tensor in left.items()} == {key: t.shape for key, t in right.items()}
        assert all(torch.allclose(left[key], right[key], atol=2e-4) for key in left), name


@pytest.mark.slow
def test_two_ranks_train_as_one_and_one_goes_on(dataset: Path, tmp_path: Path) -> None:
    """Two ranks with one example each take the steps that one takes with two, whatever is recomputed; so do two batches
    of one that are accumulated. One rank goes on where two stopped."""
    two = tmp_path / "two"
    ranks = torchrun(dataset, two, "steps=4", "batch=1", "model.checkpointing=full")
    expected = train(dataset, tmp_path / "one", settings(*COMMON, "steps=6", "batch=2"))
    output, _ = ranks.communicate(timeout=280)
    assert ranks.returncode == 0, output
    assert output.count("4 steps in") == 1, "one rank tells"
    assert losses(two) == pytest.approx(losses(tmp_path / "one")[:4], abs=1e-5)
    train(dataset, two, settings(*COMMON, "steps=6", "batch=1", "accumulate=2"))
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    agree(two, expected)
    before = {event.step: event.loss for event in read_metrics(tmp_path / "one")[1]}
    assert {event.step: event.loss for event in read_metrics(two)[1]} == pytest.approx(before, abs=1e-4)


@pytest.mark.slow
def test_a_rank_without_an_example_takes_part(make_dataset, make_sample, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Of two samples one is too short: in every step one rank has nothing, and the step is that of the other alone."""
    data = make_dataset(tmp_path / "data", [make_sample(0), make_sample(1, seconds=0.1)])
    chosen = ("steps=3", "precision=bf16", "lora.rank=2", write_base(tmp_path / "base.safetensors", *COMMON))
    ranks = torchrun(data, tmp_path / "two", "batch=1", *chosen)
    train(data, tmp_path / "one", settings(*COMMON, "batch=2", *chosen))
    output, _ = ranks.communicate(timeout=280)
    assert ranks.returncode == 0, output
    steps, _ = read_metrics(tmp_path / "two")
    assert [metrics.examples for metrics in steps] == [1, 1, 1]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-2)
