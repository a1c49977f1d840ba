"""A run's numbers: one JSON line an event (the record), tensorboard (to watch), a loss curve (to show)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.config import ConfigError

LEARNED, HELD_OUT = "training clips, held-out noise", "held-out clips"
"""The two validation sets: clips that are trained on under noise that never is, and clips that never are."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step. `loss` is the mean over the examples of all ranks.

    A step is skipped when no example could be used, or when the loss or a gradient is not finite; what was not finite
    is None.

    Attributes:
        by_noise: mean loss by range of t (`0-500`), for the ranges that the step had examples in.
        seconds: of the step, waiting for data included.
        waited: of them, for data.
    """

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float
    examples: int
    skipped: bool
    seconds: float
    waited: float = 0.0
    by_noise: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValidationMetrics:
    """The loss of one validation set under fixed noise: over all, by noise level, by size where there are several."""

    step: int
    clips: str
    loss: float
    by_timestep: dict[str, float]
    by_size: dict[str, float] = field(default_factory=dict)


class MetricsLog:
    """Appends to `metrics.jsonl` and tensorboard, and to Weights & Biases when a project is named.

    Opened at a step, it forgets what a killed run did after it.

    Raises:
        ConfigError: a project is named and the wandb package is not installed.
    """

    def __init__(self, run: Path, step: int, wandb_project: str | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only rank 0 writes

        self._wandb = None if wandb_project is None else _open_wandb(run, wandb_project)
        self._file = run / "metrics.jsonl"
        steps, validations = read_metrics(run)
        events: list[StepMetrics | ValidationMetrics] = [*steps, *validations]
        kept = sorted((event for event in events if event.step <= step), key=lambda event: event.step)
        temporary = self._file.with_name(f".{self._file.name}.tmp")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        temporary.replace(self._file)  # a kill in between must not cost the record of a run
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def add(self, event: StepMetrics | ValidationMetrics) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(_line(event))
        scalars = dict(_scalars(event))
        for name, value in scalars.items():
            self._board.add_scalar(name, value, event.step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=event.step)

    def add_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """rgb [H, W, 3]."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _scalars(event: StepMetrics | ValidationMetrics) -> Iterator[tuple[str, float]]:
    if isinstance(event, ValidationMetrics):
        name = event.clips.replace(", ", "/").replace(" ", "_")
        yield f"validation/{name}", event.loss
        yield from ((f"validation_t{timestep}/{name}", loss) for timestep, loss in event.by_timestep.items())
        yield from ((f"validation_{size}/{name}", loss) for size, loss in event.by_size.items())
        return
    for name in ("loss", "grad_norm", "lr", "seconds", "waited"):
        if (value := getattr(event, name)) is not None:
            yield f"train/{name}", value
    yield from ((f"train_loss_t/{levels}", loss) for levels, loss in event.by_noise.items())


def _open_wandb(run: Path, project: str) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            "tracking.wandb_project: the wandb package is not installed. Install it, or leave the setting out: "
            "tensorboard and metrics.jsonl are written anyway"
        ) from error
    # The same id again continues the run there.
    return wandb.init(project=project, id=run.resolve().name, name=run.name, dir=str(run), resume="allow")


def read_metrics(run: Path) -> tuple[list[StepMetrics], list[ValidationMetrics]]:
    """What a run has recorded so far; a last line that a kill cut off is left out."""
    steps: list[StepMetrics] = []
    validations: list[ValidationMetrics] = []
    file = run / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if values.pop("event") == "step":
            steps.append(StepMetrics(**values))
        else:
            validations.append(ValidationMetrics(**values))
    return steps, validations


def draw_loss_curve(run: Path, output: Path) -> None:
    """Training and validation loss over steps as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, validations = read_metrics(run)
    points = [(event.step, event.loss) for event in steps if event.loss is not None and not event.skipped]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    if points:
        x, y = np.array(points).T
        axes.plot(x, y, ".", color="#9db7d5", markersize=3, label="training, each step")
        width = min(len(y), 25)
        smooth = np.convolve(y, np.ones(width) / width, mode="valid")
        axes.plot(x[width - 1 :], smooth, color="#1f5a99", linewidth=2, label=f"training, mean of {width} steps")
    for clips, colour in ((LEARNED, "#2a8f4f"), (HELD_OUT, "#c8501e")):
        chosen = [(event.step, event.loss) for event in validations if event.clips == clips]
        if chosen:
            x, y = np.array(chosen).T
            axes.plot(x, y, "o-", color=colour, linewidth=2, markersize=5, label=clips)
    axes.set(xlabel="step", ylabel="velocity loss (mean squared error)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(_title(validations), loc="left", fontsize=11)
    figure.savefig(output)
    pyplot.close(figure)


def _title(validations: Sequence[ValidationMetrics]) -> str:
    parts = []
    for clips in (LEARNED, HELD_OUT):
        losses = [event.loss for event in sorted(validations, key=lambda e: e.step) if event.clips == clips]
        if losses:
            parts.append(f"{clips}: {losses[0]:.3f} to {losses[-1]:.3f}")
    return " · ".join(parts) or "loss"


def _line(event: StepMetrics | ValidationMetrics) -> str:
    kind = "step" if isinstance(event, StepMetrics) else "validation"
    return json.dumps({"event": kind, **asdict(event)}) + "\n"
