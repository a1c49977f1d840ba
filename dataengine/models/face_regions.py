"""Where a person's parts are, by the proportions of the human body around the face. Stands in for a grounding network.

Lengths are in *face units*: the width of a frontal face box, about 15 cm. Heads are about 1.25 face heights, shoulders
about 3 face units, and a standing adult 7.5 heads (the artists' canon; validated by eye on real footage).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataengine.models.interfaces import Query, Region
from dataengine.records import Box
from dataengine.weights import Needs

Array: TypeAlias = NDArray[np.float64]

HAIR = ("hair",)
TOPS = ("top", "shirt", "jacket", "coat", "dress", "suit", "sweater", "uniform", "blouse")
"""Nouns that this grounder knows a place for."""

_ASPECT = 0.74  # width over height of a frontal face box
_SIDE_BY_SIDE = 0.7  # faces this far apart, in face units, stand beside each other and not one above the other


@dataclass(frozen=True)
class Part:
    """A rectangle around a face: `reach` face units to either side of its middle, from `start` face heights below the
    box's top (negative: above it) `tall` face heights down.
    """

    reach: float
    start: float
    tall: float

    def box(self, face: Box, others: Sequence[Box], width: int, height: int) -> Box:
        """The part inside an image of that size.

        Against each neighbour it ends between the two faces, at the point that divides their distance by their sizes.
        """
        unit, x = face_unit(face), centre_x(face)
        left, right = x - self.reach * unit, x + self.reach * unit
        for other in others:
            other_x, other_unit = centre_x(other), face_unit(other)
            between = x + (other_x - x) * unit / (unit + other_unit)
            if abs(other_x - x) >= _SIDE_BY_SIDE * (unit + other_unit) / 2:
                left, right = (max(left, between), right) if other_x < x else (left, min(right, between))
        top = face.y0 + self.start * face.height
        return Box(left, top, right, top + self.tall * face.height).clipped(width, height)

    def area(self, face: Box) -> float:
        """Of the whole part, inside the image or not, in pixels."""
        return 2 * self.reach * face_unit(face) * self.tall * face.height


BODY = Part(reach=2.2, start=-0.6, tall=9.0)
"""With arms and hair or a hat, down to the feet."""
HEAD = Part(reach=1.1, start=-0.6, tall=1.75)
"""With hair down to the shoulders."""
TRUNK = Part(reach=2.2, start=1.0, tall=3.2)
"""From the chin to the hips."""


def face_unit(face: Box) -> float:
    """The width that the face's box would have from the front: a profile's box is narrow, its height is not."""
    return max(face.width, _ASPECT * face.height)


def centre_x(box: Box) -> float:
    return (box.x0 + box.x1) / 2


def face_coordinates(face: Box, x: Array, y: Array) -> tuple[Array, Array]:
    """Pixel positions as face units to the right of the face's middle and face heights below it."""
    return (x - centre_x(face)) / face_unit(face), (y - (face.y0 + face.y1) / 2) / face.height


def in_silhouette(dx: Array, dy: Array) -> NDArray[np.bool_]:
    """Whether face coordinates lie where an upright person usually is: head with hair, neck, shoulders, trunk, legs."""
    below = dy - 0.5
    half = np.interp(below, [0, 0.15, 0.8, 1.2, 4.0, 4.01], [0.45, 0.6, 1.5, 1.6, 1.6, 0.9])
    head = (dx / 0.85) ** 2 + ((dy + 0.15) / 0.85) ** 2 < 1
    return head | ((below > 0) & (np.abs(dx) < half))


def words_of(phrase: str) -> set[str]:
    return set(re.findall(r"\w+", phrase.lower()))


class FaceRegions:
    """Grounds a person's hair and upper-body clothes by face geometry. Implements `Grounder`.

    It looks at no pixels and knows no other phrases: the score is the share of the region that lies inside the image.
    """

    name = "face-regions"
    needs = Needs()
    revision = "1"

    def load(self) -> None:
        """There are no weights."""

    def ground(self, queries: Sequence[Query]) -> list[list[Region]]:
        return [self._ground(query) for query in queries]

    def _ground(self, query: Query) -> list[Region]:
        words = words_of(query.phrase)
        part = HEAD if words & set(HAIR) else TRUNK if words & set(TOPS) else None
        if part is None or query.owner is None:
            return []
        face = query.owner.face
        inside = part.box(face, (), query.image.shape[1], query.image.shape[0])
        # The owner's body box already ends where a neighbour begins.
        box = inside.intersection(query.owner.body)
        return [Region(box, min(1.0, inside.area / part.area(face)))] if box.area > 0 else []
