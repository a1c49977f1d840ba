"""A still with its entities drawn in: masks as tinted areas, faces as boxes, every one with its words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dataengine.audit import lettering
from dataengine.audit.lettering import Style
from dataengine.audit.palette import colour_of
from dataengine.audit.scene import MaskPixels, Scene
from dataengine.audit.wording import visible
from dataengine.records import Box, EntityId, Reference

_TINT = 0.3
"""Opacity of a mask: the colour is plain, the cloth under it still shows its folds."""


_FINE = 4
"""Boxes and labels are drawn this much larger and reduced: ImageDraw does not smooth."""


def main_still(scene: Scene) -> int:
    """The still that most references come from; the middle one if it is among them."""
    counts = [len(at_still(scene, still)) for still in range(3)]
    return max((1, 0, 2), key=lambda still: counts[still])


def at_still(scene: Scene, still: int) -> list[Reference]:
    """The references that were taken from a still, but for the background, which is all of it."""
    return [r for r in scene.pair.references if r.still == still and r.kind != "background" and r.located]


def drawing_order(scene: Scene, still: int) -> list[Reference]:
    """What is drawn over a still: bodies first and faces last, so that what is small stays whole."""
    order = {"body": 0, "object": 1, "attribute": 2, "face": 3}
    return sorted(at_still(scene, still), key=lambda r: (order[r.kind], -r.area_share))


def annotated(scene: Scene, still: int, width: int, label_size: int | None = 15) -> Image.Image:
    """A still, `width` pixels wide, with what was taken from it: attributes and objects tinted, bodies outlined, faces
    boxed. `label_size` None leaves the words out. Raises `UnreadableSample`.
    """
    frame = Image.fromarray(scene.stills[still])
    scale = width / frame.width
    size = (width, max(1, round(frame.height * scale)))
    picture = frame.resize(size, Image.Resampling.LANCZOS)
    line = max(2, round(width / 260))
    for reference in drawing_order(scene, still):
        colour = colour_of(reference.entity)
        box = _scaled(reference.box, scale)
        mask = scene.masks.get(reference.entity)
        if mask is None:
            _outline_box(picture, box, colour.rgb, line)
        else:
            _paint(picture, mask, colour.rgb, line, filled=reference.kind != "body")
    if label_size is not None:
        style = Style(label_size, "bold")
        _draw_labels(picture, labels(scene, still, width, style), style)
    return picture


def _paint(picture: Image.Image, mask: MaskPixels, rgb: tuple[int, int, int], line: int, *, filled: bool) -> None:
    """Tint the masked pixels and draw their edge, `line` pixels wide, inside and outside of it alike."""
    area = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BICUBIC)
    area = area.filter(ImageFilter.GaussianBlur(1))  # rounds the stairs that enlarging leaves
    area = area.point(lambda value: min(255, max(0, (value - 96) * 4)))
    grown = area.filter(ImageFilter.MaxFilter(2 * (line // 2) + 1))
    shrunk = area.filter(ImageFilter.MinFilter(2 * (line // 2) + 1))
    if filled:
        picture.paste(rgb, mask=area.point(lambda value: int(value * _TINT)))
    picture.paste(rgb, mask=ImageChops.subtract(grown, shrunk))


def _outline_box(picture: Image.Image, box: Box, rgb: tuple[int, int, int], line: int) -> None:
    """A rounded frame in the colour with a white hair line outside, so that it stands out on any picture."""
    layer = Image.new("L", (picture.width * _FINE, picture.height * _FINE))
    halo = layer.copy()
    for target, extra in ((layer, 0), (halo, 1)):
        ImageDraw.Draw(target).rounded_rectangle(
            list(_scaled(Box(box.x0 - extra, box.y0 - extra, box.x1 + extra, box.y1 + extra), _FINE)),
            radius=(line + 3) * _FINE,
            outline=255,
            width=(line + 2 * extra) * _FINE,
        )
    for target, ink in ((halo, (255, 255, 255)), (layer, rgb)):
        picture.paste(ink, mask=target.resize(picture.size, Image.Resampling.BOX))


@dataclass(frozen=True)
class Label:
    """An entity's words on a drawn picture: a chip, and the point in the entity that a line leads to if it is apart."""

    entity: EntityId
    words: str
    chip: Box
    leads_to: tuple[float, float] | None


def labels(scene: Scene, still: int, width: int, style: Style) -> list[Label]:
    """Where words stand on a still drawn `width` pixels wide, so that they hide least: no face while there is room.

    Bodies have none (their subject's face names them).
    """
    scale = width / scene.pair.width
    frame = Box(0, 0, width, scene.pair.height * scale)
    shown = [r for r in at_still(scene, still) if r.kind != "body"]
    boxes = {r.entity: _scaled(r.box, scale) for r in shown}
    faces = [boxes[r.entity] for r in shown if r.kind == "face"]
    placed: list[Label] = []
    for reference in sorted(shown, key=lambda r: (r.kind != "face", r.box.y0)):
        words = lettering.fit(visible(reference.phrase.text), style, width * 0.4)
        mask = scene.masks.get(reference.entity)
        box = boxes[reference.entity]
        middle = None if mask is None else _middle(mask, scale)
        others = [boxes[r.entity] for r in shown if r is not reference and r.kind != "face"]
        chips = [label.chip for label in placed]
        size = (lettering.width(words, style) + 2 * chip_pad(style), chip_height(style))
        chip = min(_places(box, middle, *size), key=lambda c: _hidden(c, frame, chips, faces, others))
        apart = middle is not None and box.intersection(chip).area == 0
        placed.append(Label(reference.entity, words, chip, middle if apart else None))
    return placed


def chip_pad(style: Style) -> int:
    """Pixels left and right of a chip's words."""
    return round(style.size * 0.45)


def chip_height(style: Style) -> int:
    return round(style.size * 1.55)


def _hidden(chip: Box, frame: Box, chips: list[Box], faces: list[Box], others: list[Box]) -> float:
    """How much a chip hides: worst is to leave the frame, then another chip, a face, then a large part of anything."""
    return (
        1000 * (chip.area - chip.intersection(frame).area)
        + 100 * sum(chip.intersection(other).area for other in chips)
        + 10 * sum(chip.intersection(face).area for face in faces)
        + sum(chip.intersection(other).area / max(1.0, other.area) * chip.area for other in others)
    )


def _draw_labels(picture: Image.Image, placed: list[Label], style: Style) -> None:
    layer = Image.new("RGBA", (picture.width * _FINE, picture.height * _FINE))
    canvas = ImageDraw.Draw(layer)
    for label in placed:
        colour, chip = colour_of(label.entity), label.chip
        if label.leads_to is not None:
            _leader(canvas, chip, label.leads_to, colour.fill)
        canvas.rounded_rectangle(list(_scaled(chip, _FINE)), radius=chip.height * 0.28 * _FINE, fill=colour.fill)
        x, baseline = (chip.x0 + chip_pad(style)) * _FINE, (chip.y1 - chip.height * 0.3) * _FINE
        lettering.draw(canvas, x, baseline, label.words, Style(style.size * _FINE, style.weight), colour.ink)
    fine = layer.resize(picture.size, Image.Resampling.BOX)
    picture.paste(fine, mask=fine)


def leader_start(chip: Box, to: tuple[float, float]) -> tuple[float, float]:
    """The point of a chip that is nearest to what it names."""
    return min(max(to[0], chip.x0), chip.x1), min(max(to[1], chip.y0), chip.y1)


def _places(box: Box, middle: tuple[float, float] | None, width: float, height: float) -> list[Box]:
    """Where a chip may stand, best first: in the middle of a large mask, on top of a box, then around it."""
    gap = height * 0.5
    centre_x, centre_y = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) if middle is None else middle
    corners = []
    if middle is not None and box.area > 4 * width * height:
        corners.append((centre_x - width / 2, centre_y - height / 2))
    if middle is None:
        corners += [(box.x0, box.y0 - height - 4), (box.x0, box.y1 + 4)]
    for reach in (1, 2, 4):
        corners += [
            (x, centre_y - height / 2 + shift * height)
            for shift in (0, -1, 1, -2, 2)
            for x in (box.x1 + reach * gap, box.x0 - reach * gap - width)
        ]
        corners += [(centre_x - width / 2, box.y0 - reach * gap - height), (centre_x - width / 2, box.y1 + reach * gap)]
    return [Box(x, y, x + width, y + height) for x, y in corners]


def _leader(canvas: ImageDraw.ImageDraw, chip: Box, middle: tuple[float, float], fill: str) -> None:
    """A line from the chip to a dot in what it names."""
    x, y = middle
    line = [value * _FINE for point in (leader_start(chip, middle), middle) for value in point]
    canvas.line(line, fill="#ffffff", width=4 * _FINE)
    canvas.line(line, fill=fill, width=2 * _FINE)
    dot = [value * _FINE for value in (x - 5, y - 5, x + 5, y + 5)]
    canvas.ellipse(dot, fill=fill, outline="#ffffff", width=_FINE)


def _middle(mask: MaskPixels, scale: float) -> tuple[float, float]:
    """The centre of a mask's pixels in the drawn picture."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return 0.0, 0.0
    return float(columns.mean()) * scale, float(rows.mean()) * scale


def _scaled(box: Box, scale: float) -> Box:
    return Box(box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
