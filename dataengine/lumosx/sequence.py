"""One long sequence over several ranks: each holds some of its rows, and in attention all rows of some of the heads.

Two exchanges an attention (DeepSpeed Ulysses): rows to heads before, heads to rows after. CSAM and MCAM see all rows of
their heads, so `attention` serves unchanged, pooling included; everything pointwise works on a rank's own rows. Blocks
are recomputed as `DiT.checkpointing` says: ranks do it in the same order, so the exchanges meet.

The trainer has no setting for it: at 480p a sample fits one GPU, and ranks are better used for more samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dataengine.lumosx.attention import phrase_attention, relational_attention
from dataengine.lumosx.distributed import Ranks
from dataengine.lumosx.layout import Layout
from dataengine.lumosx.rope import apply_rope
from dataengine.lumosx.transformer import Block, CrossAttention, DiT, SelfAttention, add_gated, modulate, unpatchify


@dataclass(frozen=True, slots=True)
class _Part:
    """Which rows of a packed sequence each rank holds, in order.

    Attributes:
        counts: rows by rank.
        lengths: of this rank's rows, how many are of each sample.
        rows: this rank's rows in the whole sequence.
    """

    counts: tuple[int, ...]
    lengths: list[int]
    rows: slice


def parallel_forward(
    model: DiT,
    latents: Sequence[Tensor],
    references: Sequence[Tensor | None],
    context: Sequence[Tensor],
    timesteps: Tensor,
    layout: Layout,
    ranks: Ranks,
) -> list[Tensor]:
    """`DiT.forward` over all ranks: the same inputs and results on each, a part of the work and activations on each.

    When all ranks take the same loss of the result, a parameter's gradient is the sum of what the ranks get.

    Raises:
        ValueError: the heads cannot be shared out evenly.
    """
    if model.config.heads % ranks.world:
        raise ValueError(f"{model.config.heads} heads cannot be shared by {ranks.world} ranks")
    everything, video = _parts(layout, ranks)
    e = model.embed_time(timesteps)
    e0, text = model.project_time(e), model.embed_text(context)
    x = model.embed_patches(latents, references)[everything.rows]
    mine = torch.zeros(sum(layout.lengths), dtype=torch.bool, device=x.device)
    for sample in layout.samples:
        mine[sample.start : sample.video_end] = True
    keep = mine[everything.rows]
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        last = index == len(model.blocks) - 1
        after, kept = (video, keep) if last else (everything, None)
        x = model.checkpointed(_block, block, x, e0, text, layout, ranks, everything, after, kept)
    patches = _Gather.apply(model.head(x, e, video.lengths), ranks, video)
    return [
        unpatchify(rows, structure.grid, model.config, latent.shape[-2:])
        for rows, structure, latent in zip(patches.split(layout.video_lengths), layout.structures, latents, strict=True)
    ]


def _parts(layout: Layout, ranks: Ranks) -> tuple[_Part, _Part]:
    """Rows shared out evenly, and of the same shares the video rows alone."""
    total = sum(layout.lengths)
    edges = [total * rank // ranks.world for rank in range(ranks.world + 1)]
    shares = list(pairwise(edges))
    rows = [[_overlap(*share, sample.start, sample.end) for sample in layout.samples] for share in shares]
    seen = [[_overlap(*share, sample.start, sample.video_end) for sample in layout.samples] for share in shares]
    before = sum(sum(lengths) for lengths in seen[: ranks.rank])
    return (
        _Part(tuple(map(sum, rows)), rows[ranks.rank], slice(edges[ranks.rank], edges[ranks.rank + 1])),
        _Part(tuple(map(sum, seen)), seen[ranks.rank], slice(before, before + sum(seen[ranks.rank]))),
    )


def _overlap(start: int, end: int, other_start: int, other_end: int) -> int:
    return max(0, min(end, other_end) - max(start, other_start))


def _block(
    block: Block, x: Tensor, e: Tensor, text: Tensor, layout: Layout, ranks: Ranks, part: _Part, after: _Part,
    keep: Tensor | None,
) -> Tensor:  # fmt: skip
    """As `Block.forward` on this rank's rows; `keep` picks those that go on after self-attention (the video's)."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation.float() + e).unbind(1)
    modulated = modulate(x, shift1, scale1, part.lengths, block.eps)
    y = _self_attention(block.self_attn, modulated, layout, ranks, part, after, keep)
    x = add_gated(x if keep is None else x[keep], y, gate1, after.lengths)
    y = torch.nn.functional.layer_norm(
        x, block.norm3.normalized_shape, block.norm3.weight.float(), block.norm3.bias.float(), block.norm3.eps
    )
    x = x + _cross_attention(block.cross_attn, y, text, layout, ranks, after, video_only=keep is not None)
    y = block.feed_forward(modulate(x, shift2, scale2, after.lengths, block.eps))
    return add_gated(x, y, gate2, after.lengths)


def _self_attention(
    layer: SelfAttention, x: Tensor, layout: Layout, ranks: Ranks, part: _Part, after: _Part, keep: Tensor | None
) -> Tensor:
    x = x.to(layer.q.weight.dtype)
    rope = layout.rope[part.rows]
    k = _to_heads(apply_rope(layer.keys(x), rope), ranks, part)
    v = _to_heads(layer.values(x), ranks, part)
    own, rope = (x, rope) if keep is None else (x[keep], rope[keep])
    q = _to_heads(apply_rope(layer.queries(own), rope), ranks, after)
    y = relational_attention(q, k, v, layout, video_only=keep is not None)
    return layer.o(_to_rows(y, ranks, after).flatten(-2))


def _cross_attention(
    layer: CrossAttention, x: Tensor, text: Tensor, layout: Layout, ranks: Ranks, part: _Part, *, video_only: bool
) -> Tensor:
    q = _to_heads(layer.queries(x.to(layer.q.weight.dtype)), ranks, part)
    heads = layer.heads // ranks.world
    mine = slice(ranks.rank * heads, (ranks.rank + 1) * heads)
    k, v = layer.keys(text)[..., mine, :], layer.values(text)[..., mine, :]
    y = phrase_attention(q, k, v, layout, ratio=layer.ratio, video_only=video_only)
    return layer.o(_to_rows(y, ranks, part).flatten(-2))


# --- Exchanges --------------------------------------------------------------------------------------------------------


def _to_heads(x: Tensor, ranks: Ranks, part: _Part) -> Tensor:
    """[own rows, heads, …] to [all rows, own heads, …]."""
    own, world = x.shape[0], ranks.world
    sent = x.unflatten(1, (world, -1)).transpose(0, 1).flatten(0, 1)  # by receiving rank, then row
    return _Exchange.apply(sent, [own] * world, list(part.counts))


def _to_rows(x: Tensor, ranks: Ranks, part: _Part) -> Tensor:
    """[all rows, own heads, …] to [own rows, heads, …]."""
    own, world = part.counts[ranks.rank], ranks.world
    got = _Exchange.apply(x, list(part.counts), [own] * world)
    return got.unflatten(0, (world, own)).transpose(0, 1).flatten(1, 2)


class _Exchange(torch.autograd.Function):
    """All-to-all of rows; the gradient goes back the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.splits = (sent, received)
        out = x.new_empty((sum(received), *x.shape[1:]))
        dist.all_to_all_single(out, x.contiguous(), received, sent)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        sent, received = ctx.splits
        (gradient,) = gradients
        out = gradient.new_empty((sum(sent), *gradient.shape[1:]))
        dist.all_to_all_single(out, gradient.contiguous(), sent, received)
        return out, None, None


class _Gather(torch.autograd.Function):
    """All rows on all ranks. Each takes the same loss of them, so its own rows' gradient is all that is due to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks, part: _Part) -> Tensor:
        ctx.rows = part.rows
        most = max(part.counts)
        padded = torch.nn.functional.pad(x, (0, 0, 0, most - x.shape[0]))
        got = [torch.empty_like(padded) for _ in range(ranks.world)]
        dist.all_gather(got, padded)
        return torch.cat([rows[:count] for rows, count in zip(got, part.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.rows], None, None
