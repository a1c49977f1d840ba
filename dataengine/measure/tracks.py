"""Knowing people again: which faces of a clip's frames are one person's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.models.face_regions import centre_x, face_unit
from dataengine.models.interfaces import DetectedFace, Image
from dataengine.records import Box

FAR = 4.0
"""A face that moved this many face widths between stills is half as near as one can be."""
WEIGHTS = (0.4, 0.2, 0.6)
"""Of position, size and colours in the distance of two sightings, each 0…1: people move, their clothes do not."""
SAME_PERSON = 0.6
"""Sightings farther apart than this are two people."""
SAME_IDENTITY, OTHER_IDENTITY = 0.5, 0.3
"""Cosines of two embeddings from which on, and below which, ArcFace's users take two faces for one, or two, people."""
BESIDE_IDENTITY = 0.4
"""What position, size and colours still weigh where both faces have an embedding: they settle what it leaves open."""
FOLLOW_S = 1.0
"""How long someone out of sight is expected to go on as before."""


@dataclass(frozen=True)
class Look:
    """What tells a sighting from another: where the face is, how large, the colours of face and chest, who it is."""

    x: float
    y: float
    unit: float
    colours: NDArray[np.float32]
    identity: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, image: Image, face: DetectedFace) -> Look:
        box, unit = face.box, face_unit(face.box)
        chest = Box(centre_x(box) - 0.9 * unit, box.y1 + 0.2 * unit, centre_x(box) + 0.9 * unit, box.y1 + 2 * unit)
        colours = np.concatenate([_histogram(image, box), _histogram(image, chest)])
        identity = np.array(face.embedding) if face.embedding else None
        return cls(centre_x(box), (box.y0 + box.y1) / 2, unit, colours, identity)

    def distance(self, other: Look) -> float:
        """How unlike two sightings are: 0 the same place, size and colours; more than `SAME_PERSON` is another.

        Identity leads where both have one: people may change places and coats.
        """
        moved = float(np.hypot(self.x - other.x, self.y - other.y)) / (0.5 * (self.unit + other.unit))
        grown = abs(float(np.log(self.unit / other.unit)))
        # Hellinger distance; the two histograms of each side sum to 2.
        alike = float(np.sqrt(self.colours * other.colours).sum()) / 2
        parts = (moved / (moved + FAR), min(1.0, grown), float(np.sqrt(max(0.0, 1 - alike))))
        seen = sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))
        if self.identity is None or other.identity is None:
            return seen
        lengths = float(np.linalg.norm(self.identity) * np.linalg.norm(other.identity))
        cosine = float(self.identity @ other.identity) / lengths
        # 0: surely the same, nothing that is seen makes it another; 1: surely another, nothing makes it the same.
        doubt = min(1.0, max(0.0, (SAME_IDENTITY - cosine) / (SAME_IDENTITY - OTHER_IDENTITY)))
        return BESIDE_IDENTITY * seen + 1.01 * SAME_PERSON * doubt


class _Track:
    """A person so far."""

    def __init__(self, look: Look, time_s: float, sighting: tuple[int, int]) -> None:
        self.sightings = [sighting]
        self._last, self._time_s = look, time_s
        self._pace = np.zeros(2)
        self._identities = [look.identity]

    def expected(self, time_s: float, follow: bool) -> Look:
        """How the person is expected to look: as last seen, moved on at its pace, with the mean of its identities."""
        known = [identity for identity in self._identities if identity is not None]
        gone = min(FOLLOW_S, time_s - self._time_s) if follow else 0.0
        dx, dy = self._pace * gone
        identity = np.mean(known, axis=0) if known else None
        return replace(self._last, x=self._last.x + dx, y=self._last.y + dy, identity=identity)

    def add(self, look: Look, time_s: float, sighting: tuple[int, int]) -> None:
        way = np.array([look.x - self._last.x, look.y - self._last.y])
        pace = way / (time_s - self._time_s) if time_s > self._time_s else np.zeros(2)
        self._pace = pace if len(self.sightings) == 1 else (pace + self._pace) / 2
        self._last, self._time_s = look, time_s
        self._identities.append(look.identity)
        self.sightings.append(sighting)


def tracks(moments: Sequence[Sequence[Look]], times_s: Sequence[float] | None = None) -> list[list[tuple[int, int]]]:
    """Sightings of the same person, as (moment, index in it), ordered by first appearance.

    Moment by moment, each person seen so far is matched to at most one sighting such that the distances sum to the
    least (Hungarian method); a person may be missing from any moment. With `times_s` the moments are close enough for
    people to be expected where their motion takes them, which tells those apart who cross and look alike.
    """
    from scipy.optimize import linear_sum_assignment  # half a second that processes without faces are spared

    people: list[_Track] = []
    for number, looks in enumerate(moments):
        time_s = times_s[number] if times_s is not None else float(number)
        last = [track.expected(time_s, follow=times_s is not None) for track in people]
        apart = np.array([[a.distance(b) for b in looks] for a in last]).reshape(len(last), len(looks))
        # Columns (rows) past the sightings (people) stand for "nobody": worth it when all else is farther.
        cost = np.full((len(last) + len(looks),) * 2, SAME_PERSON / 2)
        cost[: len(last), : len(looks)] = apart
        cost[len(last) :, len(looks) :] = 0
        matched = {}
        for person, sighting in zip(*linear_sum_assignment(cost), strict=True):
            if person < len(last) and sighting < len(looks):
                matched[int(sighting)] = int(person)
        for index, look in enumerate(looks):
            if index in matched:
                people[matched[index]].add(look, time_s, (number, index))
            else:
                people.append(_Track(look, time_s, (number, index)))
    return [track.sightings for track in people]


def crop(image: Image, box: Box) -> Image:
    """The pixels whose area meets the box."""
    height, width = image.shape[:2]
    inside = box.clipped(width, height)
    return image[int(inside.y0) : int(np.ceil(inside.y1)), int(inside.x0) : int(np.ceil(inside.x1))]


def _histogram(image: Image, box: Box) -> NDArray[np.float32]:
    """Share of the pixels in each of 4 × 16 × 16 cells of CIELAB; all in one cell when the box is outside the image."""
    part = crop(image, box)
    if part.size == 0:
        part = np.zeros((1, 1, 3), np.uint8)
    lab = cv2.cvtColor(part, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [4, 16, 16], [0, 256, 0, 256, 0, 256]).ravel()
    return counts / counts.sum()
