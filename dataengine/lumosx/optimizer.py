"""AdamW, its learning rate over the steps, and its state by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dataengine.lumosx.settings import OptimizerSettings


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over what is trained; norms, biases and modulations do not decay.

    Fused, as that one leaves a step out when the device says so (`advance`).
    """
    decayed = [p for name, p in parameters.items() if p.ndim > 1 and not name.endswith("modulation")]
    kept = {id(p) for p in decayed}
    rest = [p for p in parameters.values() if id(p) not in kept]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    chosen = [group for group in groups if group["params"]]
    return torch.optim.AdamW(chosen, lr=settings.lr, betas=settings.betas, fused=True)


def advance(optimizer: torch.optim.AdamW, lr: float, finite: Tensor) -> None:
    """Take a step at this rate; none where `finite` (a bool on the device) is false. Does not wait for the device."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    vars(optimizer)["found_inf"] = (~finite).float()  # how `torch.amp.GradScaler` tells fused optimizers
    optimizer.step()


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The rate of step `step` (from 0): linear warm-up, then constant or a cosine down to a tenth."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def moments(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>/<moment>`; empty before the first step."""
    return {
        f"{name}/{moment}": value
        for name, parameter in parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }
