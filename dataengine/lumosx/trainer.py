"""Trains the LumosX DiT from shards: flow matching, AdamW, weight average, checkpoints that resume bit for bit."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dataengine.config import ConfigError
from dataengine.lumosx import checkpoint
from dataengine.lumosx.components import best_device, model_config, new_model, open_codec, open_text
from dataengine.lumosx.data import (
    Batch,
    BatchEncoder,
    Example,
    ExampleStream,
    Refused,
    Samples,
)
from dataengine.lumosx.losses import batch_losses, draw_noise, draw_timesteps
from dataengine.lumosx.metrics import (
    MetricsLog,
    StepMetrics,
    ValidationMetrics,
    draw_loss_curve,
    read_metrics,
)
from dataengine.lumosx.settings import OptimizerSettings, TrainSettings
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.validation import Validator
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SETTINGS_FILE = "settings.json"
DATA_FILE = "data.txt"
SKIPPED_FILE = "skipped.jsonl"

_RESUMABLE = {"steps", "checkpoint", "validation", "sampling", "max_skipped", "data.workers", "data.cache_mb"}
"""Settings that a resumed run may change: they do not touch what the steps before it computed."""


class TrainError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run made.

    Attributes:
        steps: in all, those before a resume included.
        seconds: of this call, models loaded and validation included.
        step_seconds: median of a step, waiting for data included.
        before, after: validation loss at the first and last step by validation set (see `metrics`).
        checkpoint: the newest checkpoint's folder.
        curve: PNG of the losses.
        skipped: steps without a finite gradient or without an example.
        refused: samples that could not be used, by key, with the reason.
    """

    run: Path
    steps: int
    seconds: float
    step_seconds: float
    before: dict[str, float]
    after: dict[str, float]
    checkpoint: Path
    curve: Path
    skipped: int
    refused: dict[str, str]


def train(
    data: Path | str,
    run: Path,
    settings: TrainSettings,
    *,
    rank: int = 0,
    world: int = 1,
    console: Console | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
) -> TrainResult:
    """Train on the `train` split of a dataset; a run folder with checkpoints is resumed.

    With several ranks, `torch.distributed` must be initialised; gradients are summed, and rank 0 validates and writes.

    Args:
        data: folder or URI that `dataengine build` wrote.
        run: folder of the run.
        settings: on resume, only what does not change earlier steps may differ.
        rank, world: of this process.
        console: where progress is shown; None: nowhere.
        on_step: called after every step; an exception from it ends the run (the last checkpoint stands).

    Raises:
        TrainError: no sample to train on, settings that do not fit the run, or too many skipped steps in a row.
        MissingWeightsError: the codec or text encoder is not on this machine.
        StoreError: the dataset cannot be read.
    """
    started = time.monotonic()
    samples, held_out = PairDataset(Store.at(data), "train"), PairDataset(Store.at(data), "val")
    if not len(samples):
        raise TrainError(
            f"{data}: no sample in the train split ({len(held_out)} in val). Build from more videos, "
            "or with a smaller decide.pairs.val_share"
        )
    trainer = Trainer(samples, held_out, run, settings, rank=rank, world=world)
    if rank == 0:
        (run / DATA_FILE).write_text(Store.at(data).uri, encoding="utf-8")
    with _progress(console if rank == 0 else None, settings.steps, trainer.step) as show:
        for metrics in trainer.steps():
            show(metrics, trainer.last_validation)
            if on_step is not None:
                on_step(metrics)
    return trainer.result(time.monotonic() - started)


class Trainer:
    """One rank of a run: its state, and the loop over it. Knows nothing of Ray or of how the ranks were started."""

    def __init__(
        self,
        samples: Samples,
        held_out: Samples,
        run: Path,
        settings: TrainSettings,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if world > 1 and not dist.is_initialized():
            raise TrainError("training on several ranks needs torch.distributed.init_process_group first")
        self.run, self.settings, self._rank, self._world = run, settings, rank, world
        self._device = best_device()
        if self._device.type == "cpu":
            torch.set_num_threads(settings.cpu_threads)
        text = open_text(settings.text, self._device)
        self._encoder = BatchEncoder(open_codec(settings.codec, self._device), text)
        config = model_config(settings.model, text.dim, settings.text.max_tokens)
        self.model = new_model(settings.model, config, settings.seed, self._device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = _optimizer(self.model, settings.optimizer)
        self._samples = samples
        self.step = self._resume()
        self._refused: dict[str, str] = {}
        self._log = MetricsLog(run, self.step) if rank == 0 else None
        self._validator = Validator(samples, held_out, self._encoder, settings) if rank == 0 else None
        self.last_validation: tuple[ValidationMetrics, ...] = ()

    def steps(self) -> Iterator[StepMetrics]:
        """Take the steps that are left, one at an iteration; validate and save when due."""
        if self.step == 0:
            self._validate()
        skipped_in_a_row = 0
        stream = ExampleStream(
            self._samples,
            self.settings.data,
            self.settings.seed,
            start=self.step * self.settings.batch,
            rank=self._rank,
            world=self._world,
        )
        examples = iter(stream.loader(self.settings.data.workers))
        while self.step < self.settings.steps:
            started = time.monotonic()
            metrics = self._step(list(islice(examples, self.settings.batch)), started)
            skipped_in_a_row = skipped_in_a_row + 1 if metrics.skipped else 0
            if self._log is not None:
                self._log.add(metrics)
            if skipped_in_a_row == self.settings.max_skipped:
                raise TrainError(
                    f"{skipped_in_a_row} steps in a row had no usable example or no finite gradient, up to step "
                    f"{self.step}: see {self.run / SKIPPED_FILE}. The last checkpoint is good; a lower optimizer.lr "
                    "or validating the dataset may help"
                )
            self._after_step()
            yield metrics

    def result(self, seconds: float) -> TrainResult:
        """Sum the run up and draw its loss curve. Call it on rank 0 after the last step."""
        if self._log is not None:
            self._log.close()
        curve = self.run / "loss.png"
        draw_loss_curve(self.run, curve)
        steps, validations = read_metrics(self.run)
        first = {event.clips: event.loss for event in reversed(validations)}
        last = {event.clips: event.loss for event in validations}
        return TrainResult(
            run=self.run,
            steps=self.step,
            seconds=seconds,
            step_seconds=sorted(event.seconds for event in steps)[len(steps) // 2],
            before=first,
            after=last,
            checkpoint=checkpoint.found(self.run / CHECKPOINTS)[0],
            curve=curve,
            skipped=sum(event.skipped for event in steps),
            refused=dict(self._refused),
        )

    # --- One step ----------------------------------------------------------------------------------------------------

    def _step(self, examples: Sequence[Example | Refused], started: float) -> StepMetrics:
        batch, refused = self._encoder.encode(examples)
        self._note_refused(refused)
        lr = learning_rate(self.step, self.settings.steps, self.settings.optimizer)
        loss, norm, count = self._gradients(batch)
        finite = count > 0 and math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            update_average(self.ema, self.model, self.settings.optimizer.ema_decay, self.step)
        else:
            self._note_skipped(batch, loss, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepMetrics(
            step=self.step,
            loss=loss if math.isfinite(loss) else None,
            grad_norm=norm if math.isfinite(norm) else None,
            lr=lr,
            examples=count,
            skipped=not finite,
            seconds=round(time.monotonic() - started, 4),
        )

    def _gradients(self, batch: Batch) -> tuple[float, float, int]:
        """Loss, gradient norm before clipping, and number of examples, each over all ranks; leaves clipped gradients.

        The loss is the mean over the examples of all ranks, whichever of them had how many.
        """
        per_step = self.settings.batch * self._world
        noise_levels = draw_timesteps(per_step, self.settings.noise, self.settings.seed, self.step, self._device)
        count = torch.tensor(float(len(batch)), device=self._device)
        total = torch.zeros((), device=self._device)
        if len(batch):
            slots = [position % per_step for position in batch.positions]
            noises = [
                draw_noise(latent, self.settings.seed, position)
                for latent, position in zip(batch.latents, batch.positions, strict=True)
            ]
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                losses = batch_losses(self.model, batch, noises, noise_levels[slots])
            losses.sum().backward()
            total = losses.detach().sum()
        if self._world > 1:
            dist.all_reduce(count)
            dist.all_reduce(total)
            for parameter in self.model.parameters():
                if parameter.grad is None:  # a rank without an example still takes part in the sum
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
        if not count:
            return math.nan, math.nan, 0
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        torch._foreach_div_(gradients, count.item())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.optimizer.clip_norm)
        return (total / count).item(), norm.item(), int(count)

    def _note_refused(self, refused: Iterable[Refused]) -> None:
        for sample in refused:
            if sample.key not in self._refused:
                log.warning("sample %s is left out: %s", sample.key, sample.reason)
            self._refused[sample.key] = sample.reason

    def _note_skipped(self, batch: Batch, loss: float, norm: float) -> None:
        log.warning("step %d is skipped: loss %s, gradient norm %s, samples %s", self.step + 1, loss, norm, batch.keys)
        line = {
            "step": self.step + 1,
            "rank": self._rank,
            "keys": batch.keys,
            "loss": str(loss),
            "grad_norm": str(norm),
        }
        with (self.run / SKIPPED_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    # --- Between steps -----------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        last = self.step == self.settings.steps
        if last or self.step % self.settings.validation.every_steps == 0:
            self._validate()
        if self._rank == 0 and (last or self.step % self.settings.checkpoint.every_steps == 0):
            folder = self.run / CHECKPOINTS
            checkpoint.save(folder, self._progress(), self.model, self.ema, self.optimizer)
            checkpoint.rotate(folder, self.settings.checkpoint.keep)

    def _validate(self) -> None:
        if self._validator is None or self._log is None:
            return
        self.last_validation = self._validator(self.ema, self.step)
        for event in self.last_validation:
            self._log.add(event)

    def _progress(self) -> checkpoint.Progress:
        examples = self.step * self.settings.batch * self._world
        return checkpoint.Progress(self.step, examples, self.settings.model_dump(mode="json"))

    def _resume(self) -> int:
        """The step to go on from. Rank 0 leaves the settings in the run's folder."""
        self.run.mkdir(parents=True, exist_ok=True)
        progress = checkpoint.restore(self.run / CHECKPOINTS, self.model, self.ema, self.optimizer)
        if progress is not None:
            changed = sorted(_differences(progress.settings, self.settings.model_dump(mode="json")))
            if changed:
                raise TrainError(
                    f"{self.run}: its checkpoint was trained with other settings: {'; '.join(changed)}. Train into "
                    "another run folder, or with the settings it has"
                )
            if progress.examples != progress.step * self.settings.batch * self._world:
                raise TrainError(
                    f"{self.run}: its checkpoint was trained on another number of ranks than {self._world}"
                )
            log.info("resuming %s after step %d", self.run, progress.step)
        if self._rank == 0:
            text = json.dumps(self.settings.model_dump(mode="json"), indent=1)
            (self.run / SETTINGS_FILE).write_text(text, encoding="utf-8")
        return 0 if progress is None else progress.step


# --- What a step is made of -------------------------------------------------------------------------------------------


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """The rate of step `step` (from 0): linear warm-up, then constant or a cosine down to a tenth."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def update_average(ema: DiT, model: DiT, decay: float, step: int) -> None:
    """Move the average towards the weights. Early steps count for more, or the start would linger."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def _optimizer(model: DiT, settings: OptimizerSettings) -> torch.optim.AdamW:
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("modulation")]
    kept = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in kept]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)


# --- Around the loop --------------------------------------------------------------------------------------------------


def load_run_data(run: Path) -> str:
    """Folder or URI of the dataset a run was trained on.

    Raises:
        ConfigError: not a run folder.
    """
    try:
        return (run / DATA_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{run}: not a training run: {error}") from error


def load_run_settings(run: Path) -> TrainSettings:
    """The settings a run was trained with.

    Raises:
        ConfigError: not a run folder, or one of another version.
    """
    file = run / SETTINGS_FILE
    try:
        return TrainSettings.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: not the settings of a training run: {error}") from error


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        name = prefix + key
        if name in _RESUMABLE or old.get(key) == new.get(key):
            continue
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            yield from _differences(old[key], new[key], name + ".")
        else:
            yield f"{name} was {old.get(key)!r}, now {new.get(key)!r}"


@contextmanager
def _progress(
    console: Console | None, steps: int, done: int
) -> Iterator[Callable[[StepMetrics, Sequence[ValidationMetrics]], None]]:
    if console is None:
        yield lambda metrics, validation: None
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  validation {task.fields[validation]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=steps, completed=done, loss="–", validation="–")

        def show(metrics: StepMetrics, validation: Sequence[ValidationMetrics]) -> None:
            loss = "skipped" if metrics.loss is None else f"{metrics.loss:.3f}"
            shown = " / ".join(f"{event.loss:.3f}" for event in validation) or "–"
            bar.update(task, completed=metrics.step, loss=loss, validation=shown)

        yield show
