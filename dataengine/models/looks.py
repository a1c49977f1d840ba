"""What a thing looks like, as a vector of unit length: near where the same thing is seen again."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dataengine.config import LookNetworkSettings
from dataengine.models.clip_encoder import FILES, ClipEncoder
from dataengine.models.colour_names import lab
from dataengine.models.interfaces import Image, Model, Pixels
from dataengine.models.placement import takes_gpu
from dataengine.weights import Needs, Weights

HUES, LIGHTS = 8, 8
"""Bins along each of a and b, and along L."""
REACH = 64.0
"""a and b from −64 to 64: beyond lies almost no cloth."""
HUE_WEIGHT = 0.7
"""Lighting changes lightness from clip to clip, and colour less."""
GPU_GIB = 1.2


class LookEncoder(Model, Protocol):
    def encode(self, crops: Sequence[tuple[Image, Pixels]]) -> list[NDArray[np.float32]]:
        """A vector of unit length for each crop; pixels outside its mask must not matter."""


class LabHistogram:
    """Which colours cover how much of it: square roots of two histograms in CIELAB, so that a product of two vectors is
    a Bhattacharyya coefficient. It tells an orange top from a blue one, not a shirt from a jacket of one colour."""

    name = "lab-histogram"
    revision = ""
    needs = Needs()

    def load(self) -> None:
        """Nothing to load."""

    def encode(self, crops: Sequence[tuple[Image, Pixels]]) -> list[NDArray[np.float32]]:
        """(HUES² + LIGHTS,) float32 each. Raises `ValueError` for a mask without pixels."""
        return [self._encode(image[mask]) for image, mask in crops]

    def _encode(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not len(rgb):
            raise ValueError("a mask without pixels has no look")
        light, a, b = lab(rgb).T
        hues = _soft((a + REACH) / (2 * REACH), HUES)[:, :, None] * _soft((b + REACH) / (2 * REACH), HUES)[:, None, :]
        lights = _soft(light / 100, LIGHTS)
        weighted = (HUE_WEIGHT * hues.mean(axis=0).ravel(), (1 - HUE_WEIGHT) * lights.mean(axis=0))
        vector = np.sqrt(np.concatenate(weighted)).astype(np.float32)
        return vector / np.linalg.norm(vector)


class ClipLook:
    """CLIP's view of the crop, on white as references are."""

    name = "clip-look"

    def __init__(self, settings: LookNetworkSettings) -> None:
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, FILES)
        self.needs = Needs((self._weights,), (), GPU_GIB if takes_gpu(settings) else 0.0)
        self._encoder: ClipEncoder | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        self._encoder = ClipEncoder.load(self._weights.locate(), self._settings, self._settings.images)

    def encode(self, crops: Sequence[tuple[Image, Pixels]]) -> list[NDArray[np.float32]]:
        if self._encoder is None:
            raise RuntimeError("ClipLook.load() must be called before encode()")
        shown = [np.where(mask[:, :, None], image, np.uint8(255)) for image, mask in crops]
        return list(self._encoder.embed(shown).cpu().numpy())


def _soft(shares: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Each value (n,) in 0…1 shared between its two nearest bins: (n, bins), rows that sum to 1."""
    place = np.clip(shares, 0, 1) * (bins - 1)
    low = np.minimum(place.astype(int), bins - 2)
    rows = np.arange(len(place))
    counts = np.zeros((len(place), bins), np.float32)
    counts[rows, low] = 1 - (place - low)
    counts[rows, low + 1] = place - low
    return counts
