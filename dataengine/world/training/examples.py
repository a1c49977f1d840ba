"""Frames of the world as a network in training meets them: with what is true of them, and damaged as videos are.

Example `i` of a seed is the same on every machine and needs no other one, so that several processes can share the work
and a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.world import drawing
from dataengine.world.drawing import FrameTruth, Image
from dataengine.world.figure import Labels
from dataengine.world.script import Script, Shot, script

TRAINING, HELD_OUT = 1 << 20, (1 << 20) + 1
"""Seeds of worlds that no one makes by accident: to learn from, and to measure on while learning."""
QUALITIES = (60, 96)
"""JPEG qualities that stand for what a camera's and our own coding leave of a frame."""


@dataclass(frozen=True, slots=True)
class Example:
    """A frame outside of dissolves.

    Attributes:
        number: of the frame in its script.
        image: RGB uint8 [height, width, 3], after compression.
    """

    script: Script
    number: int
    image: Image

    @property
    def truth(self) -> FrameTruth:
        """Boxes, masks and owners of the shot's caption."""
        found = drawing.truth(self.script, self.number)
        assert found is not None, "an example is no dissolve"
        return found

    @property
    def shot(self) -> Shot:
        return self.script.shots[drawing.place(self.script, self.number)[0]]

    @property
    def labels(self) -> Labels:
        """The part that every pixel shows, uint8 [height, width]: `figure.label` and `figure.object_labels`."""
        return drawing.labels(self.script, self.number)


def example(seed: int, index: int) -> Example:
    """The example of this index: one frame of the video with the same number."""
    made, number, quality = moment(seed, index)
    # Without its grain, which coding takes away and which costs as much as all of the drawing.
    return Example(made, number, compressed(drawing.frame(made, number), quality))


def moment(seed: int, index: int) -> tuple[Script, int, int]:
    """The script, the number of the frame and the JPEG quality of an example that was not drawn."""
    made, draw = script(seed, index), np.random.default_rng((11, seed, index))
    clear = [number for number in range(made.frames) if _clear(made, number)]
    number = clear[int(draw.integers(len(clear)))]
    return made, number, int(draw.integers(*QUALITIES))


def compressed(image: Image, quality: int) -> Image:
    """What JPEG of this quality leaves of an RGB image."""
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _clear(made: Script, number: int) -> bool:
    shot, at = drawing.place(made, number)
    return at >= made.shots[shot].dissolve
