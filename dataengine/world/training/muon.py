"""Muon in float32: momentum whose direction is made orthogonal, for the matrices inside a network.

`torch.optim.Muon` computes in bfloat16, which processors without such units do a hundred times slower.
Source: K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon:
    """Steps matrices; those of one shape go through the iteration together."""

    def __init__(self, matrices: Iterable[Tensor], momentum: float = 0.95) -> None:
        self._momentum = momentum
        self._shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            self._shapes[matrix.shape].append(matrix)
        self._past: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every matrix that has a gradient."""
        for shape, matrices in self._shapes.items():
            moving = [matrix for matrix in matrices if matrix.grad is not None]
            if not moving:
                continue
            ahead = []
            for matrix in moving:
                assert matrix.grad is not None
                past = self._past.setdefault(matrix, torch.zeros_like(matrix))
                past.lerp_(matrix.grad, 1 - self._momentum)
                ahead.append(matrix.grad.lerp(past, self._momentum))
            size = max(1.0, shape[0] / shape[1]) ** 0.5
            for matrix, direction in zip(moving, orthogonal(torch.stack(ahead)), strict=True):
                matrix.add_(direction, alpha=-rate * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices whose singular values are 1; float32 [count, rows, columns] as given."""
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(1, 2) if tall else x
