"""The faster way through SAM is SAM's, targets are the world's truth, and the checkpoint does what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dataengine import masks
from dataengine.models.sam_network import build
from dataengine.world.training import CHECKPOINTS, sam
from dataengine.world.training.ahead import ahead
from dataengine.world.training.examples import HELD_OUT, TRAINING, example
from dataengine.world.training.log import read_log
from dataengine.world.training.sam_batches import CLASSES, WEIGHTS, Batch, draw_batch, entities, jittered, tight
from dataengine.world.training.sam_network import GRID, LOW, PATCH, ROWS, decode, encode, network


def batch(seed: int, indices: Sequence[int], draw: np.random.Generator) -> Batch:
    return Batch.of_drawn(draw_batch(seed, indices, draw, 6, WEIGHTS))


@pytest.fixture
def random_network():
    """No weight is zero, so that one in the wrong place shows."""
    torch.manual_seed(1)
    model = network().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


@torch.no_grad()
def test_the_faster_way_gives_what_the_library_gives(random_network) -> None:
    model = random_network
    data = batch(TRAINING, (0, 1), np.random.default_rng(0))
    whole = torch.nn.functional.pad(data.images, (0, 0, 0, (GRID - ROWS) * PATCH))
    official, ours = model.image_encoder(whole), encode(model, whole)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), official, atol=1e-4, rtol=1e-4)
    mask, quality = decode(model, ours[data.of], data.boxes)
    for number in (0, 1):
        mine = data.of == number
        sparse, dense = model.prompt_encoder(points=None, boxes=data.boxes[mine], masks=None)
        masks_, scores = model.mask_decoder(
            image_embeddings=official[number : number + 1],
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert masks_.std() > 0.1
        torch.testing.assert_close(mask[mine], masks_[:, 0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(quality[mine], scores[:, 0], atol=1e-4, rtol=1e-4)


def test_what_is_asked_for_is_what_is_true() -> None:
    for index in range(12):
        one = example(HELD_OUT, index)
        asked = {pixels.tobytes(): kind for kind, pixels in entities(one)}
        for mask in one.truth.masks:
            kind = asked[masks.decode(mask.mask).tobytes()]
            assert (kind in ("face", "body")) == (mask.entity.partition(".")[2] in ("face", "body"))


def test_boxes_are_moved_a_little_and_stay_in_the_frame() -> None:
    draw = np.random.default_rng(0)
    box = np.array([0, 40, 60, 168], float)
    moved = np.stack([jittered(box, draw) for _ in range(400)])
    assert moved.min() == 0
    assert moved[:, 3].max() == 168
    assert 1 < moved[:, 2].std() < 6
    assert np.abs(moved - box).max() <= 0.2 * 128


def test_a_batch_shows_its_masks_where_its_images_do() -> None:
    """Mirrored or not: masks lie in their boxes, and the parts under a mask are of a person or an object."""
    data = batch(TRAINING, range(6), np.random.default_rng(3))
    assert data.parts.shape == (6, 4 * ROWS, LOW)
    assert int(data.parts.max()) < CLASSES
    for of, box, mask, coarse in zip(data.of, data.boxes, data.masks, data.coarse, strict=True):
        around = tight(mask.numpy() > 0)
        inner = np.minimum(around[2:], box[2:].numpy()) - np.maximum(around[:2], box[:2].numpy())
        assert inner.prod() > 0.4 * (around[2:] - around[:2]).prod()
        assert (data.parts[of][coarse == 1] > 0).float().mean() > 0.95
        assert abs(float(coarse.mean() - mask.float().mean())) < 0.002


def test_the_losses_know_a_good_mask() -> None:
    data = batch(TRAINING, (0, 1), np.random.default_rng(0))
    perfect, iou = sam.mask_loss(20 * (data.masks.float() - 0.5), data.masks.float(), data.boxes)
    nothing, none = sam.mask_loss(torch.full(data.masks.shape, -10.0), data.masks.float(), data.boxes)
    assert perfect.max() < 0.01
    assert iou.min() == 1
    assert nothing.min() > 1.5
    assert none.max() == 0


@torch.no_grad()
def test_sharper_logits_are_the_same_masks(random_network) -> None:
    data = batch(TRAINING, (0,), np.random.default_rng(0))
    embeddings = encode(random_network, data.images)
    soft, quality = decode(random_network, embeddings[data.of], data.boxes)
    random_network.load_state_dict(sam.sharpened(random_network.state_dict()))
    sharp, same = decode(random_network, embeddings[data.of], data.boxes)
    torch.testing.assert_close(sharp, sam.SHARPNESS * soft)
    torch.testing.assert_close(same, quality)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sam, "CPU", replace(sam.CPU, images=1))
    monkeypatch.setattr(sam, "SAVED_EVERY_S", 0)
    log = sam.train(tmp_path / "whole", steps=3, say=lambda text: None, workers=2)
    assert read_log(tmp_path / "whole") == log
    assert log.curve[-1].step == 3

    def stopping(make, steps, workers):
        yield from ahead(make, steps[:2], workers)

    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(sam, "ahead", stopping)
        sam.train(tmp_path / "parts", steps=3, say=lambda text: None)
    assert not (tmp_path / "parts" / sam.FILE).exists()
    sam.train(tmp_path / "parts", steps=3, say=lambda text: None)
    whole, parts = (load_file(tmp_path / name / sam.FILE) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not (tmp_path / "parts" / "resume.pt").exists()
    assert build(whole).image_encoder.img_size == 280


def test_a_training_ends_by_time_with_a_low_rate(tmp_path: Path, monkeypatch) -> None:
    shares: dict[int, float] = {}

    def noted(step: int, share: float) -> float:
        return shares.setdefault(step, share)

    monkeypatch.setattr(sam, "rate", noted)
    plan = replace(sam.GPU, images=1, prompts=2)
    log = sam.train(tmp_path, minutes=0.02, say=lambda text: None, plan=plan)
    assert log.steps == len(shares) > 1
    assert 0.4 < max(shares.values()) < 1
    assert log.minutes is not None
    assert sam.held_out(tmp_path, range(1))


def test_the_committed_checkpoint_cuts_out_what_boxes_surround() -> None:
    figures = {figure.name: figure.value for figure in sam.held_out(CHECKPOINTS / "sam", range(1000, 1020))}
    assert figures["mask IoU"] >= 0.9
    assert figures["mask IoU: body"] >= 0.93
    assert figures["masks with score ≥ 0.5 and stability ≥ 0.8"] >= 0.95
