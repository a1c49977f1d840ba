"""Training runs that take seconds: the settings of a tiny model, and a run of it in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from dataengine.config import load
from dataengine.engine.measurements import Measurements, Outcome
from dataengine.lumosx import trainer
from dataengine.lumosx.codec import DctCodec, to_pixels
from dataengine.lumosx.components import model_config, new_model
from dataengine.lumosx.metrics import StepMetrics
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.stored import (
    ABOUT,
    StoredContext,
    StoredLatent,
    context_id,
    context_parameters,
    latent_id,
    latent_parameters,
    variants,
)
from dataengine.lumosx.text import MiniLmEncoder
from dataengine.lumosx.trainer import TrainResult
from dataengine.lumosx.windows import read_window, window_start
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

TINY = (
    "model.dim=32", "model.ffn_dim=64", "model.heads=2", "model.layers=1", "text.max_tokens=48",
    "data.height=48", "data.width=80", "data.frames=5", "batch=2",
    "validation.samples=3", "validation.every_steps=4", "validation.timesteps=[200,600]",
    "checkpoint.every_steps=2", "optimizer.warmup_steps=2",
)  # fmt: skip


def settings(*overrides: str) -> TrainSettings:
    return load(TrainSettings, overrides=(*TINY, *overrides))


def train(
    data: Path, run: Path, chosen: TrainSettings, on_step: Callable[[StepMetrics], None] | None = None
) -> TrainResult:
    result = trainer.train(data, run, chosen, on_step=on_step)
    assert result is not None
    return result


def write_base(file: Path, *overrides: str) -> str:
    """Weights of the tiny model with a head that says something, and the setting that starts from them."""
    chosen = settings(*overrides)
    model = new_model(chosen.model, model_config(chosen.model, 384, chosen.text.max_tokens), seed=5, device="cpu")
    with torch.no_grad():
        model.head.head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(6))
    save_file(model.state_dict(), file)
    return f"model.init={file}"


def store_all(data: Path, place: Path) -> Path:
    """What a run under the tiny settings reads, stored as the engine does: all its clips, all captions. The part."""
    chosen = settings()
    measurements = Measurements(Store.at(place).child("measurements"))
    samples = PairDataset(Store.at(data))
    ((size, turned),) = variants(chosen)
    about = {"latents": latent_parameters(chosen, size, turned), "contexts": context_parameters(chosen.text)}
    for what, parameters in about.items():
        measurements.store.write(f"{what}/f1/{ABOUT}", json.dumps(parameters).encode())
    text, codec = MiniLmEncoder(chosen.text.max_tokens), DctCodec()
    clips, captions = [], []
    for sample in map(samples.__getitem__, range(len(samples))):
        mp4 = sample.members["mp4"]
        start_s = window_start(sample.pair.frames / sample.pair.fps, size, chosen.data)
        pixels = to_pixels(torch.from_numpy(read_window(mp4, size, chosen.data.fps, start_s))[None])
        name = latent_id(hashlib.sha256(mp4).hexdigest(), start_s)
        clips.append(Outcome(name, StoredLatent.of(codec.encode(pixels)[0]), 0.0))
        captions.append(sample.pair.caption)
    measurements.commit("latents", "f1", clips)
    entries = [
        StoredContext.of(one.context, offsets=tuple(map(tuple, one.offsets)), covered=one.covered)
        for one in text.encode(["", *captions])
    ]
    named = zip(["", *captions], entries, strict=True)
    measurements.commit("contexts", "f1", [Outcome(context_id(caption), entry, 0.0) for caption, entry in named])
    return next((place / "measurements/latents/f1").glob("part-*.parquet"))
