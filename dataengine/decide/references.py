"""Which still a reference image is taken from, and where in it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from dataengine.decide.facts import Face, MaskFacts
from dataengine.records import Box

How = Literal["best", "sharpest", "frontal", "unoccluded", "random"]


class Candidate(NamedTuple):
    """A still in which an entity can be shown. Sharpness compares among the candidates of one entity only."""

    still: int
    box: Box
    """Whole pixels, inside the frame: exactly what is cut out."""
    area_share: float
    score: float
    sharpness: float
    frontal: float | None = None
    """Of the face, or of its wearer's; None where nobody knows."""
    visible: float | None = None
    """Of a face; of anything else the still in which most of it shows is taken to show all of it."""


def of_face(face: Face, width: int, height: int) -> Candidate:
    """A face: all pixels of its box."""
    box = whole_pixels(face.box, width, height)
    share = box.area / (width * height)
    return Candidate(face.still, box, share, face.score, face.sharpness, face.frontal, face.visible)


def of_mask(found: MaskFacts, wearer: Face | None) -> Candidate:
    """An attribute, body or object: the pixels of its mask, no surer than the phrase was found or the mask was cut.

    Nobody measures how sharp a garment is: its wearer's face in the same still stands for it.
    """
    score = min(found.score, found.grounded)
    if wearer is None:
        return Candidate(found.still, found.box, found.area_share, score, 0.0)
    return Candidate(found.still, found.box, found.area_share, score, wearer.sharpness, wearer.frontal)


def choose(candidates: Sequence[Candidate], how: How, seed: int, clip_id: str, entity: str) -> Candidate:
    """One candidate. Among equals the sharpest, then the surest, then the earliest is taken.

    `best` weighs sharpness (as a share of the sharpest), frontality, what is visible, and the score by multiplying
    them. `random` draws by nothing but the seed, the clip and the entity, so that it is the same in every run.
    """
    if how == "random":
        drawn = hashlib.sha256(f"{seed}:{clip_id}:{entity}".encode()).digest()[:8]
        return candidates[int.from_bytes(drawn, "big") % len(candidates)]
    if len(candidates) == 1:
        return candidates[0]
    sharpest = max(c.sharpness for c in candidates) or 1.0
    largest = max(c.area_share for c in candidates) or 1.0

    def frontal(c: Candidate) -> float:
        return 1.0 if c.frontal is None else c.frontal

    def visible(c: Candidate) -> float:
        return c.area_share / largest if c.visible is None else c.visible

    prefers: dict[str, Callable[[Candidate], float]] = {
        "sharpest": lambda c: c.sharpness,
        "frontal": frontal,
        "unoccluded": visible,
        "best": lambda c: c.sharpness / sharpest * frontal(c) * visible(c) * c.score,
    }
    return max(candidates, key=lambda c: (prefers[how](c), c.sharpness, c.score, -c.still))


def whole_pixels(box: Box, width: int, height: int) -> Box:
    """The whole pixels that a box touches, inside an image of that size."""
    x0, y0 = math.floor(box.x0), math.floor(box.y0)
    return Box(x0, y0, math.ceil(box.x1), math.ceil(box.y1)).clipped(width, height)
