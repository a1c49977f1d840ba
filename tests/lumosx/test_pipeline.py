"""From a real run to clips: straight, through an exported folder, by adapters, and from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dataengine.config import ConfigError, load
from dataengine.lumosx.checkpoint import CheckpointError
from dataengine.lumosx.data import SampleError
from dataengine.lumosx.export import RELEASED_FILE, Target, export
from dataengine.lumosx.pipeline import RelationalPipeline, sample_request
from dataengine.lumosx.request import read_request
from dataengine.lumosx.settings import LoraSettings, SamplingSettings, TrainSettings
from dataengine.lumosx.trained import read_trained
from dataengine.lumosx.trainer import SETTINGS_FILE, load_run_settings, train
from dataengine.lumosx.weights import load_weights
from dataengine.video import decode_clip
from pipelines.cli import app

runner = CliRunner()
CAPTION = "a man in a red top beside a dog in a grey hall."


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of a tiny model, so that no output is zero."""
    folder = tmp_path_factory.mktemp("run")
    settings = load(
        TrainSettings,
        overrides=(
            "steps=3", "batch=2", "model.dim=32", "model.ffn_dim=64", "model.heads=2", "model.layers=2",
            "text.max_tokens=48", "data.height=48", "data.width=80", "data.frames=5", "data.body_share=0",
            "validation.every_steps=3", "validation.timesteps=[500]", "validation.samples=1", "sampling.steps=3",
            "optimizer.ema_decay=0",
        ),
    )  # fmt: skip
    train(dataset, folder, settings)
    return folder


@pytest.fixture
def request_folder(tmp_path: Path) -> Path:
    """A request in the released layout."""
    folder = tmp_path / "request"
    files = {"subjects/0/face_man.png": 190, "subjects/0/red top.png": 90, "objects/dog.png": 30}
    for name, level in {**files, "background/grey hall.png": 120}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 20, 3), level, dtype=np.uint8)).save(folder / name)
    (folder / "caption.txt").write_text(CAPTION)
    return folder


@pytest.fixture(scope="module")
def lora_run(run: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters trained by peft on the weights of `run`, whose file has bfloat16 as published ones do."""
    folder = tmp_path_factory.mktemp("lora")
    base = export(read_trained(run), Target.RELEASED, folder / "base", dtype=torch.bfloat16).folder / RELEASED_FILE
    settings = load_run_settings(run)
    settings = settings.model_copy(
        update={
            "lora": LoraSettings(rank=2, alpha=8.0, targets=("self_attn.q", "ffn.2")),
            "model": settings.model.model_copy(update={"init": str(base)}),
        }
    )
    train(dataset, folder / "run", settings)
    return folder / "run"


def test_the_exported_folder_generates_what_the_run_does(run: Path, request_folder: Path, tmp_path: Path) -> None:
    """Same request, same seed: the same frames to the byte, also when the weights went through diffusers' files."""
    export(read_trained(run), Target.DIFFUSERS, tmp_path / "out", verify=True)
    request = read_request(request_folder)
    frames = RelationalPipeline.open(run)(request)
    assert frames.shape == (5, 48, 80, 3)
    assert np.array_equal(RelationalPipeline.open(tmp_path / "out")(request), frames)
    other = RelationalPipeline.open(run)(request, SamplingSettings(steps=3, seed=1))
    assert not np.array_equal(other, frames)


def test_a_clip_and_its_sheet_from_a_folder(run: Path, request_folder: Path, tmp_path: Path) -> None:
    made = sample_request(run, request_folder, tmp_path / "deep" / "clip.mp4")
    frames = decode_clip(made.video.read_bytes())
    assert len(frames) == 5 and frames[0].rgb.shape == (48, 80, 3)
    assert (made.key, made.split, made.step) == ("request", "request", 3)
    with Image.open(made.sheet) as sheet:
        assert sheet.width == 5 * 248 + 8, "five generated frames in a row"
        assert sheet.height < 2 * (144 + 28) + 80, "references and generated frames, and no row of true ones"


def test_last_weights_and_their_average(run: Path, tmp_path: Path) -> None:
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    for average, file in ((True, "ema.safetensors"), (False, "model.safetensors")):
        trained = read_trained(run, average=average)
        assert trained.step == 3 and trained.lora is None and trained.weights is trained.base
        expected = load_file(checkpoint / file)
        assert all(torch.equal(value, expected[key]) for key, value in trained.weights.items())


def test_adapters_are_merged_into_their_base(run: Path, lora_run: Path, tmp_path: Path) -> None:
    trained = read_trained(lora_run)
    assert trained.settings.model.init is not None
    plain = {key: value.float() for key, value in load_weights(trained.settings.model.init).items()}
    assert trained.lora is not None and trained.lora.alpha == 8.0
    assert trained.lora.layers == tuple(f"blocks.{i}.{layer}" for i in range(2) for layer in ("ffn.2", "self_attn.q"))
    adapters = trained.lora.tensors
    for key, value in trained.weights.items():
        layer = key.removesuffix(".weight")
        change = torch.zeros(())
        if layer in trained.lora.layers and key.endswith("weight"):
            change = 8.0 / 2 * adapters[f"{layer}.lora_B.weight"] @ adapters[f"{layer}.lora_A.weight"]
            assert change.abs().max() > 0
        torch.testing.assert_close(value, plain[key] + change)
    for target in Target:
        made = export(trained, target, tmp_path / target, verify=True)
        assert made.checks and max(made.checks.values()) < 5e-5
    assert f"made for {trained.settings.model.init}" in made.notes


def test_adapters_need_the_base_they_were_trained_on(lora_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(lora_run, tmp_path / "copy")
    settings = json.loads((copy / SETTINGS_FILE).read_text())
    state = load_file(settings["model"]["init"])
    settings["model"]["init"] = str(tmp_path / "other.safetensors")
    save_file(state | {"head.head.bias": state["head.head.bias"] + 1e-3}, tmp_path / "other.safetensors")
    (copy / SETTINGS_FILE).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="not what its adapters were trained on"):
        read_trained(copy)


def test_unreadable_runs_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the settings of a training run"):
        RelationalPipeline.open(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    (checkpoint,) = (copy / "checkpoints").glob("step-*")
    older = shutil.copytree(checkpoint, checkpoint.with_name("step-00000001"))
    (checkpoint / "ema.safetensors").write_bytes(b"no")
    assert read_trained(copy).weights.keys() == read_trained(run).weights.keys(), "the one before"
    (older / "ema.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read.*ema\.safetensors changed"):
        read_trained(copy)


def test_a_bad_request_is_refused_before_anything_is_loaded(request_folder: Path, tmp_path: Path) -> None:
    (request_folder / "objects" / "dog.png").unlink()
    (request_folder / "objects" / "dog.png").symlink_to(tmp_path)
    with pytest.raises(SampleError, match="is a link"):
        sample_request(tmp_path / "no run", request_folder, tmp_path / "clip.mp4")


# --- The command line -------------------------------------------------------------------------------------------------


def test_export_and_sample_by_command(run: Path, request_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = runner.invoke(app, ["model", "export", str(run), "--to", "diffusers", "--output", str(out), "--verify"])
    assert done.exit_code == 0, done.output
    assert f"{out}/model_index.json" in done.output.replace("\n", "")
    assert "read back by diffusers' WanPipeline: outputs differ by" in done.output
    clip = tmp_path / "clip.mp4"
    command = ["sample", "--run", str(out), "--folder", str(request_folder), "--output", str(clip)]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert len(decode_clip(clip.read_bytes())) == 5
    half = ["model", "export", str(run), "--to", "released", "--output", str(tmp_path / "h"), "--precision", "bf16"]
    assert runner.invoke(app, half).exit_code == 0
    assert {value.dtype for value in load_weights(tmp_path / "h" / RELEASED_FILE).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model", "export", "{run}", "--to", "lora-comfyui", "--output", "{new}"], 1, "has no LoRA"),
        (["model", "export", "{run}", "--to", "released", "--output", "{run}"], 1, "exists"),
        (["model", "export", "{new}", "--to", "released", "--output", "{new}"], 2, "not the settings"),
        (["sample", "--run", "{run}", "--output", "{new}"], 2, "name a --pair or a --folder"),
        (["sample", "--run", "{run}", "--folder", "{new}", "--output", "{new}"], 1, "No such file"),
    ],
)
def test_failures_are_one_line(run: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = runner.invoke(app, [part.format(run=run, new=tmp_path / "new") for part in arguments])
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
