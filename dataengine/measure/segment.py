"""Segment: the pixels of each subject's body and attributes, and of objects, in each still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from dataengine import masks
from dataengine.config import SegmentSettings
from dataengine.measure.frames import pictures
from dataengine.models.face_regions import words_of
from dataengine.models.grabcut import GrabCut
from dataengine.models.interfaces import Image, Pixels, Prompt, Prompted, Segment, Segmenter
from dataengine.models.sam import Sam
from dataengine.models.sam2 import Sam2
from dataengine.records import Box, Caption, EntityMask, Grounding, People, Record, Segmentation, Sighting, Stills
from dataengine.stage import Row, Stage

_SEGMENTERS: dict[str, Callable[[SegmentSettings], Segmenter]] = {
    "grabcut": lambda settings: GrabCut(settings.iterations),
    "sam": lambda settings: Sam(settings.sam),
    "sam2": lambda settings: Sam2(settings.sam2),
}
# fmt: off
OVER_THE_FACE = frozenset((
    "glasses", "sunglasses", "eyeglasses", "spectacles", "goggles", "monocle", "eyepatch", "visor", "mask",
    "veil", "niqab", "burqa", "balaclava", "hat", "cap", "beanie", "beret", "bonnet", "helmet", "hood", "turban",
    "hijab", "bandana", "headscarf", "scarf", "shawl", "headband", "crown", "tiara", "wig", "hair", "hairstyle",
    "ponytail", "braid", "bangs", "beard", "moustache", "mustache", "goatee", "stubble", "sideburns", "earring",
    "piercing", "makeup", "lipstick", "freckles", "scar", "tattoo", "headphones", "headset", "earphones",
    "microphone", "cigarette",
))
# fmt: on
"""What may lie in front of a face or grow on it. From the mask of anything else that a person wears the face is taken
out: SAM, given a box around a coat, likes to cut out its wearer."""
OVER_THE_FACE_ZH = ("镜", "面具", "口罩", "面纱", "帽", "盔", "巾", "发", "辫", "胡", "须", "耳", "妆", "疤")


class SegmentStage(Stage[Segmentation]):
    """Cuts out what was grounded, and each subject's whole body, in every still."""

    name: ClassVar[str] = "segment"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[type[Record], ...]] = (Stills, People, Caption, Grounding)
    writes: ClassVar[type[Record]] = Segmentation

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self._segmenter = _SEGMENTERS[settings.segmenter](settings)
        self.model, self.needs = self._segmenter.name, self._segmenter.needs

    @property
    def revision(self) -> str:
        return self._segmenter.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)
        self._segmenter.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Segmentation]:
        asked = [
            (number, still, prompted)
            for number, row in enumerate(rows)
            for still, image in enumerate(pictures(row[Stills]))
            if (prompted := _prompts(row, still, image))
        ]
        segments = self._segmenter.segment([Prompted(p.image, p.people, list(p.prompts.values())) for _, _, p in asked])
        found: list[list[EntityMask]] = [[] for _ in rows]
        for (number, still, prompted), cut in zip(asked, segments, strict=True):
            for (entity, prompt), segment in zip(prompted.prompts.items(), cut, strict=True):
                pixels = self._finished(segment.pixels, entity, prompt, prompted.people)
                if pixels.any():
                    found[number].append(_entity_mask(entity, still, pixels, segment))
        return [Segmentation(masks=tuple(one)) for one in found]

    def _finished(self, pixels: Pixels, entity: str, prompt: Prompt, people: Sequence[Sighting]) -> Pixels:
        """A mask without specks and small holes; one of clothes also without the face above them."""
        share = self.settings.speck_share
        pixels = masks.without_holes(masks.without_islands(pixels, share), share)
        if ".a" in entity and prompt.owner is not None and not lies_over_the_face(prompt.phrase):
            pixels = masks.without_islands(pixels & ~oval(people[prompt.owner].face, pixels.shape), share)
        return pixels


@dataclass(frozen=True)
class _Prompts:
    """What is to be cut out of a still, by entity."""

    image: Image
    people: Sequence[Sighting]
    prompts: Mapping[str, Prompt]


def _prompts(row: Row, still: int, image: Image) -> _Prompts | None:
    """Whole bodies, and the best box of everything that was grounded; None when there is nothing."""
    sightings = {p.index: s for p in row[People].people for s in p.sightings if s.still == still}
    place = {person: i for i, person in enumerate(sightings)}
    grounded = row[Grounding].best
    prompts: dict[str, Prompt] = {}
    for i, subject in enumerate(row[Caption].people):
        owner = subject.noun.owner
        if owner and owner.person in sightings:
            body = sightings[owner.person].body
            prompts[f"s{i}.body"] = Prompt(subject.noun.phrase.text, body, place[owner.person])
        for j, attribute in enumerate(subject.attributes):
            box = grounded.get((f"s{i}.a{j}", still))
            owner = attribute.owner
            if box and owner:
                prompts[box.entity] = Prompt(attribute.phrase.text, box.box, place.get(owner.person))
    for k, thing in enumerate(row[Caption].objects):
        if box := grounded.get((f"o{k}", still)):
            prompts[box.entity] = Prompt(thing.text, box.box, None)
    return _Prompts(image, list(sightings.values()), prompts) if prompts else None


def _entity_mask(entity: str, still: int, pixels: Pixels, segment: Segment) -> EntityMask:
    mask = masks.encode(pixels)
    return EntityMask(
        entity=entity,
        still=still,
        box=masks.tight_box(mask),
        mask=mask,
        score=round(segment.score, 4),
        stability=None if segment.stability is None else round(segment.stability, 4),
    )


def lies_over_the_face(phrase: str) -> bool:
    """Whether the pixels of what a phrase names may be in front of a face: glasses may, a jacket not."""
    words = words_of(phrase)
    singular = {word.removesuffix("s") for word in words}
    return bool(OVER_THE_FACE & (words | singular)) or any(part in phrase for part in OVER_THE_FACE_ZH)


def oval(face: Box, size: tuple[int, ...]) -> Pixels:
    """The pixels of an image of that size (rows, columns) inside the ellipse that fills a face's box."""
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x + 0.5 - (face.x0 + face.x1) / 2) / max(face.width / 2, 0.5)
    down = (y + 0.5 - (face.y0 + face.y1) / 2) / max(face.height / 2, 0.5)
    return across**2 + down**2 < 1
