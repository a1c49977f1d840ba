"""Checkpoints on disk: whole or absent, checked by hash, without pickle, written beside the training, rotated.

A checkpoint is a folder `step-00000100` with `model.safetensors` and `ema.safetensors` (what is trained: all weights
under original Wan2.1 keys, or LoRA adapters), `optimizer.safetensors` (AdamW's moments by parameter name), `state.json`
and `SHA256SUMS` over them (`sha256sum -c` reads it). It is written under another name and renamed when complete.
However many ranks trained, tensors are whole in it, so any number of ranks can go on. Random numbers need no saving:
everything drawn is a function of (seed, step or position).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dataengine.lumosx.average import Average
from dataengine.lumosx.distributed import ALONE, Ranks, agreed, like, local, whole
from dataengine.lumosx.optimizer import load_moments, moments
from dataengine.lumosx.weights import WeightsError

log = logging.getLogger(__name__)

MODEL, EMA, OPTIMIZER, STATE, SUMS = (
    "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS",
)  # fmt: skip
_NAME = re.compile(r"step-(\d{8})")
_NONE, _UNREADABLE = -1, -2


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps taken, skipped ones included.
        examples: taken from the order by all ranks together: the next position.
        settings: the run's settings as plain values, to refuse a resume under others.
        base: digest of the frozen weights that adapters were trained on; None without adapters.
    """

    step: int
    examples: int
    settings: dict[str, Any]
    base: str | None = None


Snapshot = Mapping[str, Mapping[str, Tensor]]
"""Tensors by file and name, on the CPU, that nothing else changes."""


# --- Of a running trainer ---------------------------------------------------------------------------------------------


def snapshot(
    parameters: Mapping[str, nn.Parameter], average: Average, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> Snapshot:
    """A copy of what a checkpoint holds. Every rank must ask; only the first gets it, the others get nothing."""
    parts: dict[str, Mapping[str, Tensor]] = {
        MODEL: parameters,
        EMA: average.tensors,
        OPTIMIZER: moments(parameters, optimizer),
    }
    copies: dict[str, dict[str, Tensor]] = {file: {} for file in parts}
    for file, tensors in parts.items():
        for name, tensor in tensors.items():
            full = whole(tensor.detach())  # tensor by tensor, so that no rank ever holds a second model on its GPU
            if ranks.first:
                copies[file][name] = full.to("cpu", copy=True).contiguous()
    return copies


def restore(
    checkpoint: Path, parameters: Mapping[str, nn.Parameter], average: Average, optimizer: torch.optim.Optimizer
) -> None:
    """Load a checkpoint, strictly. Every rank takes its part.

    Raises:
        WeightsError: it is of another model.
        CheckpointError: it cannot be read.
    """
    try:
        model, ema, states = (load_file(checkpoint / file) for file in (MODEL, EMA, OPTIMIZER))
    except OSError as error:
        raise CheckpointError(f"{checkpoint}: {error}. All ranks must see the run's folder") from error
    _copy(parameters, model, checkpoint / MODEL)
    _copy(average.tensors, ema, checkpoint / EMA)
    try:
        load_moments(parameters, optimizer, states)
    except WeightsError as error:
        raise WeightsError(f"{checkpoint / OPTIMIZER}: {error}") from error


@torch.no_grad()
def _copy(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    wrong = sorted(targets.keys() ^ tensors.keys())
    wrong += [name for name in targets.keys() & tensors.keys() if targets[name].shape != tensors[name].shape]
    if wrong:
        raise WeightsError(f"{file} is of another model: {', '.join(wrong[:8])}{', …' if len(wrong) > 8 else ''}")
    for name, target in targets.items():
        local(target).copy_(local(like(tensors[name], target)))


class Writer:
    """Writes checkpoints in a thread of its own, one at a time, in order. A failure is raised at the next call."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, progress: Progress, tensors: Snapshot) -> None:
        """Begin writing, once the checkpoint before is done: no more than one copy waits in memory."""
        self.wait()
        self._pending = self._pool.submit(self._write, progress, tensors)

    def wait(self) -> None:
        """Until what was begun is on disk. Raises what went wrong in writing it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish what was begun; the error of it, if any, goes to the log (`wait` raises it)."""
        try:
            self.wait()
        except OSError:
            log.exception("the last checkpoint of %s could not be written", self._folder)
        self._pool.shutdown()

    def _write(self, progress: Progress, tensors: Snapshot) -> None:
        save(self._folder, progress, tensors)
        rotate(self._folder, self._keep)


# --- On disk ----------------------------------------------------------------------------------------------------------


def save(folder: Path, progress: Progress, tensors: Snapshot) -> Path:
    """Write the checkpoint of a step and return its folder."""
    final = folder / f"step-{progress.step:08d}"
    temporary = folder / f".tmp-{final.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, named in tensors.items():
            save_file(dict(named), temporary / name)
        (temporary / STATE).write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
        sums = [f"{_sha256(file)}  {file.name}\n" for file in sorted(temporary.iterdir())]
        (temporary / SUMS).write_text("".join(sums), encoding="utf-8")
        for file in (*temporary.iterdir(), temporary):
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
    """Delete all but the newest `keep` checkpoints, and what is damaged or was left half-written."""
    for path in (*found(folder)[keep:], *folder.glob(".tmp-step-*"), *folder.glob("damaged-step-*")):
        shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path, ranks: Ranks = ALONE) -> Path | None:
    """The newest undamaged checkpoint; None if there is none at all. All ranks get the one that the first found.

    Every byte is compared with its hash. A damaged checkpoint is passed over with a warning.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    step = _NONE
    damaged: dict[Path, str] = {}
    if ranks.first:
        for path in found(folder):
            problem = damage(path)
            if problem is None:
                step = read_progress(path).step
                break
            log.warning("checkpoint %s is damaged (%s): going back to the one before", path, problem)
            damaged[path] = problem
            step = _UNREADABLE
    step = agreed(step, ranks)
    if step == _UNREADABLE:
        problems = "; ".join(f"{path.name}: {problem}" for path, problem in damaged.items())
        raise CheckpointError(f"{folder}: no checkpoint can be read. {problems}")
    for path in damaged:  # out of the way: it must neither count as one that is kept, nor be sampled from
        aside = folder / f"damaged-{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return None if step == _NONE else folder / f"step-{step:08d}"


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are what was written."""
    try:
        lines = (checkpoint / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if sums.keys() != {MODEL, EMA, OPTIMIZER, STATE}:
            return f"{SUMS} names {', '.join(sums) or 'nothing'}"
        wrong = [name for name, digest in sums.items() if _sha256(checkpoint / name) != digest]
    except (OSError, UnicodeDecodeError) as error:
        return str(error)
    return f"{', '.join(wrong)} changed since written" if wrong else None


def read_progress(path: Path) -> Progress:
    """The `state.json` of a checkpoint.

    Raises:
        CheckpointError: it has none, or one of another version.
    """
    try:
        return Progress(**json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path / STATE}: {error}") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
