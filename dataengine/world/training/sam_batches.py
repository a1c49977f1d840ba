"""What SAM learns from: frames of the world with the boxes and the masks of some of their entities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataengine.models.sam_network import PIXEL_MEAN, PIXEL_STD
from dataengine.world.figure import FACE_PARTS, TOP_PARTS, Part, label, object_labels, person_labels
from dataengine.world.script import HEIGHT, WIDTH
from dataengine.world.training.examples import Example, example
from dataengine.world.training.sam_network import LOW, ROWS

SMALLEST = 60
"""Visible pixels from which an entity is asked for."""
CLASSES = 1 + len(Part) + 3
"""Of pixels: nothing, the parts of a person, three parts of an object."""
WEIGHTS = {"body": 1.0, "face": 0.5, "hair": 1.2, "garment": 1.5, "hat": 1.0, "glasses": 1.5, "scarf": 1.2}
"""How often a kind of entity is asked for, against the others; bags and objects: 2."""


@dataclass(frozen=True)
class Drawn:
    """A batch before it is tensors, as another process makes it. Attributes as of `Batch`, but for:

    images: RGB [B, HEIGHT, WIDTH, 3] uint8.
    parts: uint8.
    coarse: [P, 4 × ROWS, LOW] uint8, 255 where the mask is all of the pixel.
    """

    images: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    of: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[np.uint8]
    coarse: NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Attributes:

    images: normalised, [B, 3, HEIGHT, WIDTH] float32.
    parts: class of every pixel of the low-resolution mask, [B, 4 × ROWS, LOW] int64.
    of: the image of each prompt, [P] int64.
    boxes: [P, 4] float32.
    masks: [P, HEIGHT, WIDTH] uint8, 0 or 1.
    coarse: the masks' share of every pixel of the low-resolution mask, [P, 4 × ROWS, LOW] float32.
    """

    images: Tensor
    parts: Tensor
    of: Tensor
    boxes: Tensor
    masks: Tensor
    coarse: Tensor

    @classmethod
    def of_drawn(cls, drawn: Drawn) -> Batch:
        """On torch's default device."""
        return cls(
            normalised(torch.as_tensor(drawn.images)),
            torch.as_tensor(drawn.parts).long(),
            torch.as_tensor(drawn.of),
            torch.as_tensor(drawn.boxes),
            torch.as_tensor(drawn.masks),
            torch.as_tensor(drawn.coarse) / 255,
        )


def entities(one: Example) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Everything that could be asked for in a frame, named by a caption or not, with its visible pixels."""
    seen = one.labels
    for number, actor in enumerate(one.shot.actors):
        groups = {"face": FACE_PARTS, "hair": (Part.HAIR,), "garment": (*TOP_PARTS, Part.UNDERSHIRT)}
        groups |= {item.kind: (Part[item.kind.upper()],) for item in actor.person.accessories}
        yield "body", _is(seen, person_labels(number))
        for kind, parts in groups.items():
            yield kind, _is(seen, [label(number, part) for part in parts])
    for number, placed in enumerate(one.shot.objects):
        yield placed.thing.kind, _is(seen, object_labels(number))


def _is(labels: NDArray[np.uint8], values: Sequence[int]) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table[labels]


def _classes() -> NDArray[np.uint8]:
    """From the numbers of the label map to classes: nothing, the parts of a person, the parts of an object."""
    table = np.zeros(256, np.uint8)
    for number in range(3):
        for i, value in enumerate(object_labels(number)):
            table[value] = 1 + len(Part) + min(i, 2)
        for part in Part:
            table[label(number, part)] = 1 + part
    return table


_CLASSES = _classes()


def jittered(box: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """The box with each side moved by a few hundredths of its length, sometimes by more; never out of the frame."""
    extent = np.tile(box[2:] - box[:2], 2)
    moved = box + draw.normal(0, 0.04 if draw.random() < 0.7 else 0.09, 4).clip(-0.2, 0.2) * extent
    return np.clip(moved, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))


def draw_batch(
    seed: int, indices: Sequence[int], draw: np.random.Generator, prompts: int, weights: Mapping[str, float]
) -> Drawn:
    """Examples, half of them mirrored, with the boxes of some of their entities.

    Args:
        prompts: boxes an image, where there are so many entities.
        weights: as `WEIGHTS`.
    """
    images, parts, of, boxes, masks, coarse = [], [], [], [], [], []
    for i, index in enumerate(indices):
        one = example(seed, index)
        flip = slice(None, None, -1 if draw.random() < 0.5 else 1)
        images.append(np.ascontiguousarray(one.image[:, flip]))
        labels = np.ascontiguousarray(one.labels[:, flip])
        parts.append(cv2.resize(labels, (LOW, 4 * ROWS), interpolation=cv2.INTER_NEAREST))
        found = [(kind, pixels) for kind, pixels in entities(one) if pixels.sum() >= SMALLEST]
        weight = np.array([weights.get(kind, 2.0) for kind, _ in found])
        for k in draw.choice(len(found), min(prompts, len(found)), replace=False, p=weight / weight.sum()):
            pixels = np.ascontiguousarray(found[k][1][:, flip])
            of.append(i)
            masks.append(pixels.astype(np.uint8))
            coarse.append(cv2.resize(255 * masks[-1], (LOW, 4 * ROWS), interpolation=cv2.INTER_AREA))
            boxes.append(jittered(tight(pixels), draw))
    return Drawn(
        np.stack(images),
        _CLASSES[np.stack(parts)],
        np.array(of),
        np.stack(boxes).astype(np.float32),
        np.stack(masks),
        np.stack(coarse).astype(np.uint8),
    )


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    return (images.permute(0, 3, 1, 2).float() - mean) / std


def tight(pixels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The box of the pixels, xyxy."""
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float64)
