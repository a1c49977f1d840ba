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


def test_matrices_of_a_shape_step_together_as_they_would_alone() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((8, 4), (8, 4), (4, 8), (8, 4))]
    weights = [torch.nn.Parameter(value.clone()) for value in start]
    gradients = [[torch.randn_like(value) for value in start] for _ in range(3)]

    def stepped(together: list[list[torch.nn.Parameter]]) -> list[torch.Tensor]:
        optimisers = [Muon(some, lr=0.1) for some in together]
        for now in gradients:
            for weight, gradient in zip(weights, now, strict=True):
                weight.grad = gradient.clone()
            for optimiser in optimisers:
                optimiser.step()
        return [weight.detach() for weight in weights]

    batched = stepped([weights])
    weights = [torch.nn.Parameter(value.clone()) for value in start]
    for one, other, before in zip(batched, stepped([[weight] for weight in weights]), start, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert not torch.equal(one, before)
