"""Training runs that take seconds: the settings of a tiny model, and a run of it in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from dataengine.config import load
from dataengine.lumosx import trainer
from dataengine.lumosx.components import model_config, new_model
from dataengine.lumosx.metrics import StepMetrics
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.trainer import TrainResult

TINY = (
    "model.dim=32", "model.ffn_dim=64", "model.heads=2", "model.layers=1", "text.max_tokens=48",
    "data.height=48", "data.width=80", "data.frames=5", "batch=2",
    "validation.samples=3", "validation.every_steps=4", "validation.timesteps=[200,600]",
    "checkpoint.every_steps=2", "optimizer.warmup_steps=2",
)  # fmt: skip


def settings(*overrides: str) -> TrainSettings:
    return load(TrainSettings, overrides=(*TINY, *overrides))


def train(
    data: Path, run: Path, chosen: TrainSettings, on_step: Callable[[StepMetrics], None] | None = None
) -> TrainResult:
    result = trainer.train(data, run, chosen, on_step=on_step)
    assert result is not None
    return result


def write_base(file: Path, *overrides: str) -> str:
    """Weights of the tiny model with a head that says something, and the setting that starts from them."""
    chosen = settings(*overrides)
    model = new_model(chosen.model, model_config(chosen.model, 384, chosen.text.max_tokens), seed=5, device="cpu")
    with torch.no_grad():
        model.head.head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(6))
    save_file(model.state_dict(), file)
    return f"model.init={file}"
