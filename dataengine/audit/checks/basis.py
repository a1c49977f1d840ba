"""What every check speaks: a sample goes in, findings come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from dataengine.audit.scene import MaskPixels, Scene
from dataengine.config import CheckLimits
from dataengine.records import EntityId, Pair, Record, Reference, Span


class Finding(Record):
    """What one check says of one entity, or of the sample as a whole."""

    check: str
    entity: EntityId | Literal[""] = Field(description="empty: the whole sample")
    score: float = Field(description="what was measured, in the check's own unit")
    passed: bool
    reason: str


class Scorer(Protocol):
    """Says how well words fit pictures: a network of CLIP's kind, or something simpler."""

    def __call__(self, pictures: Sequence[Image.Image], phrases: Sequence[str]) -> NDArray[np.float64]:
        """Scores 0…1, (pictures, phrases); NaN where it has no opinion. Comparable along both axes."""
        ...


TokensAt = Callable[[str, Span], int]
"""How many tokens of a caption stand for a span of it."""

FaceEmbedder = Callable[[Sequence[Image.Image]], NDArray[np.float64]]
"""Faces as vectors of unit length, (faces, d): the cosine says how alike two people are."""


@dataclass(frozen=True)
class Aids:
    """What checks may ask beside the sample, each given by who runs them; without one its checks say nothing."""

    scorer: Scorer | None = None
    tokens: TokensAt | None = None
    faces: FaceEmbedder | None = None
    frames: bool = False
    """Whether the clip may be decoded: most of a check's time."""


@dataclass(frozen=True)
class Case:
    """One sample under the checks' eyes."""

    scene: Scene
    limits: CheckLimits
    aids: Aids

    @property
    def pair(self) -> Pair:
        return self.scene.pair

    @property
    def masks(self) -> dict[EntityId, MaskPixels]:
        return self.scene.masks

    def masked(self) -> Iterator[tuple[Reference, MaskPixels]]:
        """References with a mask, but for bodies: they only serve the other checks and may fill the frame."""
        for reference in self.pair.references:
            if reference.kind != "body" and reference.entity in self.masks:
                yield reference, self.masks[reference.entity]


Check = Callable[[Case], Iterator[Finding]]
"""Says of every entity that it applies to whether all is well; its docstring is what holds when it passes."""


def finding(check: Check, entity: str, score: float, passed: bool, reason: str) -> Finding:
    return Finding(check=check.__name__, entity=entity, score=float(score), passed=bool(passed), reason=reason)


def pixels(mask: MaskPixels) -> int:
    return int(np.count_nonzero(mask))


def whole(box: Sequence[float]) -> tuple[int, int, int, int]:
    """A box in whole pixels that are not negative."""
    x0, y0, x1, y1 = (max(0, round(value)) for value in box)
    return x0, y0, x1, y1
