"""SAM 2: masks are those of the library's own processing, whatever else is cut."""

import numpy as np
import pytest
import torch
from transformers import Sam2Model, Sam2Processor

from dataengine.config import Sam2Settings
from dataengine.models.interfaces import Prompt, Prompted
from dataengine.models.sam2 import Sam2
from dataengine.records import Box
from dataengine.weights import MissingWeightsError

BOXES = (Box(10, 10, 50, 60), Box(20.5, 3.25, 90, 80.2), Box(0, 0, 97, 90), Box(60, 20, 61, 90))


def prompted(image: np.ndarray, *boxes: Box) -> Prompted:
    return Prompted(image, (), [Prompt("thing", box, None) for box in boxes])


def loaded(folder, **changes) -> Sam2:
    model = Sam2(Sam2Settings(weights=str(folder), device="cpu", **changes))
    model.load()
    return model


@pytest.fixture(scope="module")
def model(tiny_sam2) -> Sam2:
    return loaded(tiny_sam2)


@pytest.mark.parametrize("name", ["wide", "odd", "upright"])
def test_masks_are_the_librarys(name, model, tiny_sam2, patterns) -> None:
    image = patterns[name]
    network = Sam2Model.from_pretrained(tiny_sam2).eval()
    processor = Sam2Processor.from_pretrained(tiny_sam2)
    inputs = processor(images=image, input_boxes=[[list(box) for box in BOXES]], return_tensors="pt")
    with torch.no_grad():
        outputs = network(**inputs, multimask_output=False)
    (wanted,) = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])
    (segments,) = model.segment([prompted(image, *BOXES)])
    assert len(segments) == len(BOXES)
    for i, segment in enumerate(segments):
        assert 0.02 < segment.pixels.mean() < 0.98
        np.testing.assert_array_equal(segment.pixels, wanted[i, 0].numpy())
        assert segment.score == float(outputs.iou_scores[0, i, 0])
        assert segment.stability is not None and 0 < segment.stability < 1
    assert any((a.pixels != segments[0].pixels).any() for a in segments[1:]), "the box matters"


def test_together_is_as_alone(tiny_sam2, patterns) -> None:
    scenes = [prompted(image, *BOXES[: 1 + number]) for number, image in enumerate(patterns.values())]
    alone = list(loaded(tiny_sam2).segment(scenes))
    together = list(loaded(tiny_sam2, images=3).segment(scenes))
    for few, many in zip(alone, together, strict=True):
        for a, b in zip(few, many, strict=True):
            assert (a.pixels == b.pixels).mean() > 0.999
            assert a.score == pytest.approx(b.score, abs=1e-5)
    for box, segment in zip(BOXES, alone[2], strict=False):
        ((single,),) = loaded(tiny_sam2).segment([prompted(patterns["upright"], box)])
        assert (single.pixels == segment.pixels).mean() > 0.999


def test_an_image_is_encoded_once_for_all_its_boxes(tiny_sam2, patterns) -> None:
    model = loaded(tiny_sam2, images=2)
    seen = []
    model._network.model.vision_encoder.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(len(inputs[0] if inputs else named["pixel_values"])), with_kwargs=True
    )
    list(model.segment([prompted(image, *BOXES) for image in patterns.values()]))
    assert seen == [2, 1]


def test_half_precision_moves_few_pixels(tiny_sam2, model, patterns) -> None:
    scene = prompted(patterns["odd"], *BOXES)
    (exact,), (half,) = model.segment([scene]), loaded(tiny_sam2, dtype="bfloat16").segment([scene])
    for a, b in zip(exact, half, strict=True):
        assert (a.pixels & b.pixels).sum() > 0.8 * (a.pixels | b.pixels).sum()
        assert a.score == pytest.approx(b.score, abs=0.05)


def test_missing_weights_name_the_download(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"hf download facebook/sam2\.1-hiera-large --revision main"):
        Sam2(Sam2Settings()).load()


def test_identity_and_needs_are_known_before_loading(tiny_sam2) -> None:
    model = Sam2(Sam2Settings(weights=str(tiny_sam2), device="cpu"))
    assert model.needs.gpu_gib == 0 and " transformers " in model.revision
    tiny, large = (Sam2(Sam2Settings(weights=f"facebook/sam2.1-hiera-{size}")).needs for size in ("tiny", "large"))
    assert 0.5 < tiny.gpu_gib < large.gpu_gib
    with pytest.raises(RuntimeError, match="load"):
        next(model.segment([prompted(np.zeros((8, 8, 3), np.uint8), BOXES[0])]))
