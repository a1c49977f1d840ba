"""Where a training runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def training_on(device: str) -> Iterator[None]:
    """Tensors are made on this device by default; on a GPU, float32 matrices are multiplied as TF32."""
    before = torch.get_float32_matmul_precision()
    if device != "cpu":
        torch.set_float32_matmul_precision("high")
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def device_name(device: str) -> str:
    """For people: "cpu", or what the GPU is called."""
    return device if device == "cpu" else torch.cuda.get_device_name(device)
