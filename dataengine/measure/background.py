"""Background: a clip's scene without its people and objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine import masks
from dataengine.config import BackgroundSettings
from dataengine.measure.frames import even, pictures
from dataengine.models.cv2_inpaint import Cv2Inpainter
from dataengine.models.face_regions import centre_x, face_coordinates, face_unit, in_silhouette
from dataengine.models.flux_fill import FluxFill
from dataengine.models.interfaces import Image, Inpainter, Pixels
from dataengine.models.lama import Lama
from dataengine.records import Background, Caption, People, Person, Record, Segmentation, Sighting, Stills
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source
from dataengine.video import Video

_INPAINTERS: dict[str, Callable[[BackgroundSettings], Inpainter]] = {
    "cv2": lambda settings: Cv2Inpainter(),
    "flux_fill": lambda settings: FluxFill(settings.flux_fill),
    "lama": lambda settings: Lama(settings.lama),
}

LINES = 360
"""`dilate_px` is meant for frames of this height."""
MOTION = 0.2
"""Between stills people do not move evenly: their masks grow by this share of the way they go."""
TRACK_WIDTH = 320
"""Width at which the camera's motion is followed."""
LEAST_TRACKED = 12
"""Corners that must agree on a camera motion."""
OWN_COLOUR = 6.0
"""How many times more of a colour a person must have than the scene for such pixels to go with the person."""
ALIKE = 10.0
"""A frame is of use when, aligned, it differs from the still by less than this (median grey level, 0…255)."""
AGREE = 24
"""A pixel counts as seen when two frames or more, and most of those that show it, are this near to their median."""


class BackgroundStage(Stage[Background]):
    """Takes one still and puts behind its people what other frames of the clip show there.

    Frames are aligned to the still (similarity transform of tracked corners), so a moving camera helps rather than
    smears. In the holes, each pixel is the median of the frames that show it; what none shows is inpainted. Everywhere
    else the still itself stands: it is sharper than any median.
    """

    name: ClassVar[str] = "background"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = (Stills, People, Caption, Segmentation)
    writes: ClassVar[type[Record]] = Background

    def __init__(self, settings: BackgroundSettings) -> None:
        self.settings = settings
        self._inpainter = _INPAINTERS[settings.inpainter](settings)
        self.model, self.needs = self._inpainter.name, self._inpainter.needs

    @property
    def revision(self) -> str:
        return self._inpainter.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)
        self._inpainter.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Background]:
        return [self._background(row) for row in rows]

    def _background(self, row: Row) -> Background:
        clip, stills = row.clip, row[Stills]
        if clip is None:
            raise BadInput(f"{row.source.uri}: backgrounds are made of clips, this row has none")
        removed = _Removed.of(row, pictures(stills), self.settings.dilate_px * stills.height / LINES)
        still = removed.fullest_still()
        count = self.settings.frames
        times = [clip.start_s + (i + 0.5) / count * clip.seconds for i in range(count)]
        before = sorted((t for t in times if t < stills.stills[still].time_s), reverse=True)
        after = [t for t in times if t > stills.stills[still].time_s]
        with open_source(row.source.uri) as source, Video(source) as video:
            at = stills.stills[still].time_s
            wanted = [at, *times]
            frames = {t: even(frame.rgb) for t, frame in zip(wanted, video.frames_at(wanted), strict=True)}
        hole = removed.at(at)
        plate = Plate(frames[at], hole)
        for run in (before, after):
            motion = np.eye(3)
            last = frames[at], hole
            for time in run:
                now = frames[time], removed.at(time)
                motion = camera_motion(*last, *now) @ motion
                plate.add(*now, motion)
                last = now
        image, unseen = plate.result()
        image = self._inpainter.inpaint(image, unseen)
        done, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        assert done
        gone = int(hole.sum())
        return Background(
            image=png.tobytes(),
            seen_share=round(1 - int(unseen.sum()) / gone, 4) if gone else 1.0,
            filled_share=round(float(unseen.mean()), 4),
        )


class Plate:
    """A still and what other frames show where its hole is."""

    def __init__(self, still: Image, hole: Pixels) -> None:
        self._still, self._hole = still, hole
        self._grey = _small_grey(still)
        self._seen: list[tuple[Image, Pixels]] = []

    def add(self, frame: Image, hole: Pixels, motion: NDArray[np.float64]) -> None:
        """Use a frame. `motion` (3, 3) takes a point of the still to where the frame shows it.

        A frame that does not fit the still where both show the scene is left out.
        """
        height, width = hole.shape
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        aligned = cv2.warpAffine(frame, motion[:2], (width, height), flags=flags)
        shown = cv2.warpAffine((~hole).astype(np.uint8) * 255, motion[:2], (width, height), flags=flags) == 255
        both = _small(shown & ~self._hole)
        if both.any() and np.median(cv2.absdiff(_small_grey(aligned), self._grey)[both]) < ALIKE:
            self._seen.append((aligned[self._hole], shown[self._hole]))

    def result(self) -> tuple[Image, Pixels]:
        """The still with the hole filled as far as it was seen, and where it was not."""
        unseen = self._hole.copy()
        image = self._still.copy()
        if self._seen and self._hole.any():
            colours = np.stack([colours for colours, _ in self._seen])
            shown = np.stack([shown for _, shown in self._seen])
            image[self._hole], sure = agreed(colours, shown)
            unseen[self._hole] = ~sure
        return image, unseen


def agreed(colours: NDArray[np.uint8], shown: Pixels) -> tuple[NDArray[np.uint8], Pixels]:
    """The median colour of each pixel over the frames that show it, and whether they agree on it.

    `colours` (N, pixels, 3), `shown` (N, pixels). Of two middles the lower one is taken. Where frames
    disagree, something moves that the masks have missed.
    """
    values = colours.astype(np.int16)
    ranked = np.sort(np.where(shown[..., None], values, 256), axis=0)
    count = shown.sum(axis=0)
    median = np.take_along_axis(ranked, (np.maximum(count - 1, 0) // 2)[None, :, None], axis=0)[0]
    near = (shown & (np.abs(values - median).max(axis=2) <= AGREE)).sum(axis=0)
    return median.clip(0, 255).astype(np.uint8), (near >= 2) & (2 * near > count)


def camera_motion(a: Image, hole_a: Pixels, b: Image, hole_b: Pixels) -> NDArray[np.float64]:
    """The similarity transform (3, 3) from points of `a` to points of `b`, from corners outside both holes.

    Identity where too few corners agree on one.
    """
    scale = TRACK_WIDTH / a.shape[1]
    grey_a, grey_b = _small_grey(a), _small_grey(b)
    free = cv2.erode(_small(~hole_a).astype(np.uint8) * 255, np.ones((5, 5), np.uint8))
    corners = cv2.goodFeaturesToTrack(grey_a, maxCorners=300, qualityLevel=0.01, minDistance=6, mask=free)
    if corners is None:
        return np.eye(3)
    there, found, _ = cv2.calcOpticalFlowPyrLK(grey_a, grey_b, corners, None, winSize=(15, 15), maxLevel=4)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(grey_b, grey_a, there, None, winSize=(15, 15), maxLevel=4)
    steady = np.linalg.norm(back - corners, axis=2).ravel() < 0.5
    inside = np.all((there[:, 0] >= 0) & (there[:, 0] < (grey_b.shape[1], grey_b.shape[0])), axis=1)
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & steady & inside
    good[good] &= ~_small(hole_b)[tuple(there[good][:, 0].astype(int).T[::-1])]
    if good.sum() < LEAST_TRACKED:
        return np.eye(3)
    cv2.setRNGSeed(0)
    matrix, kept = cv2.estimateAffinePartial2D(corners[good], there[good], ransacReprojThreshold=1.0)
    if matrix is None or kept.sum() < max(LEAST_TRACKED, 0.5 * good.sum()):
        return np.eye(3)
    matrix[:, 2] /= scale
    return np.vstack([matrix, [0, 0, 1]])


@dataclass(frozen=True)
class _Removed:
    """Which pixels are people or objects, at any time of the clip: known in the stills, carried on between them."""

    size: tuple[int, int]
    times: tuple[float, ...]
    people: tuple[Person, ...]
    bodies: Mapping[tuple[int, int], Pixels]
    """By person and still."""
    things: Mapping[int, Pixels]
    """All objects of a still."""
    grow: float

    @classmethod
    def of(cls, row: Row, images: Sequence[Image], grow: float) -> _Removed:
        stills, people = row[Stills], row[People].people
        owner = {f"s{i}.body": m.noun.owner.person for i, m in enumerate(row[Caption].people) if m.noun.owner}
        size = (stills.height, stills.width)
        bodies: dict[tuple[int, int], Pixels] = {}
        things: dict[int, Pixels] = {}
        for found in row[Segmentation].masks:
            pixels = masks.decode(found.mask)
            if found.entity in owner:
                bodies[owner[found.entity], found.still] = pixels
            elif found.entity.startswith("o"):
                things[found.still] = things.get(found.still, np.zeros(size, bool)) | pixels
        for person in people:
            for sighting in person.sightings:
                cut = bodies.get((person.index, sighting.still), np.zeros(size, bool))
                bodies[person.index, sighting.still] = all_of(images[sighting.still], sighting, cut)
        return cls(size, tuple(s.time_s for s in stills.stills), people, bodies, things, grow)

    def fullest_still(self) -> int:
        """The still that shows the most people: what it shows is known best. The middle one among equals."""
        middle = len(self.times) // 2
        seen = [sum(s.still == i for p in self.people for s in p.sightings) for i in range(len(self.times))]
        return max(range(len(self.times)), key=lambda i: (seen[i], -abs(i - middle)))

    def at(self, time: float) -> Pixels:
        """Everything to be removed from the frame at a time."""
        mask = np.zeros(self.size, bool)
        for person in self.people:
            mask |= self._person_at(person, time)
        nearest = min(range(len(self.times)), key=lambda i: abs(self.times[i] - time))
        if nearest in self.things:
            mask |= _dilated(self.things[nearest], self.grow)
        return mask

    def _person_at(self, person: Person, time: float) -> Pixels:
        """The person's masks in the stills before and after, both moved to where the face is by then."""
        known = sorted(person.sightings, key=lambda s: s.still)
        before = [s for s in known if self.times[s.still] <= time][-1:] or known[:1]
        after = [s for s in known if self.times[s.still] >= time][:1] or known[-1:]
        a, b = before[0], after[0]
        start, end = self.times[a.still], self.times[b.still]
        share = min(1.0, max(0.0, (time - start) / (end - start))) if end > start else 0.0
        there = (1 - share) * _place(a) + share * _place(b)
        moved = float(np.hypot(*(_place(a) - _place(b))[:2]))
        mask = np.zeros(self.size, bool)
        for sighting in {s.still: s for s in (a, b)}.values():
            x, y, unit = _place(sighting)
            zoom = there[2] / unit
            shift = np.array([[zoom, 0, there[0] - zoom * x], [0, zoom, there[1] - zoom * y]])
            pixels = self.bodies[person.index, sighting.still].astype(np.uint8) * 255
            mask |= cv2.warpAffine(pixels, shift, self.size[::-1], borderMode=cv2.BORDER_REPLICATE) > 127
        unsure = MOTION * moved * 4 * share * (1 - share)  # nothing at the stills, most halfway between
        return _dilated(mask, self.grow + unsure)


def _place(sighting: Sighting) -> NDArray[np.float64]:
    """Centre and size of the face."""
    face = sighting.face
    return np.array([centre_x(face), (face.y0 + face.y1) / 2, face_unit(face)])


def all_of(image: Image, sighting: Sighting, cut: Pixels) -> Pixels:
    """Everything that may be the person: a sleeve left standing is worse than some background lost.

    The segmenter's mask, the usual silhouette around the face, and what hangs together with them inside the body box
    and has colours that the mask has more of than the scene around the box.
    """
    height, width = cut.shape
    y, x = np.mgrid[:height, :width] + 0.5
    core = cut | in_silhouette(*face_coordinates(sighting.face, x, y))
    body = sighting.body
    inside = (x > body.x0) & (x < body.x1) & (y > body.y0) & (y < body.y1)
    core &= inside
    if inside.all() or not cut.any():
        return core
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    own, other = (
        cv2.calcHist([lab], [0, 1, 2], where.astype(np.uint8), [8, 24, 24], [0, 256] * 3) / where.sum()
        for where in (cut, ~inside)
    )
    cell = lab // np.array([32, 11, 11], np.uint8)
    likelier = (own > OWN_COLOUR * other)[tuple(np.moveaxis(cell, 2, 0))] & inside
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    likelier = cv2.morphologyEx(likelier.astype(np.uint8), cv2.MORPH_OPEN, kernel).astype(bool)
    _, labels = cv2.connectedComponents((core | likelier).astype(np.uint8))
    return np.isin(labels, np.unique(labels[core]))


def _dilated(mask: Pixels, reach: float) -> Pixels:
    """Grown by `reach` pixels in every direction."""
    if reach < 1 or not mask.any():
        return mask
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) <= reach


def _small(mask: Pixels) -> Pixels:
    """At `TRACK_WIDTH`: only where all of it is set."""
    height = max(1, round(mask.shape[0] * TRACK_WIDTH / mask.shape[1]))
    return cv2.resize(mask.astype(np.uint8) * 255, (TRACK_WIDTH, height), interpolation=cv2.INTER_AREA) == 255


def _small_grey(image: Image) -> NDArray[np.uint8]:
    height = max(1, round(image.shape[0] * TRACK_WIDTH / image.shape[1]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (TRACK_WIDTH, height), interpolation=cv2.INTER_AREA)
