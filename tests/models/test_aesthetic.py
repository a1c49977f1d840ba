"""Scores equal CLIP's own processor and encoder with the head computed by hand."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from dataengine.config import AestheticSettings
from dataengine.models.aesthetic import Aesthetic, linear_layers
from dataengine.weights import MissingWeightsError
from tiny.clip import WIDTH, head_tensors, save_encoder, save_head


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("clip"))


def loaded(encoder: Path, head: Path) -> Aesthetic:
    model = Aesthetic(AestheticSettings(weights=str(encoder), head=str(head), device="cpu"))
    model.load()
    return model


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_equals_the_reference_on_images_of_any_size(encoder, tmp_path, suffix, collins, hopper) -> None:
    sizes = (WIDTH, 16, 4, 1)
    images = [collins, hopper, np.ascontiguousarray(hopper[:301, :177]), np.ascontiguousarray(collins[100:163, 5:400])]
    found = loaded(encoder, save_head(tmp_path / f"head{suffix}", *sizes)).score(images)
    reference, tensors = CLIPVisionModelWithProjection.from_pretrained(encoder).eval(), head_tensors(*sizes)
    for image, score in zip(images, found, strict=True):
        pixels = CLIPImageProcessor.from_pretrained(encoder)(Image.fromarray(image), return_tensors="pt")
        with torch.inference_mode():
            value = reference(**pixels).image_embeds[0]
        value = value / value.norm()
        for number in range(len(sizes) - 1):
            value = tensors[f"layers.{2 * number}.weight"] @ value + tensors[f"layers.{2 * number}.bias"]
        assert score == pytest.approx(value.item(), abs=1e-4)
    assert len({round(score, 3) for score in found}) == len(found)


def test_a_single_layer_without_a_number_is_a_head(encoder, tmp_path) -> None:
    """As `sa_0_4_vit_l_14_linear.pth` is."""
    layer = {"weight": torch.ones(1, WIDTH), "bias": torch.full((1,), 5.0)}
    torch.save(layer, tmp_path / "linear.pth")
    (score,) = loaded(encoder, tmp_path / "linear.pth").score([np.zeros((60, 80, 3), np.uint8)])
    assert 0 < abs(score - 5) < WIDTH**0.5


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (head_tensors(WIDTH, 8, 1) | head_tensors(WIDTH, 16), "no chain"),
        (head_tensors(WIDTH, 8), "no chain"),
        ({"layers.0.weight": torch.ones(1, WIDTH)}, "lacks its weight or bias"),
        ({"conv.0.kernel": torch.ones(1)}, r"conv\.0\.kernel"),
        ({}, "no chain"),
    ],
)
def test_what_is_no_head_is_refused(tensors, message) -> None:
    with pytest.raises(ValueError, match=message):
        linear_layers(tensors, "head.pth")


def test_a_head_for_another_encoder_is_refused(encoder, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"takes {WIDTH + 1} values"):
        loaded(encoder, save_head(tmp_path / "head.pth", WIDTH + 1, 1))


def test_no_code_in_a_head_is_run(encoder, tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(pickle.UnpicklingError):
        loaded(encoder, tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_there_are_named_before_loading(encoder) -> None:
    model = Aesthetic(AestheticSettings(weights=str(encoder), head="head.pth"))
    assert [w.source for w in model.needs.weights] == [str(encoder), "head.pth"]
    with pytest.raises(MissingWeightsError, match=r"head\.pth"):
        _ = model.revision
