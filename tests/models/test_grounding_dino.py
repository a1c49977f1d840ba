"""Grounding DINO: boxes are those of the library's own processing, wherever and with whomever an image is looked at."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

from dataengine.config import ConfigError, GroundingDinoSettings
from dataengine.models.grounding_dino import GroundingDino, crop_around, distinct, prompt
from dataengine.models.interfaces import Query, Region
from dataengine.records import Box, Sighting
from dataengine.weights import MissingWeightsError

PHRASES = ("person", "Red Ball.", "the dark jacket of a man")


def settings(folder, **changes) -> GroundingDinoSettings:
    return GroundingDinoSettings(weights=str(folder), device="cpu", **changes)


@pytest.fixture(scope="module")
def model(tiny_grounding_dino) -> GroundingDino:
    model = GroundingDino(settings(tiny_grounding_dino))
    model.load()
    return model


@pytest.fixture(scope="module")
def reference(tiny_grounding_dino):
    """`reference(image, phrase)`: scores and boxes, best first, as the library's documentation has it."""
    network = GroundingDinoForObjectDetection.from_pretrained(tiny_grounding_dino).eval()
    processor = GroundingDinoProcessor.from_pretrained(tiny_grounding_dino)

    def ask(image, phrase, **options):
        inputs = processor(images=image, text=phrase, return_tensors="pt", **options)
        with torch.no_grad():
            outputs = network(**inputs)
        (found,) = processor.post_process_grounded_object_detection(
            outputs, threshold=0.05, text_threshold=0.0, target_sizes=[image.shape[:2]]
        )
        order = found["scores"].argsort(descending=True, stable=True)
        return found["scores"][order].numpy(), found["boxes"][order].numpy()

    return ask


def arrays(regions: list[Region]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r.score for r in regions]), np.array([r.box for r in regions])


def sighting(body: Box) -> Sighting:
    return Sighting(still=0, face=body, face_score=1, landmarks=(), body=body, body_score=None, sharpness=1)


def close(found: list[Region], wanted: list[Region]) -> bool:
    """Equal to a hundredth of a pixel."""
    (scores, boxes), (wanted_scores, wanted_boxes) = arrays(found), arrays(wanted)
    return np.allclose(scores, wanted_scores, atol=1e-4) and np.allclose(boxes, wanted_boxes, atol=1e-2)


@pytest.mark.parametrize("name", ["wide", "odd", "upright"])
def test_boxes_are_the_librarys(name, model, reference, patterns) -> None:
    image = patterns[name]
    height, width = image.shape[:2]
    for phrase in PHRASES:
        scores, boxes = reference(image, phrase.lower().rstrip(".") + ".")
        (found,) = model.find([image], [phrase])
        assert len(found) >= 20, "the untrained network finds plenty"
        inside = np.stack([boxes[:, 0::2].clip(0, width), boxes[:, 1::2].clip(0, height)], axis=2).reshape(-1, 4)
        seen = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
        # The same numbers at another address may be added in another order: the last bits of float32 differ.
        np.testing.assert_allclose(arrays(found)[0], scores[seen], atol=2e-6)
        np.testing.assert_allclose(arrays(found)[1], inside[seen], atol=2e-4)


def test_together_is_as_alone(tiny_grounding_dino, patterns) -> None:
    """Whatever shares a pass: other images, sizes and longer phrases, which pad the shorter ones."""
    asked = [(image, phrase) for phrase in PHRASES for image in patterns.values()]
    results = {}
    for images in (1, 2, 8):
        model = GroundingDino(settings(tiny_grounding_dino, images=images))
        model.load()
        results[images] = model.find(*zip(*asked, strict=True))
    for alone, pair, all_ in zip(results[1], results[2], results[8], strict=True):
        assert close(pair, alone) and close(all_, alone)
    assert not close(results[1][0], results[1][3]), "the phrase matters"


def test_words_are_asked_in_lower_case_and_end_with_one_dot(model, patterns) -> None:
    assert prompt(" Red  Ball. ") == prompt("red ball") == "red ball."
    assert prompt("a St. Bernard?") == "a st bernard.", "a dot inside would part the phrase"
    assert close(*model.find([patterns["wide"]] * 2, ["RED BALL", "red ball."]))


def test_what_a_person_wears_is_looked_for_in_the_persons_crop(tiny_grounding_dino, reference, patterns) -> None:
    """The crop's boxes, moved to its place; scaled as the library would, but for the rounded aspect ratio."""
    image = patterns["odd"]
    model = GroundingDino(settings(tiny_grounding_dino, margin=0.1, boxes=30))
    model.load()
    (found,) = model.ground([Query(image, "red ball", sighting(Box(100.5, 50, 220.5, 250)))])
    window = Box(88, 30, 233, 270)  # 10 % of 120 and of 200 more on each side, whole pixels
    crop = image[30:270, 88:233]
    # 145 / 240 = 2^-0.727, which rounds to 2^-(6/8): at 96 to 160 pixels, 160 high and 95 wide.
    scores, boxes = reference(crop, "red ball.", size={"height": 160, "width": 95})
    moved = [Box(*box).intersection(window) for box in (boxes + np.array([88, 30, 88, 30])).tolist()]
    kept = [Region(box, float(score)) for box, score in zip(moved, scores, strict=True) if box.area > 0]
    assert len(found) >= 20 and close(found, kept)
    assert all(region.box.intersection(window) == region.box for region in found)


def test_boxes_follow_a_crop_that_moves(model, patterns) -> None:
    """The same pixels at another place of a larger frame: the same boxes, moved as far."""
    part = patterns["wide"]
    found = []
    for x, y in ((0, 0), (40, 25)):
        frame = np.zeros((200, 300, 3), np.uint8)
        frame[y : y + 90, x : x + 160] = part
        body = Box(x, y, x + 160, y + 90)
        (regions,) = model_without_margin(model).ground([Query(frame, "hat", sighting(body))])
        found.append(regions)
    moved = [Region(Box(r.box.x0 + 40, r.box.y0 + 25, r.box.x1 + 40, r.box.y1 + 25), r.score) for r in found[0]]
    assert found[0] and close(found[1], moved) and not close(found[1], found[0])


def model_without_margin(model: GroundingDino) -> GroundingDino:
    other = GroundingDino(model._settings.model_copy(update={"margin": 0.0}))
    other._network = model._network
    return other


def test_crops_of_similar_shape_share_a_pass(model, patterns) -> None:
    image = patterns["odd"]
    bodies = [Box(10, 10, 10 + width, 210) for width in (92, 95, 98)]
    looks = [model._look(Query(image, "hat", sighting(body))) for body in bodies]
    assert len({look.size for look in looks if look}) == 1
    stretched = [look.window.width / look.window.height / (look.size[1] / look.size[0]) for look in looks if look]
    assert all(0.95 < ratio < 1.05 for ratio in stretched)


def test_the_best_candidates_above_the_floor(tiny_grounding_dino, patterns) -> None:
    image = patterns["wide"]
    model = GroundingDino(settings(tiny_grounding_dino, boxes=4, floor=0.0))
    model.load()
    (every,), (best,) = model.find([image], ["hat"]), model.ground([Query(image, "hat", None)])
    assert [r.score for r in every] == sorted((r.score for r in every), reverse=True)
    assert best == every[:4]
    middle = every[len(every) // 2].score
    picky = GroundingDino(settings(tiny_grounding_dino, floor=middle))
    picky.load()
    assert picky.find([image], ["hat"])[0] == [r for r in every if r.score > middle]


def test_nobody_no_crop(model, patterns) -> None:
    outside = sighting(Box(200, 0, 260, 80))
    assert model.ground([Query(patterns["wide"], "hat", outside)]) == [[]]
    assert model.ground([]) == []
    assert crop_around(Box(150, 80, 170, 100), 0.5, patterns["wide"]) == Box(140, 70, 160, 90)


def test_people_are_found_once(model, patterns) -> None:
    image = patterns["wide"]
    (everybody,) = model.find([image], ["person"])
    assert all(close(people, distinct(everybody)) for people in model.people([image, image]))
    a, same, beside = Box(0, 0, 10, 20), Box(0, 1, 10, 20), Box(6, 0, 16, 20)
    assert distinct([Region(a, 0.9), Region(same, 0.8), Region(beside, 0.7)]) == [Region(a, 0.9), Region(beside, 0.7)]


def test_half_precision_keeps_boxes_sharp(tiny_grounding_dino, patterns) -> None:
    """Products of matrices are rounded, coordinates are not: pure bfloat16 would know 256 places across an image."""
    model = GroundingDino(settings(tiny_grounding_dino, dtype="bfloat16", floor=0.0))
    model.load()
    edges = arrays(model.find([patterns["odd"]], ["hat"])[0])[1][:, 0::2].ravel() / 517
    edges = edges[(edges > 0.5) & (edges < 1)]
    assert len(edges) >= 4, "how many there are differs between processors"
    assert (np.abs(edges * 256 - np.round(edges * 256)) > 0.01).mean() > 0.8


@pytest.mark.parametrize("name", ["groundingdino_swint_ogc.pth", "weights/groundingdino_swinb_cogcoor.pth", "mine.pt"])
def test_an_original_checkpoint_is_refused_with_what_to_do(name) -> None:
    with pytest.raises(ConfigError, match=r"grounding-dino-tiny \(swint_ogc\).*convert_grounding_dino_to_hf"):
        GroundingDino(GroundingDinoSettings(weights=name))


def test_missing_weights_name_the_download(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"hf download some/grounding-dino --revision main .*safetensors"):
        GroundingDino(GroundingDinoSettings(weights="some/grounding-dino")).load()


def test_weights_must_fit_exactly(tiny_grounding_dino, tmp_path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_grounding_dino, folder)
    state = load_file(folder / "model.safetensors")
    state["model.encoder.layers.0.spare"] = torch.zeros(1)
    del state["model.text_projection.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys.*text_projection\.bias.*unexpected_keys.*spare"):
        GroundingDino(settings(folder)).load()


def test_identity_and_needs_are_known_before_loading(tiny_grounding_dino, tmp_path) -> None:
    model = GroundingDino(settings(tiny_grounding_dino))
    assert model.needs.gpu_gib == 0, "on the CPU"
    assert " transformers " in model.revision
    tiny, base = (
        GroundingDino(GroundingDinoSettings(weights=f"IDEA-Research/grounding-dino-{size}", images=images)).needs
        for size, images in (("tiny", 2), ("base", 8))
    )
    assert 1 < tiny.gpu_gib < base.gpu_gib
    with pytest.raises(RuntimeError, match="load"):
        model.find([np.zeros((8, 8, 3), np.uint8)], ["hat"])


def test_phrases_of_one_image_share_its_backbone_pass(tiny_grounding_dino, patterns) -> None:
    model = GroundingDino(settings(tiny_grounding_dino, images=4))
    model.load()
    seen = []
    shared = model._network.model.model.backbone
    shared.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    a, b = patterns["wide"], patterns["wide"][::-1].copy()
    asked = [(a, "person"), (b, "red ball"), (a, "the dark jacket of a man"), (b, "hat"), (a, "hat")]
    # Sorted by image: three phrases of the first and one of the second, then the rest.
    together = model.find(*zip(*asked, strict=True))
    assert seen == [2, 1], "two images in the first pass"
    for (image, phrase), found in zip(asked, together, strict=True):
        assert close(found, model.find([image], [phrase])[0])
