"""Every structure that can be named, by name: the fast path, the reference, diffusers and the fixtures' weights agree.

The reference runs in float64 here, so the differences are the fast path's own. `test_properties` does the same over
random structures; this file makes sure that no named one is ever left to chance.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import WanTransformer3DModel

from dataengine.lumosx import reference
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.weights import load_into, original_keys, to_diffusers

ABSOLUTE = 5e-5
BACKGROUND, OBJECT, BODY = Kind.BACKGROUND, Kind.OBJECT, Kind.BODY


def subject(group: int, attributes: int, first: int = 0) -> list[Reference]:
    """A face and its attributes, each on two words of its own (modulo the text)."""
    return [
        Reference(Kind.FACE if i == 0 else Kind.ATTRIBUTE, ((first + 2 * i) % 11, (first + 2 * i + 1) % 11), group)
        for i in range(1 + attributes)
    ]


# frames, token grid, references, groups counted
STRUCTURES = {
    "no reference": SampleStructure(3, (4, 6)),
    "no reference, one frame": SampleStructure(1, (4, 6)),
    "one face": SampleStructure(2, (4, 6), subject(0, 0), 1),
    "three faces": SampleStructure(2, (4, 6), [*subject(0, 0), *subject(1, 0, 3), *subject(2, 0, 6)], 3),
    "one attribute": SampleStructure(2, (4, 6), subject(0, 1), 1),
    "two attributes": SampleStructure(2, (4, 6), subject(0, 2), 1),
    "three attributes": SampleStructure(2, (4, 6), subject(0, 3), 1),
    "two subjects": SampleStructure(3, (4, 6), [*subject(0, 3), *subject(1, 1, 7)], 2),
    "three subjects": SampleStructure(3, (4, 6), [*subject(0, 3), *subject(1, 1, 5), *subject(2, 2, 8)], 3),
    "shared words": SampleStructure(2, (4, 6), [*subject(0, 1), *subject(1, 1)], 2),
    "an absent subject": SampleStructure(2, (4, 6), [*subject(0, 1), *subject(2, 0, 5)], 3),
    "only absent subjects": SampleStructure(2, (4, 6), [Reference(OBJECT, (2,))], 2),
    "background": SampleStructure(2, (4, 6), [Reference(BACKGROUND, (9, 10))]),
    "objects": SampleStructure(2, (4, 6), [Reference(OBJECT, (1,)), Reference(OBJECT, (4, 5)), Reference(OBJECT)]),
    "bodies": SampleStructure(2, (4, 6), [Reference(BACKGROUND, (9,)), Reference(BODY, (1,)), Reference(BODY, (4,))]),
    "everything": SampleStructure(
        2, (4, 6), [Reference(BACKGROUND, (9, 10)), Reference(OBJECT, (3,)), *subject(0, 3), *subject(1, 2, 6)], 2
    ),
    "one frame": SampleStructure(1, (4, 6), [Reference(OBJECT, (3,)), *subject(0, 0), *subject(1, 2, 6)], 2),
    "one frame, lone references": SampleStructure(1, (4, 6), [Reference(BACKGROUND, (3,)), Reference(OBJECT, (7,))]),
    "a group of T members": SampleStructure(3, (4, 6), [Reference(OBJECT, (3,)), *subject(0, 2), *subject(1, 0, 6)], 2),
    "all groups of T members": SampleStructure(2, (4, 6), [*subject(0, 1), *subject(1, 1, 6)], 2),
    "grid of 8": SampleStructure(1, (8, 16), [Reference(OBJECT, (3,)), *subject(0, 1)], 1),
    "grid above 8": SampleStructure(1, (9, 17), [Reference(OBJECT, (3,)), *subject(0, 1)], 1),
    "grid below 8": SampleStructure(1, (7, 15), [Reference(BACKGROUND, (3,)), *subject(0, 1)], 1),
    "a row of tokens": SampleStructure(2, (1, 19), [Reference(OBJECT, (3,)), *subject(0, 1)], 1),
    "a column of tokens": SampleStructure(2, (19, 1), [Reference(OBJECT, (3,)), *subject(0, 1)], 1),
    "480p's width": SampleStructure(1, (2, 52), [Reference(OBJECT, (3,)), *subject(0, 1)], 1),
}
ODD = [(0, 0), (1, 1)]


def close(got, expected, name=""):
    torch.testing.assert_close(got, expected.to(got.dtype), atol=ABSOLUTE, rtol=0, msg=lambda m: f"{name}: {m}")


def plain(model, inputs, index, structure):
    """The reference's output in float64, references included; its weights are those of `model`."""
    weights = {name: value.double() for name, value in model.named_parameters()}
    clean = inputs["references"][index]
    return reference.velocity(
        weights,
        model.config,
        structure,
        inputs["latents"][index].double(),
        None if clean is None else clean.double(),
        inputs["context"][index].double(),
        inputs["timesteps"][index],
    )


@pytest.fixture(params=["exact", "released"])
def model(request, tiny_config, make_model):
    return make_model(dataclasses.replace(tiny_config, cell_map=request.param))


@pytest.mark.parametrize("crop", ODD, ids=["even", "odd"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_fast_is_plain(model, make_inputs, name, crop):
    structure = STRUCTURES[name]
    inputs = make_inputs(model.config, [structure], crop=crop)
    layout = model.layout([structure])
    with torch.no_grad():
        expected = plain(model, inputs, 0, structure)
        assert expected.shape[-2:] == (2 * structure.grid[0] - crop[0], 2 * structure.grid[1] - crop[1])
        close(model(**inputs, layout=layout, with_references=True)[0], expected)
        close(model(**inputs, layout=layout)[0], expected[:, : structure.frames])


def test_one_batch_of_them_all(model, make_inputs):
    """26 structures of unlike lengths and grids, packed together, give what each gives alone; so do the gradients."""
    batch = list(STRUCTURES.values())
    inputs = make_inputs(model.config, batch)
    together = model(**inputs, layout=model.layout(batch))
    parameters = dict(model.named_parameters())
    packed = torch.autograd.grad(sum(out.square().mean() for out in together), parameters.values())
    summed = [torch.zeros_like(parameter) for parameter in parameters.values()]
    for index, structure in enumerate(batch):
        alone = {key: value[index : index + 1] for key, value in inputs.items()}
        (out,) = model(**alone, layout=model.layout([structure]))
        close(together[index], out, list(STRUCTURES)[index])
        for total, gradient in zip(summed, torch.autograd.grad(out.square().mean(), parameters.values()), strict=True):
            total += gradient
    for name, got, expected in zip(parameters, packed, summed, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(
            got / scale, expected / scale, atol=ABSOLUTE, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradients_of_inputs_and_weights(model, make_inputs, name):
    """Also towards latents, references and text: what a trained adapter or a text encoder would get."""
    structure = STRUCTURES[name]
    inputs = make_inputs(model.config, [structure])
    leaves = [t.requires_grad_() for key in ("latents", "references", "context") for t in inputs[key] if t is not None]
    wanted = {**{f"input {i}": leaf for i, leaf in enumerate(leaves)}, **dict(model.named_parameters())}
    (out,) = model(**inputs, layout=model.layout([structure]))
    fast = torch.autograd.grad(out.square().sum(), wanted.values())
    slow = torch.autograd.grad(
        plain(model, inputs, 0, structure)[:, : structure.frames].square().sum(), wanted.values()
    )
    for leaf, got, expected in zip(wanted, fast, slow, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(
            got / scale, expected / scale, atol=ABSOLUTE, rtol=0, msg=lambda m, n=leaf: f"{n}: {m}"
        )


def test_the_bias_takes_part_in_the_gradient(model, make_inputs, monkeypatch):
    """Were the bias detached, a constant of the forward, the gradient would be another one."""
    structure = STRUCTURES["everything"]
    inputs = make_inputs(model.config, [structure])
    weight = model.blocks[0].cross_attn.k.weight
    (out,) = model(**inputs, layout=model.layout([structure]), with_references=True)
    (fast,) = torch.autograd.grad(out.square().sum(), weight)
    attached = reference.phrase_bias
    monkeypatch.setattr(reference, "phrase_bias", lambda *arguments: attached(*arguments).detach())
    constant = plain(model, inputs, 0, structure)
    close(out, constant)
    (detached,) = torch.autograd.grad(constant.square().sum(), weight)
    assert (fast - detached).abs().max() > 0.1


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_fixtures_weights_agree_on_every_structure(fixture_model, make_inputs, name):
    """The released fixtures have two structures; their weights and shapes are run on all."""
    structure = STRUCTURES[name]
    inputs = make_inputs(fixture_model.config, [structure])
    with torch.no_grad():
        (got,) = fixture_model(**inputs, layout=fixture_model.layout([structure]), with_references=True)
        close(got, plain(fixture_model, inputs, 0, structure))


# --- diffusers, without references ------------------------------------------------------------------------------------


def theirs_of(config):
    return WanTransformer3DModel.from_config(config.to_diffusers()).eval()


@pytest.mark.parametrize("direction", ["ours to theirs", "theirs to ours"])
@pytest.mark.parametrize(("frames", "grid"), [(1, (3, 5)), (3, (5, 7)), (2, (8, 8))])
def test_text_to_video_is_diffusers_own(model, make_inputs, direction, frames, grid):
    theirs = theirs_of(model.config)
    if direction == "ours to theirs":
        theirs.load_state_dict({to_diffusers(key): value for key, value in model.state_dict().items()}, strict=True)
    else:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        load_into(model, original_keys(theirs.state_dict()))
    structures = [SampleStructure(frames, grid)] * 2
    inputs = make_inputs(model.config, structures)
    text = torch.stack(
        [torch.nn.functional.pad(t, (0, 0, 0, model.config.text_len - len(t))) for t in inputs["context"]]
    )
    with torch.no_grad():
        got = model(**inputs, layout=model.layout(structures))
        expected = theirs(torch.stack(inputs["latents"]), inputs["timesteps"], text).sample
    close(torch.stack(got), expected)


def test_weights_survive_both_ways(model):
    """Ours to diffusers' class, its own file, and back: the same bits under the same names."""
    theirs = theirs_of(model.config)
    theirs.load_state_dict({to_diffusers(key): value for key, value in model.state_dict().items()}, strict=True)
    back = original_keys(theirs.state_dict())
    assert sorted(back) == sorted(model.state_dict())
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    load_into(DiT(model.config), back)
