from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dataengine.lumosx import reference
from dataengine.lumosx.rope import apply_rope
from dataengine.lumosx.structure import Reference, SampleStructure
from dataengine.lumosx.transformer import PRESETS, DiT, DiTConfig, RMSNorm, token_grid
from dataengine.lumosx.weights import load_into, original_keys

ABSOLUTE = 5e-5  # tolerance of the released fixtures


def close(got, expected, atol=ABSOLUTE):
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def forward(model, sample, **options):
    layout = model.layout([sample.structure])
    batch = ([sample.latent], [sample.references], [sample.context], sample.timestep.reshape(1))
    return model(*batch, layout, **options)[0]


def test_every_intermediate_is_the_released_one(fixture_model, case3):
    sample, _, tensors = case3
    block, seen = fixture_model.blocks[0], {}
    modules = {
        "block0_out": block,
        "self_attn0_out": block.self_attn,
        "cross_attn0_out": block.cross_attn,
        "q": block.self_attn.norm_q,
        "cross_q": block.cross_attn.norm_q,
        "cross_k": block.cross_attn.norm_k,
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output))
    with torch.no_grad():
        close(forward(fixture_model, sample, with_references=True), tensors["out"])
        for name in ("block0_out", "self_attn0_out", "cross_attn0_out"):
            close(seen[name], tensors[name])
        config, layout = fixture_model.config, fixture_model.layout([sample.structure])
        heads = (config.heads, config.head_dim)
        close(apply_rope(seen["q"].unflatten(-1, heads), layout.rope), tensors["rope_q_layer0"])
        e = fixture_model.embed_time(tensors["timestep"])
        close(e[0], tensors["e"])
        close(fixture_model.project_time(e)[0], tensors["e0"])
        close(fixture_model.embed_text([sample.context])[0], tensors["context_emb"])
        # The fast path never forms the bias; its tables do, from the pooled cells.
        tables = layout.phrases[0]
        q = seen["cross_q"].unflatten(-1, heads)[sample.structure.video_tokens :].unflatten(0, (7, -1))
        k = seen["cross_k"][0].unflatten(-1, heads)
        scores = torch.einsum("cp,nphd,shd->nchs", tables.pool, q, k).abs() * config.mcam_ratio / config.head_dim**0.5
        bias = torch.einsum("pc,nchs->nphs", tables.spread, scores * tables.coefficients[:, None, None, :])
        close(bias.flatten(0, 1), tensors["cross_bias_layer0"][sample.structure.video_tokens :])


def test_velocity_needs_no_reference_rows_in_the_last_block(fixture_model, case3):
    sample, _, tensors = case3
    with torch.no_grad():
        got = forward(fixture_model, sample)
    assert got.shape == tensors["x"].shape
    close(got, tensors["out"][:, : sample.structure.frames])


@pytest.mark.parametrize("checkpointing", ["none", "full", "keep_attention", "keep_matmul"])
def test_gradients_are_the_released_ones(fixture_model, case3, checkpointing):
    sample, spec, tensors = case3
    fixture_model.checkpointing = checkpointing
    loss = (forward(fixture_model, sample) - tensors["loss_target"]).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(spec["gradients"]["loss"], abs=ABSOLUTE)
    norms = spec["gradients"]["norms"]
    assert {name for name, _ in fixture_model.named_parameters()} == set(norms)
    for name, parameter in fixture_model.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(norms[name], abs=ABSOLUTE), name


def test_checkpointing_computes_again_only_what_it_should(fixture_model, case3):
    sample, _, _ = case3

    class Count(TorchDispatchMode):  # outside the checkpoint's own modes: sees only what is really computed
        def __init__(self):
            super().__init__()
            self.calls = Counter()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls[function.name()] += 1
            return function(*args, **(kwargs or {}))

    def calls(checkpointing):
        fixture_model.checkpointing = checkpointing
        with Count() as counter:
            forward(fixture_model, sample).square().mean().backward()
        attention = counter.calls["aten::_scaled_dot_product_flash_attention_for_cpu"]
        return attention, counter.calls["aten::addmm"], counter.calls["aten::gelu"]

    attention, products, activations = calls("none")
    per_block = 10  # q, k, v, o twice and two of the feed-forward; the text and time layers are outside
    assert attention == 8 and activations == 3
    assert calls("full") == (2 * attention, products + 2 * per_block, activations + 2)
    assert calls("keep_attention") == (attention, products + 2 * per_block, activations + 2)
    assert calls("keep_matmul") == (attention, products, activations + 2)


def test_feed_forward_in_pieces_is_the_whole(make_model, make_inputs, tiny_config, monkeypatch):
    structure = SampleStructure(3, (4, 5))
    model, inputs = make_model(tiny_config), make_inputs(tiny_config, [structure])
    monkeypatch.setattr("dataengine.lumosx.transformer._FFN_ROWS", 7)
    (whole,) = model(**inputs, layout=model.layout([structure]))
    with torch.no_grad():
        (pieces,) = model(**inputs, layout=model.layout([structure]))
    close(pieces, whole, 1e-5)


@pytest.mark.parametrize("crop", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_odd_latents_are_padded_and_cropped(make_model, make_inputs, tiny_config, family, crop):
    model = make_model(tiny_config)
    inputs = make_inputs(tiny_config, [family], crop=crop)
    with torch.no_grad():
        (got,) = model(**inputs, layout=model.layout([family]), with_references=True)
        expected = reference.velocity(
            model.state_dict(),
            tiny_config,
            family,
            inputs["latents"][0],
            inputs["references"][0],
            inputs["context"][0],
            inputs["timesteps"][0],
        )
    assert got.shape[-2:] == (10 - crop[0], 18 - crop[1])
    close(got, expected, 1e-5)
    assert token_grid(got.shape[-2:]) == family.grid


def test_equals_diffusers_without_references(fixture_model):
    torch.manual_seed(0)
    config = fixture_model.config
    theirs = WanTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = DiT(config)
    load_into(ours, original_keys(theirs.state_dict()))
    structures = [SampleStructure(3, (5, 7)), SampleStructure(3, (5, 7))]
    latents, context = torch.randn(2, 16, 3, 10, 14), torch.randn(2, config.text_len, config.text_dim)
    timesteps = torch.tensor([812, 3])
    with torch.no_grad():
        expected = theirs(hidden_states=latents, timestep=timesteps, encoder_hidden_states=context).sample
        got = ours(list(latents), [None, None], list(context), timesteps, ours.layout(structures))
    close(torch.stack(got), expected)  # diffusers forms the time features in float32


def test_forward_and_backward_read_no_value(tiny_config, family):
    """Fake tensors have no values: whatever would wait for the device to read one (item, nonzero, a branch) raises."""
    layout = DiT(tiny_config).layout([family, SampleStructure(1, (2, 2))])
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = DiT(tiny_config)
        out = model(
            [torch.empty(4, 2, 10, 18), torch.empty(4, 1, 4, 4)],
            [torch.empty(4, 8, 10, 18), None],
            [torch.empty(12, 8), torch.empty(5, 8)],
            torch.empty(2),
            layout,
        )
        assert [tuple(one.shape) for one in out] == [(4, 2, 10, 18), (4, 1, 4, 4)]
        sum(one.mean() for one in out).backward()
        with pytest.raises(DataDependentOutputException):
            out[0].mean().item()


@pytest.mark.parametrize("mode", ["autocast", "parameters"])
def test_bfloat16_stays_close_and_keeps_float32_where_it_matters(fixture_model, case3, mode):
    sample, _, tensors = case3
    seen = []
    fixture_model.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[:2]))
    if mode == "parameters":
        fixture_model.to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        got = forward(fixture_model, sample)
    assert got.dtype is torch.float32 and all(x.dtype is torch.float32 for x in seen)
    error = (got - tensors["out"][:, : sample.structure.frames]).square().mean().sqrt()
    assert error < 0.02 * tensors["out"].std()


def test_a_new_model_starts_at_zero_velocity(tiny_config, make_inputs, family):
    model = DiT(tiny_config)
    model.init_weights()
    inputs = make_inputs(tiny_config, [family])
    assert model(**inputs, layout=model.layout([family]))[0].abs().max() == 0


@pytest.mark.parametrize(("preset", "parameters"), [("lumosx-1.3b", 1.419e9), ("wan2.1-t2v-14b", 14.288e9)])
def test_presets_have_the_published_size(preset, parameters):
    with torch.device("meta"):
        model = DiT(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=1e-3)
    assert PRESETS[preset].head_dim == 128


def test_released_configuration_is_read_strictly(fixtures):
    assert PRESETS["lumosx-1.3b"].cell_map == "released" and DiTConfig().cell_map == "exact"
    assert DiTConfig.from_released({"num_layers": 4, "sp_degree": 8, "patch_size": [1, 2, 2]}).layers == 4
    with pytest.raises(ValueError, match="RoPE_shift = False"):
        DiTConfig.from_released({"RoPE_shift": False})
    with pytest.raises(ValueError, match="unknown key 'depth'"):
        DiTConfig.from_released({"depth": 4})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 5}, "even multiple"), ({"freq_dim": 15}, "freq_dim"), ({"patch": (2, 2, 2)}, "one latent frame")],
)
def test_impossible_shapes_are_refused(tiny_config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_config, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(latents=[]), "latents has 0 samples, the layout 1"),
        (lambda i: i.update(timesteps=torch.zeros(1, 1)), "timesteps must be"),
        (lambda i: i.update(latents=[i["latents"][0][:, :1]]), r"sample 0: latent \(4, 1, 10, 18\)"),
        (lambda i: i.update(latents=[torch.zeros(4, 2, 10, 20)]), r"token grid \(5, 10\), the structure says \(5, 9\)"),
        (lambda i: i.update(references=[None]), r"reference latents are \(4, 0, 10, 18\)"),
        (lambda i: i.update(context=[torch.zeros(13, 8)]), r"context \(13, 8\)"),
    ],
)
def test_inputs_that_disagree_with_the_layout_are_named(tiny_config, make_model, make_inputs, family, change, message):
    model, inputs = make_model(tiny_config), make_inputs(tiny_config, [family])
    change(inputs)
    with pytest.raises(ValueError, match=message):
        model(**inputs, layout=model.layout([family]))


def test_patch_sides_may_differ(tiny_config, make_model, make_inputs):
    config = dataclasses.replace(tiny_config, patch=(1, 1, 3))
    structure = SampleStructure(2, (3, 2), (Reference("object", (1,)),))
    model = make_model(config)
    generator = torch.Generator().manual_seed(3)
    latent, clean = torch.randn(2, 4, 2, 3, 5, generator=generator).split([1, 1])
    clean = clean[0, :, :1]
    context, t = torch.randn(3, 8, generator=generator), torch.tensor([7])
    with torch.no_grad():
        (got,) = model([latent[0]], [clean], [context], t, model.layout([structure]))
        expected = reference.velocity(model.state_dict(), config, structure, latent[0], clean, context, t)
    close(got, expected[:, :2], 1e-5)


def test_the_norm_on_a_cpu_is_pytorchs_own_and_keeps_less() -> None:
    """Values and gradients of `F.rms_norm`; kept for the backward pass: the input, the weight, a number a row."""
    norm = RMSNorm(24, 1e-6)
    x = torch.randn(7, 5, 24, requires_grad=True)
    weight = torch.randn(24)
    with torch.no_grad():
        norm.weight.copy_(weight)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        found = norm(x)
    assert sorted(kept) == [24, 35, 840]
    upstream = torch.randn_like(x)
    expected = torch.nn.functional.rms_norm(x, (24,), norm.weight, 1e-6)
    torch.testing.assert_close(found, expected)
    for left, right in zip(
        torch.autograd.grad(found, (x, norm.weight), upstream),
        torch.autograd.grad(expected, (x, norm.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected)
