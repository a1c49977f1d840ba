"""Shared by the tests of dataengine/lumosx: released fixtures, and builders of tiny models and inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dataengine.lumosx.parity import FixtureSample, load_fixture, load_model
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import DiT, DiTConfig

CASES = ("case1_one_subject_face", "case3_two_subjects_bg_object")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the released fixtures."""
    return Path(__file__).parents[1] / "fixtures" / "lumosx"


@pytest.fixture
def fixture_model(fixtures: Path) -> DiT:
    """The fixture model with released weights, gradients on."""
    return load_model(fixtures).requires_grad_(True)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, fixtures: Path) -> tuple[dict, dict[str, Tensor]]:
    """(json, tensors) of each released case."""
    path = fixtures / f"{request.param}.json"
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


@pytest.fixture
def case3(fixtures: Path, fixture_model: DiT) -> tuple[FixtureSample, dict, dict[str, Tensor]]:
    """The case that holds every intermediate result: (sample, json, tensors)."""
    path = fixtures / f"{CASES[1]}.json"
    (sample,) = load_fixture(path, fixture_model.config)
    return sample, json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


@pytest.fixture
def tiny_config() -> DiTConfig:
    """A model small enough to run hundreds of times: 2 heads of 16, 2 layers, 12 text tokens."""
    return DiTConfig(
        dim=32, ffn_dim=48, heads=2, layers=2, in_channels=4, out_channels=4, text_dim=8, text_len=12, freq_dim=16
    )


@pytest.fixture
def make_model() -> Callable[..., DiT]:
    """Builds a model with random weights, biases and norms included (zero ones would hide mistakes)."""

    def make(config: DiTConfig, seed: int = 0) -> DiT:
        generator = torch.Generator().manual_seed(seed)
        model = DiT(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                scale = 0.3 if parameter.dim() == 1 or "modulation" in name else fan_in**-0.5
                parameter.copy_(noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        return model

    return make


@pytest.fixture
def make_inputs() -> Callable[..., dict]:
    """Builds random inputs of `DiT.forward` for a list of structures."""

    def make(
        config: DiTConfig, structures: list[SampleStructure], seed: int = 0, crop: tuple[int, int] = (0, 0)
    ) -> dict:
        generator = torch.Generator().manual_seed(seed)

        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        inputs: dict = {"latents": [], "references": [], "context": []}
        for index, structure in enumerate(structures):
            height, width = 2 * structure.grid[0] - crop[0], 2 * structure.grid[1] - crop[1]
            count = len(structure.references)
            inputs["latents"].append(rand(config.in_channels, structure.frames, height, width))
            inputs["references"].append(rand(config.in_channels, count, height, width) if count else None)
            inputs["context"].append(rand(config.text_len - index % 3, config.text_dim))
        inputs["timesteps"] = torch.randint(0, 1000, (len(structures),), generator=generator)
        return inputs

    return make


@pytest.fixture
def family() -> SampleStructure:
    """Background, two objects, a group of 3 and one of 2, and a third group without a member; 5x9 tokens, 2 frames."""
    return SampleStructure(
        frames=2,
        grid=(5, 9),
        references=(
            Reference(Kind.BACKGROUND, (10, 11)),
            Reference(Kind.OBJECT, (8,)),
            Reference(Kind.OBJECT, ()),
            Reference(Kind.FACE, (1,), 0),
            Reference(Kind.ATTRIBUTE, (3, 4), 0),
            Reference(Kind.ATTRIBUTE, (6,), 0),
            Reference(Kind.FACE, (2,), 1),
            Reference(Kind.ATTRIBUTE, (3, 7), 1),
        ),
        group_count=3,
    )
