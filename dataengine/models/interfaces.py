"""What a measuring stage asks of a model: one small Protocol a task. Start here to put another network behind a stage.

All images are RGB uint8 (H, W, 3), all boxes pixels xyxy of the image they were found in, all scores raw: thresholds
belong to `dataengine.decide`. Making an adapter is cheap and reads no weights, so that a pipeline can be planned, and
sent to other processes, without loading it; `load` does the work, once a process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataengine.records import Box, Caption, People, Sighting
from dataengine.stage import BadInput
from dataengine.weights import Needs

Image: TypeAlias = NDArray[np.uint8]
"""RGB, (H, W, 3)."""
Pixels: TypeAlias = NDArray[np.bool_]
"""A mask, (H, W)."""


class Model(Protocol):
    """What every adapter has."""

    @property
    def name(self) -> str:
        """The network's name, as provenance states it."""

    @property
    def revision(self) -> str:
        """What pins its weights and code: package version and hash, or hub revision. Known before `load`.

        Raises `MissingWeightsError` where the weights are not on this machine.
        """

    @property
    def needs(self) -> Needs:
        """Weights, packages and memory, known without loading anything and without the weights being there."""

    def load(self) -> None:
        """Read weights, once a process. Raises `MissingWeightsError` naming the file and how to get it."""


class ShotDetector(Model, Protocol):
    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames it takes."""

    def scores(self, frames: Iterable[Image]) -> Iterator[float]:
        """For each frame, in order, how surely the shot changes between it and the next: 0…1.

        Frames in the middle of a gradual transition score too. Memory does not grow with the stream.
        """


@dataclass(frozen=True, slots=True)
class DetectedFace:
    box: Box
    score: float
    landmarks: tuple[tuple[float, float], ...]
    """Left eye, right eye, nose, left and right mouth corner as seen in the image; empty when the model has none."""
    embedding: tuple[float, ...] = ()
    """Identity, of unit length; empty when the model has none."""


class FaceDetector(Model, Protocol):
    def detect(self, images: Sequence[Image]) -> list[list[DetectedFace]]:
        """The faces of each image, best first."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What an annotator looks at: a clip's stills and the people found in them."""

    clip_id: str
    images: tuple[Image, ...]
    people: People
    frames: tuple[Image, ...] = ()
    """More frames of the clip in order of time, as many as the annotator asked for (`Annotator.frames`)."""
    given: str | None = None
    """A caption that came with the video: it is kept as it is, and only entities and owners are asked for."""


class Annotator(Model, Protocol):
    @property
    def prompt(self) -> str:
        """All the text that it asks with; empty for rules."""

    @property
    def frames(self) -> int:
        """How many frames of a clip it wants beside the stills."""

    def annotate(self, scenes: Sequence[Scene]) -> list[Caption | BadInput]:
        """A caption for each scene; every phrase of it with its span, tied to people by votes.

        A scene that no usable answer was given for has a `BadInput` with the raw answers in its place.
        """


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a vision-language model: a user's turn of texts and images, to be answered in JSON."""

    parts: tuple[str | Image, ...]
    schema: Mapping[str, Any]
    """JSON Schema that the answer is constrained to."""
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    complete: bool
    """False when it was cut off at the longest length allowed."""


class VisionLanguageModel(Model, Protocol):
    async def answer(self, question: Question) -> Answer:
        """What it says. Always awaited on one and the same event loop; many questions may be under way at once."""


@dataclass(frozen=True, slots=True)
class Query:
    """Where in this image is this? With `owner`, it is a part of that person, seen in the same image."""

    image: Image
    phrase: str
    owner: Sighting | None


@dataclass(frozen=True, slots=True)
class Region:
    box: Box
    score: float


class PersonDetector(Model, Protocol):
    def people(self, images: Sequence[Image]) -> list[list[Region]]:
        """Everybody in each image, from head to foot as far as they are seen, best first."""


class Grounder(Model, Protocol):
    def ground(self, queries: Sequence[Query]) -> list[list[Region]]:
        """The candidate regions of each query, best first; none when it is not to be seen."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Segment what `phrase` names inside `box`. `owner` indexes the people given beside it."""

    phrase: str
    box: Box
    owner: int | None


@dataclass(frozen=True, slots=True)
class Prompted:
    """An image, the people seen in it, and what is to be cut out of it."""

    image: Image
    people: Sequence[Sighting]
    prompts: Sequence[Prompt]


@dataclass(frozen=True, slots=True)
class Segment:
    pixels: Pixels
    score: float
    """The segmenter's own estimate of the mask's quality, 0…1 (SAM: predicted IoU)."""
    stability: float | None = None
    """IoU of the masks cut at a lower and a higher threshold; None where it has no threshold."""


class Segmenter(Model, Protocol):
    def segment(self, scenes: Sequence[Prompted]) -> Iterator[list[Segment]]:
        """For each image in order one mask a prompt, of the image's size; empty where nothing was found.

        Every scene has a prompt. The masks of a batch of clips are larger than its images: they come one image, or what
        the network takes at once, at a time.
        """


class Inpainter(Model, Protocol):
    def inpaint(self, image: Image, hole: Pixels) -> Image:
        """The image with the pixels of `hole` invented from the others, which are returned unchanged."""
