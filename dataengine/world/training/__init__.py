"""Trains the tiny checkpoints of the world, one module a network: `dataengine world train`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dataengine.world.training.log import Figure, TrainingLog, read_log, write_log

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
    """The module that trains a network."""

    def train(
        self, output: Path, *, steps: int | None = None, seed: int = 0, say: Callable[[str], None] = print, **how: Any
    ) -> TrainingLog:
        """Write a checkpoint and its `training.json` into `output`; `steps` None is the whole training.

        Those that can train on a GPU also take `device`, `minutes` of wall clock, and `workers` that make data.
        """

    def held_out(self, folder: Path) -> tuple[Figure, ...]:
        """Figures of the checkpoint in a folder, through the adapter that a build uses. Raises what it raises."""


def trainer(network: str) -> Trainer:
    """The trainer of a network, imported when it is asked for. Raises `KeyError` for a name that is none."""
    found: Any = import_module(f"dataengine.world.training.{_MODULES[network]}")
    return found


def measured(network: str, folder: Path) -> TrainingLog:
    """The checkpoint's log with its figures on held-out examples, written into `training.json`.

    Apart from training, which runs where some adapters do not.
    """
    log = read_log(folder).model_copy(update={"held_out": trainer(network).held_out(folder)})
    write_log(folder, log)
    return log
