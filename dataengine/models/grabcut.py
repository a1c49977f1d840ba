"""GrabCut (Rother et al. 2004): masks of people, hair and clothes, seeded by where a face says they are.

Two cuts follow each other: the person out of the scene, then hair and clothes out of the person, with the face's own
skin as what they are not. All cuts run on a small copy of the person's surroundings, where one takes about 20 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.models.face_regions import HAIR, TOPS, centre_x, face_coordinates, face_unit, in_silhouette, words_of
from dataengine.models.interfaces import Image, Pixels, Prompt, Prompted, Segment
from dataengine.records import Box, Sighting
from dataengine.weights import Needs

LONG_SIDE = 192
"""The working copy's long side: masks keep about two pixels of detail at 360 lines."""
_Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Parts:
    """A person's visible pixels, each (H, W) of the image. Hair and top are disjoint and inside the body."""

    body: Pixels
    hair: Pixels
    top: Pixels


class GrabCut:
    """Implements `Segmenter`. The same input gives the same masks: the generator behind the clustering is seeded."""

    name = "grabcut"
    needs = Needs()
    revision = f"opencv {cv2.__version__}"

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations

    def load(self) -> None:
        """There are no weights."""

    def segment(self, scenes: Sequence[Prompted]) -> Iterator[list[Segment]]:
        """One mask a prompt. Its score is how differently the mask and a band around it are coloured: where that is
        little, a cut by colour is a guess.
        """
        for scene in scenes:
            yield self._segment(scene.image, scene.people, scene.prompts)

    def _segment(self, image: Image, people: Sequence[Sighting], prompts: Sequence[Prompt]) -> list[Segment]:
        cuts: dict[int, Parts] = {}
        segments = []
        for prompt in prompts:
            if prompt.owner is None:
                pixels = cut_box(image, prompt.box, people, self._iterations)
            else:
                if prompt.owner not in cuts:
                    others = [person for i, person in enumerate(people) if i != prompt.owner]
                    cuts[prompt.owner] = cut_person(image, people[prompt.owner], others, self._iterations)
                pixels = _named(cuts[prompt.owner], prompt.phrase) & _inside(image, prompt.box)
            segments.append(Segment(pixels, round(_separation(image, pixels), 4)))
        return segments


def cut_person(image: Image, person: Sighting, others: Sequence[Sighting], iterations: int) -> Parts:
    """The person's body, hair and upper-body clothes."""
    view = _View.around(image, person)
    seeds, face = _body_seeds(view, person, others)
    body = _tidy(_touching(_cut(view.lab, seeds, iterations) & view.inside(person.body), face))
    skin_colour, skin = _skin(view, body)

    # From here on the scene is not of interest: painted in the skin's colour, it cannot pull hair or clothes to it.
    painted = view.lab.copy()
    painted[~body] = skin_colour
    hair = _tidy(_largest(_cut(painted, _hair_seeds(view, body), iterations), 0.3)) & body
    top = _tidy(_largest(_cut(painted, _top_seeds(view, body & ~hair, skin), iterations), 0.1)) & body & ~hair
    return Parts(view.full(body), view.full(hair), view.full(top))


def cut_box(image: Image, box: Box, people: Sequence[Sighting], iterations: int) -> Pixels:
    """The thing that a box surrounds. Faces inside the box are not part of it."""
    view = _View.of(image, _grown(box, 0.25))
    labels = np.where(view.inside(box), cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    for person in people:
        labels[view.inside(person.face)] = cv2.GC_BGD
    return view.full(_tidy(_cut(view.lab, labels, iterations)))


@dataclass(frozen=True)
class _View:
    """A scaled cut-out of an image with, for each pixel, where it is in the image and relative to a face.

    `dx`: face units to the right of the face's middle; `dy`, `below`: face heights below its middle, below its chin.
    """

    lab: Image
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    place: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def around(cls, image: Image, person: Sighting) -> _View:
        face, body = person.face, person.body
        reach = 0.3 * face_unit(face)
        bottom = min(body.y1, face.y1 + 5 * face.height) + 0.2 * face.height
        region = Box(body.x0 - reach, body.y0 - 0.2 * face.height, body.x1 + reach, bottom)
        return cls.of(image, region, face)

    @classmethod
    def of(cls, image: Image, region: Box, face: Box | None = None) -> _View:
        height, width = image.shape[:2]
        inside = region.clipped(width, height)
        x0, y0, x1, y1 = int(inside.x0), int(inside.y0), int(np.ceil(inside.x1)), int(np.ceil(inside.y1))
        part = image[y0:y1, x0:x1]
        scale = min(1.0, LONG_SIDE / max(part.shape[:2]))
        if scale < 1:
            part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows, columns = part.shape[:2]
        y, x = np.mgrid[:rows, :columns] + 0.5
        x, y = x * (x1 - x0) / columns + x0, y * (y1 - y0) / rows + y0
        dx, dy = face_coordinates(face or region, x, y)
        lab = cv2.cvtColor(part, cv2.COLOR_RGB2LAB)
        return cls(lab, x, y, dx, dy, (x0, y0, x1, y1), (height, width))

    @property
    def below(self) -> NDArray[np.float64]:
        return self.dy - 0.5

    def inside(self, box: Box) -> Pixels:
        return (self.x >= box.x0) & (self.x < box.x1) & (self.y >= box.y0) & (self.y < box.y1)

    def oval(self, dy: float, half_width: float, half_height: float) -> Pixels:
        return (self.dx / half_width) ** 2 + ((self.dy - dy) / half_height) ** 2 < 1

    def full(self, pixels: Pixels) -> Pixels:
        """The view's pixels at their place in an image-sized mask."""
        x0, y0, x1, y1 = self.place
        mask = np.zeros(self.size, bool)
        scaled = cv2.resize(pixels.astype(np.uint8) * 255, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        mask[y0:y1, x0:x1] = scaled > 127
        return mask


def _body_seeds(view: _View, person: Sighting, others: Sequence[Sighting]) -> tuple[_Labels, Pixels]:
    """What is surely, likely, unlikely and surely not the person; and the face."""
    body, dx, below = person.body, np.abs(view.dx), view.below
    labels = np.full(dx.shape, cv2.GC_PR_BGD, np.uint8)
    labels[in_silhouette(view.dx, view.dy)] = cv2.GC_PR_FGD
    # Beside the head and above it there is nobody. Beside the chest there may be more of a broad person.
    labels[((dx > 1.2) & (below < -0.1)) | ((dx > 1.5) & (below < 0.1)) | (view.y < body.y0)] = cv2.GC_BGD
    labels[~view.inside(body) & (below < 0.3)] = cv2.GC_BGD
    for other in others:
        beyond = view.x >= body.x1 if centre_x(other.face) > centre_x(person.face) else view.x < body.x0
        labels[beyond | view.inside(other.face)] = cv2.GC_BGD
    chest = np.interp(below, [0.2, 0.3, 0.45, 0.7, 1.2, 1.21], [0.15, 0.4, 0.6, 0.75, 0.75, 0])
    labels[(below > 0.2) & (dx < chest)] = cv2.GC_FGD
    face = view.oval(0, 0.42, 0.5)
    labels[face] = cv2.GC_FGD
    return labels, face


def _skin(view: _View, body: Pixels) -> tuple[NDArray[np.uint8], Pixels]:
    """The face's median colour, and the body's pixels that look like it; shade counts less than hue."""
    cheeks = view.oval(0.05, 0.30, 0.36)
    sample = view.lab[cheeks].astype(float) if cheeks.any() else view.lab.reshape(-1, 3).astype(float)
    middle = np.median(sample, axis=0)
    spread = 1.48 * np.median(np.abs(sample - middle), axis=0)
    scaled = (view.lab - middle) / np.maximum(spread * (2.5, 2.0, 2.0), (25, 6, 6))
    return middle.astype(np.uint8), (np.sqrt((scaled**2).sum(axis=2)) < 1.6) & body


def _hair_seeds(view: _View, body: Pixels) -> _Labels:
    """By place alone: hair may have the skin's hue, and the cut tells the two apart."""
    labels = np.full(body.shape, cv2.GC_BGD, np.uint8)
    head = body & (np.abs(view.dx) < 1.15) & (view.below < 0.15)
    labels[head] = cv2.GC_PR_BGD
    beside = ~view.oval(0, 0.5, 0.55) & (view.dy < 0.1)
    labels[head & (beside | (view.dy < -0.5))] = cv2.GC_PR_FGD
    labels[view.oval(0.08, 0.34, 0.40)] = cv2.GC_BGD
    return labels


def _top_seeds(view: _View, rest: Pixels, skin: Pixels) -> _Labels:
    """`rest`: the body without its hair."""
    labels = np.full(rest.shape, cv2.GC_BGD, np.uint8)
    torso = rest & (view.below > 0) & (view.below < 3.3)
    labels[torso] = cv2.GC_PR_FGD
    labels[torso & skin] = cv2.GC_PR_BGD
    labels[torso & skin & (view.below < 0.3) & (np.abs(view.dx) < 0.5)] = cv2.GC_BGD
    return labels


def _cut(lab: Image, seeds: _Labels, iterations: int) -> Pixels:
    """The foreground. Where the seeds leave nothing to decide, they are returned as they are."""
    labels = seeds.copy()
    foreground = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if foreground.all() or not foreground.any():
        return foreground
    cv2.setRNGSeed(0)
    cv2.grabCut(lab, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _named(parts: Parts, phrase: str) -> Pixels:
    """The part that a phrase names; of a phrase that names none, whatever the person shows."""
    words = words_of(phrase)
    return parts.hair if words & set(HAIR) else parts.top if words & set(TOPS) else parts.body


def _inside(image: Image, box: Box) -> Pixels:
    mask = np.zeros(image.shape[:2], bool)
    inside = box.clipped(image.shape[1], image.shape[0])
    mask[round(inside.y0) : round(inside.y1), round(inside.x0) : round(inside.x1)] = True
    return mask


def _grown(box: Box, share: float) -> Box:
    dx, dy = share * box.width, share * box.height
    return Box(box.x0 - dx, box.y0 - dy, box.x1 + dx, box.y1 + dy)


def _touching(pixels: Pixels, core: Pixels) -> Pixels:
    """The connected pieces that meet `core`."""
    _, labels = cv2.connectedComponents(pixels.astype(np.uint8))
    kept = np.unique(labels[core & pixels])
    return np.isin(labels, kept[kept > 0])


def _largest(pixels: Pixels, share: float) -> Pixels:
    """The connected pieces of at least `share` of the largest one's area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(labels, 1 + np.flatnonzero(areas >= share * areas.max(initial=1)))


def _tidy(pixels: Pixels) -> Pixels:
    """Without specks and threads, and with its small holes filled."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = cv2.morphologyEx(pixels.astype(np.uint8), cv2.MORPH_OPEN, kernel).astype(bool)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~opened).astype(np.uint8), connectivity=4)
    small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < 0.02 * max(1, opened.sum()))
    return opened | np.isin(labels, small[small > 0])


def _separation(image: Image, pixels: Pixels) -> float:
    """Hellinger distance between the colours of a mask and of a band around it: 0 the same, 1 none in common."""
    if not pixels.any():
        return 0.0
    reach = max(3, round(0.15 * np.sqrt(pixels.sum())))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    band = cv2.dilate(pixels.astype(np.uint8), kernel).astype(bool) & ~pixels
    if not band.any():
        return 0.0
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    ours, theirs = (
        cv2.calcHist([lab], [0, 1, 2], where.astype(np.uint8), [8, 16, 16], [0, 256] * 3).ravel() / where.sum()
        for where in (pixels, band)
    )
    return float(np.sqrt(max(0.0, 1 - np.sqrt(ours * theirs).sum())))
