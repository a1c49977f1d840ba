from __future__ import annotations

import pytest
import torch

from dataengine.lumosx import reference


@pytest.mark.parametrize("form", ["mask", "ranges"])
def test_every_intermediate_is_the_released_one(fixture_model, case3, form):
    sample, _, tensors = case3
    seen = {}
    with torch.no_grad():
        out = reference.velocity(
            fixture_model.state_dict(),
            fixture_model.config,
            sample.structure,
            sample.latent,
            sample.references,
            sample.context,
            sample.timestep,
            form=form,
            observe=seen.__setitem__,
        )
    seen |= {"out": out}
    names = {
        "out": "out",
        "e": "e",
        "e0": "e0",
        "context_emb": "context",
        "rope_q_layer0": "blocks.0.rope_q",
        "self_attn0_out": "blocks.0.self_attn",
        "cross_bias_layer0": "blocks.0.cross_bias",
        "cross_attn0_out": "blocks.0.cross_attn",
        "block0_out": "blocks.0.out",
    }
    for fixture, name in names.items():
        torch.testing.assert_close(seen[name], tensors[fixture], atol=5e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_mask_is_the_released_one(case3):
    sample, spec, tensors = case3
    mask = reference.attention_mask(sample.structure)
    assert torch.equal(mask, tensors["self_mask"])
    tokens = sample.structure.frame_tokens
    assert mask[::tokens, ::tokens].int().tolist() == spec["frame_attention_mask"]
