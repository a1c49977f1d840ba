"""Faces: the people of a clip, each found in the three stills and known again from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import cv2
import numpy as np

from dataengine.config import FaceSettings
from dataengine.measure.bodies import match_bodies
from dataengine.measure.face_scores import frontal, sharpness, visible
from dataengine.measure.frames import even, pictures
from dataengine.measure.tracks import Look, tracks
from dataengine.models.centerface import CenterFace
from dataengine.models.face_regions import BODY, centre_x
from dataengine.models.grounding_dino import GroundingDino
from dataengine.models.insightface_pack import InsightFace
from dataengine.models.interfaces import DetectedFace, FaceDetector, Image, PersonDetector, Region
from dataengine.records import Box, People, Person, Record, Sighting, Stills
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source
from dataengine.video import frames_at
from dataengine.weights import Needs

_DETECTORS: dict[str, Callable[[FaceSettings], FaceDetector]] = {
    "centerface": lambda settings: CenterFace(settings.floor, settings.centerface),
    "insightface": lambda settings: InsightFace(settings.insightface, settings.floor),
}
_BODIES: dict[str, Callable[[FaceSettings], PersonDetector | None]] = {
    "proportions": lambda settings: None,
    "grounding_dino": lambda settings: GroundingDino(settings.grounding_dino),
}


class FacesStage(Stage[People]):
    """Detects faces in every still, ties those of one person together, gives them bodies, and scores them.

    Nothing is left out for being small, turned away, covered or blurred: the scores say so, and `decide` decides.
    """

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[type[Record], ...]] = (Stills,)
    writes: ClassVar[type[Record]] = People

    def __init__(self, settings: FaceSettings) -> None:
        self.settings = settings
        self._detector = _DETECTORS[settings.detector](settings)
        self._bodies = _BODIES[settings.bodies](settings)
        self._models = [model for model in (self._detector, self._bodies) if model is not None]
        self.model = " + ".join(model.name for model in self._models)
        self.needs = sum((model.needs for model in self._models), Needs())

    @property
    def revision(self) -> str:
        return " + ".join(model.revision for model in self._models)

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)  # the machine's cores are shared out by running several workers
        for model in self._models:
            model.load()

    def process(self, rows: Sequence[Row]) -> Sequence[People]:
        clips = [pictures(row[Stills]) for row in rows]
        every = [image for images in clips for image in images]
        faces = iter(self._detector.detect(every))
        bodies = iter(self._bodies.people(every) if self._bodies else [()] * len(every))
        found = []
        for row, images in zip(rows, clips, strict=True):
            seen = [_Seen(image, next(faces), next(bodies)) for image in images]
            found.append(_people(seen, self._moments(row, seen)))
        return found

    def _moments(self, row: Row, stills: Sequence[_Seen]) -> list[_Moment]:
        """The stills, and the frames between them that help to follow people, in order of time."""
        times = [still.time_s for still in row[Stills].stills]
        moments = [_Moment(time, i, seen.looks) for i, (time, seen) in enumerate(zip(times, stills, strict=True))]
        count = self.settings.between
        wanted = [a + (b - a) * (i + 1) / (count + 1) for a, b in pairwise(times) for i in range(count)]
        if not wanted:
            return moments
        if row.clip is None:
            raise BadInput(f"{row.source.uri}: people are followed through clips, this row has none")
        with open_source(row.source.uri) as source:
            frames = frames_at(source, wanted)
        for time, frame in zip(wanted, frames, strict=True):
            image = np.ascontiguousarray(even(frame.rgb))
            (faces,) = self._detector.detect([image])
            moments.append(_Moment(time, None, [Look.of(image, face) for face in faces]))
        return sorted(moments, key=lambda moment: moment.time_s)


@dataclass(frozen=True)
class _Seen:
    """A still with what was detected in it."""

    image: Image
    faces: Sequence[DetectedFace]
    people: Sequence[Region]

    @property
    def looks(self) -> list[Look]:
        return [Look.of(self.image, face) for face in self.faces]


@dataclass(frozen=True)
class _Moment:
    time_s: float
    still: int | None
    """None for a frame between stills."""
    looks: Sequence[Look]


def _people(stills: Sequence[_Seen], moments: Sequence[_Moment]) -> People:
    followed = len(moments) > len(stills)
    found = tracks([m.looks for m in moments], [m.time_s for m in moments] if followed else None)
    bodies = [match_bodies([face.box for face in seen.faces], seen.people) for seen in stills]
    people = []
    for track in found:
        in_stills = [(still, index) for moment, index in track if (still := moments[moment].still) is not None]
        if in_stills:
            sightings = tuple(_sighting(still, stills[still], i, bodies[still][i]) for still, i in in_stills)
            people.append(Person(index=0, sightings=sightings))
    people.sort(key=lambda p: float(np.mean([centre_x(s.face) for s in p.sightings])))
    return People(people=tuple(person.model_copy(update={"index": i}) for i, person in enumerate(people)))


def _sighting(still: int, seen: _Seen, index: int, person: Region | None) -> Sighting:
    image, face = seen.image, seen.faces[index]
    height, width = image.shape[:2]
    others = [other.box for i, other in enumerate(seen.faces) if i != index]
    body = person.box if person else BODY.box(face.box, others, width, height)
    return Sighting(
        still=still,
        face=_rounded(face.box),
        face_score=round(face.score, 4),
        landmarks=tuple((round(x, 2), round(y, 2)) for x, y in face.landmarks),
        body=_rounded(body),
        body_score=round(person.score, 4) if person else None,
        sharpness=round(sharpness(image, face.box), 2),
        frontal=frontal(face.landmarks),
        visible=visible(image, face.box, others),
        embedding=face.embedding,
    )


def _rounded(box: Box) -> Box:
    """To a hundredth of a pixel: what a network says beyond that is noise, and rounding keeps the JSON short."""
    return Box(*(round(value, 2) for value in box))
