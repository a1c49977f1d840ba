"""Low-rank adapters (LoRA, by peft) on the DiT's linear layers, and what is trained under which name.

Adapters are named by the layer they sit on: `blocks.0.self_attn.q.lora_A.weight` [rank, in] and `….lora_B.weight`
[out, rank]; the layer's weight is W + alpha / rank · B·A. B starts at zero, so training starts from the base.
"""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn

from dataengine.lumosx.settings import LoraSettings
from dataengine.lumosx.weights import WeightsError

_PEFT_NAME = re.compile(r"\.lora_([AB])\.default\.")


def add_adapters(model: nn.Module, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and put a trainable adapter on every target layer of every block.

    Raises:
        WeightsError: a target names no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and a full fine-tune does not need it

    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = [target for target in settings.targets if f"blocks.0.{target}" not in linear]
    if unknown:
        known = sorted(name.removeprefix("blocks.0.") for name in linear if name.startswith("blocks.0."))
        raise WeightsError(
            f"lora.targets: no linear layer {', '.join(unknown)} in a block; there are {', '.join(known)}"
        )
    names = "|".join(map(re.escape, settings.targets))
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=rf"blocks\.\d+\.({names})", lora_dropout=0.0
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_PEFT_NAME.search(name) is not None)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training changes, by its name in checkpoints: all parameters, or the adapters alone."""
    return {
        _PEFT_NAME.sub(r".lora_\1.", name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters' names and bytes: tells whether a base is the one that adapters were trained on."""
    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        found.update(name.encode())
        found.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
