"""Which still a reference image is taken from, and where in it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dataengine import masks
from dataengine.records import Box, EntityMask, Sighting


@dataclass(frozen=True, slots=True)
class Candidate:
    """A still in which an entity can be shown."""

    still: int
    box: Box
    """Whole pixels, inside the frame: exactly what is cut out."""
    area_share: float
    score: float
    sharpness: float
    """Comparable among the candidates of one entity only."""


def of_face(sighting: Sighting, width: int, height: int) -> Candidate:
    """A face: all pixels of its box."""
    box = whole_pixels(sighting.face, width, height)
    share = box.area / (width * height)
    return Candidate(sighting.still, box, share, sighting.face_score, sighting.sharpness)


def of_mask(found: EntityMask, grounding_score: float, sharpness: float) -> Candidate:
    """An attribute, body or object: the pixels of its mask, no surer than the phrase was found or the mask was cut."""
    share = masks.area(found.mask) / (found.mask.width * found.mask.height)
    return Candidate(found.still, found.box, share, min(found.score, grounding_score), sharpness)


def choose(
    candidates: Sequence[Candidate], how: Literal["random", "sharpest"], seed: int, clip_id: str, entity: str
) -> Candidate:
    """The sharpest candidate (the surest, then the earliest among equals), or any: the draw depends on nothing but
    the seed, the clip and the entity, so that it is the same in every run. The paper draws at random.
    """
    if how == "sharpest":
        return max(candidates, key=lambda c: (c.sharpness, c.score, -c.still))
    drawn = hashlib.sha256(f"{seed}:{clip_id}:{entity}".encode()).digest()[:8]
    return candidates[int.from_bytes(drawn, "big") % len(candidates)]


def whole_pixels(box: Box, width: int, height: int) -> Box:
    """The whole pixels that a box touches, inside an image of that size."""
    x0, y0 = math.floor(box.x0), math.floor(box.y0)
    return Box(x0, y0, math.ceil(box.x1), math.ceil(box.y1)).clipped(width, height)
