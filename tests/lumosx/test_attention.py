from __future__ import annotations

import pytest
import torch

from dataengine.lumosx import reference
from dataengine.lumosx.attention import phrase_attention, relational_attention
from dataengine.lumosx.layout import Layout
from dataengine.lumosx.structure import Reference, SampleStructure
from dataengine.lumosx.transformer import DiTConfig

HEADS, HEAD_DIM, TEXT = 2, 16, 12


def build(structures, cell_map="exact"):
    return Layout.build(structures, head_dim=HEAD_DIM, text_len=TEXT, cell_map=cell_map)


def rows(count):
    return torch.randn(count, HEADS, HEAD_DIM, dtype=torch.float64)


def dense(q, k, v, logits_bias):
    """Softmax attention written out, [rows, heads, head_dim] with a bias [heads or 1, rows, keys]."""
    logits = torch.einsum("lhd,shd->hls", q, k) / HEAD_DIM**0.5 + logits_bias
    return torch.einsum("hls,shd->lhd", logits.softmax(-1), v)


GROUP_OF_T = SampleStructure(3, (2, 3), [Reference("object")] + [Reference("face", (1,), 0)] * 3, 1)
ONE_FRAME = SampleStructure(1, (2, 3), [Reference("background"), Reference("face", (), 0), Reference("face", (), 1)], 2)
PLAIN = SampleStructure(2, (2, 3))


@pytest.mark.parametrize("video_only", [False, True])
def test_relational_attention_is_masked_attention(family, video_only):
    structures = [PLAIN, family, GROUP_OF_T, ONE_FRAME]
    layout = build(structures)
    q, k, v = (rows(sum(layout.lengths)) for _ in range(3))
    got = relational_attention(layout.video_rows(q) if video_only else q, k, v, layout, video_only=video_only)
    expected = []
    for structure, span in zip(structures, layout.samples, strict=True):
        mask = reference.attention_mask(structure)
        bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
        part = slice(span.start, span.end)
        out = dense(q[part], k[part], v[part], bias)
        expected.append(out[: structure.video_tokens] if video_only else out)
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("cell_map", ["exact", "released"])
@pytest.mark.parametrize("video_only", [False, True])
def test_phrase_attention_is_biased_attention(family, cell_map, video_only):
    structures = [family, PLAIN, GROUP_OF_T]
    layout = build(structures, cell_map)
    config = DiTConfig(dim=HEADS * HEAD_DIM, heads=HEADS, text_len=TEXT, cell_map=cell_map, mcam_ratio=0.7)
    q = rows(sum(layout.lengths))
    k, v = (torch.randn(3, TEXT, HEADS, HEAD_DIM, dtype=torch.float64) for _ in range(2))
    got = phrase_attention(layout.video_rows(q) if video_only else q, k, v, layout, ratio=0.7, video_only=video_only)
    expected = []
    for index, (structure, span) in enumerate(zip(structures, layout.samples, strict=True)):
        part = q[span.start : span.end]
        bias = reference.phrase_bias(part, k[index], structure, config).transpose(0, 1)
        assert structure is PLAIN or bias.abs().max() > 0.01
        out = dense(part, k[index], v[index], bias)
        expected.append(out[: structure.video_tokens] if video_only else out)
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-12, rtol=0)


def test_gradient_flows_through_the_bias(family):
    layout = build([family])
    q = rows(family.tokens).requires_grad_()
    k, v = (torch.randn(1, TEXT, HEADS, HEAD_DIM, dtype=torch.float64) for _ in range(2))
    weight = rows(family.tokens)
    config = DiTConfig(dim=HEADS * HEAD_DIM, heads=HEADS, text_len=TEXT)
    (fast,) = torch.autograd.grad((phrase_attention(q, k, v, layout, ratio=0.5) * weight).sum(), q)
    bias = reference.phrase_bias(q, k[0], family, config).transpose(0, 1)
    (plain,) = torch.autograd.grad((dense(q, k[0], v[0], bias) * weight).sum(), q)
    (detached,) = torch.autograd.grad((dense(q, k[0], v[0], bias.detach()) * weight).sum(), q)
    torch.testing.assert_close(fast, plain, atol=1e-12, rtol=0)
    assert (plain - detached).abs().max() > 1e-4
