"""Checkpoints on disk: whole or absent, without pickle, the oldest removed.

A checkpoint is a folder `step-00000100` with `model.safetensors` and `ema.safetensors` (original Wan2.1 keys),
`optimizer.safetensors` (AdamW's moments by parameter name) and `state.json`. It is written under another name and
renamed when complete. Random numbers need no saving: everything drawn is a function of (seed, step or position).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dataengine.lumosx.weights import WeightsError, load_into

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps taken, skipped ones included.
        examples: taken from the order by all ranks together: the next position.
        settings: the run's settings as plain values, to refuse a resume under others.
    """

    step: int
    examples: int
    settings: dict[str, Any]


def save(folder: Path, progress: Progress, model: nn.Module, ema: nn.Module, optimizer: torch.optim.AdamW) -> Path:
    """Write the checkpoint of a step and return its folder."""
    final = folder / f"step-{progress.step:08d}"
    temporary = folder / f".tmp-{final.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_file(_tensors(model), temporary / "model.safetensors")
        save_file(_tensors(ema), temporary / "ema.safetensors")
        save_file(_moments(model, optimizer), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
        for file in temporary.iterdir():
            _sync(file)
        if final.exists():  # the same step again, after a resume from an older checkpoint
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def found(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first. Half-written ones have another name."""
    named = [path for path in folder.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: path.name, reverse=True)


def rotate(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what a killed process left half-written."""
    for path in (*found(folder)[keep:], *folder.glob(".tmp-step-*")):
        shutil.rmtree(path, ignore_errors=True)


def restore(folder: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.AdamW) -> Progress | None:
    """Load the newest readable checkpoint; None if there is none. One that is damaged is passed over with a warning.

    Raises:
        CheckpointError: there are checkpoints and none can be read.
    """
    damaged = []
    for path in found(folder):
        try:
            progress = read_progress(path)
            load_into(model, load_file(path / "model.safetensors"))
            load_into(ema, load_file(path / "ema.safetensors"))
            _load_moments(model, optimizer, load_file(path / "optimizer.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, WeightsError) as error:
            log.warning("checkpoint %s is damaged (%s): going back to the one before", path, error)
            damaged.append(f"{path.name}: {error}")
            continue
        return progress
    if damaged:
        raise CheckpointError(f"{folder}: no checkpoint can be read. {'; '.join(damaged)}")
    return None


def read_progress(path: Path) -> Progress:
    """The `state.json` of a checkpoint."""
    return Progress(**json.loads((path / "state.json").read_text(encoding="utf-8")))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """AdamW's state by `<parameter>/<moment>`."""
    return {
        f"{name}/{moment}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def _load_moments(model: nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    loaded: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        # AdamW counts steps on the CPU; the moments lie beside their parameter.
        loaded.setdefault(name, {})[moment] = tensor if moment == "step" else tensor.to(parameter)
    optimizer.state.clear()
    optimizer.state.update({parameters[name]: state for name, state in loaded.items()})


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
