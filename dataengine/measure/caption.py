"""Caption: what a clip shows, in words, and which words are whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import cv2

from dataengine.config import CaptionSettings
from dataengine.measure.frames import pictures
from dataengine.models.colour_baseline import ColourBaseline
from dataengine.models.interfaces import Annotator, Scene
from dataengine.records import Caption, People, Record, Stills
from dataengine.stage import Row, Stage

_ANNOTATORS: dict[str, Callable[[], Annotator]] = {"colour_baseline": ColourBaseline}


class CaptionStage(Stage[Caption]):
    """Asks the annotator for a caption of each clip's stills and people."""

    name: ClassVar[str] = "caption"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = (Stills, People)
    writes: ClassVar[type[Record]] = Caption

    def __init__(self, settings: CaptionSettings) -> None:
        self.settings = settings
        self._annotator = _ANNOTATORS[settings.annotator]()
        self.model, self.revision = self._annotator.name, self._annotator.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)
        self._annotator.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Caption]:
        return self._annotator.annotate([Scene(tuple(pictures(row[Stills])), row[People]) for row in rows])
