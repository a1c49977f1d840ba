"""Where a network runs and in which precision. torch is imported here only when a network is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataengine.config import NetworkSettings

if TYPE_CHECKING:
    import torch


def device_of(settings: NetworkSettings) -> torch.device:
    """The configured device; `auto`: the worker's GPU where it holds one (Ray hides the others), else the CPU."""
    import torch

    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def dtype_of(settings: NetworkSettings, device: torch.device) -> torch.dtype:
    """The configured precision; `auto`: bfloat16 on a GPU, float32 on the CPU, where half precision is slower."""
    import torch

    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, settings.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def takes_gpu(settings: NetworkSettings) -> bool:
    """Whether the network is meant for a GPU: `auto` counts as one, so that preflight asks for its memory."""
    return settings.device != "cpu"
