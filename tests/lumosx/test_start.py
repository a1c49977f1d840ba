"""The start for short runs: where attention looks before anything is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dataengine.lumosx.rope import apply_rope, positions, rope_table
from dataengine.lumosx.start import look_around
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import DiT, DiTConfig

STRUCTURE = SampleStructure(3, (4, 6), (Reference(Kind.BACKGROUND), Reference(Kind.FACE, group=0)), group_count=1)


def attention(*, local: bool) -> Tensor:
    """Mean over heads of the first block's self-attention to unit-variance tokens, [L, L]."""
    torch.manual_seed(0)
    config = DiTConfig(dim=192, ffn_dim=64, heads=2, layers=1, text_dim=8, text_len=4)
    model = DiT(config)
    model.init_weights()
    if local:
        look_around(model)
    layer = model.blocks[0].self_attn
    x = torch.randn(STRUCTURE.tokens, config.dim)
    table = rope_table(positions(STRUCTURE), config.head_dim)
    with torch.no_grad():
        q, k = apply_rope(layer.queries(x), table), apply_rope(layer.keys(x), table)
        return torch.softmax(torch.einsum("qhd,khd->hqk", q, k) / config.head_dim**0.5, dim=-1).mean(dim=0)


@pytest.mark.parametrize(("local", "least", "most"), [(True, 4.0, 12.0), (False, 0.5, 1.5)])
def test_a_token_looks_at_its_own_place_in_every_frame(local: bool, least: float, most: float) -> None:
    """The weight of the same place in other frames, against an even spread."""
    weights = attention(local=local).view(5, 24, 5, 24)
    places = torch.arange(24)
    for frame in (1, 2, 3, 4):  # two of video, the background, the face: all share the grid's rows and columns
        share = weights[0, places, frame, places].mean() * STRUCTURE.tokens
        assert least < share < most


def test_only_attention_and_gates_are_set() -> None:
    config = DiTConfig(dim=48, ffn_dim=64, heads=2, layers=2, text_dim=8, text_len=4)
    torch.manual_seed(0)
    plain = DiT(config)
    plain.init_weights()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    look_around(plain)
    changed = {name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {
        f"blocks.{i}.{name}" for i in range(2) for name in ("modulation", "self_attn.q.bias", "self_attn.k.bias")
    }
