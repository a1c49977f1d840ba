"""Geometry of run-length encoded masks: most questions are answered on the runs, without a pixel array.

`area`, `tight_box` and `share_inside` trust the runs (pycocotools hangs on damaged ones): masks from outside the
engine go through `decode` first, which does not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from dataengine.records import Box, Mask


def encode(pixels: NDArray[np.bool_]) -> Mask:
    """A boolean array (H, W) as run-length encoding."""
    runs = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
    height, width = pixels.shape
    return Mask(height=height, width=width, counts=runs["counts"].decode("ascii"))


def decode(mask: Mask) -> NDArray[np.bool_]:
    """The mask as a boolean array (H, W). Raises `ValueError` when the runs do not fill exactly H x W pixels."""
    try:
        runs = _run_lengths(mask.counts)
    except ValueError as error:
        raise ValueError(f"mask of {mask.width}x{mask.height}: {error}") from error
    if runs.min() < 0 or runs.sum() != mask.height * mask.width:
        lengths = f"its runs cover {runs.sum()} pixels, the shortest {runs.min()}"
        raise ValueError(f"mask of {mask.width}x{mask.height}: {lengths}")
    columns = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return columns.reshape(mask.width, mask.height).T


def area(mask: Mask) -> int:
    """How many pixels are set."""
    return int(coco.area(_runs(mask)))


def tight_box(mask: Mask) -> Box:
    """The smallest box of whole pixels around the set ones; of area 0 when none is set."""
    x, y, width, height = (float(v) for v in coco.toBbox(_runs(mask)))
    return Box(x, y, x + width, y + height)


def share_inside(mask: Mask, around: Box, box: Box) -> float:
    """The share of the mask's own pixels that lie inside `box`, 0 for an empty mask; `around` is its `tight_box`.

    Over the mask's area and not the union (IoU): a small attribute on a large body would always score low by IoU.
    A pixel is inside when its centre is.
    """
    inside = Box(round(box.x0), round(box.y0), round(box.x1), round(box.y1)).intersection(around)
    if inside.area == 0:
        return 0.0
    if inside == around:
        return 1.0
    window = coco.frPyObjects([_rectangle(mask.height, mask.width, inside)], mask.height, mask.width)[0]
    return int(coco.area(coco.merge([_runs(mask), window], intersect=True))) / area(mask)


def without_islands(pixels: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The mask without connected pieces smaller than `share` of it; the largest piece always stays."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    least = min(share * areas.sum(), areas.max(initial=0))
    return np.isin(labels, 1 + np.flatnonzero(areas >= least))


def without_holes(pixels: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The mask with its holes filled that are smaller than `share` of it. What reaches the image's edge is no hole."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~pixels).astype(np.uint8), connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < share * pixels.sum())
    return pixels | np.isin(labels, np.setdiff1d(small, np.append(edge, 0)))


def _runs(mask: Mask) -> dict[str, object]:
    return {"size": [mask.height, mask.width], "counts": mask.counts.encode("ascii")}


def _rectangle(height: int, width: int, box: Box) -> dict[str, object]:
    """Uncompressed runs of a filled box of whole pixels: column by column, unset pixels first."""
    x0, y0, x1, y1 = (int(v) for v in box)
    tall, gap = y1 - y0, height - (y1 - y0)
    counts = [x0 * height + y0, *[tall, gap] * (x1 - x0 - 1), tall]
    counts.append(height * width - sum(counts))
    return {"size": [height, width], "counts": counts}


def _run_lengths(counts: str) -> NDArray[np.int64]:
    """COCO's compressed counts as lengths of runs, unset and set in turn.

    Each number is written in digits of 5 bits, least significant first, one a character: bit 5 says that another
    digit follows, bit 4 of the last is the sign. From the fourth on they are differences to the one two before.
    """
    digits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63:
        raise ValueError("its counts are not COCO's compressed run lengths")
    ends = np.flatnonzero(digits & 0x20 == 0)
    if not ends.size or ends[-1] != digits.size - 1:
        raise ValueError("its counts are cut short")
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(digits.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        raise ValueError("a run is longer than any image")
    runs = np.add.reduceat((digits & 0x1F) << (5 * place), starts)
    runs -= np.where(digits[ends] & 0x10, np.int64(1) << (5 * (place[ends] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
