"""The part of a picture that a network looks at to fill a hole: cut out, scaled, padded, and put back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.models.interfaces import Image, Pixels

CONTEXT = 0.5
"""What is shown on each side of the hole, as a share of its size: the rest of a large picture only costs detail."""
LEAST = 512
"""Pixels that are shown in either direction at least, where the picture has them."""


@dataclass(frozen=True)
class Canvas:
    """The sizes of pictures that a network takes."""

    multiple: int
    """Width and height are multiples of this."""
    longest: int
    """Neither is larger."""
    fixed: tuple[int, int] | None = None
    """Width and height, where it takes no other."""

    def around(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the picture to give it, for content of that size."""
        if self.fixed is not None:
            return self.fixed
        return -(-width // self.multiple) * self.multiple, -(-height // self.multiple) * self.multiple

    def fits(self, width: int, height: int) -> float:
        """The scale at which content of that size fits; never above 1."""
        most = self.fixed or (self.longest // self.multiple * self.multiple,) * 2
        return min(1.0, most[0] / width, most[1] / height)


@dataclass(frozen=True)
class Patch:
    """A window of a picture around its hole, as a network takes it."""

    image: Image
    """Black in the hole: nothing of what is to be removed is left, not even mixed into pixels at the rim."""
    hole: Pixels
    window: tuple[int, int, int, int]
    """x0, y0, x1, y1 in the picture."""
    content: tuple[int, int]
    """Width and height of the window in `image`; what is beyond mirrors it."""

    @classmethod
    def of(cls, image: Image, hole: Pixels, canvas: Canvas) -> Patch:
        """The window around `hole`, which is not empty."""
        x0, x1 = _window(np.asarray(hole.any(axis=0)))
        y0, y1 = _window(np.asarray(hole.any(axis=1)))
        known = (~hole[y0:y1, x0:x1]).astype(np.float32)
        colours = image[y0:y1, x0:x1] * known[..., None]
        scale = canvas.fits(x1 - x0, y1 - y0)
        width, height = max(1, int((x1 - x0) * scale)), max(1, int((y1 - y0) * scale))
        if scale < 1:
            known = cv2.resize(known, (width, height), interpolation=cv2.INTER_AREA)
            colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
        gap = known < 0.999  # touched by the hole
        colours[gap] = 0
        right, bottom = np.subtract(canvas.around(width, height), (width, height))
        mirrored = cv2.copyMakeBorder(colours.round().astype(np.uint8), 0, bottom, 0, right, cv2.BORDER_REFLECT)
        mirrored_gap = cv2.copyMakeBorder(gap.astype(np.uint8), 0, bottom, 0, right, cv2.BORDER_REFLECT)
        return cls(mirrored, mirrored_gap.astype(bool), (x0, y0, x1, y1), (width, height))

    def into(self, image: Image, hole: Pixels, answer: Image) -> Image:
        """`image` with the pixels of `hole` from `answer`, which has the size of the patch; the others as they are."""
        x0, y0, x1, y1 = self.window
        width, height = self.content
        filled = answer[:height, :width]
        if (width, height) != (x1 - x0, y1 - y0):
            filled = cv2.resize(filled, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
        out = image.copy()
        out[y0:y1, x0:x1][hole[y0:y1, x0:x1]] = filled[hole[y0:y1, x0:x1]]
        return out


def _window(there: Pixels) -> tuple[int, int]:
    """First and last but one position to show along one axis, on which the hole is `there`."""
    where = np.flatnonzero(there)
    first, last = int(where[0]), int(where[-1]) + 1
    length = min(there.size, max(LEAST, round((last - first) * (1 + 2 * CONTEXT))))
    start = min(max(0, (first + last - length) // 2), there.size - length)
    return start, start + length
