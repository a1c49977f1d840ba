"""FLUX Fill: the pipeline's own answer, the same for the same picture, with the prompt in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline

from dataengine.config import FluxFillSettings
from dataengine.models.flux_fill import MULTIPLE, FluxFill, seed_of
from dataengine.models.hole_patch import Canvas, Patch
from dataengine.weights import MissingWeightsError
from tiny import flux


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flux.build(tmp_path_factory.mktemp("flux"))


def loaded(folder: Path, **settings) -> FluxFill:
    model = FluxFill(FluxFillSettings(weights=str(folder), **{"device": "cpu", "steps": 3, **settings}))
    model.load()
    return model


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(3).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    hole = np.zeros((64, 80), bool)
    hole[20:40, 10:30] = True
    return image, hole


def test_it_is_the_pipelines_own_answer(folder: Path, scene) -> None:
    image, hole = scene
    model = loaded(folder)
    painted = model.inpaint(image, hole)
    whole = FluxFillPipeline.from_pretrained(str(folder))
    whole.set_progress_bar_config(disable=True)
    settings = FluxFillSettings()
    answer = whole(
        prompt=settings.prompt,
        image=image[None].astype(np.float32) / 255,
        mask_image=hole[None, ..., None].astype(np.float32),
        height=64,
        width=80,
        num_inference_steps=3,
        guidance_scale=settings.guidance,
        generator=torch.Generator("cpu").manual_seed(seed_of(Patch.of(image, hole, Canvas(MULTIPLE, 1024)))),
        output_type="np",
    ).images[0]
    assert np.abs(painted[hole] - answer[hole] * 255).max() <= 0.51


def test_the_same_picture_gives_the_same_whatever_came_before(folder: Path, scene) -> None:
    image, hole = scene
    model = loaded(folder)
    first = model.inpaint(image, hole)
    model.inpaint(255 - image, hole)
    torch.rand(7)
    assert (model.inpaint(image, hole) == first).all()
    assert (loaded(folder).inpaint(image, hole) == first).all()


def test_prompt_steps_and_guidance_count(folder: Path, scene) -> None:
    plain = loaded(folder).inpaint(*scene)
    for change in ({"prompt": "zzz"}, {"steps": 1}, {"guidance": 1.0}):
        assert (loaded(folder, **change).inpaint(*scene) != plain).any(), change


def test_the_text_encoders_do_not_stay(folder: Path) -> None:
    pipeline = loaded(folder)._pipeline
    assert pipeline.text_encoder is None and pipeline.text_encoder_2 is None


def test_missing_weights_tell_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"hf download black-forest-labs/FLUX\.1-Fill-dev .*'transformer/\*'"):
        FluxFill(FluxFillSettings()).load()


def test_the_revision_follows_weights_and_packages(folder: Path, tmp_path: Path) -> None:
    import diffusers

    one = FluxFill(FluxFillSettings(weights=str(folder))).revision
    assert f"diffusers {diffusers.__version__}" in one
    other = flux.build(tmp_path / "flux")
    (other / "scheduler" / "scheduler_config.json").write_text("{}")
    assert FluxFill(FluxFillSettings(weights=str(other))).revision.split(",")[0] != one.split(",")[0]


def test_memory_follows_size_and_number_format() -> None:
    def gib(**settings) -> float:
        return FluxFill(FluxFillSettings(**settings)).needs.gpu_gib

    assert gib(max_side=512) < gib(max_side=1024) < gib(max_side=1024, dtype="float32")
    assert gib(device="cpu") == 0
