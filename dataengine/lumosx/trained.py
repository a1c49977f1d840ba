"""What a run has trained, read back: shapes, weights (adapters merged into their base), and how far it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dataengine.lumosx import checkpoint
from dataengine.lumosx.components import model_config, new_model, open_text
from dataengine.lumosx.lora_formats import Lora, is_lora, merged
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.trainer import CHECKPOINTS, load_run_settings
from dataengine.lumosx.transformer import DiTConfig
from dataengine.lumosx.weights import load_weights


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
    checkpoints = checkpoint.found(run / CHECKPOINTS)
    if not checkpoints:
        raise checkpoint.CheckpointError(f"{run} has no checkpoint; train first: dataengine train --run {run} …")
    file = checkpoints[0] / ("ema.safetensors" if average else "model.safetensors")
    try:
        progress = checkpoint.read_progress(checkpoints[0])
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{file}: cannot be read: {error}") from error
    lora = None
    base: Mapping[str, Tensor] = tensors
    if is_lora(tensors):
        lora = Lora(tensors, _alpha(progress.settings))
        base = _base(settings)
    text_dim = base["text_embedding.0.weight"].shape[1]
    config = model_config(settings.model, text_dim, settings.text.max_tokens)
    weights = base if lora is None else merged(base, lora)
    return Trained(run, progress.step, settings, config, base, weights, lora)


def _base(settings: TrainSettings) -> Mapping[str, Tensor]:
    """The weights that a run began with, in float32, as they were trained on, whatever their file has."""
    if settings.model.init is not None:
        return {key: tensor.float() for key, tensor in load_weights(settings.model.init).items()}
    config = model_config(settings.model, open_text(settings.text, "cpu").dim, settings.text.max_tokens)
    return new_model(settings.model, config, settings.seed, "cpu").state_dict()


def _alpha(settings: Mapping[str, Any]) -> float:
    try:
        return float(settings["lora"]["alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(
            f"the checkpoint has adapters, but no lora.alpha to scale them: {error}"
        ) from error
