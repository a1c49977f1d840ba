"""Asking a model whose face is whose: only faces change places, and the answer depends on them alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.data import BatchEncoder, Example, ExampleMaker
from dataengine.lumosx.structure import Kind
from dataengine.lumosx.text import MiniLmEncoder
from dataengine.lumosx.transformer import DiT, DiTConfig
from dataengine.world.ablation import SIZES, VARIANTS, settings, training_samples
from dataengine.world.ablation_preference import exchanged, rises

TINY = replace(SIZES["small"], pairs=2)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Of two and of three people."""
    maker = ExampleMaker(list(training_samples(TINY)), settings(TINY, "pairs", VARIANTS[0], 0, base=None).data, seed=0)
    return [maker.plain(index) for index in range(2)]


@pytest.fixture(scope="module")
def encoder() -> BatchEncoder:
    return BatchEncoder(DctCodec(), MiniLmEncoder(56))


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    found = DiT(DiTConfig(dim=32, ffn_dim=64, heads=2, layers=2, freq_dim=32, text_dim=384, text_len=56))
    found.init_weights()
    torch.nn.init.normal_(found.head.head.weight, std=0.1)  # a fresh head is zero: nothing would depend on anything
    return found


def test_only_faces_change_places(examples: list[Example]) -> None:
    for example, people in zip(examples, (2, 3), strict=True):
        other = exchanged(example)
        faces = [i for i, b in enumerate(example.bindings) if b.kind is Kind.FACE]
        assert len(faces) == people and other.bindings == example.bindings and other.caption == example.caption
        for i in range(len(example.bindings)):
            source = faces[(faces.index(i) + 1) % people] if i in faces else i
            assert torch.equal(other.references[i], example.references[source])


def test_what_is_right_for_one_is_wrong_for_the_other(
    model: DiT, encoder: BatchEncoder, examples: list[Example]
) -> None:
    of_two = examples[0]
    (rise,) = rises(model, encoder, [of_two])
    (fall,) = rises(model, encoder, [exchanged(of_two)])
    assert abs(rise) > 1e-6 and fall == pytest.approx(-rise, rel=1e-3)


def test_equal_faces_cannot_be_exchanged(model: DiT, encoder: BatchEncoder, examples: list[Example]) -> None:
    faces = [i for i, b in enumerate(examples[1].bindings) if b.kind is Kind.FACE]
    shown = examples[1].references
    same = torch.stack([shown[faces[0]] if i in faces else image for i, image in enumerate(shown)])
    found = rises(model, encoder, [replace(examples[1], references=same), examples[1]])
    assert found[0] == 0 and found[1] != 0
