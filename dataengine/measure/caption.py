"""Caption: what a clip shows, in words, and which words are whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import cv2

from dataengine.config import CaptionSettings, QwenSettings
from dataengine.measure.frames import even, pictures
from dataengine.models.colour_baseline import ColourBaseline
from dataengine.models.interfaces import Annotator, Scene, VisionLanguageModel
from dataengine.models.qwen_annotator import QwenAnnotator
from dataengine.models.qwen_endpoint import EndpointQwen
from dataengine.models.qwen_transformers import TransformersQwen
from dataengine.models.qwen_vllm import VllmQwen
from dataengine.records import Caption, People, Record, Stills
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source
from dataengine.video import Frame, frames_at

_BACKENDS: dict[str, Callable[[QwenSettings], VisionLanguageModel]] = {
    "vllm": VllmQwen,
    "endpoint": EndpointQwen,
    "transformers": TransformersQwen,
}
_ANNOTATORS: dict[str, Callable[[CaptionSettings], Annotator]] = {
    "colour_baseline": lambda settings: ColourBaseline(),
    "qwen2_5_vl": lambda settings: QwenAnnotator(_BACKENDS[settings.qwen.backend](settings.qwen), settings.qwen),
}


class CaptionStage(Stage[Caption]):
    """Asks the annotator for a caption of each clip's stills and people.

    A caption that came with the source is kept, and only what it names and whose that is are asked. It needs no place
    in the fingerprint: a source with a caption has an id of its own, so results never outlive the caption they are of.
    """

    name: ClassVar[str] = "caption"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[type[Record], ...]] = (Stills, People)
    writes: ClassVar[type[Record]] = Caption

    def __init__(self, settings: CaptionSettings) -> None:
        self.settings = settings
        self._annotator = _ANNOTATORS[settings.annotator](settings)
        self.model, self.prompt = self._annotator.name, self._annotator.prompt
        self.needs = self._annotator.needs

    @property
    def revision(self) -> str:
        return self._annotator.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)
        self._annotator.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Caption | BadInput]:
        return self._annotator.annotate([self._scene(row) for row in rows])

    def _scene(self, row: Row) -> Scene:
        clip = row.clip
        if clip is None:
            raise BadInput(f"{row.source.uri}: captions are written of clips, this row has none")
        frames: Sequence[Frame] = ()
        if count := self._annotator.frames:
            times = [clip.start_s + (i + 0.5) / count * clip.seconds for i in range(count)]
            with open_source(row.source.uri) as source:
                frames = frames_at(source, times)
        shown = tuple(even(frame.rgb) for frame in frames)
        return Scene(row.id, tuple(pictures(row[Stills])), row[People], shown, row.source.caption)
