"""Looks: what each attribute looks like in each still, so that it is known again in another clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from dataengine import masks
from dataengine.config import ConfigError, LooksSettings
from dataengine.measure.frames import pictures
from dataengine.models.interfaces import Image, Pixels
from dataengine.models.looks import ClipLook, LabHistogram, LookEncoder
from dataengine.records import Look, Looks, Record, Segmentation, Stills
from dataengine.stage import Row, Stage

_ENCODERS: dict[str, Callable[[LooksSettings], LookEncoder]] = {
    "lab_histogram": lambda settings: LabHistogram(),
    "clip_image": lambda settings: ClipLook(settings.clip_image),
}


class LooksStage(Stage[Looks]):
    """Looks at every mask of an attribute."""

    name: ClassVar[str] = "looks"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = (Stills, Segmentation)
    writes: ClassVar[type[Record]] = Looks

    def __init__(self, settings: LooksSettings) -> None:
        """Raises `ConfigError` when no encoder is chosen: then there is no such stage."""
        if settings.encoder not in _ENCODERS:
            raise ConfigError(f"stages.looks.encoder is {settings.encoder}: choose one of {', '.join(_ENCODERS)}")
        self.settings = settings
        self._encoder = _ENCODERS[settings.encoder](settings)
        self.model, self.needs = self._encoder.name, self._encoder.needs

    @property
    def revision(self) -> str:
        return self._encoder.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        self._encoder.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Looks]:
        places: list[list[tuple[str, int]]] = []
        crops: list[tuple[Image, Pixels]] = []
        for row in rows:
            images = pictures(row[Stills])
            worn = [found for found in row[Segmentation].masks if ".a" in found.entity]
            places.append([(found.entity, found.still) for found in worn])
            for found in worn:
                x0, y0, x1, y1 = (int(v) for v in found.box)
                crops.append((images[found.still][y0:y1, x0:x1], masks.decode(found.mask)[y0:y1, x0:x1]))
        vectors = iter(self._encoder.encode(crops))
        return [
            Looks(
                looks=tuple(
                    Look(entity=entity, still=still, vector=tuple(round(float(v), 4) for v in next(vectors)))
                    for entity, still in of_clip
                )
            )
            for of_clip in places
        ]
