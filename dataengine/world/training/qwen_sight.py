"""What the tiny Qwen2.5-VL's tower sees of images that lie on the training's device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dataengine.world.training.qwen_lessons import Key, Seen
from dataengine.world.training.qwen_network import cut, pictures, see
from dataengine.world.training.qwen_words import Model


@dataclass(frozen=True)
class View:
    """What the tower makes of images.

    Attributes:
        tokens: float32 [merged tokens, hidden] of all images in order.
        once, early: tokens, and patches behind an early layer, of the images without those that come again.
        senses, parts, tints: what these show, as `Seen` has it.
    """

    tokens: Tensor
    once: Tensor
    early: Tensor
    senses: Tensor
    parts: Tensor
    tints: Tensor


class Sight:
    """Images by their keys, and what the tower sees of them; while it rests, each image is looked at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._images: dict[Key, Tensor] = {}
        self._grids: dict[Key, tuple[int, int]] = {}
        self._shown: dict[Key, tuple[Tensor, Tensor, Tensor]] = {}
        self._known: dict[Key, Tensor] = {}

    def add(self, images: Iterable[Seen]) -> None:
        """Keep them on the default device."""
        for image in images:
            self._images[image.key] = cut(torch.tensor(image.image))
            self._grids[image.key] = image.grid
            shown = (image.senses, image.parts, image.tints)
            self._shown[image.key] = tuple(torch.as_tensor(values) for values in shown)  # type: ignore[assignment]

    def awake(self, keys: Sequence[Key]) -> View:
        self._known.clear()
        different = list(dict.fromkeys(keys))
        once, early = self._see(different)
        parts = dict(zip(different, once.split([self._size(key) for key in different]), strict=True))
        shown = (torch.cat(values) for values in zip(*(self._shown[key] for key in different), strict=True))
        return View(torch.cat([parts[key] for key in keys]), once, early, *shown)

    @torch.no_grad()
    def at_rest(self, keys: Sequence[Key]) -> Tensor:
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            parts = self._see(new)[0].split([self._size(key) for key in new])
            self._known |= {key: part.clone() for key, part in zip(new, parts, strict=True)}
        return torch.cat([self._known[key] for key in keys])

    def _see(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        return see(self._model, pictures([self._images[key] for key in keys], [self._grids[key] for key in keys]))

    def _size(self, key: Key) -> int:
        rows, columns = self._grids[key]
        return rows * columns
