"""Trains the LumosX DiT from shards: flow matching, AdamW, weight average, checkpoints that resume bit for bit."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dataengine.config import ConfigError
from dataengine.lumosx import checkpoint
from dataengine.lumosx.adapters import add_adapters, digest, trained_parameters
from dataengine.lumosx.average import Average
from dataengine.lumosx.components import best_device, model_config, new_model, open_codec, seed_of
from dataengine.lumosx.data import BatchEncoder, ExampleStream, Refused
from dataengine.lumosx.distributed import ALONE, Ranks, shard, together
from dataengine.lumosx.metrics import (
    MetricsLog,
    StepMetrics,
    ValidationMetrics,
    draw_loss_curve,
    read_metrics,
)
from dataengine.lumosx.optimizer import make_optimizer
from dataengine.lumosx.order import Curriculum, OrderError, Traits
from dataengine.lumosx.preview import Previewer, read_sheet, save_sheet
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.step import Issued, Stepper
from dataengine.lumosx.stored import NotStored, StoredLatents, stored_text
from dataengine.lumosx.validation import Validator
from dataengine.lumosx.windows import names_sides
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
PREVIEWS = "samples"
SETTINGS_FILE = "settings.json"
DATA_FILE = "data.txt"
SKIPPED_FILE = "skipped.jsonl"
REFUSED_FILE = "refused.jsonl"

_RESUMABLE = {
    "steps", "checkpoint", "validation", "sampling", "max_skipped", "data.workers", "data.cache_mb",
    "stored", "batch", "accumulate", "model.checkpointing",
}  # fmt: skip
"""Settings that a resumed run may change: they do not touch what the steps before it computed. `batch` and `accumulate`
only together with the number of ranks: the samples of a step stay the same."""


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
    console: Console | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
) -> TrainResult | None:
    """Train on the `train` split of a dataset; a run folder with checkpoints is resumed.

    With several ranks (an initialised `torch.distributed`), parameters are split over them (FSDP2), and the first
    writes; all must see the run's folder.

    Args:
        data: folder or URI that `dataengine build` wrote.
        run: folder of the run.
        settings: on resume, only what does not change earlier steps may differ.
        console: where progress is shown; None: nowhere.
        on_step: called after every step; an exception from it ends the run (the last checkpoint stands).

    Returns:
        The result on the first rank, None on the others.

    Raises:
        TrainError: no sample to train on, settings that do not fit the run, or too many skipped steps in a row.
        MissingWeightsError: the codec or text encoder is not on this machine.
        StoreError: the dataset cannot be read.
    """
    started = time.monotonic()
    ranks = Ranks.here()
    samples, held_out = PairDataset(Store.at(data), "train"), PairDataset(Store.at(data), "val")
    if not len(samples):
        raise TrainError(
            f"{data}: no sample in the train split ({len(held_out)} in val). Build from more videos, "
            "or with a smaller decide.pairs.val_share"
        )
    with closing(Trainer(samples, held_out, run, settings, ranks)) as trainer:
        if ranks.first:
            (run / DATA_FILE).write_text(Store.at(data).uri, encoding="utf-8")
        with _progress(console if ranks.first else None, settings.steps, trainer.step) as show:
            for metrics in trainer.steps():
                show(metrics, trainer.last_validation)
                if on_step is not None:
                    on_step(metrics)
    return result(run, time.monotonic() - started) if ranks.first else None


class Trainer:
    """One rank of a run: its state, and the loop over it. Knows nothing of Ray or of how the ranks were started."""

    def __init__(
        self,
        samples: PairDataset,
        held_out: PairDataset,
        run: Path,
        settings: TrainSettings,
        ranks: Ranks = ALONE,
    ) -> None:
        self.run, self.settings, self._ranks = run, settings, ranks
        self.per_step = settings.batch * settings.accumulate * ranks.world
        if settings.optimizer.kind == "adamw8bit" and ranks.world > 1:
            raise TrainError(
                f"optimizer.kind=adamw8bit works on one rank: on {ranks.world} AdamW's moments are split among them, "
                "so take optimizer.kind=adamw"
            )
        try:
            self._order = Curriculum(Traits.of(samples.index), settings.data, self.per_step, settings.seed)
        except OrderError as error:
            raise TrainError(str(error)) from error
        self._samples = samples
        self._device = best_device()
        if self._device.type == "cpu":
            torch.set_num_threads(settings.cpu_threads)
        try:
            self._stored = StoredLatents.of(settings)
            text = stored_text(settings, self._device)
        except NotStored as error:
            raise TrainError(
                f"{error}. `dataengine cache latents` with this run's settings makes them; without stored.place all "
                "is encoded on line"
            ) from error
        codec = open_codec(settings.codec, self._device)
        self._encoder = BatchEncoder(codec, text, self._device)
        # Several ranks: each block goes to the GPU when it is split, so that no GPU need hold the whole model.
        config = model_config(settings.model, text.dim, settings.text.max_tokens)
        self.model = new_model(settings.model, config, settings.seed, self._device if ranks.world == 1 else "cpu")
        self._base = digest(self.model) if settings.lora.rank else None
        if settings.lora.rank:
            add_adapters(self.model, settings.lora, seed_of(settings.seed, "adapters"))
        shard(self.model, self.model.blocks, ranks, bf16=settings.precision == "bf16")
        self.parameters = trained_parameters(self.model)
        self.average = Average(self.parameters, settings.optimizer.ema_decay)
        self.optimizer = make_optimizer(self.parameters, settings.optimizer)
        self.step = self._resume()
        self._refused: set[str] = set()
        self._skipped_in_a_row = 0
        self._stepper = Stepper(
            self.model, self.parameters, self.average, self.optimizer, self._encoder, settings, ranks, self._device
        )
        self._writer = checkpoint.Writer(run / CHECKPOINTS, settings.checkpoint.keep)
        self._log = MetricsLog(run, self.step, settings.tracking.wandb_project) if ranks.first else None
        self._validator = Validator(samples, held_out, self._encoder, settings, ranks, self._device)
        self.last_validation: tuple[ValidationMetrics, ...] = ()
        self._previewer = None
        if settings.validation.sample_every_steps:
            # Held-out pairs where there are any.
            shown = held_out if len(held_out) else samples
            self._previewer = Previewer(shown, self._encoder, codec, text, settings, ranks)
        if settings.data.flip_share:
            _warn_of_sides(samples)

    def steps(self) -> Iterator[StepMetrics]:
        """Take the steps that are left; validate and save when due.

        A step is told of when the next one has been issued, or when something is due behind it: so the device always
        has work, and nothing waits for it.
        """
        if self.step == 0:
            self._validate()
        stream = ExampleStream(
            self._samples,
            self._order,
            self.settings.data,
            self.settings.seed,
            start=self.step * self.per_step // self._ranks.world,
            rank=self._ranks.rank,
            world=self._ranks.world,
            stored=self._stored,
        )
        examples = iter(stream.loader(self.settings.data.workers))
        running: Issued | None = None  # the device may still be at it
        while self.step < self.settings.steps:
            issued = self._stepper.take(self.step, examples)
            self.step += 1
            if running is not None:
                yield self._ended(running)
            running = issued
            if self._is_due():
                metrics, running = self._ended(running), None
                self._after_step()
                yield metrics
        self._writer.wait()

    def close(self) -> None:
        """Finish writing what was begun."""
        self._writer.close()
        if self._log is not None:
            self._log.close()

    # --- What steps left ----------------------------------------------------------------------------------------------

    def _ended(self, issued: Issued) -> StepMetrics:
        """Record what a step computed. Raises `TrainError` when it was one skipped step too many."""
        metrics = issued.metrics()
        self._note_refused(issued.refused)
        if self._log is not None:
            self._log.add(metrics)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if metrics.skipped else 0
        if metrics.skipped:
            self._note_skipped(issued, metrics)
        if self._skipped_in_a_row == self.settings.max_skipped:
            raise TrainError(
                f"{self._skipped_in_a_row} steps in a row had no usable example or no finite gradient, up to step "
                f"{metrics.step}: see {self.run / SKIPPED_FILE}. The last checkpoint is good; a lower optimizer.lr "
                "or validating the dataset may help"
            )
        return metrics

    def _note_refused(self, refused: Iterable[Refused]) -> None:
        for sample in refused:
            if sample.key not in self._refused:
                self._refused.add(sample.key)
                log.warning("sample %s is left out: %s", sample.key, sample.reason)
                self._note(REFUSED_FILE, {"key": sample.key, "reason": sample.reason})

    def _note_skipped(self, issued: Issued, metrics: StepMetrics) -> None:
        log.warning(
            "step %d is skipped: loss %s, gradient norm %s, samples %s",
            metrics.step, metrics.loss, metrics.grad_norm, ", ".join(issued.keys),
        )  # fmt: skip
        line = {
            "step": metrics.step,
            "rank": self._ranks.rank,
            "keys": issued.keys,
            "loss": metrics.loss,
            "grad_norm": metrics.grad_norm,
        }
        self._note(SKIPPED_FILE, line)

    def _note(self, file: str, line: dict[str, Any]) -> None:
        with (self.run / file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    # --- Between steps -----------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        """Whether something waits for the step that was issued last."""
        settings = self.settings
        every = (settings.validation.every_steps, settings.checkpoint.every_steps)
        shown = settings.validation.sample_every_steps if self._previewer is not None else 0
        return self.step == settings.steps or any(self.step % n == 0 for n in (*every, shown) if n)

    def _after_step(self) -> None:
        last = self.step == self.settings.steps
        if last or self.step % self.settings.validation.every_steps == 0:
            self._validate()
        if self._previewer is not None and (last or self.step % self.settings.validation.sample_every_steps == 0):
            self._preview(self._previewer)
        if last or self.step % self.settings.checkpoint.every_steps == 0:
            tensors = checkpoint.snapshot(self.parameters, self.average, self.optimizer, self._ranks)
            if self._ranks.first:
                self._writer.save(self._progress(), tensors)

    def _validate(self) -> None:
        """On all ranks: a split model computes with all of them or not at all."""
        with self.average.in_place():
            self.last_validation = self._validator(self.model, self.step)
        if self._log is not None:
            for event in self.last_validation:
                self._log.add(event)

    def _preview(self, previewer: Previewer) -> None:
        """On all ranks, as validation. Each writes its own sheets, and the first tells of all."""
        folder = self.run / PREVIEWS / f"step-{self.step:08d}"
        with self.average.in_place():
            for key, sheet in previewer(self.model):
                save_sheet(sheet, folder / f"{key}.png")
        together(self._ranks)
        if self._log is not None:
            for key in previewer.keys:
                self._log.add_image(f"sample/{key}", read_sheet(folder / f"{key}.png"), self.step)

    def _progress(self) -> checkpoint.Progress:
        settings = self.settings.model_dump(mode="json")
        return checkpoint.Progress(self.step, self.step * self.per_step, settings, self._base)

    def _resume(self) -> int:
        """The step to go on from. The first rank leaves the settings in the run's folder."""
        self.run.mkdir(parents=True, exist_ok=True)
        newest = checkpoint.newest(self.run / CHECKPOINTS, self._ranks)
        progress = None if newest is None else checkpoint.read_progress(newest)
        if newest is not None and progress is not None:
            self._check_resumable(progress)
            checkpoint.restore(newest, self.parameters, self.average, self.optimizer)
            log.info("resuming %s after step %d", self.run, progress.step)
        if self._ranks.first:
            text = json.dumps(self.settings.model_dump(mode="json"), indent=1)
            (self.run / SETTINGS_FILE).write_text(text, encoding="utf-8")
        return 0 if progress is None else progress.step

    def _check_resumable(self, progress: checkpoint.Progress) -> None:
        changed = sorted(_differences(_with_defaults(progress.settings), self.settings.model_dump(mode="json")))
        if changed:
            raise TrainError(
                f"{self.run}: its checkpoint was trained with other settings: {'; '.join(changed)}. Train into "
                "another run folder, or with the settings it has"
            )
        if progress.examples != progress.step * self.per_step:
            raise TrainError(
                f"{self.run}: its checkpoint was trained on {progress.examples // progress.step} samples a step, now "
                f"they would be {self.per_step}. Choose batch × accumulate × ranks to be the same"
            )
        if progress.base != self._base:
            raise TrainError(
                f"{self.run}: its adapters were trained on other weights than model.init={self.settings.model.init}"
            )


def result(run: Path, seconds: float) -> TrainResult:
    """Sum a finished run up, by what its folder holds, and draw its loss curve."""
    curve = run / "loss.png"
    draw_loss_curve(run, curve)
    steps, validations = read_metrics(run)
    refused = run / REFUSED_FILE
    lines = refused.read_text(encoding="utf-8").splitlines() if refused.is_file() else []
    return TrainResult(
        run=run,
        steps=steps[-1].step,
        seconds=seconds,
        step_seconds=sorted(event.seconds for event in steps)[len(steps) // 2],
        before={event.clips: event.loss for event in reversed(validations)},
        after={event.clips: event.loss for event in validations},
        checkpoint=checkpoint.found(run / CHECKPOINTS)[0],
        curve=curve,
        skipped=sum(event.skipped for event in steps),
        refused={entry["key"]: entry["reason"] for entry in map(json.loads, lines)},
    )


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


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings, with the defaults of those that did not exist when it was written; else as they are."""
    try:
        return TrainSettings.model_validate(settings).model_dump(mode="json")
    except ValueError:
        return settings


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        name = prefix + key
        if name in _RESUMABLE or old.get(key) == new.get(key):
            continue
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            yield from _differences(old[key], new[key], name + ".")
        else:
            yield f"{name} was {old.get(key)!r}, now {new.get(key)!r}"


def _warn_of_sides(samples: PairDataset) -> None:
    captions = samples.index.table["caption"].to_pylist()
    log.warning(
        "data.flip_share mirrors samples, and writing in them; %d of %d captions say left or right, and their samples "
        "are never mirrored", sum(map(names_sides, captions)), len(captions),
    )  # fmt: skip


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
