"""SAM: masks are SamPredictor's to the bit, whatever else is cut; and a checkpoint loads whole or not at all."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.utils.amg import calculate_stability_score

from dataengine.config import SamSettings
from dataengine.models.interfaces import Prompt, Prompted
from dataengine.models.sam import Sam
from dataengine.models.sam_network import build
from dataengine.records import Box
from dataengine.weights import MissingWeightsError
from tiny import sam as tiny

BOXES = (Box(10, 10, 50, 60), Box(20.5, 3.25, 90, 80.2), Box(0, 0, 97, 90), Box(60, 20, 61, 90))


def prompted(image: np.ndarray, *boxes: Box) -> Prompted:
    return Prompted(image, (), [Prompt("thing", box, None) for box in boxes])


def loaded(file, **changes) -> Sam:
    model = Sam(SamSettings(weights=str(file), device="cpu", **changes))
    model.load()
    return model


@pytest.fixture(scope="module")
def model(tiny_sam) -> Sam:
    return loaded(tiny_sam)


@pytest.mark.parametrize("name", ["wide", "odd", "upright"])
def test_masks_are_the_predictors(name, model, patterns) -> None:
    image = patterns[name]
    predictor = SamPredictor(tiny.network())
    predictor.set_image(image)
    (segments,) = model.segment([prompted(image, *BOXES)])
    for box, segment in zip(BOXES, segments, strict=True):
        logits, quality, _ = predictor.predict(box=np.array(box), multimask_output=False, return_logits=True)
        assert 0.02 < segment.pixels.mean() < 0.98
        # A box alone and boxes together differ in the last bit of a logit.
        sure = np.abs(logits[0]) > 1e-4
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(segment.pixels[sure], (logits[0] > 0)[sure])
        assert segment.score == pytest.approx(float(quality[0]), abs=1e-5)
        stability = calculate_stability_score(torch.as_tensor(logits), 0.0, 1.0)
        assert segment.stability == pytest.approx(float(stability), abs=1e-3)
        assert 0 < segment.stability < 1
    assert any((a.pixels != segments[0].pixels).any() for a in segments[1:]), "the box matters"


def test_together_is_as_alone(tiny_sam, patterns) -> None:
    scenes = [prompted(image, *BOXES[: 1 + number]) for number, image in enumerate(patterns.values())]
    alone = list(loaded(tiny_sam).segment(scenes))
    together = list(loaded(tiny_sam, images=3).segment(scenes))
    for few, many in zip(alone, together, strict=True):
        for a, b in zip(few, many, strict=True):
            assert (a.pixels == b.pixels).mean() > 0.999
            assert a.score == pytest.approx(b.score, abs=1e-5)


def test_an_image_is_encoded_once_for_all_its_boxes(tiny_sam, patterns) -> None:
    model = loaded(tiny_sam, images=2)
    seen = []
    model._network.model.image_encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    list(model.segment([prompted(image, *BOXES) for image in patterns.values()]))
    assert seen == [2, 1]


def test_half_precision_moves_few_pixels(tiny_sam, model, patterns) -> None:
    scene = prompted(patterns["odd"], *BOXES)
    (exact,), (half,) = model.segment([scene]), loaded(tiny_sam, dtype="bfloat16").segment([scene])
    for a, b in zip(exact, half, strict=True):
        assert (a.pixels & b.pixels).sum() > 0.8 * (a.pixels | b.pixels).sum()
        assert a.score == pytest.approx(b.score, abs=0.05)


@pytest.mark.parametrize("size", ["vit_h", "vit_l", "vit_b"])
def test_the_published_sizes_are_told_from_their_shapes(size, monkeypatch) -> None:
    """Built without memory: names and shapes must be those of segment-anything's own constructors."""
    with torch.device("meta"):
        wanted = sam_model_registry[size](checkpoint=None)
    made = build(wanted.state_dict())
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in wanted.state_dict().items()}
    assert str(made) == str(wanted)
    for ours, theirs in zip(made.image_encoder.blocks, wanted.image_encoder.blocks, strict=True):
        assert (ours.window_size, ours.attn.num_heads) == (theirs.window_size, theirs.attn.num_heads)
    ours, theirs = made.mask_decoder.transformer, wanted.mask_decoder.transformer
    assert (ours.num_heads, ours.depth, ours.mlp_dim) == (theirs.num_heads, theirs.depth, theirs.mlp_dim)
    assert made.prompt_encoder.input_image_size == wanted.prompt_encoder.input_image_size
    assert made.mask_decoder.num_multimask_outputs == wanted.mask_decoder.num_multimask_outputs


def test_safetensors_are_read_as_well(tmp_path, model, patterns) -> None:
    file = tmp_path / "sam.safetensors"
    save_file(tiny.network().state_dict(), file)
    scene = prompted(patterns["wide"], BOXES[0])
    ((ours,),), ((theirs,),) = loaded(file).segment([scene]), model.segment([scene])
    assert (ours.pixels == theirs.pixels).all() and ours.score == theirs.score


def broken(tmp_path, change) -> str:
    state = tiny.network().state_dict()
    change(state)
    torch.save(state, tmp_path / "broken.pth")
    return str(tmp_path / "broken.pth")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("mask_decoder.iou_token.weight"), r"Missing key.*mask_decoder\.iou_token\.weight"),
        (lambda s: s.update(spare=torch.zeros(1)), r"Unexpected key.*spare"),
        (
            lambda s: s.update({"prompt_encoder.no_mask_embed.weight": torch.zeros(1, 7)}),
            r"size mismatch for prompt_encoder\.no_mask_embed\.weight",
        ),
        (lambda s: s.pop("image_encoder.pos_embed"), r"it has no image_encoder\.pos_embed"),
        (lambda s: s.pop("image_encoder.blocks.1.attn.rel_pos_h"), r"it has no image_encoder\.blocks\.1\.attn"),
        (lambda s: s.clear(), r"it has no image_encoder\.pos_embed"),
    ],
)  # fmt: skip
def test_weights_must_fit_exactly(change, named, tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"(?s)broken\.pth: not a checkpoint of segment-anything: .*{named}"):
        loaded(broken(tmp_path, change))


class Evil:
    def __reduce__(self):
        return print, ("a checkpoint ran code",)


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path, capsys) -> None:
    file = tmp_path / "evil.pth"
    torch.save({"image_encoder.pos_embed": Evil()}, file)
    with pytest.raises(ValueError, match=r"evil\.pth: refused"):
        loaded(file)
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"evil\.pth: refused"):
        loaded(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"evil\.pth: refused"):
        loaded(file)
    torch.save([torch.zeros(1)], file)
    with pytest.raises(ValueError, match="expected tensors by name"):
        loaded(file)
    assert capsys.readouterr().out == ""


def test_missing_weights_name_the_download(tmp_path) -> None:
    with pytest.raises(MissingWeightsError, match=r"no such file.*curl -LO https://\S+/sam_vit_h_4b8939\.pth"):
        Sam(SamSettings(weights=str(tmp_path / "sam_vit_h_4b8939.pth"))).load()
    with pytest.raises(MissingWeightsError, match=r"mine\.pth: no such file or folder of weights$"):
        Sam(SamSettings(weights=str(tmp_path / "mine.pth"))).load()
    with pytest.raises(MissingWeightsError, match="one file"):
        loaded(tmp_path)


def test_identity_and_needs_are_known_before_loading(tiny_sam) -> None:
    model = Sam(SamSettings(weights=str(tiny_sam), device="cpu"))
    assert model.needs.gpu_gib == 0 and "segment-anything 1.0" in model.revision
    huge, base = (Sam(SamSettings(weights=f"sam_vit_{size}.pth")).needs.gpu_gib for size in "hb")
    assert 1 < base < huge
    with pytest.raises(RuntimeError, match="load"):
        next(model.segment([prompted(np.zeros((8, 8, 3), np.uint8), BOXES[0])]))
