"""Reference images cut out of a clip's own frames, as `shards.assembly` cuts them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataengine import masks
from dataengine.records import Box
from dataengine.shards.assembly import WHITE, png
from dataengine.shards.importers.contract import ImportRefused
from dataengine.shards.importers.drafting import Place, Shown

Frame = NDArray[np.uint8]


def cropped(phrase: str, frame: Frame, box: Box, still: int, time_s: float) -> Shown:
    """A face: all pixels of its box. Raises `ImportRefused` for a box outside the frame."""
    height, width = frame.shape[:2]
    whole = Box(*(round(v) for v in box)).clipped(width, height)
    if whole.area == 0:
        raise ImportRefused(f"the box {tuple(box)} of {phrase!r} is not inside {width}x{height}")
    x0, y0, x1, y1 = (int(v) for v in whole)
    image = png(frame[y0:y1, x0:x1])
    return Shown(phrase, image, x1 - x0, y1 - y0, int(whole.area), place=Place(whole, still, time_s))


def cut_out(phrase: str, frame: Frame, pixels: NDArray[np.bool_], still: int, time_s: float) -> Shown | None:
    """Masked pixels on white, cropped to the mask's tight box; None for an empty mask."""
    box = masks.tight_box(masks.encode(pixels))
    if box.area == 0:
        return None
    x0, y0, x1, y1 = (int(v) for v in box)
    inside = pixels[y0:y1, x0:x1]
    image = png(np.where(inside[:, :, None], frame[y0:y1, x0:x1], np.uint8(WHITE)))
    place = Place(box, still, time_s)
    return Shown(phrase, image, x1 - x0, y1 - y0, int(pixels.sum()), mask_png=png(pixels), place=place)
