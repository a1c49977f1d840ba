"""Muon (Jordan et al. 2024), an optimiser for the matrices inside a network, in float32.

PyTorch's own works in bfloat16, which takes a CPU without AMX seventy times as long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Steps of orthogonal directions: all of a matrix changes by as much, not the loudest directions most."""

    def __init__(self, weights: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[tuple(weight.shape)].append(weight)
            for (rows, columns), weights in alike.items():
                self._step(weights, group["lr"], group["momentum"], max(1, rows / columns) ** 0.5)

    def _step(self, weights: list[Tensor], lr: float, momentum: float, stretch: float) -> None:
        """Of matrices of one shape together, because a GPU takes as long for many small products as for one."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["mean"] = torch.zeros_like(weight)
        means = [self.state[weight]["mean"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        updates = _orthogonal(torch.stack(torch._foreach_lerp(gradients, means, momentum)))
        torch._foreach_mul_(weights, 1 - 0.01 * lr)
        torch._foreach_add_(weights, list(updates.unbind()), alpha=-lr * stretch)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest matrices whose singular values are all 1: Newton and Schulz's iteration, of the fifth degree.

    Args:
        matrices: [n, rows, columns].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x
