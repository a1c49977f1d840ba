"""Grounding DINO (Liu et al. 2023, arXiv:2303.05499) through transformers: where in an image a phrase is.

A query asks for one phrase: of prompts with many, the network loses some and garbles the labels of others. Queries of
all clips in a batch share forward passes. An image is never padded to the size of its neighbours in a pass, because the
backbone looks at the padding and the boxes would depend on which clips happen to be measured together: images that the
network sees at equal size go together instead. The network (`grounding_dino_network`), and with it torch, is imported
when it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from dataengine.config import ConfigError, GroundingDinoSettings
from dataengine.models.interfaces import Image, Query, Region
from dataengine.models.placement import takes_gpu
from dataengine.records import Box
from dataengine.weights import Needs, Weights

if TYPE_CHECKING:
    from dataengine.models.grounding_dino_network import Network

FILES = ("config.json", "*processor_config.json", "tokenizer*", "*.safetensors")
ASPECTS_PER_OCTAVE = 8
"""Crops are stretched to the nearest of so many aspect ratios between 1:1 and 2:1 (by 4.4 % at most), so that crops of
different people meet in one pass. Whole frames are not: a video has one size, and their boxes are the reference's."""
SAME_PERSON_IOU = 0.7
"""Boxes of people that overlap more are one person, found twice."""
GPU_GIB = {"tiny": (1.5, 1.4), "base": (1.8, 1.4)}
"""By the size that the name of the weights tells: float32 weights, their bfloat16 copies and 0.5 for CUDA itself; and
what an image of 800 x 1333 adds, counted over the live tensors of a float32 pass (autocast stays below)."""


@dataclass(frozen=True, slots=True)
class Look:
    """One phrase asked of a part of an image. `size`: rows and columns that the network sees it at."""

    image: Image
    window: Box
    phrase: str
    size: tuple[int, int]

    @property
    def place(self) -> tuple[int, Box]:
        """Equal for looks at the same pixels."""
        return id(self.image), self.window

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
        self._network: Network | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for weights that do not fit the network exactly."""
        from dataengine.models.grounding_dino_network import Network

        self._network = Network.load(self._weights.locate(), self._settings)

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

    def _look(self, query: Query) -> Look | None:
        if query.owner is None:
            return self._whole(query.image, query.phrase)
        window = crop_around(query.owner.body, self._settings.margin, query.image)
        if window.area == 0:
            return None
        size = self._loaded.seen_size(1000 / nearest_aspect(window), 1000)
        return Look(query.image, window, query.phrase, size)

    def _whole(self, image: Image, phrase: str) -> Look:
        height, width = image.shape[:2]
        return Look(image, Box(0, 0, width, height), phrase, self._loaded.seen_size(height, width))

    def _find(self, looks: Sequence[Look]) -> list[list[Region]]:
        """The regions of each look in its image's pixels."""
        together: dict[tuple[int, int], list[int]] = {}
        places: dict[tuple[int, Box], int] = {}
        for i, look in enumerate(looks):
            together.setdefault(look.size, []).append(i)
            places.setdefault(look.place, i)
        found: list[list[Region]] = [[] for _ in looks]
        for same in together.values():
            same.sort(key=lambda i: places[looks[i].place])  # phrases of one image share its backbone pass
            for start in range(0, len(same), self._settings.images):
                batch = same[start : start + self._settings.images]
                for i, regions in zip(batch, self._loaded.regions([looks[i] for i in batch]), strict=True):
                    found[i] = [placed for region in regions if (placed := _placed(region, looks[i])).box.area > 0]
        return found

    @property
    def _loaded(self) -> Network:
        if self._network is None:
            raise RuntimeError("GroundingDino.load() must be called before it is asked")
        return self._network


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


def nearest_aspect(window: Box) -> float:
    """Width to height at which the network sees a crop."""
    return float(2 ** (round(ASPECTS_PER_OCTAVE * math.log2(window.width / window.height)) / ASPECTS_PER_OCTAVE))


def distinct(regions: Sequence[Region]) -> list[Region]:
    """The regions, best first, without those that overlap a better one: non-maximum suppression."""
    kept: list[Region] = []
    for region in regions:
        if all(_iou(region.box, better.box) < SAME_PERSON_IOU for better in kept):
            kept.append(region)
    return kept


def _placed(region: Region, look: Look) -> Region:
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
