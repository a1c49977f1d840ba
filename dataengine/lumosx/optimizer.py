"""AdamW, its learning rate over the steps, and its state by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dataengine.config import ConfigError
from dataengine.lumosx.distributed import like
from dataengine.lumosx.settings import OptimizerSettings
from dataengine.lumosx.weights import WeightsError


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over what is trained; norms, biases and modulations do not decay.

    The plain one is fused, as that leaves a step out when the device says so (`advance`). `adamw8bit` is torchao's: its
    moments have 8 bits, scaled by blocks of 256. Raises `ConfigError` where torchao is not installed.
    """
    decayed = [p for name, p in parameters.items() if p.ndim > 1 and not name.endswith("modulation")]
    kept = {id(p) for p in decayed}
    rest = [p for p in parameters.values() if id(p) not in kept]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    chosen = [group for group in groups if group["params"]]
    if settings.kind == "adamw8bit":
        return _eight_bit()(chosen, lr=settings.lr, betas=settings.betas)
    return torch.optim.AdamW(chosen, lr=settings.lr, betas=settings.betas, fused=True)


def _eight_bit() -> Callable[..., torch.optim.Optimizer]:
    """torchao is no dependency: where it is installed, transformers imports it at every start, 2 s of CPU."""
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError("optimizer.kind=adamw8bit needs torchao: uv pip install torchao==0.18.0") from error
    return AdamW8bit


def advance(optimizer: torch.optim.Optimizer, lr: float, finite: Tensor) -> None:
    """Take a step at this rate; none where `finite` (a bool on the device) is false.

    Does not wait for the device, but with 8-bit moments: torchao's optimizer takes no word from it.
    """
    fused = isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        if fused:
            group["lr"] = lr
        else:
            group["lr"].fill_(lr)  # a tensor, or every rate would be compiled anew
    if fused:
        vars(optimizer)["found_inf"] = (~finite).float()  # how `torch.amp.GradScaler` tells fused optimizers
        optimizer.step()
    elif finite.item():
        # Compiled for each shape on a GPU; a CPU need not have a compiler.
        with torch.compiler.set_stance("force_eager" if finite.device.type == "cpu" else "default"):
            optimizer.step()


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The rate of step `step` (from 0): linear warm-up, then constant or a cosine down to a tenth."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def moments(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>/<moment>`; empty before the first step.

    A moment of 8 bits is two plain tensors, `<parameter>/<moment>.codes` (uint8) and `….scale`.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for moment, value in optimizer.state.get(parameter, {}).items():
            if hasattr(value, "codes"):
                found[f"{name}/{moment}.codes"], found[f"{name}/{moment}.scale"] = value.codes, value.scale
            else:
                found[f"{name}/{moment}"] = value
    return found


def load_moments(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put what `moments` gave, whole, into an optimizer over the same parameters. Every rank takes its part.

    Raises:
        WeightsError: they are of other parameters, or of another kind of optimizer.
    """
    loaded: dict[str, dict[str, Tensor]] = {}
    fused = isinstance(optimizer, torch.optim.AdamW)
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        if name not in parameters:
            raise WeightsError(f"{name} is not trained in this run")
        if moment.endswith((".codes", ".scale")) and fused:
            raise WeightsError(f"{key} is of 8-bit AdamW: optimizer.kind=adamw8bit")
        target, state = parameters[name].detach(), loaded.setdefault(name, {})
        if moment == "step":  # counted whole by every rank; torchao counts on the CPU
            state[moment] = tensor.to(target.device if fused else "cpu")
        elif moment.endswith(".codes"):
            kind = moment.removesuffix(".codes")
            state[kind] = _quantised(tensor, tensors[f"{name}/{kind}.scale"], target.device, signed=kind == "exp_avg")
        elif not moment.endswith(".scale"):
            state[moment] = like(tensor, target)
    optimizer.state.clear()
    optimizer.state.update({parameters[name]: state for name, state in loaded.items()})


def _quantised(codes: Tensor, scale: Tensor, device: torch.device, *, signed: bool) -> Tensor:
    from torchao.optim.subclass_8bit import OptimState8bit

    made = OptimState8bit.zeros(codes.shape, signed, codes.numel() // scale.numel(), device, dtype=torch.float32)
    made.codes.copy_(codes)
    made.scale.copy_(scale)
    return made
