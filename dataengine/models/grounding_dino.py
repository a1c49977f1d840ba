"""Grounding DINO (Liu et al. 2023, arXiv:2303.05499) through transformers: where in an image a phrase is.

A query asks for one phrase: of prompts with many, the network loses some and garbles the labels of others. Queries of
all clips in a batch share forward passes. An image is never padded to the size of its neighbours in a pass, because the
backbone looks at the padding and the boxes would depend on which clips happen to be measured together: images that the
network sees at equal size go together instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.config import ConfigError, GroundingDinoSettings
from dataengine.models.interfaces import Image, Query, Region
from dataengine.models.placement import device_of, dtype_of, takes_gpu
from dataengine.models.pretrained import load_exactly
from dataengine.records import Box
from dataengine.weights import Needs, Weights

if TYPE_CHECKING:
    import torch

FILES = ("config.json", "*processor_config.json", "tokenizer*", "*.safetensors")
ASPECTS_PER_OCTAVE = 8
"""Crops are stretched to the nearest of so many aspect ratios between 1:1 and 2:1 (by 4.4 % at most), so that crops of
different people meet in one pass. Whole frames are not: a video has one size, and their boxes are the reference's."""
SAME_PERSON_IOU = 0.7
"""Boxes of people that overlap more are one person, found twice."""
GPU_GIB = {"tiny": (0.7, 0.6), "base": (0.9, 0.8)}
"""Weights in float32, and what an image of 800 x 1333 adds, by the size that the name of the weights tells."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One phrase asked of a part of an image. `size`: rows and columns that the network sees it at."""

    image: Image
    window: Box
    phrase: str
    size: tuple[int, int]

    @property
    def pixels(self) -> Image:
        x0, y0, x1, y1 = (int(v) for v in self.window)
        return self.image[y0:y1, x0:x1]


class GroundingDino:
    """Implements `Grounder`. Boxes that score `floor` or less are not reported.

    The weights stay float32 and `dtype` is what matrices are multiplied in (autocast): pure bfloat16 rounds a box's
    edges to 1/256 of the image.
    """

    name = "grounding-dino"

    def __init__(self, settings: GroundingDinoSettings) -> None:
        """Raises `ConfigError` for a checkpoint of the original code, which has other names for the same weights."""
        if settings.weights.endswith((".pth", ".pt")):
            raise ConfigError(
                f"grounding_dino.weights: {settings.weights} is a checkpoint of the original GroundingDINO code. The "
                "same weights are on the hub for transformers: IDEA-Research/grounding-dino-tiny (swint_ogc) and "
                "IDEA-Research/grounding-dino-base (swinb_cogcoor). Convert your own with transformers' script "
                "models/grounding_dino/convert_grounding_dino_to_hf.py and give the folder that it writes"
            )
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, FILES)
        self.needs = Needs((self._weights,), (), _gpu_gib(settings))
        self._network: _Network | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for weights that do not fit the network exactly."""
        self._network = _Network.load(self._weights, self._settings)

    def ground(self, queries: Sequence[Query]) -> list[list[Region]]:
        """The best `boxes` regions of each query in its frame, best first.

        What belongs to a person is looked for in the person's body box, grown by `margin`, and an object in all of the
        frame. Regions end at the frame's edges.
        """
        found: list[list[Region]] = [[] for _ in queries]
        asked = [(i, look) for i, query in enumerate(queries) if (look := self._look(query)) is not None]
        for (i, _), regions in zip(asked, self._find([look for _, look in asked]), strict=True):
            found[i] = regions[: self._settings.boxes]
        return found

    def find(self, images: Sequence[Image], phrases: Sequence[str]) -> list[list[Region]]:
        """All regions of the i-th phrase in the i-th image, best first."""
        return self._find([self._whole(image, phrase) for image, phrase in zip(images, phrases, strict=True)])

    def people(self, images: Sequence[Image]) -> list[list[Region]]:
        """Everybody in each image, best first, after non-maximum suppression."""
        return [distinct(regions) for regions in self.find(images, ["person"] * len(images))]

    def _look(self, query: Query) -> _Look | None:
        if query.owner is None:
            return self._whole(query.image, query.phrase)
        window = crop_around(query.owner.body, self._settings.margin, query.image)
        if window.area == 0:
            return None
        aspect = 2 ** (round(ASPECTS_PER_OCTAVE * math.log2(window.width / window.height)) / ASPECTS_PER_OCTAVE)
        size = self._loaded.seen_size(1000 / aspect, 1000)
        return _Look(query.image, window, query.phrase, size)

    def _whole(self, image: Image, phrase: str) -> _Look:
        height, width = image.shape[:2]
        return _Look(image, Box(0, 0, width, height), phrase, self._loaded.seen_size(height, width))

    def _find(self, looks: Sequence[_Look]) -> list[list[Region]]:
        """The regions of each look in its image's pixels."""
        together: dict[tuple[int, int], list[int]] = {}
        for i, look in enumerate(looks):
            together.setdefault(look.size, []).append(i)
        found: list[list[Region]] = [[] for _ in looks]
        for same in together.values():
            for start in range(0, len(same), self._settings.images):
                batch = same[start : start + self._settings.images]
                for i, regions in zip(batch, self._loaded.regions([looks[i] for i in batch]), strict=True):
                    found[i] = [placed for region in regions if (placed := _placed(region, looks[i])).box.area > 0]
        return found

    @property
    def _loaded(self) -> _Network:
        if self._network is None:
            raise RuntimeError("GroundingDino.load() must be called before it is asked")
        return self._network


@dataclass(frozen=True)
class _Network:
    """The loaded network with its processor."""

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    floor: float

    @classmethod
    def load(cls, weights: Weights, settings: GroundingDinoSettings) -> _Network:
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        folder = weights.locate()
        model = load_exactly(GroundingDinoForObjectDetection, folder)
        processor = GroundingDinoProcessor.from_pretrained(folder, local_files_only=True)
        device = device_of(settings)
        return cls(model.to(device).eval(), processor, device, dtype_of(settings, device), settings.floor)

    def seen_size(self, height: float, width: float) -> tuple[int, int]:
        """Rows and columns to which the processor scales an image of that size."""
        from transformers.image_transforms import get_size_with_aspect_ratio

        size = self.processor.image_processor.size
        rows, columns = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
        return int(rows), int(columns)

    def regions(self, looks: Sequence[_Look]) -> list[list[Region]]:
        """What is found in each look, best first, in pixels of its window; all looks are seen at one size."""
        import torch

        tokens = self.processor.tokenizer(
            [prompt(look.phrase) for look in looks],
            padding=True,  # padded tokens are masked everywhere: they change nothing
            truncation=True,
            max_length=self.model.config.max_text_len,
            return_tensors="pt",
        ).to(self.device)
        pixels = self.processor.image_processor(
            [np.ascontiguousarray(look.pixels) for look in looks],
            size=dict(zip(("height", "width"), looks[0].size, strict=True)),
            input_data_format="channels_last",
            device=self.device,
            return_tensors="pt",
        )
        half = self.dtype is not torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=half):
            outputs = self.model(**tokens, **pixels)
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        found = self.processor.image_processor.post_process_object_detection(
            outputs, threshold=self.floor, target_sizes=[look.pixels.shape[:2] for look in looks]
        )
        return [_ranked(one["scores"], one["boxes"]) for one in found]


def prompt(phrase: str) -> str:
    """The phrase as the network was trained on it: lower case, ended by a dot, and none inside, which would part it."""
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split()) + "."


def crop_around(body: Box, margin: float, image: Image) -> Box:
    """Whole pixels of the image around a body grown by `margin` of its size; of area 0 when it is outside."""
    dx, dy = margin * body.width, margin * body.height
    grown = Box(body.x0 - dx, body.y0 - dy, body.x1 + dx, body.y1 + dy).clipped(image.shape[1], image.shape[0])
    if grown.area == 0:
        return Box(0, 0, 0, 0)
    return Box(math.floor(grown.x0), math.floor(grown.y0), math.ceil(grown.x1), math.ceil(grown.y1))


def distinct(regions: Sequence[Region]) -> list[Region]:
    """The regions, best first, without those that overlap a better one: non-maximum suppression."""
    kept: list[Region] = []
    for region in regions:
        if all(_iou(region.box, better.box) < SAME_PERSON_IOU for better in kept):
            kept.append(region)
    return kept


def _ranked(scores: torch.Tensor, boxes: torch.Tensor) -> list[Region]:
    order = scores.argsort(descending=True, stable=True)
    return [Region(Box(*box), score) for score, box in zip(scores[order].tolist(), boxes[order].tolist(), strict=True)]


def _placed(region: Region, look: _Look) -> Region:
    """A region of a look's window, at its place in the image and cut off at the window's edges."""
    x0, y0 = look.window.x0, look.window.y0
    box = region.box
    return Region(Box(box.x0 + x0, box.y0 + y0, box.x1 + x0, box.y1 + y0).intersection(look.window), region.score)


def _iou(a: Box, b: Box) -> float:
    common = a.intersection(b).area
    return common / (a.area + b.area - common)


def _gpu_gib(settings: GroundingDinoSettings) -> float:
    size = "tiny" if "tiny" in settings.weights or "swint" in settings.weights else "base"
    weights, image = GPU_GIB[size]
    return weights + settings.images * image if takes_gpu(settings) else 0.0
