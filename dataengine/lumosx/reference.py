"""The same model written plainly from its formulae: one sample, full masks, no shortcut; to check the fast path.

It shares no mathematics with `rope`, `layout`, `attention` and `transformer`: only the structure record and the
configuration. It also keeps the costs of the released way (a full-length bias tensor, RoPE in complex128 anew in every
layer, one attention call per range or one dense mask), which makes it the baseline of the benchmark.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.lumosx.structure import Reference, SampleStructure
from dataengine.lumosx.transformer import DiTConfig

Observer = Callable[[str, Tensor], None]


def velocity(
    weights: Mapping[str, Tensor],
    config: DiTConfig,
    structure: SampleStructure,
    latent: Tensor,
    references: Tensor | None,
    context: Tensor,
    timestep: Tensor,
    *,
    form: Literal["mask", "ranges"] = "mask",
    observe: Observer | None = None,
) -> Tensor:
    """The model's output for one sample, references included.

    Args:
        weights: original keys; the dtype of the computation is theirs.
        config: shapes, cell map and MCAM ratio.
        structure: of the sample.
        latent: [C, T, H, W]; references: [C, N, H, W] or None.
        context: [tokens, text_dim].
        timestep: one element.
        form: CSAM as one call with a boolean [L, L] mask, or as one call per query range.
        observe: called with (name, value) for e, e0, context, and per layer N with `blocks.N.` and rope_q,
            self_attn, cross_bias, cross_attn, out.

    Returns:
        [C_out, T + N, H, W].
    """
    see = observe or (lambda name, value: None)
    frames = latent if references is None else torch.cat([latent, references], dim=1)
    height, width = frames.shape[-2:]
    h, w = structure.grid
    _, p, q = config.patch
    frames = F.pad(frames, (0, w * q - width, 0, h * p - height))
    x = F.conv3d(frames[None], weights["patch_embedding.weight"], weights["patch_embedding.bias"], stride=config.patch)
    x = x[0].flatten(1).T

    half = config.freq_dim // 2
    angle = timestep.double().reshape(1) * 10000.0 ** (-torch.arange(half, device=x.device).double() / half)
    e = _mlp(weights, "time_embedding", torch.cat([angle.cos(), angle.sin()]).to(x.dtype), F.silu)
    e0 = _linear(weights, "time_projection.1", F.silu(e)).view(6, config.dim)
    text = torch.zeros(config.text_len, config.text_dim, dtype=x.dtype, device=x.device)
    text[: len(context)] = context
    text = _mlp(weights, "text_embedding", text, _gelu)
    see("e", e)
    see("e0", e0)
    see("context", text)

    for layer in range(config.layers):
        x = _block(weights, f"blocks.{layer}.", config, structure, x, e0, text, form, see)

    shift, scale = weights["head.modulation"][0] + e
    x = _linear(weights, "head.head", _norm(x, config) * (1 + scale) + shift)
    x = x.view(-1, h, w, p, q, config.out_channels)
    return torch.einsum("fhwpqc->cfhpwq", x).reshape(config.out_channels, -1, h * p, w * q)[..., :height, :width]


def attention_mask(structure: SampleStructure) -> Tensor:
    """CSAM as a boolean [L, L] mask, True where the row may attend to the column."""
    frames = structure.frames + len(structure.references)
    allowed = torch.zeros(frames, frames, dtype=torch.bool)
    allowed[: structure.frames] = True
    for i, one in enumerate(structure.references):
        for j, other in enumerate(structure.references):
            same_subject = one.group is not None and one.group == other.group
            allowed[structure.frames + i, structure.frames + j] = i == j or same_subject
    return allowed.repeat_interleave(structure.frame_tokens, 0).repeat_interleave(structure.frame_tokens, 1)


def rotate(x: Tensor, structure: SampleStructure, places: Iterable[tuple[int, int, int]]) -> Tensor:
    """RoPE on x [L, heads, head_dim], in complex128; `places` of each frame's first token."""
    h, w = structure.grid
    half = x.shape[-1] // 2
    third = half // 3
    rotations = []
    for time, row, column in places:
        axes = [
            _rotations(time, 1, half - 2 * third, x.device).view(1, 1, -1),
            _rotations(row, h, third, x.device).view(h, 1, -1),
            _rotations(column, w, third, x.device).view(1, w, -1),
        ]
        rotations.append(torch.cat([axis.expand(h, w, -1) for axis in axes], dim=-1).reshape(h * w, 1, half))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (half, 2)))
    return torch.view_as_real(pairs * torch.cat(rotations)).flatten(-2).to(x.dtype)


def _frames(structure: SampleStructure) -> list[tuple[int, int, int]]:
    """As Wan2.1 numbers frames: references follow the video in time."""
    return [(time, 0, 0) for time in range(structure.frames + len(structure.references))]


def _places(structure: SampleStructure) -> list[tuple[int, int, int]]:
    """R2PE: (time, row, column) of the first token of each frame."""
    places = [(frame, 0, 0) for frame in range(structure.frames)]
    next_time, members = structure.frames, Counter[int]()
    time_of_group: dict[int, int] = {}
    for reference in structure.references:
        if reference.group is None:
            places.append((next_time, 0, 0))
            next_time += 1
            continue
        if reference.group not in time_of_group:
            time_of_group[reference.group] = next_time
            next_time += 1
        member = members[reference.group]
        members[reference.group] += 1
        places.append((time_of_group[reference.group], member * structure.grid[0], member * structure.grid[1]))
    return places


def _rotations(start: int, count: int, channels: int, device: torch.device) -> Tensor:
    """e^(i·position·frequency) for `count` positions of one axis, [count, channels] complex128."""
    position = torch.arange(start, start + count, device=device, dtype=torch.float64)
    frequency = 1.0 / 10000.0 ** (torch.arange(channels, device=device, dtype=torch.float64) / channels)
    angle = torch.outer(position, frequency)
    return torch.polar(torch.ones_like(angle), angle)


def phrase_bias(q: Tensor, k: Tensor, structure: SampleStructure, config: DiTConfig) -> Tensor:
    """MCAM: the additive logit bias of the whole sequence, [L, heads, text_len], zero on video rows.

    Args:
        q: [L, heads, head_dim]; k: [text_len, heads, head_dim]; both after RMSNorm, no RoPE.
    """
    h, w = structure.grid
    padded_h, padded_w = math.ceil(h / 8) * 8, math.ceil(w / 8) * 8
    parts = [q.new_zeros(structure.video_tokens, q.shape[1], k.shape[0])]
    for index in range(len(structure.references)):
        start = structure.video_tokens + index * h * w
        image = q[start : start + h * w].permute(1, 2, 0).unflatten(-1, (h, w))
        pooled = F.avg_pool2d(F.pad(image, (0, padded_w - w, 0, padded_h - h)), 8)
        scores = torch.einsum("ndhw,snd->nshw", pooled, k).abs() / math.sqrt(q.shape[-1])
        scores = scores.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        cropped = scores[:, :, :h, :w].flatten(2)
        released = scores.flatten(2)[:, :, : h * w]  # the released crop, of the flattened padded grid
        scores = cropped if config.cell_map == "exact" else released
        coefficient = _coefficient(structure, index, k.shape[0]).to(q)
        parts.append((config.mcam_ratio * scores * coefficient[:, None]).permute(2, 0, 1))
    return torch.cat(parts)


def _coefficient(structure: SampleStructure, index: int, text_len: int) -> Tensor:
    """Coefficient of every text token for one reference, [text_len]."""

    def marked(references: Iterable[Reference]) -> Tensor:
        vector = torch.zeros(text_len, dtype=torch.float64)
        for reference in references:
            vector[list(reference.text_positions)] = 1.0
        return vector

    own = structure.references[index]
    if own.group is None:
        return marked([own])
    unions = [marked(r for r in structure.references if r.group == group) for group in range(structure.group_count)]
    if len(unions) == 1:
        return unions[0]
    others = sum(unions) - unions[own.group]
    return unions[own.group] - others / (len(unions) - 1)


def _block(
    weights: Mapping[str, Tensor],
    name: str,
    config: DiTConfig,
    structure: SampleStructure,
    x: Tensor,
    e0: Tensor,
    text: Tensor,
    form: str,
    see: Observer,
) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = weights[f"{name}modulation"][0] + e0

    y = _norm(x, config) * (1 + scale1) + shift1
    q, k, v = _project(weights, f"{name}self_attn.", config, y, y)
    places = _places(structure) if config.r2pe else _frames(structure)
    q, k = rotate(q, structure, places), rotate(k, structure, places)
    see(f"{name}rope_q", q)
    if not config.csam:
        y = _attend(q, k, v)
    else:
        y = _masked(q, k, v, structure) if form == "mask" else _ranged(q, k, v, structure)
    y = _linear(weights, f"{name}self_attn.o", y.flatten(1))
    see(f"{name}self_attn", y)
    x = x + y * gate1

    y = F.layer_norm(x, (config.dim,), weights[f"{name}norm3.weight"], weights[f"{name}norm3.bias"], config.eps)
    q, k, v = _project(weights, f"{name}cross_attn.", config, y, text)
    bias = phrase_bias(q, k, structure, config)
    see(f"{name}cross_bias", bias)
    y = _attend(q, k, v, bias.transpose(0, 1))
    y = _linear(weights, f"{name}cross_attn.o", y.flatten(1))
    see(f"{name}cross_attn", y)
    x = x + y

    y = _mlp(weights, f"{name}ffn", _norm(x, config) * (1 + scale2) + shift2, _gelu)
    x = x + y * gate2
    see(f"{name}out", x)
    return x


def _project(
    weights: Mapping[str, Tensor], name: str, config: DiTConfig, x: Tensor, context: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q of x, k and v of context, each [rows, heads, head_dim]; q and k normed over the full width."""

    def rms(y: Tensor, weight: Tensor) -> Tensor:
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + config.eps) * weight

    q = rms(_linear(weights, f"{name}q", x), weights[f"{name}norm_q.weight"])
    k = rms(_linear(weights, f"{name}k", context), weights[f"{name}norm_k.weight"])
    v = _linear(weights, f"{name}v", context)
    heads = (config.heads, config.head_dim)
    return q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask if mask is None else mask[None])[0].transpose(0, 1)


def _masked(q: Tensor, k: Tensor, v: Tensor, structure: SampleStructure) -> Tensor:
    return _attend(q, k, v, attention_mask(structure).to(q.device)[None])


def _ranged(q: Tensor, k: Tensor, v: Tensor, structure: SampleStructure) -> Tensor:
    outputs = [_attend(q[: structure.video_tokens], k, v)]
    for segment in structure.segments:
        start = structure.video_tokens + segment.start * structure.frame_tokens
        rows = slice(start, start + segment.count * structure.frame_tokens)
        outputs.append(_attend(q[rows], k[rows], v[rows]))
    return torch.cat(outputs)


def _norm(x: Tensor, config: DiTConfig) -> Tensor:
    return F.layer_norm(x, (config.dim,), eps=config.eps)


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _mlp(weights: Mapping[str, Tensor], name: str, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    return _linear(weights, f"{name}.2", activation(_linear(weights, f"{name}.0", x)))


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
