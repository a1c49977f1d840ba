"""Steps have no direction that is louder than the others."""

from __future__ import annotations

import pytest
import torch

from dataengine.world.training.muon import Muon


@pytest.mark.parametrize("shape", [(24, 24), (64, 16), (16, 64)])
def test_a_step_is_nearly_orthogonal(shape) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimiser = Muon([weight], lr=0.1)
    weight.grad = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    optimiser.step()
    stretched = torch.linalg.svdvals(weight.detach()) / (0.1 * max(1, shape[0] / shape[1]) ** 0.5)
    assert stretched.min() > 0.5
    assert stretched.max() < 1.3


def test_it_finds_a_minimum() -> None:
    torch.manual_seed(0)
    goal, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=0.05)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        loss = ((weight - goal) ** 2).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss < 0.01
