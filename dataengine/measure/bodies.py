"""Which detected person a face belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataengine.models.face_regions import centre_x
from dataengine.models.interfaces import Region
from dataengine.records import Box

LEAST_INSIDE = 0.5
"""Share of the face's area that its person's box must hold."""
FIGURE, CLOSE_UP = 0.2, 0.65
"""How far down in its person's box a face's middle stands: at most so far in a full figure, never so far even in a
close-up, where the frame's edge cuts the box off."""


def match_bodies(faces: Sequence[Box], people: Sequence[Region]) -> list[Region | None]:
    """The person of each face, no one twice; None for a face that no person's box suits.

    Faces and people are paired such that the fits sum to the most (Hungarian method).
    """
    if not faces or not people:
        return [None] * len(faces)
    from scipy.optimize import linear_sum_assignment

    fits = np.array([[fit(face, person) for person in people] for face in faces])
    found: list[Region | None] = [None] * len(faces)
    for face, person in zip(*linear_sum_assignment(fits, maximize=True), strict=True):
        if fits[face, person] > 0:
            found[face] = people[person]
    return found


def fit(face: Box, person: Region) -> float:
    """How well a person's box suits a face, 0…1: the share of the face inside, its place, and the detector's score.

    The share is the face's: over their union, a face and its body have next to nothing in common.
    """
    body = person.box
    inside = face.intersection(body).area / face.area if face.area else 0.0
    if inside < LEAST_INSIDE or body.area == 0:
        return 0.0
    down = ((face.y0 + face.y1) / 2 - body.y0) / body.height
    aside = abs(centre_x(face) - centre_x(body)) / (body.width / 2)
    upper = min(1.0, max(0.0, (CLOSE_UP - down) / (CLOSE_UP - FIGURE)))
    return inside * upper * max(0.1, 1 - 0.5 * aside) * person.score
