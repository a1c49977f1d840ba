"""What a training leaves beside its checkpoint: `training.json`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from dataengine.records import Record

FILE = "training.json"


class Point(Record):
    """The training loss at a step, smoothed over the steps before."""

    step: int
    loss: float


class Figure(Record):
    """A figure on held-out examples, through the adapter that a build uses."""

    name: str
    value: float
    of: int = Field(description="how many it is a mean of")


class TrainingLog(Record):
    """One run, so that it can be repeated and its checkpoint be compared with another's."""

    network: str
    parameters: int
    bytes: int = Field(description="size of the checkpoint's files")
    steps: int
    seed: int
    cpu_minutes: float = Field(description="of the training process, on one thread; of its workers not")
    minutes: float | None = Field(None, description="wall clock")
    device: str = Field("cpu", description="it was trained on: cpu, or a GPU's name")
    torch: str
    curve: tuple[Point, ...]
    held_out: tuple[Figure, ...]


def write_log(folder: Path, log: TrainingLog) -> None:
    """Write `training.json` into the checkpoint's folder."""
    (folder / FILE).write_text(json.dumps(json.loads(log.to_json()), indent=1) + "\n")


def read_log(folder: Path) -> TrainingLog:
    """Raises `FileNotFoundError` where no training wrote one."""
    return TrainingLog.from_json((folder / FILE).read_bytes())
