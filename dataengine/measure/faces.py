"""Faces: the people of a clip, each found in the three stills and known again from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.config import FaceSettings
from dataengine.measure.frames import pictures
from dataengine.models.centerface import CenterFace
from dataengine.models.face_regions import BODY, centre_x, face_unit
from dataengine.models.interfaces import DetectedFace, FaceDetector, Image
from dataengine.records import Box, People, Person, Record, Sighting, Stills
from dataengine.stage import Row, Stage

_DETECTORS: dict[str, Callable[[FaceSettings], FaceDetector]] = {
    "centerface": lambda settings: CenterFace(settings.floor)
}

FAR = 4.0
"""A face that moved this many face widths between stills is half as near as one can be."""
WEIGHTS = (0.4, 0.2, 0.6)
"""Of position, size and colours in the distance of two sightings, each 0…1: people move, their clothes do not."""
SAME_PERSON = 0.6
"""Sightings farther apart than this are two people."""


class FacesStage(Stage[People]):
    """Detects faces in every still, ties those of one person together and derives body boxes from them."""

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = (Stills,)
    writes: ClassVar[type[Record]] = People

    def __init__(self, settings: FaceSettings) -> None:
        self.settings = settings
        self._detector = _DETECTORS[settings.detector](settings)
        self.model, self.needs = self._detector.name, self._detector.needs

    @property
    def revision(self) -> str:
        return self._detector.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)  # the machine's cores are shared out by running several workers
        self._detector.load()

    def process(self, rows: Sequence[Row]) -> Sequence[People]:
        clips = [pictures(row[Stills]) for row in rows]
        found = iter(self._detector.detect([image for images in clips for image in images]))
        return [_people(images, [next(found) for _ in images]) for images in clips]


def _people(images: Sequence[Image], faces: Sequence[Sequence[DetectedFace]]) -> People:
    looks = [[Look.of(image, face.box) for face in found] for image, found in zip(images, faces, strict=True)]
    people = []
    for track in tracks(looks):
        sightings = tuple(_sighting(still, images[still], faces[still], index) for still, index in track)
        people.append(Person(index=0, sightings=sightings))
    people.sort(key=lambda p: float(np.mean([centre_x(s.face) for s in p.sightings])))
    return People(people=tuple(person.model_copy(update={"index": i}) for i, person in enumerate(people)))


def _sighting(still: int, image: Image, faces: Sequence[DetectedFace], index: int) -> Sighting:
    face = faces[index]
    height, width = image.shape[:2]
    others = [other.box for i, other in enumerate(faces) if i != index]
    return Sighting(
        still=still,
        face=_rounded(face.box),
        face_score=round(face.score, 4),
        landmarks=tuple((round(x, 2), round(y, 2)) for x, y in face.landmarks),
        body=_rounded(BODY.box(face.box, others, width, height)),
        body_score=None,
        sharpness=round(_sharpness(image, face.box), 2),
    )


@dataclass(frozen=True)
class Look:
    """What tells a sighting from another: where the face is, how large, and the colours of face and chest."""

    x: float
    y: float
    unit: float
    colours: NDArray[np.float32]

    @classmethod
    def of(cls, image: Image, face: Box) -> Look:
        unit = face_unit(face)
        chest = Box(centre_x(face) - 0.9 * unit, face.y1 + 0.2 * unit, centre_x(face) + 0.9 * unit, face.y1 + 2 * unit)
        colours = np.concatenate([_histogram(image, face), _histogram(image, chest)])
        return cls(centre_x(face), (face.y0 + face.y1) / 2, unit, colours)

    def distance(self, other: Look) -> float:
        """How unlike two sightings are: 0 the same place, size and colours; more than `SAME_PERSON` is another."""
        moved = float(np.hypot(self.x - other.x, self.y - other.y)) / (0.5 * (self.unit + other.unit))
        grown = abs(float(np.log(self.unit / other.unit)))
        # Hellinger distance; the two histograms of each side sum to 2.
        alike = float(np.sqrt(self.colours * other.colours).sum()) / 2
        parts = (moved / (moved + FAR), min(1.0, grown), float(np.sqrt(max(0.0, 1 - alike))))
        return sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))


def tracks(stills: Sequence[Sequence[Look]]) -> list[list[tuple[int, int]]]:
    """Sightings of the same person, as (still, index in it), ordered by first appearance.

    Still by still, each person seen so far is matched to at most one sighting such that the distances sum to the least
    (Hungarian method); a person may be missing from any still.
    """
    from scipy.optimize import linear_sum_assignment  # half a second that processes without faces are spared

    people: list[list[tuple[int, int]]] = []
    for number, looks in enumerate(stills):
        last = [stills[track[-1][0]][track[-1][1]] for track in people]
        apart = np.array([[a.distance(b) for b in looks] for a in last]).reshape(len(last), len(looks))
        # Columns (rows) past the sightings (people) stand for "nobody": worth it when all else is farther.
        cost = np.full((len(last) + len(looks),) * 2, SAME_PERSON / 2)
        cost[: len(last), : len(looks)] = apart
        cost[len(last) :, len(looks) :] = 0
        matched = {}
        for person, sighting in zip(*linear_sum_assignment(cost), strict=True):
            if person < len(last) and sighting < len(looks):
                matched[int(sighting)] = int(person)
        for index in range(len(looks)):
            if index in matched:
                people[matched[index]].append((number, index))
            else:
                people.append([(number, index)])
    return people


def _histogram(image: Image, box: Box) -> NDArray[np.float32]:
    """Share of the pixels in each of 4 × 8 × 8 cells of CIELAB; all in one cell when the box is outside the image."""
    part = crop(image, box)
    if part.size == 0:
        part = np.zeros((1, 1, 3), np.uint8)
    lab = cv2.cvtColor(part, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [4, 16, 16], [0, 256, 0, 256, 0, 256]).ravel()
    return counts / counts.sum()


def _sharpness(image: Image, face: Box) -> float:
    grey = cv2.cvtColor(crop(image, face), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def crop(image: Image, box: Box) -> Image:
    """The pixels whose area meets the box."""
    height, width = image.shape[:2]
    inside = box.clipped(width, height)
    return image[int(inside.y0) : int(np.ceil(inside.y1)), int(inside.x0) : int(np.ceil(inside.x1))]


def _rounded(box: Box) -> Box:
    """To a hundredth of a pixel: what a network says beyond that is noise, and rounding keeps the JSON short."""
    return Box(*(round(value, 2) for value in box))
