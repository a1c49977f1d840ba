"""Objects on the label map, and backgrounds as pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.records import Record
from dataengine.world.cast import COLOURS, RGB
from dataengine.world.figure import Labels, Palette, object_labels

Thing = Literal["lamp", "plant", "ball", "balloon", "chair", "box"]
Place = Literal["park", "beach", "street", "kitchen", "library", "office"]
THINGS: tuple[Thing, ...] = ("lamp", "plant", "ball", "balloon", "chair", "box")
PLACES: tuple[Place, ...] = ("park", "beach", "street", "kitchen", "library", "office")

Image = NDArray[np.uint8]


class Object(Record):
    """Something that stands, lies or floats beside people."""

    kind: Thing
    colour: str

    @property
    def phrase(self) -> str:
        return f"plant in a {self.colour} pot" if self.kind == "plant" else f"{self.colour} {self.kind}"


def draw_object(labels: Labels, number: int, thing: Object, x: float, y: float, size: float) -> None:
    """Draw an object whose foot's centre is at (x, y); `size` is its height. All in pixels of the map."""
    main, dark, light, _ = object_labels(number)

    def at(dx: float, dy: float) -> tuple[int, int]:
        return round(x + dx * size), round(y + dy * size)

    def polygon(value: int, *points: tuple[float, float]) -> None:
        cv2.fillPoly(labels, [np.array([at(*p) for p in points], np.int32)], value)

    def disc(value: int, dx: float, dy: float, r: float) -> None:
        cv2.circle(labels, at(dx, dy), max(1, round(r * size)), value, cv2.FILLED)

    def bar(value: int, a: tuple[float, float], b: tuple[float, float], width: float) -> None:
        cv2.line(labels, at(*a), at(*b), value, max(1, round(width * size)))

    if thing.kind == "lamp":
        bar(dark, (0, 0), (0, -0.6), 0.06)
        polygon(dark, (-0.2, 0), (0.2, 0), (0.16, -0.06), (-0.16, -0.06))
        polygon(main, (-0.3, -0.55), (0.3, -0.55), (0.16, -1), (-0.16, -1))
    elif thing.kind == "plant":
        for side in (-0.3, -0.12, 0.08, 0.28):
            bar(light, (0, -0.35), (side, -0.95), 0.09)
            disc(light, side, -0.9, 0.13)
        polygon(main, (-0.25, -0.42), (0.25, -0.42), (0.18, 0), (-0.18, 0))
    elif thing.kind == "ball":
        disc(main, 0, -0.5, 0.5)
        bar(dark, (-0.45, -0.5), (0.45, -0.5), 0.05)
        bar(dark, (0, -0.05), (0, -0.95), 0.05)
    elif thing.kind == "balloon":
        bar(dark, (0, 0.7), (0, -0.2), 0.02)
        cv2.ellipse(labels, at(0, -0.6), (max(1, round(0.34 * size)), max(1, round(0.42 * size))), 0, 0, 360, main, -1)
        polygon(main, (-0.06, -0.14), (0.06, -0.14), (0, -0.22))
    elif thing.kind == "chair":
        for leg in (-0.28, 0.28):
            bar(dark, (leg, 0), (leg, -0.45), 0.07)
        polygon(main, (-0.34, -0.42), (0.34, -0.42), (0.34, -0.54), (-0.34, -0.54))
        polygon(main, (-0.34, -0.5), (-0.22, -0.5), (-0.22, -1), (-0.34, -1))
        polygon(main, (-0.34, -0.8), (0.2, -0.8), (0.2, -1), (-0.34, -1))
    else:
        polygon(main, (-0.5, 0), (0.5, 0), (0.5, -0.7), (-0.5, -0.7))
        polygon(dark, (-0.06, 0), (0.06, 0), (0.06, -0.7), (-0.06, -0.7))
        polygon(light, (-0.5, -0.7), (0.5, -0.7), (0.4, -0.85), (-0.4, -0.85))


def paint_object(palette: Palette, number: int, thing: Object) -> None:
    """Set the colours of an object's parts."""
    main, dark, light, _ = object_labels(number)
    colour = COLOURS[thing.colour]
    palette[main] = colour
    palette[dark] = [int(value * 0.55) for value in colour]
    palette[light] = (60, 130, 60) if thing.kind == "plant" else [int(value + (255 - value) * 0.45) for value in colour]


def draw_place(place: Place, width: int, height: int, seed: int) -> Image:
    """A background, RGB [height, width, 3]; the same place looks a little different for another seed."""
    draw = np.random.default_rng((7, seed))
    image = np.zeros((height, width, 3), np.uint8)
    _PLACES[place](image, draw)
    shade = np.linspace(1.0, 0.9, height, dtype=np.float32)[:, None, None]
    grain = draw.normal(0, 2.5, (height, width, 1)).astype(np.float32)
    return np.clip(image * shade + grain, 0, 255).astype(np.uint8)


def _band(image: Image, top: float, bottom: float, colour: RGB) -> None:
    height = image.shape[0]
    image[round(top * height) : round(bottom * height)] = colour


def _box(image: Image, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
    height, width = image.shape[:2]
    image[max(0, round(y0 * height)) : round(y1 * height), max(0, round(x0 * width)) : round(x1 * width)] = colour


def _disc(image: Image, x: float, y: float, r: float, colour: RGB) -> None:
    height, width = image.shape[:2]
    cv2.circle(image, (round(x * width), round(y * height)), round(r * height), colour, cv2.FILLED)


def _park(image: Image, draw: np.random.Generator) -> None:
    _band(image, 0, 0.62, (176, 212, 236))
    _band(image, 0.6, 1, (128, 176, 96))
    for x in draw.uniform(0, 1, 5).tolist():
        _box(image, x - 0.012, 0.42, x + 0.012, 0.66, (110, 84, 60))
        _disc(image, x, 0.34, float(draw.uniform(0.13, 0.2)), (74, 128, 72))


def _beach(image: Image, draw: np.random.Generator) -> None:
    _band(image, 0, 0.4, (158, 206, 240))
    _band(image, 0.4, 0.62, (64, 134, 176))
    _band(image, 0.62, 1, (230, 208, 160))
    _disc(image, float(draw.uniform(0.1, 0.9)), 0.14, 0.08, (252, 240, 190))
    for y in (0.46, 0.53):
        _box(image, float(draw.uniform(0, 0.4)), y, float(draw.uniform(0.6, 1)), y + 0.012, (190, 220, 234))


def _street(image: Image, draw: np.random.Generator) -> None:
    _band(image, 0, 0.75, (196, 204, 212))
    _band(image, 0.72, 1, (122, 122, 126))
    x = float(draw.uniform(-0.1, 0))
    while x < 1:
        width, top = float(draw.uniform(0.14, 0.22)), float(draw.uniform(0.05, 0.25))
        tone = int(draw.integers(130, 176))
        _box(image, x, top, x + width, 0.72, (tone, tone - 18, tone - 30))
        for wx in np.arange(x + 0.02, x + width - 0.03, 0.05).tolist():
            for wy in np.arange(top + 0.06, 0.64, 0.13).tolist():
                _box(image, wx, wy, wx + 0.026, wy + 0.06, (222, 220, 190))
        x += width + 0.01


def _kitchen(image: Image, draw: np.random.Generator) -> None:
    _band(image, 0, 1, (236, 226, 206))
    for x in np.arange(float(draw.uniform(-0.1, 0)), 1, 0.2).tolist():
        _box(image, x, 0.02, x + 0.18, 0.3, (168, 128, 90))
        _box(image, x + 0.08, 0.24, x + 0.1, 0.28, (90, 66, 46))
    for y in np.arange(0.36, 0.56, 0.08).tolist():
        _box(image, 0, y, 1, y + 0.008, (206, 194, 172))
    _band(image, 0.58, 0.63, (92, 92, 96))
    _band(image, 0.63, 1, (152, 114, 80))


def _library(image: Image, draw: np.random.Generator) -> None:
    _band(image, 0, 1, (104, 76, 54))
    for shelf in np.arange(0.02, 0.9, 0.2).tolist():
        x = 0.0
        while x < 1:
            width = float(draw.uniform(0.012, 0.028))
            tone = draw.integers(70, 190, 3)
            _box(image, x, shelf + float(draw.uniform(0, 0.05)), x + width, shelf + 0.17, tuple(int(v) for v in tone))  # type: ignore[arg-type]
            x += width + 0.003
        _box(image, 0, shelf + 0.17, 1, shelf + 0.2, (72, 50, 34))
    _band(image, 0.92, 1, (130, 104, 80))


def _office(image: Image, draw: np.random.Generator) -> None:
    _band(image, 0, 0.85, (208, 214, 216))
    _band(image, 0.82, 1, (146, 138, 130))
    for x in (float(draw.uniform(0.02, 0.12)), float(draw.uniform(0.55, 0.68))):
        _box(image, x, 0.1, x + 0.28, 0.5, (122, 132, 142))
        _box(image, x + 0.012, 0.12, x + 0.268, 0.48, (182, 210, 230))
        _box(image, x + 0.135, 0.1, x + 0.145, 0.5, (122, 132, 142))


_PLACES: dict[Place, Callable[[Image, np.random.Generator], None]] = {
    "park": _park,
    "beach": _beach,
    "street": _street,
    "kitchen": _kitchen,
    "library": _library,
    "office": _office,
}
