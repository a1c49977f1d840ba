"""Segment: the pixels of each subject's body and attributes, and of objects, in each still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import cv2

from dataengine import masks
from dataengine.config import SegmentSettings
from dataengine.measure.frames import pictures
from dataengine.models.grabcut import GrabCut
from dataengine.models.interfaces import Image, Prompt, Segmenter
from dataengine.records import Caption, EntityMask, GroundedBox, Grounding, People, Record, Segmentation, Stills
from dataengine.stage import Row, Stage

_SEGMENTERS: dict[str, Callable[[SegmentSettings], Segmenter]] = {
    "grabcut": lambda settings: GrabCut(settings.iterations)
}


class SegmentStage(Stage[Segmentation]):
    """Cuts out what was grounded, and each subject's whole body, still by still."""

    name: ClassVar[str] = "segment"
    version: ClassVar[int] = 1
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
        return [
            Segmentation(masks=tuple(m for still, image in enumerate(images) for m in self._still(row, still, image)))
            for row in rows
            for images in [pictures(row[Stills])]
        ]

    def _still(self, row: Row, still: int, image: Image) -> list[EntityMask]:
        sightings = {p.index: s for p in row[People].people for s in p.sightings if s.still == still}
        place = {person: i for i, person in enumerate(sightings)}
        grounded = {box.entity: box for box in row[Grounding].boxes if box.still == still}
        prompts: dict[str, Prompt] = {}
        for i, subject in enumerate(row[Caption].people):
            owner = subject.noun.owner
            if owner and owner.person in sightings:
                body = sightings[owner.person].body
                prompts[f"s{i}.body"] = Prompt(subject.noun.phrase.text, body, place[owner.person])
            for j, attribute in enumerate(subject.attributes):
                box: GroundedBox | None = grounded.get(f"s{i}.a{j}")
                owner = attribute.owner
                if box and owner:
                    prompts[box.entity] = Prompt(attribute.phrase.text, box.box, place.get(owner.person))
        for k, thing in enumerate(row[Caption].objects):
            if box := grounded.get(f"o{k}"):
                prompts[box.entity] = Prompt(thing.text, box.box, None)
        if not prompts:
            return []
        segments = self._segmenter.segment(image, list(sightings.values()), list(prompts.values()))
        found = []
        for entity, segment in zip(prompts, segments, strict=True):
            if segment.pixels.any():
                mask = masks.encode(segment.pixels)
                box_around = masks.tight_box(mask)
                found.append(
                    EntityMask(entity=entity, still=still, box=box_around, mask=mask, score=round(segment.score, 4))
                )
        return found
