"""What Qwen2.5-VL computes, over the parameters of transformers' class, in a form that trains fast on a CPU.

Many images are seen at once, and several answers about the same images are read in one sequence: each branch sees what
all share and itself. The two frames that a still image is doubled to are added up before the patch embedding. Attention
on a CPU is plain matrices: its backward pass is faster than the fused one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dataengine.world.training.qwen_words import (
    HEADS,
    HIDDEN,
    KEY_HEADS,
    MERGED,
    PATCH,
    SECTIONS,
    SEEING,
    SEEING_HEADS,
    Model,
)

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SMALL = 1e-6
EARLY = 2


@dataclass(frozen=True)
class Pictures:
    """Images as patches, those of one image together and within it the four of each merged token.

    Attributes:
        patches: float32 [patches, 3 · 14 · 14].
        places: int64 [images, most patches] into `patches`; where an image has fewer, any: not one and the same, as
            sums over many equal places are slow.
        there: bool of the same shape.
        back: int64 [patches], where each patch stands in the flattened `places`.
        turns: float32 [patches, head / 2], the angles of the rotary embedding.
    """

    patches: Tensor
    places: Tensor
    there: Tensor
    back: Tensor
    turns: Tensor


def pictures(images: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> Pictures:
    """Images as `cut` gives them, each with its rows and columns of merged tokens."""
    patches = torch.cat(list(images)).float() / 255
    mean, std = (torch.tensor(values).repeat_interleave(PATCH**2) for values in (_MEAN, _STD))
    counts = [4 * rows * columns for rows, columns in grids]
    most, starts = max(counts), np.concatenate([[0], np.cumsum(counts)])
    reach = np.arange(most)
    there = reach < np.array(counts)[:, None]
    places = (starts[:-1, None] + reach) % starts[-1]
    back = np.flatnonzero(there.ravel())
    turns = np.concatenate([_turns(*grid) for grid in grids])
    as_tensors = (torch.as_tensor(values) for values in (places, there, back, turns))
    return Pictures((patches - mean) / std, *as_tensors)


def cut(image: Tensor) -> Tensor:
    """The patches of uint8 [height, width, 3], whose sides are multiples of 28 pixels: uint8 [patches, 3 · 14 · 14]."""
    height, width = image.shape[0] // MERGED, image.shape[1] // MERGED
    apart = image.reshape(height, 2, PATCH, width, 2, PATCH, 3)
    return apart.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * PATCH**2)


@cache
def _turns(rows: int, columns: int) -> NDArray[np.float32]:
    """Angles of every patch by its row and its column, in a grid of merged tokens."""
    quarter = SEEING // SEEING_HEADS // 4
    frequency = np.float32(1 / 10000 ** (np.arange(quarter) / quarter))
    y, x = np.meshgrid(np.arange(2 * rows), np.arange(2 * columns), indexing="ij")
    angles = [_in_fours(axis).astype(np.float32)[:, None] * frequency for axis in (y, x)]
    return np.asarray(np.concatenate(angles, axis=1), np.float32)


def _in_fours(grid: NDArray[Any]) -> NDArray[Any]:
    """A grid of patches, flat, with the four of each merged token together."""
    height, width = grid.shape
    return grid.reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3).ravel()


def see(model: Model, shown: Pictures) -> tuple[Tensor, Tensor]:
    """The merged tokens of all images, float32 [patches / 4, hidden], and the patches behind layer `EARLY`."""
    tower: Any = model.model.visual
    hidden = F.linear(shown.patches, tower.patch_embed.proj.weight.sum(dim=2).flatten(1))
    cos, sin = shown.turns.cos()[:, None], shown.turns.sin()[:, None]
    hide = torch.zeros(shown.there.shape).masked_fill_(~shown.there, -1e9)[:, None, None]
    early = hidden
    for number, block in enumerate(tower.blocks, 1):
        hidden = _seeing_block(hidden, cos, sin, shown.places, shown.back, hide, *block.parameters())
        if number == EARLY:
            early = hidden
    merger = tower.merger
    flat = _norm(hidden, merger.ln_q.weight).view(-1, 4 * SEEING)
    return merger.mlp(flat), early


def _seeing_block(
    hidden: Tensor, cos: Tensor, sin: Tensor, places: Tensor, back: Tensor, hide: Tensor, *weights: Tensor
) -> Tensor:
    before, behind, joint_w, joint_b, out_w, out_b, *mlp = weights
    joint = F.linear(_norm(hidden, before), joint_w, joint_b)
    query, key, value = joint.view(-1, 3, SEEING_HEADS, SEEING // SEEING_HEADS).unbind(1)
    query, key = _turned(query, cos, sin), _turned(key, cos, sin)
    query, key, value = (
        part.index_select(0, places.flatten()).view(*places.shape, SEEING_HEADS, -1).transpose(1, 2)
        for part in (query, key, value)
    )
    mixed = _attention(query, key, value, hide).transpose(1, 2).reshape(-1, SEEING).index_select(0, back)
    hidden = hidden + F.linear(mixed, out_w, out_b)
    gate_w, gate_b, up_w, up_b, down_w, down_b = mlp
    normed = _norm(hidden, behind)
    inside = F.silu(F.linear(normed, gate_w, gate_b)) * F.linear(normed, up_w, up_b)
    return hidden + F.linear(inside, down_w, down_b)


def read(model: Model, embedded: Tensor, positions: Tensor, hide: Tensor) -> Tensor:
    """The last hidden state, normed; float32 [rows, length, hidden].

    Arguments:
        embedded: float32 [rows, length, hidden], words and images.
        positions: int64 [3, rows, length], of M-RoPE.
        hide: float32 [rows, 1, length, length], added to the attention's logits.
    """
    inner: Any = model.model.language_model
    angles = _angles(positions)
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    hidden = embedded
    for layer in inner.layers:
        hidden = _reading_layer(hidden, cos, sin, hide, *layer.parameters())
    return _norm(hidden, inner.norm.weight)


def _reading_layer(hidden: Tensor, cos: Tensor, sin: Tensor, hide: Tensor, *weights: Tensor) -> Tensor:
    query_w, query_b, key_w, key_b, value_w, value_b, out_w, gate_w, up_w, down_w, before, behind = weights
    rows, length, _ = hidden.shape
    size = HIDDEN // HEADS
    normed = _norm(hidden, before)
    query, key, value = (
        F.linear(normed, weight, bias).view(rows, length, -1, size)
        for weight, bias in ((query_w, query_b), (key_w, key_b), (value_w, value_b))
    )
    query, key = _turned(query, cos, sin).transpose(1, 2), _turned(key, cos, sin).transpose(1, 2)
    key, value = (part.repeat_interleave(HEADS // KEY_HEADS, dim=1) for part in (key, value.transpose(1, 2)))
    mixed = _attention(query, key, value, hide).transpose(1, 2).reshape(rows, length, HIDDEN)
    hidden = hidden + F.linear(mixed, out_w)
    normed = _norm(hidden, behind)
    return hidden + F.linear(F.silu(F.linear(normed, gate_w)) * F.linear(normed, up_w), down_w)


def _angles(positions: Tensor) -> Tensor:
    """Of M-RoPE: the first frequencies turn by time, the next by height, the last by width."""
    half = HIDDEN // HEADS // 2
    frequency = 1 / 10000 ** (torch.arange(half) / half)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(SECTIONS))
    return positions.permute(1, 2, 0)[..., axis].float() * frequency


def _attention(query: Tensor, key: Tensor, value: Tensor, hide: Tensor) -> Tensor:
    """Of [rows, heads, length, size]."""
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, hide)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return (logits + hide).softmax(-1) @ value


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [..., heads, size] by angles [..., 1, size / 2]."""
    one, two = x.chunk(2, -1)
    return torch.cat((one * cos - two * sin, two * cos + one * sin), -1)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _SMALL) * weight
