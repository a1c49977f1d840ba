"""Between host and device without waiting for the device."""

from __future__ import annotations

import time

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, behind what the device still has to do; through pinned memory to a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Moment:
    """A point in what the device does, in order; on a CPU, which does it at once, the time."""

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        self._time = time.monotonic()
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def since(self, earlier: Moment) -> float:
        """Seconds between the two, once the device has come here: waits for it."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        self._event.synchronize()
        return earlier._event.elapsed_time(self._event) / 1000


class Numbers:
    """A tensor on its way to the host. Asking for it later costs no wait; asking at once waits for the device."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.detach()
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.detach(), non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """As Python numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()
