"""What a run has trained, read back: shapes, weights (adapters merged into their base), and how far it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from dataengine.lumosx import checkpoint
from dataengine.lumosx.adapters import digest
from dataengine.lumosx.components import model_config
from dataengine.lumosx.lora_formats import Lora, is_lora, merged
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.trainer import CHECKPOINTS, load_run_settings
from dataengine.lumosx.transformer import DiT, DiTConfig
from dataengine.lumosx.weights import load_into, load_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A run's newest checkpoint.

    Attributes:
        run: its folder.
        step: of the checkpoint.
        settings: the run's.
        config: shapes of the model.
        base: what the adapters sit on, original keys; equals `weights` where all weights were trained.
        weights: original keys, adapters merged.
        lora: the adapters; None where all weights were trained.
    """

    run: Path
    step: int
    settings: TrainSettings
    config: DiTConfig
    base: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    lora: Lora | None


def read_trained(run: Path, *, average: bool = True) -> Trained:
    """Read the newest checkpoint of a run, on the CPU.

    Args:
        average: the averaged weights (EMA), which are what validation judges; False: the last step's.

    Raises:
        ConfigError: not a run.
        CheckpointError: it has no checkpoint, or none that can be read.
        WeightsError, FileNotFoundError: the base of the adapters does not fit or is not there.
    """
    settings = load_run_settings(run)
    newest = _newest(run)
    progress = checkpoint.read_progress(newest)
    tensors: Mapping[str, Tensor] = load_file(newest / (checkpoint.EMA if average else checkpoint.MODEL))
    lora = Lora(tensors, settings.lora.alpha) if is_lora(tensors) else None
    base = tensors
    if lora is not None and settings.model.init is not None:  # in float32, as it was trained on, whatever the file has
        base = {key: tensor.float() for key, tensor in load_weights(settings.model.init).items()}
    text_dim = base["text_embedding.0.weight"].shape[1]
    config = model_config(settings.model, text_dim, settings.text.max_tokens)
    if lora is None:
        return Trained(run, progress.step, settings, config, base, base, None)
    _same_base(base, config, progress.base, run)
    return Trained(run, progress.step, settings, config, base, merged(base, lora), lora)


def _newest(run: Path) -> Path:
    """The newest checkpoint whose files are what was written. A run may go on meanwhile: nothing is moved."""
    damaged = []
    for path in checkpoint.found(run / CHECKPOINTS):
        problem = checkpoint.damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s): taking the one before", path, problem)
        damaged.append(f"{path.name}: {problem}")
    if damaged:
        raise checkpoint.CheckpointError(f"{run}: no checkpoint can be read. {'; '.join(damaged)}")
    raise checkpoint.CheckpointError(f"{run} has no checkpoint; train first: dataengine train --run {run} …")


def _same_base(base: Mapping[str, Tensor], config: DiTConfig, expected: str | None, run: Path) -> None:
    """Adapters on other weights than they were trained on compute something that nobody has looked at."""
    model = DiT(config)
    load_into(model, base)
    if digest(model) != expected:
        raise checkpoint.CheckpointError(
            f"{run}: model.init is not what its adapters were trained on; put the weights of that time back"
        )
