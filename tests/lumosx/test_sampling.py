"""From a run to a clip: what is written, that it repeats, and that references and words steer it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataengine.config import ConfigError, load
from dataengine.lumosx.checkpoint import CheckpointError
from dataengine.lumosx.data import ExampleMaker
from dataengine.lumosx.sampling import ClipGenerator, draw_sheet, sample_pair
from dataengine.lumosx.settings import SamplingSettings, TrainSettings
from dataengine.lumosx.trained import read_trained
from dataengine.lumosx.trainer import SETTINGS_FILE, load_run_settings, train
from dataengine.shards.reader import PairDataset
from dataengine.store import Store
from dataengine.video import decode_clip

STEPS = SamplingSettings(steps=6)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained long enough to know that walls are flat."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    settings = load(
        TrainSettings,
        overrides=(
            "steps=80", "batch=2", "model.dim=48", "model.ffn_dim=96", "model.heads=2", "model.layers=2",
            "text.max_tokens=48", "data.height=48", "data.width=80", "data.frames=5", "data.body_share=0",
            "validation.every_steps=80", "validation.timesteps=[500]", "optimizer.lr=0.004",
        ),
    )  # fmt: skip
    train(dataset, folder, settings)
    return folder


def test_a_clip_and_its_sheet(run: Path, dataset: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    result = sample_pair(
        run, dataset, "clip_0002", tmp_path / "a" / "clip.mp4", STEPS, lambda step, latent: seen.append(step)
    )
    frames = decode_clip(result.video.read_bytes())
    assert len(frames) == 5
    assert frames[0].rgb.shape == (48, 80, 3)
    assert frames[-1].time_s == pytest.approx(4 / 16, abs=0.01)
    assert seen == list(range(6))
    assert (result.split, result.step) == ("train", 80)
    with Image.open(result.sheet) as sheet:
        assert sheet.width > 5 * 240, "five references in a row"
    again = sample_pair(run, dataset, "clip_0002", tmp_path / "b.mp4", STEPS)
    assert again.video.read_bytes() == result.video.read_bytes()
    assert again.sheet.read_bytes() == result.sheet.read_bytes()


def test_a_held_out_clip_says_so(run: Path, dataset: Path, tmp_path: Path) -> None:
    assert sample_pair(run, dataset, "clip_0005", tmp_path / "clip.mp4", STEPS).split == "val"


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_clips_sampled_together_are_those_sampled_alone(run: Path, dataset: Path, guidance: float) -> None:
    generator = ClipGenerator.of(read_trained(run))
    samples = PairDataset(Store.at(dataset))
    maker = ExampleMaker(samples, load_run_settings(run).data, 0)
    examples = [maker.plain(index) for index in range(3)]
    settings = STEPS.model_copy(update={"guidance": guidance})
    together = generator.generate_together(examples, settings)
    for example, clip in zip(examples, together, strict=True):
        alone = generator.generate(example, settings)
        assert clip.shape == alone.shape and np.abs(alone.astype(int) - clip).max() <= 1


def test_the_generator_listens(run: Path, dataset: Path) -> None:
    """Other references, another caption, other noise: each changes the clip; guidance off and on differ."""
    generator = ClipGenerator.of(read_trained(run))
    samples = PairDataset(Store.at(dataset))
    maker = ExampleMaker(samples, load_run_settings(run).data, 0)
    example = maker.plain(samples.index.find("clip_0000"))
    base = generator.generate(example, STEPS)
    assert base.shape == (5, 48, 80, 3)

    def differs(other: np.ndarray) -> bool:
        return float(np.abs(base.astype(int) - other).mean()) > 0.2

    assert not differs(generator.generate(example, STEPS))
    assert differs(generator.generate(replace(example, references=255 - example.references), STEPS))
    assert differs(generator.generate(example, STEPS.model_copy(update={"seed": 1})))
    assert differs(generator.generate(example, STEPS.model_copy(update={"guidance": 6.0})))
    one = STEPS.model_copy(update={"guidance": 1.0})
    recoloured = replace(example, caption=example.caption.replace("red", "tan"))
    assert np.abs(generator.generate(example, one).astype(int) - generator.generate(recoloured, one)).max() > 0


def test_it_learned_which_room_is_meant(run: Path, dataset: Path) -> None:
    """References and caption of every training clip give a clip that is most like one in the same room."""
    generator = ClipGenerator.of(read_trained(run))
    samples = PairDataset(Store.at(dataset), "train")
    maker = ExampleMaker(samples, load_run_settings(run).data, 0)
    examples = [maker.plain(index) for index in range(len(samples))]
    rooms = [example.caption.rsplit(" in a ", 1)[1] for example in examples]
    true = np.stack([example.video.numpy() for example in examples]).astype(float)
    for index, example in enumerate(examples):
        found = generator.generate(example, SamplingSettings(steps=10, guidance=1)).astype(float)
        nearest = int(np.abs(true - found).mean(axis=(1, 2, 3, 4)).argmin())
        assert rooms[nearest] == rooms[index], example.key


def test_errors_name_what_is_missing(run: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="nobody"):
        sample_pair(run, dataset, "nobody", tmp_path / "clip.mp4", STEPS)
    with pytest.raises(ConfigError, match="not the settings of a training run"):
        sample_pair(tmp_path, dataset, "clip_0000", tmp_path / "clip.mp4", STEPS)
    (tmp_path / SETTINGS_FILE).write_bytes((run / SETTINGS_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        sample_pair(tmp_path, dataset, "clip_0000", tmp_path / "clip.mp4", STEPS)


def test_a_sheet_without_references(run: Path, dataset: Path) -> None:
    samples = PairDataset(Store.at(dataset))
    example = ExampleMaker(samples, load_run_settings(run).data, 0).plain(0)
    bare = replace(example, references=example.references[:0], bindings=())
    sheet = draw_sheet(bare, example.video.numpy(), "title")
    assert sheet.width == 5 * 248 + 8
    with_truth = draw_sheet(bare, example.video.numpy(), "title", true=example.video.numpy())
    assert with_truth.height > sheet.height
