"""First weights for short runs from scratch."""

from __future__ import annotations

import torch

from dataengine.lumosx.rope import THETA, axis_channels
from dataengine.lumosx.transformer import DiT

_BIAS = 5.0  # against unit-variance projections: on a 6×10 grid, 3/4 of the weight falls within one token's distance
_LONGEST_PERIOD = 25  # tokens; slower rotations cannot tell places on a small grid apart
_GATE = 0.5


@torch.no_grad()
def look_around(model: DiT) -> None:
    """Let every token attend to its own place in all frames, references included, from the first step on.

    With Wan2.1's first weights, attention is flat and its gates are nearly shut: a few hundred steps end before a small
    model has found that place matters, and each patch is drawn for itself. A common bias of queries and keys on the
    fast row and column rotations makes R2PE itself peak at equal places; half-open gates let that through. Everything
    stays trainable, and the parameters are the same.
    """
    time, rows, columns = axis_channels(model.config.head_dim)
    bias = torch.zeros(model.config.head_dim // 2, 2)
    for first, count in ((time, rows), (time + rows, columns)):
        period = 2 * torch.pi * THETA ** (torch.arange(count) / count)
        bias[first : first + count, 0] = _BIAS * (period <= _LONGEST_PERIOD)
    for name, parameter in model.named_parameters():
        if name.endswith(("self_attn.q.bias", "self_attn.k.bias")):
            parameter.copy_(bias.flatten().repeat(model.config.heads))
        elif name.startswith("blocks.") and name.endswith("modulation"):
            parameter[:, [2, 5]] += _GATE  # after self-attention and after the feed-forward
