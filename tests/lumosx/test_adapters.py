"""LoRA: what is trained, that it starts from the base, how adapters are named and merged, and that a run resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import settings, train, write_base

from dataengine.config import ConfigError
from dataengine.lumosx.adapters import add_adapters, trained_parameters
from dataengine.lumosx.metrics import LEARNED, read_metrics
from dataengine.lumosx.settings import LoraSettings
from dataengine.lumosx.structure import SampleStructure
from dataengine.lumosx.trainer import TrainError
from dataengine.lumosx.transformer import DiT, DiTConfig
from dataengine.lumosx.weights import WeightsError, load_into

LORA = LoraSettings(rank=4, alpha=8, targets=("self_attn.q", "cross_attn.o", "ffn.0"))


def forward(model: DiT, inputs: dict, structures: list[SampleStructure]) -> torch.Tensor:
    with torch.no_grad():
        found = model(inputs["latents"], inputs["references"], inputs["context"], inputs["timesteps"],
                      model.layout(structures))  # fmt: skip
    return torch.cat([one.flatten() for one in found])


def test_adapters_start_from_the_base_and_compute_what_their_names_say(
    make_model: Callable[..., DiT], tiny_config: DiTConfig, make_inputs: Callable[..., dict], family: SampleStructure
) -> None:
    base, adapted, inputs = make_model(tiny_config), make_model(tiny_config), make_inputs(tiny_config, [family])
    add_adapters(adapted, LORA, seed=1)
    expected = forward(base, inputs, [family])
    assert torch.equal(forward(adapted, inputs, [family]), expected)
    trained = trained_parameters(adapted)
    assert sorted(trained) == sorted(
        f"blocks.{block}.{layer}.lora_{half}.weight" for block in (0, 1) for layer in LORA.targets for half in "AB"
    )
    assert trained["blocks.1.ffn.0.lora_A.weight"].shape == (4, 32)
    assert trained["blocks.1.ffn.0.lora_B.weight"].shape == (48, 4)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
    changed = forward(adapted, inputs, [family])
    assert not torch.allclose(changed, expected, atol=1e-2)
    state = dict(base.state_dict())
    for name in {name.rpartition(".lora_")[0] for name in trained}:
        state[f"{name}.weight"] = (
            state[f"{name}.weight"] + 8 / 4 * trained[f"{name}.lora_B.weight"] @ trained[f"{name}.lora_A.weight"]
        )
    load_into(base, state)
    assert torch.allclose(forward(base, inputs, [family]), changed, atol=2e-5)


def test_adapters_depend_on_the_seed_alone(make_model: Callable[..., DiT], tiny_config: DiTConfig) -> None:
    models = [make_model(tiny_config) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(torch.initial_seed() + 1)
        add_adapters(model, LORA, seed)
    first, again, other = (trained_parameters(model)["blocks.0.ffn.0.lora_A.weight"] for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_does_not_fit_is_named(make_model: Callable[..., DiT], tiny_config: DiTConfig) -> None:
    model = make_model(tiny_config)
    with pytest.raises(WeightsError, match=r"no linear layer self_attn\.w in a block; there are cross_attn\.k"):
        add_adapters(model, LoraSettings(rank=2, targets=("self_attn.w",)), 0)


def test_a_lora_run_learns_keeps_the_base_and_resumes(dataset: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.safetensors")
    chosen = (base, "lora.rank=4", "optimizer.lr=0.01", "optimizer.schedule=constant", "accumulate=2", "batch=1")
    whole = train(dataset, tmp_path / "whole", settings("steps=8", *chosen))
    assert whole.after[LEARNED] < whole.before[LEARNED]
    tensors = load_file(whole.checkpoint / "ema.safetensors")
    assert len(tensors) == 10 * 2, "the adapters of one block, and nothing else"
    assert all(".lora_" in name for name in tensors)
    train(dataset, tmp_path / "parts", settings("steps=4", *chosen))
    parts = train(dataset, tmp_path / "parts", settings("steps=8", *chosen))
    assert (parts.checkpoint / "ema.safetensors").read_bytes() == (whole.checkpoint / "ema.safetensors").read_bytes()
    left, right = (read_metrics(tmp_path / run)[0] for run in ("whole", "parts"))
    assert [metrics.loss for metrics in left] == [metrics.loss for metrics in right]


def test_adapters_are_not_resumed_on_another_base(dataset: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.safetensors")
    train(dataset, tmp_path / "run", settings("steps=2", "lora.rank=2", base))
    weights = load_file(tmp_path / "base.safetensors")
    weights["blocks.0.ffn.0.bias"][0] += 1
    save_file(weights, tmp_path / "base.safetensors")
    with pytest.raises(TrainError, match="its adapters were trained on other weights"):
        train(dataset, tmp_path / "run", settings("steps=4", "lora.rank=2", base))


def test_adapters_need_a_base() -> None:
    with pytest.raises(ConfigError, match=r"set model\.init"):
        settings("lora.rank=2")
