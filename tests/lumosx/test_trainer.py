"""Training: it learns, resumes bit for bit, survives bad samples and broken checkpoints, and splits over ranks."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TINY, settings, train
from torch import Tensor

from dataengine.config import CONF, ConfigError
from dataengine.lumosx import checkpoint
from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.losses import draw_noise
from dataengine.lumosx.metrics import HELD_OUT, LEARNED, StepMetrics, read_metrics
from dataengine.lumosx.optimizer import learning_rate
from dataengine.lumosx.settings import OptimizerSettings, TrainSettings
from dataengine.lumosx.trainer import (
    CHECKPOINTS,
    PREVIEWS,
    SKIPPED_FILE,
    Trainer,
    TrainError,
    load_run_settings,
)
from dataengine.shards.reader import PairDataset
from dataengine.store import Store


class Killed(BaseException):
    """Stands for a signal: nothing in the trainer may catch it."""


def test_defaults_are_documented() -> None:
    """`conf/train.yaml` names every setting once, with the value it has anyway."""
    written = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))
    assert written == TrainSettings().model_dump(mode="json")


def test_loss_falls_and_the_run_is_complete(dataset: Path, tmp_path: Path) -> None:
    seen: list[StepMetrics] = []
    result = train(dataset, tmp_path, settings("steps=40", "optimizer.lr=0.01"), on_step=seen.append)
    assert [metrics.step for metrics in seen] == list(range(1, 41))
    assert result.steps == 40
    for clips in (LEARNED, HELD_OUT):
        assert result.after[clips] < 0.85 * result.before[clips], clips
    assert (result.skipped, result.refused) == (0, {})
    assert result.curve.read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "tensorboard").iterdir())
    assert load_run_settings(tmp_path) == settings("steps=40", "optimizer.lr=0.01")
    assert not list(tmp_path.rglob("*.p*t")), "no pickles"


def test_a_killed_run_resumes_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train(dataset, whole, settings("steps=9"))

    def kill(metrics: StepMetrics) -> None:
        if metrics.step == 7:  # after the checkpoint of step 6 and the validation of step 4
            raise Killed

    with pytest.raises(Killed):
        train(dataset, killed, settings("steps=9"), on_step=kill)
    assert checkpoint.found(killed / CHECKPOINTS)[0].name == "step-00000006"
    resumed: list[StepMetrics] = []
    found = train(dataset, killed, settings("steps=9"), on_step=resumed.append)
    assert [metrics.step for metrics in resumed] == [7, 8, 9]
    assert found.after == expected.after
    for name in ("model", "ema", "optimizer"):
        left = load_file(expected.checkpoint / f"{name}.safetensors")
        right = load_file(found.checkpoint / f"{name}.safetensors")
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name
    left_steps, left_validations = read_metrics(whole)
    right_steps, right_validations = read_metrics(killed)
    assert [(m.step, m.loss, m.grad_norm, m.lr) for m in left_steps] == [
        (m.step, m.loss, m.grad_norm, m.lr) for m in right_steps
    ], "each step once, the killed ones forgotten"
    assert left_validations == right_validations


def test_a_finished_run_is_left_alone_and_can_go_on(dataset: Path, tmp_path: Path) -> None:
    first = train(dataset, tmp_path, settings("steps=2", "optimizer.schedule=constant"))
    again: list[StepMetrics] = []
    assert (
        train(dataset, tmp_path, settings("steps=2", "optimizer.schedule=constant"), on_step=again.append).after
        == first.after
    )
    assert not again
    longer = train(dataset, tmp_path, settings("steps=4", "optimizer.schedule=constant"), on_step=again.append)
    assert [metrics.step for metrics in again] == [3, 4]
    assert longer.before == first.before


def test_a_run_is_not_resumed_under_other_settings(dataset: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path, settings("steps=2"))
    with pytest.raises(TrainError, match=r"optimizer\.lr was 0\.006, now 0\.01"):
        train(dataset, tmp_path, settings("steps=4", "optimizer.lr=0.01"))
    assert load_run_settings(tmp_path).optimizer.lr == 0.006
    with pytest.raises(TrainError, match=r"model\.csam was True, now False"):
        train(dataset, tmp_path, settings("steps=4", "model.csam=false"))


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(dataset: Path, tmp_path: Path) -> None:
    made = train(dataset, tmp_path, settings("steps=2"))
    state, sums = made.checkpoint / "state.json", made.checkpoint / "SHA256SUMS"
    before = hashlib.sha256(state.read_bytes()).hexdigest()
    progress = json.loads(state.read_text())
    del progress["settings"]["model"]["r2pe"]
    state.write_text(json.dumps(progress))
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(state.read_bytes()).hexdigest()))
    assert train(dataset, tmp_path, settings("steps=3")).steps == 3


def test_checkpoints_are_rotated_and_a_damaged_one_is_passed_over(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = train(dataset, tmp_path, settings("steps=6"))
    folder = tmp_path / CHECKPOINTS
    assert [path.name for path in checkpoint.found(folder)] == ["step-00000006", "step-00000004"]
    file = result.checkpoint / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1  # one bit of one number: the file is well-formed
    file.write_bytes(data)
    redone: list[StepMetrics] = []
    with caplog.at_level(logging.WARNING):
        again = train(dataset, tmp_path, settings("steps=6"), on_step=redone.append)
    assert "step-00000006 is damaged (optimizer.safetensors changed since written)" in caplog.text
    assert [metrics.step for metrics in redone] == [5, 6]
    assert again.after == result.after
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000006"]
    for path in checkpoint.found(folder):
        (path / "state.json").write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint can be read"):
        train(dataset, tmp_path, settings("steps=6"))


def test_a_checkpoint_is_whole_or_absent(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.save_file

    def disk_full(tensors: dict[str, Tensor], path: Path) -> None:
        if "00000004" in str(path) and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        train(dataset, tmp_path, settings("steps=6"))
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000002"]


def test_training_goes_on_while_a_checkpoint_is_written(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of step 2 waits for step 3 to be over; what it writes is still step 2."""
    real, over = checkpoint.save_file, threading.Event()

    def slow(tensors: dict[str, Tensor], path: Path) -> None:
        if "00000002" in str(path):
            assert over.wait(60), "step 3 waits for the checkpoint of step 2"
        real(tensors, path)

    def step_over(metrics: StepMetrics) -> None:
        if metrics.step == 3:
            over.set()

    monkeypatch.setattr(checkpoint, "save_file", slow)
    train(dataset, tmp_path / "whole", settings("steps=4", "optimizer.schedule=constant"), on_step=step_over)
    train(dataset, tmp_path / "short", settings("steps=2", "optimizer.schedule=constant"))
    left, right = (checkpoint.found(tmp_path / run / CHECKPOINTS)[-1] for run in ("whole", "short"))
    for name in (checkpoint.MODEL, checkpoint.EMA, checkpoint.OPTIMIZER):
        assert (left / name).read_bytes() == (right / name).read_bytes()


# --- Killed for real --------------------------------------------------------------------------------------------------


def start(data: Path, run: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """`dataengine train` as a process of its own, in a group that can be killed with its loader processes."""
    command = [sys.executable, "-m", "pipelines.cli", "train", "--data", str(data), "--run", str(run)]
    return subprocess.Popen([*command, *TINY, *overrides], stdout=subprocess.DEVNULL, start_new_session=True)


def test_kill_9_at_a_random_step_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    """Twice killed, each time with other loader processes, at steps that a clock decides: the same run, bit for bit."""
    size = ("steps=60", "validation.every_steps=25", "data.augment.enabled=true", "data.window=random")
    expected = train(dataset, tmp_path / "whole", settings(*size))
    killed, random = tmp_path / "killed", Random(time.time_ns())
    done = 0
    for workers, checkpoints in ((0, 7), (2, 5)):
        process = start(dataset, killed, *size, f"data.workers={workers}", f"checkpoint.every_steps={checkpoints}")
        target = done + random.randint(8, 20)
        while len(read_metrics(killed)[0]) < target:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done = checkpoint.read_progress(checkpoint.found(killed / CHECKPOINTS)[0]).step
        assert 0 < done < 60
    process = start(dataset, killed, *size, "data.workers=1")
    assert process.wait(timeout=200) == 0
    steps, validations = read_metrics(tmp_path / "whole")
    again, again_validations = read_metrics(killed)
    assert [(m.step, m.loss, m.grad_norm, m.by_noise) for m in again] == [
        (m.step, m.loss, m.grad_norm, m.by_noise) for m in steps
    ]
    assert again_validations == validations
    for name in (checkpoint.MODEL, checkpoint.EMA, checkpoint.OPTIMIZER):
        left = (expected.checkpoint / name).read_bytes()
        assert left == (checkpoint.found(killed / CHECKPOINTS)[0] / name).read_bytes(), name


class PoisonedCodec(DctCodec):
    """Gives one clip a latent that is not a number."""

    def __init__(self, poisoned: Tensor) -> None:
        super().__init__()
        self._poisoned = poisoned

    def encode(self, pixels: Tensor) -> Tensor:
        latents = super().encode(pixels)
        same = latents.shape[1:] == self._poisoned.shape and torch.equal(latents[0], self._poisoned)
        return latents * math.nan if same else latents


def test_steps_that_are_not_finite_are_skipped_and_recorded(dataset: Path, tmp_path: Path) -> None:
    samples, none = PairDataset(Store.at(dataset), "train"), PairDataset(Store.at(dataset), "val")
    chosen = settings("steps=8", "batch=1", "data.text_dropout=0", "max_skipped=3")
    trainer = Trainer(samples, none, tmp_path, chosen)
    _, batch = trainer._validator._sets[LEARNED][0]  # type: ignore[misc]
    clip, key = batch.latents[0], batch.keys[0]
    trainer._encoder._codec = PoisonedCodec(clip)
    for metrics in trainer.steps():
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        if metrics.skipped:
            assert metrics.loss is None
    skipped = [json.loads(line) for line in (tmp_path / SKIPPED_FILE).read_text().splitlines()]
    assert skipped
    assert all(line["keys"] == [key] for line in skipped)
    assert len(skipped) < 3 < trainer.step == 8
    assert all(torch.isfinite(tensor).all() for tensor in before.values())


def test_too_many_skipped_steps_stop_the_run(dataset: Path, tmp_path: Path) -> None:
    trainer_settings = settings("steps=8", "max_skipped=3", "data.frames=65")  # longer than every clip
    with pytest.raises(TrainError, match=r"3 steps in a row .* step 3"):
        train(dataset, tmp_path, trainer_settings)


def test_bad_samples_are_named_and_the_rest_trains(make_dataset: Any, make_sample: Any, tmp_path: Path) -> None:
    samples = [make_sample(0), make_sample(1, seconds=0.15), make_sample(2, ("green",))]
    result = train(make_dataset(tmp_path / "data", samples), tmp_path / "run", settings("steps=4"))
    assert list(result.refused) == ["clip_0001"]
    assert "0.17 s" in result.refused["clip_0001"]
    steps, _ = read_metrics(tmp_path / "run")
    assert sum(metrics.examples for metrics in steps) in (5, 6), "8 places of which every third is refused"
    assert HELD_OUT not in result.after, "there is no held-out clip, and none is made up"


def test_nothing_to_train_on(make_dataset: Any, make_sample: Any, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [make_sample(0, split="val")])
    with pytest.raises(TrainError, match="no sample in the train split"):
        train(data, tmp_path / "run", settings())


# --- Looking on -------------------------------------------------------------------------------------------------------


def test_previews_are_drawn_and_leave_training_alone(dataset: Path, tmp_path: Path) -> None:
    shown = ("validation.sample_every_steps=2", "validation.sample_clips=2", "sampling.steps=3")
    train(dataset, tmp_path / "plain", settings("steps=5"))
    with_previews = train(dataset, tmp_path / "shown", settings("steps=5", *shown))
    without, steps = (read_metrics(tmp_path / run)[0] for run in ("plain", "shown"))
    assert [(m.loss, m.grad_norm) for m in steps] == [(m.loss, m.grad_norm) for m in without]
    sheets = sorted((tmp_path / "shown" / PREVIEWS).rglob("*.png"))
    assert [sheet.parent.name for sheet in sheets] == [f"step-0000000{step}" for step in (2, 2, 4, 4, 5, 5)]
    assert {sheet.stem for sheet in sheets} == {"clip_0005", "clip_0006"}, "the held-out pairs"
    pixels = [np.asarray(Image.open(sheet)) for sheet in sheets if sheet.stem == "clip_0006"]
    assert pixels[0].shape == (3 * (48 + 4) + 4, 5 * (80 + 4) + 4, 3)
    assert not np.array_equal(pixels[0][56:104], pixels[-1][56:104]), "the generated row follows the weights"
    assert np.array_equal(pixels[0][:56], pixels[-1][:56]), "the references stay"
    events = EventAccumulator(str(with_previews.run / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["sample/clip_0005", "sample/clip_0006"]
    assert {"train/loss", "train/waited"} <= set(events.Tags()["scalars"])


def test_wandb_is_asked_for_by_name(dataset: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed here")
    with pytest.raises(ConfigError, match="the wandb package is not installed"):
        train(dataset, tmp_path, settings("steps=1", "tracking.wandb_project=lumosx"))


def test_losses_by_noise_level_add_up(dataset: Path, tmp_path: Path) -> None:
    """Four stratified draws of the uniform distribution: one example in each quarter."""
    train(dataset, tmp_path, settings("steps=3", "batch=4", "noise.kind=uniform", "noise.shift=1"))
    for metrics in read_metrics(tmp_path)[0]:
        assert list(metrics.by_noise) == ["0-250", "250-500", "500-750", "750-1000"]
        assert metrics.loss == pytest.approx(sum(metrics.by_noise.values()) / 4, rel=1e-5)


# --- Parts ------------------------------------------------------------------------------------------------------------


def test_learning_rate() -> None:
    constant = OptimizerSettings(lr=1.0, warmup_steps=4, schedule="constant")
    assert [learning_rate(step, 10, constant) for step in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1, 1, 1]
    cosine = OptimizerSettings(lr=1.0, warmup_steps=2, schedule="cosine")
    assert learning_rate(2, 12, cosine) == 1
    assert learning_rate(7, 12, cosine) == pytest.approx(0.55)
    assert learning_rate(12, 12, cosine) == pytest.approx(0.1)


def test_noise_is_named_not_drawn_in_turn() -> None:
    latent = torch.zeros(16, 2, 6, 10)
    assert torch.equal(draw_noise(latent, 0, 5), draw_noise(latent, 0, 5))
    assert not torch.equal(draw_noise(latent, 0, 5), draw_noise(latent, 0, 6))
    assert draw_noise(latent, 0, 5).std() == pytest.approx(1, abs=0.05)


def test_decay_spares_norms_biases_and_modulation(dataset: Path, tmp_path: Path) -> None:
    samples = PairDataset(Store.at(dataset), "train")
    trainer = Trainer(samples, samples, tmp_path, settings())
    decayed, spared = (set(map(id, group["params"])) for group in trainer.optimizer.param_groups)
    for name, parameter in trainer.model.named_parameters():
        matrix = name.endswith("weight") and "norm" not in name
        assert (id(parameter) in decayed) == matrix, name
        assert (id(parameter) in spared) != matrix, name
