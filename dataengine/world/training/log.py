"""What a training leaves beside its checkpoint: `training.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from dataengine.records import Record
from dataengine.world.training.device import device_name

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
    held_out: tuple[Figure, ...] = Field((), description="empty until it is measured")


@dataclass
class Losses:
    """The curve of a training of this many steps, a point a twentieth of it; every point is told as it is made."""

    steps: int
    say: Callable[[str], None]
    curve: list[Point] = field(default_factory=list)
    _recent: list[float] = field(default_factory=list)

    def add(self, step: int, loss: float) -> None:
        """The loss of a step, which are counted from 0."""
        self._recent.append(loss)
        every = max(1, self.steps // 20)
        if step % every == every - 1 or step == self.steps - 1:
            self.curve.append(Point(step=step + 1, loss=round(sum(self._recent) / len(self._recent), 4)))
            self.say(f"{step + 1}: loss {self.curve[-1].loss:.3f}")
            self._recent.clear()


def log_training(
    folder: Path,
    network: str,
    *,
    weights: Iterable[Tensor],
    files: Iterable[Path],
    steps: int,
    seed: int,
    cpu_s: float,
    wall_s: float | None = None,
    device: str = "cpu",
    curve: Sequence[Point],
) -> TrainingLog:
    """Write the log of a training that is done into its checkpoint's folder, without figures.

    Args:
        weights: of the network, to be counted.
        files: of the checkpoint.
        device: of torch.
    """
    log = TrainingLog(
        network=network,
        parameters=sum(weight.numel() for weight in weights),
        bytes=sum(file.stat().st_size for file in files),
        steps=steps,
        seed=seed,
        cpu_minutes=round(cpu_s / 60, 1),
        minutes=None if wall_s is None else round(wall_s / 60, 1),
        device=device_name(device),
        torch=torch.__version__,
        curve=tuple(curve),
    )
    write_log(folder, log)
    return log


def write_log(folder: Path, log: TrainingLog) -> None:
    """Write `training.json` into the checkpoint's folder."""
    (folder / FILE).write_text(json.dumps(json.loads(log.to_json()), indent=1) + "\n")


def read_log(folder: Path) -> TrainingLog:
    """Raises `FileNotFoundError` where no training wrote one."""
    return TrainingLog.from_json((folder / FILE).read_bytes())
