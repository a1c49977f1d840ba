"""The colour of each entity: the same in pictures, captions and charts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A colour and the ink that is readable on it, as sRGB hex."""

    name: str
    fill: str
    ink: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        return int(self.fill[1:3], 16), int(self.fill[3:5], 16), int(self.fill[5:7], 16)


# Okabe & Ito, "Color Universal Design" (2008): told apart with any of the common colour-vision deficiencies.
SUBJECTS = (
    Colour("s0", "#0072b2", "#ffffff"),
    Colour("s1", "#d55e00", "#ffffff"),
    Colour("s2", "#009e73", "#ffffff"),
    Colour("s3", "#cc79a7", "#1b1d21"),
)
OBJECT = Colour("o", "#e69f00", "#1b1d21")
BACKGROUND = Colour("bg", "#7d8590", "#ffffff")
ALL = (*SUBJECTS, OBJECT, BACKGROUND)


def colour_of(entity: str) -> Colour:
    """The colour of an entity: a subject's parts wear the subject's, objects share one. A fifth subject starts over."""
    if entity.startswith("s"):
        index = int(entity[1:].split(".")[0])
        return SUBJECTS[index % len(SUBJECTS)]
    return OBJECT if entity.startswith("o") else BACKGROUND
