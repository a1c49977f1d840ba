"""Draws people and things onto a label map: every pixel has the number of the part that is seen there.

Colours come last, by a table from numbers to colours, so that a frame and its masks are the same drawing. Shapes are
plain polygons and ellipses of OpenCV without antialiasing; the map is drawn at `SCALE` times the frame's size, and
scaling the coloured frame down smooths its edges.
"""

from __future__ import annotations

from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.world.cast import COLOURS, HAIR_COLOURS, RGB, Person, Worn

SCALE = 2
"""Pixels of the label map for one of the frame, on a side."""

Labels = NDArray[np.uint8]
Palette = NDArray[np.uint8]

PEOPLE, PARTS = 3, 24
OBJECTS, OBJECT_PARTS = 3, 4
_FIRST_OBJECT = 1
_FIRST_PERSON = _FIRST_OBJECT + OBJECTS * OBJECT_PARTS


class Part(IntEnum):
    """What a pixel of a person shows."""

    SKIN = 0  # arms, hands and neck
    FACE = 1
    EYES = 2
    EYE_WHITES = 3
    LIPS = 4
    BEARD = 5
    HAIR = 6
    TOP = 7
    TOP_STRIPE = 8
    UNDERSHIRT = 9
    TROUSERS = 10
    SHOES = 11
    HAT = 12
    GLASSES = 13
    SCARF = 14
    BAG = 15


BAG_BOTTOM = 3.2
"""How far below the top of the head a bag hangs, in heights of the head."""

FACE_PARTS = (Part.FACE, Part.EYES, Part.EYE_WHITES, Part.LIPS, Part.BEARD)
"""What belongs to a face."""
TOP_PARTS = (Part.TOP, Part.TOP_STRIPE)


def label(person: int, part: Part) -> int:
    """The number of a person's part on the map."""
    return _FIRST_PERSON + PARTS * person + part


def person_labels(person: int) -> range:
    return range(label(person, Part.SKIN), label(person, Part.SKIN) + PARTS)


def object_labels(number: int) -> range:
    return range(_FIRST_OBJECT + OBJECT_PARTS * number, _FIRST_OBJECT + OBJECT_PARTS * (number + 1))


class Pose:
    """Where a person stands and how: pixels of the map.

    Attributes:
        x, y: centre of the head, and its top.
        head: height of the head; everything else follows from it.
        swing: of the arms, −1 … 1.
        bag_side: −1 or 1: the hand that holds the bag.
    """

    __slots__ = ("bag_side", "head", "swing", "x", "y")

    def __init__(self, x: float, y: float, head: float, swing: float = 0.0, bag_side: int = 1) -> None:
        self.x, self.y, self.head, self.swing, self.bag_side = x, y, head, swing, bag_side


def draw_person(labels: Labels, number: int, person: Person, pose: Pose) -> None:
    """Draw a person in front of all that is on the map."""
    brush = _Brush(labels, pose, number)
    worn = {item.kind for item in person.accessories}
    _hair_behind(brush, person)
    _legs(brush, person)
    _body(brush, person)
    _head(brush, person)
    if "scarf" in worn:
        _scarf(brush)
    _hair_before(brush, person)
    _features(brush, person)
    if "glasses" in worn:
        _glasses(brush, person)
    if "hat" in worn:
        _hat(brush, person)
    if "bag" in worn:
        _bag(brush, pose)


def paint_person(palette: Palette, number: int, person: Person) -> None:
    """Set the colours of a person's parts."""
    who = person.identity
    colours: dict[Part, RGB] = {
        Part.SKIN: _shade(who.skin, 0.94),
        Part.FACE: who.skin,
        Part.EYES: who.eyes,
        Part.EYE_WHITES: (250, 250, 250),
        Part.LIPS: (186, 80, 80) if who.noun == "woman" else _shade(who.skin, 0.68),
        Part.BEARD: HAIR_COLOURS[who.hair_colour],
        Part.HAIR: HAIR_COLOURS[who.hair_colour],
        Part.TOP: COLOURS[person.top.colour],
        Part.TOP_STRIPE: _stripe(person.top),
        Part.UNDERSHIRT: (250, 250, 248) if person.top.colour != "white" else (70, 80, 100),
        Part.TROUSERS: person.trousers,
        Part.SHOES: (40, 34, 32),
    }
    for item in person.accessories:
        colours[Part[item.kind.upper()]] = COLOURS[item.colour]
    for part, colour in colours.items():
        palette[label(number, part)] = colour


def _stripe(top: Worn) -> RGB:
    """Stripes are lighter or darker, so that the colour keeps its name."""
    colour = COLOURS[top.colour]
    if top.pattern == "plain":
        return colour
    return _shade(colour, 0.6) if sum(colour) > 330 else tuple(min(255, value + 80) for value in colour)  # type: ignore[return-value]


def _shade(colour: RGB, by: float) -> RGB:
    return tuple(int(value * by) for value in colour)  # type: ignore[return-value]


class _Brush:
    """Draws in units of the head's height, from the centre of its top; x to the right, y down."""

    def __init__(self, labels: Labels, pose: Pose, number: int) -> None:
        self.labels, self.pose, self.number = labels, pose, number

    def at(self, x: float, y: float) -> tuple[int, int]:
        return round(self.pose.x + x * self.pose.head), round(self.pose.y + y * self.pose.head)

    def polygon(self, part: Part, *points: tuple[float, float]) -> None:
        cv2.fillPoly(self.labels, [np.array([self.at(*p) for p in points], np.int32)], label(self.number, part))

    def ellipse(self, part: Part, x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> None:
        axes = max(1, round(rx * self.pose.head)), max(1, round(ry * self.pose.head))
        cv2.ellipse(self.labels, self.at(x, y), axes, 0, start, end, label(self.number, part), cv2.FILLED)

    def ring(self, part: Part, x: float, y: float, r: float, width: float) -> None:
        thick = max(1, round(width * self.pose.head))
        cv2.circle(self.labels, self.at(x, y), max(1, round(r * self.pose.head)), label(self.number, part), thick)

    def line(self, part: Part, a: tuple[float, float], b: tuple[float, float], width: float) -> None:
        thick = max(1, round(width * self.pose.head))
        cv2.line(self.labels, self.at(*a), self.at(*b), label(self.number, part), thick)


def _hair_behind(brush: _Brush, person: Person) -> None:
    if person.identity.hair == "long":
        half = person.identity.face_width / 2 + 0.12
        brush.polygon(Part.HAIR, (-half, 0.3), (half, 0.3), (half + 0.06, 1.45), (-half - 0.06, 1.45))
    elif person.identity.hair == "bun":
        brush.ellipse(Part.HAIR, 0, -0.08, 0.22, 0.2)


def _legs(brush: _Brush, person: Person) -> None:
    skin = person.top.kind == "dress"
    for side in (-1, 1):
        leg = Part.SKIN if skin else Part.TROUSERS
        brush.polygon(leg, (0, 2.8), (side * 0.52, 2.8), (side * 0.46, 5.0), (side * 0.12, 5.0))
        brush.polygon(Part.SHOES, (side * 0.1, 5.0), (side * 0.46, 5.0), (side * 0.6, 5.2), (side * 0.1, 5.2))


def _body(brush: _Brush, person: Person) -> None:
    broad = 0.86 if person.identity.noun == "man" else 0.72
    brush.polygon(Part.SKIN, (-0.16, 0.8), (0.16, 0.8), (0.2, 1.2), (-0.2, 1.2))
    swing, kind = 0.22 * brush.pose.swing, person.top.kind
    for side in (-1, 1):
        shoulder, elbow = (side * (broad - 0.1), 1.3), (side * (broad + 0.12) + swing, 2.05)
        hand = (side * (broad + 0.08) + 2 * swing, 2.75)
        brush.line(Part.SKIN, shoulder, elbow, 0.24)
        brush.line(Part.SKIN, elbow, hand, 0.2)
        brush.ellipse(Part.SKIN, *hand, 0.14, 0.14)
        if kind in ("shirt", "sweater", "jacket"):
            brush.line(Part.TOP, shoulder, elbow, 0.34)
            brush.line(Part.TOP, elbow, (0.85 * hand[0] + 0.15 * elbow[0], 0.85 * hand[1] + 0.15 * elbow[1]), 0.28)
        else:
            brush.line(Part.TOP, shoulder, (0.45 * shoulder[0] + 0.55 * elbow[0], 1.7), 0.34)
    hem = 3.9 if kind == "dress" else 2.85
    flare = broad + 0.25 if kind == "dress" else broad - 0.14
    outline = ((-0.22, 1.1), (0.22, 1.1), (broad, 1.25), (broad - 0.2, 2.3), (flare, hem), (-flare, hem))
    brush.polygon(Part.TOP, *outline, (0.2 - broad, 2.3), (-broad, 1.25))
    if person.top.pattern == "striped":
        _stripes(brush)
    if kind == "jacket":
        brush.polygon(Part.UNDERSHIRT, (-0.16, 1.1), (0.16, 1.1), (0.24, 2.85), (-0.24, 2.85))
    elif kind == "sweater":
        brush.polygon(Part.TOP, (-0.24, 0.96), (0.24, 0.96), (0.28, 1.16), (-0.28, 1.16))
    else:
        brush.polygon(Part.SKIN, (-0.2, 1.08), (0.2, 1.08), (0, 1.36 if kind == "shirt" else 1.24))
    if kind == "shirt":
        for y in (1.6, 1.95, 2.3, 2.65):
            brush.ellipse(Part.UNDERSHIRT, 0, y, 0.035, 0.035)


def _stripes(brush: _Brush) -> None:
    head = brush.pose.head
    rows = (np.arange(brush.labels.shape[0]) - brush.pose.y) // max(2, round(0.17 * head)) % 2 == 1
    x0, x1 = (int(np.clip(brush.pose.x + side * 1.5 * head, 0, brush.labels.shape[1])) for side in (-1, 1))
    part = brush.labels[:, x0:x1]
    top = part[rows] == label(brush.number, Part.TOP)
    part[rows] = np.where(top, np.uint8(label(brush.number, Part.TOP_STRIPE)), part[rows])


def _head(brush: _Brush, person: Person) -> None:
    half = person.identity.face_width / 2
    for side in (-1, 1):
        brush.ellipse(Part.FACE, side * half, 0.56, 0.07, 0.11)
    brush.ellipse(Part.FACE, 0, 0.52, half, 0.48)


def _hair_before(brush: _Brush, person: Person) -> None:
    half, hair = person.identity.face_width / 2, person.identity.hair
    brush.ellipse(Part.HAIR, 0, 0.42, half + 0.07, 0.46, 180, 360)
    brush.ellipse(Part.FACE, 0, 0.5, half * 0.86, 0.26, 180, 360)
    for side in (-1, 1):
        if hair == "long":
            brush.polygon(
                Part.HAIR, (side * (half - 0.04), 0.3), (side * (half + 0.13), 0.35), (side * (half + 0.12), 1.3),
                (side * (half - 0.02), 1.15),
            )  # fmt: skip
    if hair == "curly":
        for angle in np.linspace(np.pi, 2 * np.pi, 8):
            brush.ellipse(Part.HAIR, (half + 0.06) * np.cos(angle), 0.4 + 0.42 * np.sin(angle), 0.15, 0.15)


def _features(brush: _Brush, person: Person) -> None:
    who = person.identity
    half = who.face_width / 2
    if who.beard:
        brush.ellipse(Part.BEARD, 0, 0.66, half * 0.96, 0.36, 0, 180)
        brush.ellipse(Part.FACE, 0, 0.66, half * 0.55, 0.1)
    for side in (-1, 1):
        x, tilt = side * half * 0.46, 0.06 * who.brow
        brush.ellipse(Part.EYE_WHITES, x, 0.48, 0.095, 0.07)
        brush.ellipse(Part.EYES, x, 0.48, 0.048, 0.06)
        brush.line(Part.EYES, (x - side * 0.1, 0.36 + tilt), (x + side * 0.1, 0.36 - tilt), 0.035)
    brush.line(Part.SKIN, (0, 0.52), (0.04, 0.63), 0.03)
    brush.ellipse(Part.LIPS, 0, 0.76, 0.17 * who.mouth, 0.05)


def _glasses(brush: _Brush, person: Person) -> None:
    half = person.identity.face_width / 2
    for side in (-1, 1):
        brush.ring(Part.GLASSES, side * half * 0.46, 0.47, 0.155, 0.05)
        brush.line(Part.GLASSES, (side * (half * 0.46 + 0.15), 0.46), (side * (half + 0.03), 0.43), 0.05)
    brush.line(Part.GLASSES, (-0.07, 0.46), (0.07, 0.46), 0.05)


def _scarf(brush: _Brush) -> None:
    brush.ellipse(Part.SCARF, 0, 1.08, 0.36, 0.17)
    brush.polygon(Part.SCARF, (0.08, 1.1), (0.36, 1.08), (0.42, 1.95), (0.16, 1.98))


def _hat(brush: _Brush, person: Person) -> None:
    half = person.identity.face_width / 2
    brush.polygon(Part.HAT, (-half, 0.14), (-half * 0.84, -0.3), (half * 0.84, -0.3), (half, 0.14))
    brush.ellipse(Part.HAT, 0, 0.15, half + 0.28, 0.085)


def _bag(brush: _Brush, pose: Pose) -> None:
    side = pose.bag_side
    x = side * 0.92 + 0.44 * pose.swing
    brush.ring(Part.BAG, x, 2.5, 0.2, 0.06)
    brush.polygon(Part.BAG, (x - 0.34, 2.6), (x + 0.34, 2.6), (x + 0.4, BAG_BOTTOM), (x - 0.4, BAG_BOTTOM))
