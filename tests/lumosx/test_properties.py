"""Over random structures and odd latents: fast is plain, a batch is its samples alone, gradients agree."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataengine.lumosx import reference
from dataengine.lumosx.structure import Kind, Reference, SampleStructure

TEXT = 12  # as in tiny_config
RELATIONS = ({"cell_map": "exact"}, {"cell_map": "released"}, {"r2pe": False, "csam": False, "mcam_ratio": 0.0})
phrases = st.lists(st.integers(0, TEXT - 1), max_size=4).map(tuple)


@st.composite
def structures(draw: st.DrawFn) -> SampleStructure:
    """Up to 3 subjects of up to 4 members (some empty), up to 3 lone references, T from 1, any small grid."""
    alone = [Reference(Kind.BACKGROUND, draw(phrases))] if draw(st.booleans()) else []
    alone += [
        Reference(draw(st.sampled_from([Kind.OBJECT, Kind.BODY])), p) for p in draw(st.lists(phrases, max_size=2))
    ]
    sizes = draw(st.lists(st.integers(0, 4), max_size=3))
    members = [
        Reference(Kind.FACE if member == 0 else Kind.ATTRIBUTE, draw(phrases), group)
        for group, size in enumerate(sizes)
        for member in range(size)
    ]
    grid = (draw(st.integers(1, 10)), draw(st.integers(1, 18)))
    return SampleStructure(draw(st.integers(1, 4)), grid, (*alone, *members), len(sizes))


crops = st.tuples(st.integers(0, 1), st.integers(0, 1))  # latents that fill their last row or column of tokens by half

quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run_reference(model, inputs, index, structure, form):
    return reference.velocity(
        dict(model.named_parameters()),
        model.config,
        structure,
        inputs["latents"][index],
        inputs["references"][index],
        inputs["context"][index],
        inputs["timesteps"][index],
        form=form,
    )


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("relations", RELATIONS, ids=str)
@quick
@given(batch=st.lists(structures(), min_size=1, max_size=3), seed=st.integers(0, 99), crop=crops)
def test_a_batch_is_its_samples_alone_and_each_is_the_reference(
    relations, make_model, make_inputs, tiny_config, batch, seed, crop
):
    model = make_model(dataclasses.replace(tiny_config, **relations), seed)
    inputs = make_inputs(model.config, batch, seed, crop)
    with torch.no_grad():
        together = model(**inputs, layout=model.layout(batch))
        complete = model(**inputs, layout=model.layout(batch), with_references=True)
        for index, structure in enumerate(batch):
            alone = {key: value[index : index + 1] for key, value in inputs.items()}
            close(together[index], model(**alone, layout=model.layout([structure]))[0])
            form = ("mask", "ranges")[index % 2]
            expected = run_reference(model, inputs, index, structure, form)
            close(complete[index], expected)
            close(together[index], expected[:, : structure.frames])


@pytest.mark.parametrize("relations", RELATIONS, ids=str)
@quick
@given(batch=st.lists(structures(), min_size=1, max_size=2), seed=st.integers(0, 99), crop=crops)
def test_gradients_are_those_of_the_reference(relations, make_model, make_inputs, tiny_config, batch, seed, crop):
    model = make_model(dataclasses.replace(tiny_config, **relations), seed)
    inputs = make_inputs(model.config, batch, seed, crop)
    parameters = dict(model.named_parameters())
    loss = sum(out.square().mean() for out in model(**inputs, layout=model.layout(batch)))
    fast = torch.autograd.grad(loss, parameters.values())
    plain_loss = sum(
        run_reference(model, inputs, index, structure, "mask")[:, : structure.frames].square().mean()
        for index, structure in enumerate(batch)
    )
    plain = torch.autograd.grad(plain_loss, parameters.values())
    for name, got, expected in zip(parameters, fast, plain, strict=True):
        scale = max(expected.abs().max().item(), 1.0)
        torch.testing.assert_close(got, expected, atol=1e-4 * scale, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
