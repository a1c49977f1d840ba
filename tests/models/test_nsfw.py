"""Scores equal the classifier's own probabilities; what is no classifier of that kind is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification, ViTImageProcessor

from dataengine.config import NsfwSettings
from dataengine.models.nsfw import Nsfw
from dataengine.weights import MissingWeightsError
from tiny.vit import save_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("vit"), ("drawings", "Porn", "neutral", "sexy"))


def loaded(folder: Path, **settings) -> Nsfw:
    model = Nsfw(NsfwSettings(weights=str(folder), device="cpu", **settings))
    model.load()
    return model


def test_equals_the_classifier_s_own_probabilities(classifier, collins, hopper) -> None:
    images = [collins, hopper, np.ascontiguousarray(hopper[:101, :77])]
    found = loaded(classifier).score(images)
    network, processor = (
        ViTForImageClassification.from_pretrained(classifier),
        ViTImageProcessor.from_pretrained(classifier),
    )
    for image, score in zip(images, found, strict=True):
        with torch.inference_mode():
            shares = network(**processor(Image.fromarray(image), return_tensors="pt")).logits[0].softmax(-1)
        assert score == pytest.approx(float(shares[1] + shares[3]), abs=2e-3)
    assert len({round(score, 4) for score in found}) == 3


def test_the_classes_are_settings(classifier, collins) -> None:
    every = [
        loaded(classifier, labels=(label,)).score([collins])[0] for label in ("drawings", "porn", "neutral", "sexy")
    ]
    assert sum(every) == pytest.approx(1, abs=1e-4)
    for labels in (("nsfw",), ("drawings", "porn", "neutral", "sexy")):
        with pytest.raises(ValueError, match="its classes are drawings, porn, neutral, sexy"):
            loaded(classifier, labels=labels)


def test_a_backbone_without_its_head_is_refused(classifier, tmp_path) -> None:
    save_classifier(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "classifier" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match="no trained image classifier"):
        loaded(tmp_path)


def test_weights_that_are_not_there_are_named_before_loading() -> None:
    with pytest.raises(MissingWeightsError, match="hf download Falconsai/nsfw"):
        _ = Nsfw(NsfwSettings(weights="Falconsai/nsfw_image_detection")).revision
