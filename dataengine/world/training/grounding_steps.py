"""The data of each step, in arrays, so that other processes can make it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import GroundingDinoProcessor
from transformers.image_transforms import get_size_with_aspect_ratio

from dataengine.models.grounding_dino import prompt
from dataengine.world.drawing import Image
from dataengine.world.training.examples import TRAINING
from dataengine.world.training.grounding_network import at_cells, names, processor
from dataengine.world.training.grounding_phrases import classifies, describes
from dataengine.world.training.grounding_plan import Plan
from dataengine.world.training.grounding_views import Pool, View

STRIDES = (8, 16, 32)
"""Of the feature maps, in pixels of the view."""
FEWEST = 4
"""Videos of a pool at least, so that it has frames and crops."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Named:
    """For the backbone alone.

    Attributes:
        pixels: uint8 [views, rows, columns, 3].
        names: what the cells of its feature maps show, int16 [views, 3, rows, columns] each; −1 for no answer.
    """

    pixels: Image
    names: tuple[NDArray[np.int16], ...]


@dataclass(frozen=True)
class Asked:
    """For the detector: views, each with as many prompts.

    Attributes:
        pixels: uint8 [views, rows, columns, 3].
        tokens: int64 [prompts, tokens], filled up with 0.
        boxes: float32 [prompts, most, 4], see `grounding_loss.Targets`.
        there, unclear: bool [prompts, most].
        shown: what `word_loss` wants, int8 [views, cells, phrases, tokens, heads].
    """

    pixels: Image
    tokens: NDArray[np.int64]
    boxes: NDArray[np.float32]
    there: NDArray[np.bool_]
    unclear: NDArray[np.bool_]
    shown: NDArray[np.int8]


@dataclass
class Drawing:
    """Makes the data of a step; of steps below 0 for the backbone alone.

    It keeps a pool of scenes that grows from step to step, so that what it makes depends on the steps that it made
    before. The first one tells which videos are its own.
    """

    seed: int
    plan: Plan
    made: int = 0
    _pool: Pool | None = field(default=None, repr=False)

    def __call__(self, step: int) -> Named | Asked:
        plan, at = self.plan, step + self.plan.backbone_steps
        draw = np.random.default_rng((self.seed, at))
        if self._pool is None:
            seen = lambda height, width: seen_size(plan, height, width)  # noqa: E731
            own = np.random.default_rng((self.seed, at, 1))
            self._pool = Pool(TRAINING + 2 * self.seed, 100_000 * at, seen, own, plan.mix)
            self._pool.grow(max(FEWEST, plan.first))
        if step < 0 or self.made % plan.every == 0:
            self._pool.grow(1)
        self.made += 1
        if step < 0:
            crops = step % 2 == 1
            return named(self._pool.crops(plan.shots, 0) if crops else self._pool.frames(plan.shots, 0))
        crops = draw.random() < plan.crops
        views = self._pool.crops(plan.views, plan.asks) if crops else self._pool.frames(plan.views, plan.asks)
        return asked(views, self._words)

    @cached_property
    def _words(self) -> GroundingDinoProcessor:
        return processor(self.plan)


def named(views: Sequence[View]) -> Named:
    shapes = [shape_at(views[0], stride) for stride in STRIDES[:2]]
    found = tuple(np.stack([names(view, shape) for view in views]).astype(np.int16) for shape in shapes)
    return Named(np.stack([view.pixels for view in views]), found)


def asked(views: Sequence[View], words: GroundingDinoProcessor) -> Asked:
    """Of views of one size, each with as many phrases."""
    asks = [ask for view in views for ask in view.asks]
    tokens = words.tokenizer([prompt(ask.text) for ask in asks], padding=True, return_tensors="np")["input_ids"]
    most = max(1, *(len(ask.boxes) + len(ask.ignored) for ask in asks))
    boxes = np.full((len(asks), most, 4), 0.5, np.float32)
    there, unclear = np.zeros((len(asks), most), bool), np.zeros((len(asks), most), bool)
    for i, ask in enumerate(asks):
        sure, all_of_them = len(ask.boxes), len(ask.boxes) + len(ask.ignored)
        boxes[i, :sure], boxes[i, sure:all_of_them] = ask.boxes, ask.ignored
        there[i, :sure], unclear[i, sure:all_of_them] = True, True
    pixels = np.stack([view.pixels for view in views])
    return Asked(pixels, np.asarray(tokens, np.int64), boxes, there, unclear, _shown(views, words, tokens.tolist()))


def shape_at(view: View, stride: int) -> Size:
    """Rows and columns of the feature map of this stride."""
    rows, columns = view.pixels.shape[:2]
    return math.ceil(rows / stride), math.ceil(columns / stride)


def seen_size(plan: Plan, height: float, width: float) -> Size:
    """Rows and columns that the processor shows a picture at."""
    rows, columns = get_size_with_aspect_ratio((height, width), plan.shortest, plan.longest)
    return int(rows), int(columns)


def _shown(views: Sequence[View], words: GroundingDinoProcessor, ids: list[list[int]]) -> NDArray[np.int8]:
    """The first head is for what describes, the second for what classifies, and of anything else a cell may attend to
    the first token alone."""
    tokens = [words.tokenizer.convert_ids_to_tokens(row) for row in ids]
    asks = [(view, ask) for view in views for ask in view.asks]
    tables = np.zeros((len(asks), len(tokens[0]), 2, 256), np.int8)
    tables[:, 0] = -1
    for i, (view, ask) in enumerate(asks):
        for j, word in enumerate(tokens[i]):
            if word == "[PAD]":
                tables[i, j] = -1
                continue
            for entity in view.entities:
                for head, true in enumerate((describes, classifies)):
                    if true(word, ask.term, entity.term):
                        tables[i, j, head, list(entity.labels)] = 1
    shapes = [shape_at(views[0], stride) for stride in STRIDES]
    seen = [np.concatenate([at_cells(view.labels, shape).ravel() for shape in shapes]) for view in views]
    per_view = tables.reshape(len(views), -1, *tables.shape[1:])
    return np.stack([np.moveaxis(table[..., labels], -1, 0) for table, labels in zip(per_view, seen, strict=True)])
