"""8-bit AdamW: learns, resumes bit for bit, leaves out what is not finite, and is refused where it does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import settings, train
from torch import nn

from dataengine.config import ConfigError
from dataengine.lumosx import checkpoint
from dataengine.lumosx.distributed import Ranks
from dataengine.lumosx.metrics import HELD_OUT, StepMetrics, read_metrics
from dataengine.lumosx.optimizer import advance, load_moments, make_optimizer, moments
from dataengine.lumosx.settings import OptimizerSettings
from dataengine.lumosx.trainer import CHECKPOINTS, Trainer, TrainError
from dataengine.lumosx.weights import WeightsError
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

EIGHT = ("optimizer.kind=adamw8bit", "model.dim=64", "model.ffn_dim=128")


class Killed(BaseException):
    pass


@pytest.mark.eight_bit
def test_an_8_bit_run_learns_and_resumes_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    chosen = settings(*EIGHT, "steps=4")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train(dataset, whole, chosen)
    assert expected.after[HELD_OUT] < expected.before[HELD_OUT]

    def kill(metrics: StepMetrics) -> None:
        if metrics.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(dataset, killed, chosen, on_step=kill)
    found = train(dataset, killed, chosen)
    assert found.after == expected.after
    left, right = ([(m.loss, m.grad_norm) for m in read_metrics(run)[0]] for run in (whole, killed))
    assert left == right
    for name in (checkpoint.MODEL, checkpoint.EMA, checkpoint.OPTIMIZER):
        assert (expected.checkpoint / name).read_bytes() == (found.checkpoint / name).read_bytes(), name
    stored = load_file(checkpoint.found(killed / CHECKPOINTS)[0] / checkpoint.OPTIMIZER)
    codes = stored["blocks.0.self_attn.q.weight/exp_avg.codes"]
    assert (codes.dtype, codes.shape) == (torch.uint8, (64, 64))
    assert stored["blocks.0.self_attn.q.weight/exp_avg.scale"].shape == (16,)
    assert stored["blocks.0.self_attn.q.bias/exp_avg"].dtype == torch.float32, "small ones stay as they are"


@pytest.mark.parametrize("kind", ["adamw", pytest.param("adamw8bit", marks=pytest.mark.eight_bit)])
def test_state_comes_back_and_a_step_can_be_left_out(kind: str) -> None:
    chosen = OptimizerSettings(kind=kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    named = {"w": nn.Parameter(torch.randn(64, 64, generator=generator)), "b": nn.Parameter(torch.zeros(64))}
    optimizer = make_optimizer(named, chosen)

    def step(lr: float, finite: bool = True) -> None:
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        advance(optimizer, lr, torch.tensor(finite))

    step(0.1)
    before = {name: tensor.clone() for name, tensor in moments(named, optimizer).items()}
    weights = named["w"].detach().clone()
    step(0.1, finite=False)
    assert torch.equal(named["w"], weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in moments(named, optimizer).items())
    other = make_optimizer(named, chosen)
    load_moments(named, other, before)
    again = moments(named, other)
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)
    step(0.0)
    assert torch.equal(named["w"], weights), "the rate is the one that is asked for"


@pytest.mark.eight_bit
def test_8_bit_state_is_not_loaded_into_plain_adamw() -> None:
    named = {"w": nn.Parameter(torch.randn(64, 64))}
    named["w"].grad = torch.ones(64, 64)
    eight = make_optimizer(named, OptimizerSettings(kind="adamw8bit"))
    advance(eight, 0.1, torch.tensor(True))
    with pytest.raises(WeightsError, match="adamw8bit"):
        load_moments(named, make_optimizer(named, OptimizerSettings()), moments(named, eight))


def test_8_bit_is_refused_on_several_ranks(dataset: Path, tmp_path: Path) -> None:
    samples = PairDataset(Store.at(dataset), "train")
    with pytest.raises(TrainError, match=r"on one rank.*optimizer\.kind=adamw"):
        Trainer(samples, samples, tmp_path, settings(*EIGHT), Ranks(0, 2))


def test_without_torchao_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match="needs torchao: uv pip install torchao"):
        make_optimizer({"w": nn.Parameter(torch.zeros(4, 4))}, OptimizerSettings(kind="adamw8bit"))
