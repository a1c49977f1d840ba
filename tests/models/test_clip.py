"""Scores equal those of transformers' own CLIP, with a tiny network of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from dataengine.config import ClipScorerSettings
from dataengine.models.clip import FITTING, UNRELATED, ClipScorer
from dataengine.weights import MissingWeightsError
from tiny.clip import save_whole

PHRASES = ["red hat", "a long blue coat", "scarf"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_whole(tmp_path_factory.mktemp("whole-clip"))


@pytest.fixture(scope="module")
def pictures(collins, hopper) -> list[Image.Image]:
    return [Image.fromarray(collins), Image.fromarray(hopper), Image.fromarray(hopper[:90, 100:160])]


def scorer(weights: Path, **more: object) -> ClipScorer:
    made = ClipScorer(ClipScorerSettings(weights=str(weights), device="cpu", **more))
    made.load()
    return made


def test_equals_the_librarys_cosines(weights, pictures, monkeypatch) -> None:
    model, tokenizer = CLIPModel.from_pretrained(weights).eval(), AutoTokenizer.from_pretrained(weights)
    pixels = CLIPImageProcessor.from_pretrained(weights)(pictures, return_tensors="pt")
    words = tokenizer([f"a photo of {phrase}" for phrase in PHRASES], padding=True, return_tensors="pt")
    with torch.inference_mode():
        cosines = model(**words, **pixels).logits_per_image / model.logit_scale.exp()
    expected = np.clip((cosines.numpy() - UNRELATED) / (FITTING - UNRELATED), 0, 1)
    found = scorer(weights)(pictures, PHRASES)
    assert found.shape == (3, 3)
    assert np.allclose(found, expected, atol=1e-5)
    # However many go through at once.
    assert np.allclose(scorer(weights, images=1)(pictures, PHRASES), found, atol=1e-5)


def test_nothing_to_score(weights, pictures) -> None:
    made = scorer(weights)
    assert made([], PHRASES).shape == (0, 3)
    assert made(pictures, []).shape == (3, 0)


def test_half_a_clip_is_refused(tmp_path) -> None:
    (file,) = save_whole(tmp_path).glob("*.safetensors")
    images = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("text_model")}
    save_file(images, file, {"format": "pt"})
    with pytest.raises(ValueError, match="no whole CLIP"):
        scorer(tmp_path)


def test_missing_weights_are_named(tmp_path) -> None:
    with pytest.raises(MissingWeightsError, match="nowhere"):
        scorer(tmp_path / "nowhere")
    with pytest.raises(RuntimeError, match="load"):
        ClipScorer(ClipScorerSettings(weights=str(tmp_path)))([], [])
