"""What a step is said to cost, against PyTorch's own counter, the model's parameters and the paper's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dataengine.lumosx.adapters import add_adapters, trained_parameters
from dataengine.lumosx.budget import budget, parameter_count, sample_flops, trained_count
from dataengine.lumosx.optimizer import advance, make_optimizer, moments
from dataengine.lumosx.settings import LoraSettings, ModelSettings, OptimizerSettings, TrainSettings
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import PRESETS, DiT, DiTConfig

SHAPE = DiTConfig(dim=64, ffn_dim=160, heads=2, layers=3, text_dim=24, text_len=40, freq_dim=32)
PAPER = SampleStructure(
    frames=21,
    grid=(30, 52),
    references=(
        Reference(Kind.BACKGROUND), Reference(Kind.OBJECT),
        *(Reference(kind, (), group) for group in (0, 1) for kind in (Kind.FACE, Kind.ATTRIBUTE, Kind.ATTRIBUTE)),
    ),
    group_count=2,
)  # fmt: skip


@pytest.mark.parametrize("csam", [True, False])
def test_flops_are_those_that_are_counted(family: SampleStructure, csam: bool) -> None:
    shape = replace(SHAPE, csam=csam)
    model = DiT(shape).requires_grad_(False)
    model.init_weights()
    h, w = 2 * family.grid[0], 2 * family.grid[1]
    count = len(family.references)
    arguments = (
        [torch.zeros(16, family.frames, h, w)], [torch.zeros(16, count, h, w)], [torch.zeros(40, 24)],
        torch.zeros(1, dtype=torch.long), model.layout([family]),
    )  # fmt: skip
    # The counter knows matrix products, and no fused attention on the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(*arguments)
    # Beyond the formula: MCAM widens the heads of reference rows, and pools.
    assert sample_flops(shape, family).forward == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_the_papers_size() -> None:
    """480×832×81 with eight references: 45,240 tokens, 400 TFLOP forward, 72 % of them attention."""
    assert PAPER.tokens == 45_240
    flops = sample_flops(PRESETS["wan2.1-t2v-1.3b"], PAPER)
    assert flops.forward == pytest.approx(400e12, rel=0.05)
    assert flops.attention / flops.forward == pytest.approx(0.72, abs=0.03)
    assert flops.step("none") == pytest.approx(1.2e15, rel=0.05)
    assert flops.step("full") / 989e12 == pytest.approx(1.6, rel=0.1), "seconds on an H100 at its peak"


def test_parameters_are_counted_right() -> None:
    assert parameter_count(SHAPE) == sum(parameter.numel() for parameter in DiT(SHAPE).parameters())
    assert parameter_count(PRESETS["wan2.1-t2v-1.3b"]) == pytest.approx(1.419e9, rel=1e-3)
    settings = TrainSettings(lora=LoraSettings(rank=4), model=ModelSettings(init="base.safetensors"))
    model = DiT(SHAPE)
    add_adapters(model, settings.lora, seed=0)
    assert trained_count(SHAPE, settings) == sum(p.numel() for p in trained_parameters(model).values())


def test_memory_of_a_full_fine_tune() -> None:
    """The paper's size on one GPU: 22.7 GB of weights, gradients and moments, 5.7 of average, 2.8 of bf16 weights."""
    settings = TrainSettings(
        batch=1, precision="bf16", model=ModelSettings(size="wan1_3b", checkpointing="keep_attention")
    )
    config = PRESETS["wan2.1-t2v-1.3b"]
    alone, split = (budget(config, settings, [PAPER], world) for world in (1, 8))
    assert alone.state_bytes / 1e9 == pytest.approx(22.7 + 5.7 + 2.8, rel=0.02)
    assert alone.checkpoint_bytes / 1e9 == pytest.approx(22.7, rel=0.01)
    assert split.state_bytes < alone.state_bytes / 6
    full = budget(config, settings.model_copy(update={"model": ModelSettings(checkpointing="full")}), [PAPER], 1)
    none = budget(config, settings.model_copy(update={"model": ModelSettings(checkpointing="none")}), [PAPER], 1)
    assert full.activation_bytes < alone.activation_bytes < none.activation_bytes


@pytest.mark.eight_bit
def test_moments_of_eight_bits_are_counted_as_they_are() -> None:
    """What torchao's optimizer really holds after a step, against the formula's difference to plain AdamW."""
    chosen = TrainSettings(optimizer=OptimizerSettings(kind="adamw8bit"))
    model = DiT(replace(SHAPE, dim=64, ffn_dim=256))
    parameters = trained_parameters(model)
    optimizer = make_optimizer(parameters, chosen.optimizer)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    advance(optimizer, 1e-3, torch.tensor(True))
    held = sum(t.nbytes for name, t in moments(parameters, optimizer).items() if not name.endswith("/step"))
    count = parameter_count(model.config)
    plain, eight = (budget(model.config, settings, [PAPER], 1) for settings in (TrainSettings(), chosen))
    # Of so small a model 4 % are norms and biases of less than 4,096 numbers, which keep 32 bits.
    assert plain.state_bytes - eight.state_bytes == pytest.approx(8 * count - held, rel=0.05)
    assert plain.checkpoint_bytes - eight.checkpoint_bytes == pytest.approx(8 * count - held, rel=0.05)
