"""The running average of the trained weights (EMA): what is validated, sampled and exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from dataengine.lumosx.distributed import local


class Average:
    """An average beside the weights, without a second model. Every rank keeps the part that it has of the weights.

    Args:
        parameters: what is trained, by name.
        decay: reached gradually: early steps count for more, or the start would linger.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._weights = [local(parameter.detach()) for parameter in parameters.values()]
        self._decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._averages = [local(tensor) for tensor in self.tensors.values()]

    @torch.no_grad()
    def update(self, step: int, taken: Tensor) -> None:
        """Move the average towards the weights, after step `step` (from 0); not where it was not taken (a bool)."""
        weight = taken * (1 - min(self._decay, (1 + step) / (10 + step)))
        torch._foreach_lerp_(self._averages, self._weights, [weight] * len(self._averages))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model computes with the average; afterwards with its weights, to the last bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)
