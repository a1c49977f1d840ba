"""Trains the tiny checkpoints of the world, one module a network: `dataengine world train`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dataengine.world.training.log import TrainingLog

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
"""The committed ones, a folder a network."""
_MODULES = {
    "qwen2_5_vl": "qwen",
    "grounding_dino": "grounding_dino",
    "sam": "sam",
    "centerface": "centerface",
    "insightface": "insightface",
}


class Trainer(Protocol):
    """Writes a checkpoint and its `training.json` into `output`; `steps` None is the whole training.

    Those that can train on a GPU also take `device`, `minutes` of wall clock, and `workers` that make data.
    """

    def __call__(
        self, output: Path, *, steps: int | None = None, seed: int = 0, say: Callable[[str], None] = print, **how: Any
    ) -> TrainingLog: ...


def trainer(network: str) -> Trainer:
    """The training of a network, imported when it is asked for. Raises `KeyError` for a name that is none."""
    module = import_module(f"dataengine.world.training.{_MODULES[network]}")
    found: Trainer = module.train
    return found
