"""LumosX attention on a packed batch: CSAM (who attends to whom) and MCAM (words pulled towards their reference)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.lumosx.layout import Layout, PhraseTables


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Dense attention, [..., rows, heads, head_dim] each; leading dimensions are a batch. Returns the shape of `q`."""
    q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
    if q.dim() == 3:  # fused kernels want a batch dimension
        return F.scaled_dot_product_attention(q[None], k[None], v[None], scale=scale)[0].transpose(-3, -2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(-3, -2)


def relational_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, video_only: bool = False) -> Tensor:
    """CSAM self-attention: video rows see their whole sample, a reference sees its own segment only.

    One dense call for video queries x all keys plus a block-diagonal one over the contiguous segments gives exactly
    the masked result with no mask. Segments are told from video by their place in the sequence, never by length.

    Args:
        q: [L, heads, head_dim] after RoPE; [video rows, heads, head_dim] if `video_only`.
        k: [L, heads, head_dim] after RoPE.
        v: [L, heads, head_dim].
        video_only: the reference rows of the result are not needed (last block).

    Returns:
        The shape of `q`.
    """
    lengths = layout.video_lengths if video_only else layout.lengths
    outputs = []
    # split, not slices: the gradient of a slice is a zero tensor of the whole length, that of a split one concatenation
    samples = zip(q.split(lengths), k.split(layout.lengths), v.split(layout.lengths), layout.samples, strict=True)
    for sample_q, sample_k, sample_v, rows in samples:
        if video_only or not rows.runs:
            outputs.append(attend(sample_q, sample_k, sample_v))
            continue
        parts = [rows.video_end - rows.start, *(run.count * run.length for run in rows.runs)]
        video_q, *run_q = sample_q.split(parts)
        outputs.append(attend(video_q, sample_k, sample_v))
        for run, *blocks in zip(rows.runs, run_q, sample_k.split(parts)[1:], sample_v.split(parts)[1:], strict=True):
            block_q, block_k, block_v = (x.unflatten(0, (run.count, run.length)) for x in blocks)
            outputs.append(attend(block_q, block_k, block_v).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def phrase_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, ratio: float, video_only: bool = False
) -> Tensor:
    """Cross-attention to the text with MCAM on the reference rows; video rows attend plainly.

    Args:
        q: [L, heads, head_dim] (or the video rows only) after RMSNorm, without RoPE.
        k, v: [samples, text_len, heads, head_dim].
        ratio: r, strength of the bias; 0: all rows attend plainly.
        video_only: as in `relational_attention`.

    Returns:
        The shape of `q`.
    """
    outputs = []
    lengths = layout.video_lengths if video_only else layout.lengths
    for sample_q, sample_k, sample_v, rows, tables in zip(
        q.split(lengths), k.unbind(), v.unbind(), layout.samples, layout.phrases, strict=True
    ):
        if video_only or tables is None or ratio == 0:
            outputs.append(attend(sample_q, sample_k, sample_v))
            continue
        video_q, reference_q = sample_q.split([rows.video_end - rows.start, rows.end - rows.video_end])
        outputs.append(attend(video_q, sample_k, sample_v))
        reference_q = reference_q.unflatten(0, (rows.references, -1))
        outputs.append(_reference_attention(reference_q, sample_k, sample_v, tables, ratio).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _reference_attention(q: Tensor, k: Tensor, v: Tensor, tables: PhraseTables, ratio: float) -> Tensor:
    """Cross-attention of reference rows with the MCAM bias, without ever forming the [rows, heads, text] bias.

    The bias of a row depends on its pooled cell alone, so it is a product: one-hot(cell) · bias per cell. Appending
    the one-hot to the query and the per-cell biases to the key makes the dot product carry the bias itself:
    [q, one-hot] · [k, b·√d] / √d = q·k/√d + b. It stays an unmasked fused kernel, differentiable in the bias.

    Args:
        q: [N, h·w, heads, head_dim]; k, v: [text_len, heads, head_dim].
    """
    references, tokens, heads, head_dim = q.shape
    text_len = k.shape[0]
    pooled = torch.einsum("cp,nphd->nchd", tables.pool.to(q.dtype), q)
    # b·√d = r·|pool(Q)·Kᵀ|·coefficient: the √d of the bias and that of the appended key cancel.
    bias = ratio * torch.einsum("nchd,shd->nshc", pooled, k).abs() * tables.coefficients[:, :, None, None]
    cells = bias.shape[-1]
    spread = tables.spread.to(q.dtype)[None, :, None, :].expand(references, tokens, heads, cells)
    wide_q = torch.cat((q, spread), dim=-1)
    wide_k = torch.cat((k.expand(references, text_len, heads, head_dim), bias.to(q.dtype)), dim=-1)
    wide_v = F.pad(v, (0, cells)).expand(references, text_len, heads, head_dim + cells)
    return attend(wide_q, wide_k, wide_v, scale=head_dim**-0.5)[..., :head_dim]
