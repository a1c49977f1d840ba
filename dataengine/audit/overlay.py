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
from dataengine.records import Box, Reference

_TINT = 0.3
"""Opacity of a mask: the colour is plain, the cloth under it still shows its folds."""


_FINE = 4
"""Boxes and labels are drawn this much larger and reduced: ImageDraw does not smooth."""


@dataclass(frozen=True)
class _Tag:
    """Words to stand beside an entity: where it is in the drawn picture, and its pixels unless it is a box."""

    reference: Reference
    box: Box
    mask: MaskPixels | None


def main_still(scene: Scene) -> int:
    """The still that most references come from; the middle one if it is among them."""
    counts = [len(at_still(scene, still)) for still in range(3)]
    return max((1, 0, 2), key=lambda still: counts[still])


def at_still(scene: Scene, still: int) -> list[Reference]:
    """The references that were taken from a still, but for the background, which is all of it."""
    return [r for r in scene.pair.references if r.still == still and r.kind != "background"]


def annotated(scene: Scene, still: int, width: int, label_size: int | None = 15) -> Image.Image:
    """A still, `width` pixels wide, with what was taken from it: attributes and objects tinted, bodies outlined, faces
    boxed. `label_size` None leaves the words out. Raises `UnreadableSample`.
    """
    frame = Image.fromarray(scene.stills[still])
    scale = width / frame.width
    size = (width, max(1, round(frame.height * scale)))
    picture = frame.resize(size, Image.Resampling.LANCZOS)
    line = max(2, round(width / 260))
    tags: list[_Tag] = []
    # Bodies below, faces on top: what is drawn later stays whole.
    order = {"body": 0, "object": 1, "attribute": 2, "face": 3, "background": 4}
    for reference in sorted(at_still(scene, still), key=lambda r: order[r.kind]):
        colour = colour_of(reference.entity)
        box = _scaled(reference.box, scale)
        mask = scene.masks.get(reference.entity)
        if mask is None:
            _outline_box(picture, box, colour.rgb, line)
        else:
            _paint(picture, mask, colour.rgb, line, filled=reference.kind != "body")
        if reference.kind != "body":
            tags.append(_Tag(reference, box, mask))
    if label_size is not None:
        _label(picture, tags, scale, Style(label_size, "bold"))
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


def _label(picture: Image.Image, tags: list[_Tag], scale: float, style: Style) -> None:
    """A chip with its words for every tag, where it hides least: never a face while there is another place."""
    layer = Image.new("RGBA", (picture.width * _FINE, picture.height * _FINE))
    canvas = ImageDraw.Draw(layer)
    pad, height = round(style.size * 0.45), round(style.size * 1.55)
    faces = [tag.box for tag in tags if tag.reference.kind == "face"]
    chips: list[Box] = []
    for tag in sorted(tags, key=lambda t: (t.reference.kind != "face", t.box.y0)):
        words = lettering.fit(visible(tag.reference.phrase.text), style, picture.width * 0.4)
        width = lettering.width(words, style) + 2 * pad
        middle = _middle(tag.mask, scale) if tag.mask is not None else None
        others = [t.box for t in tags if t is not tag and t.reference.kind != "face"]

        def hidden(chip: Box, others: list[Box] = others) -> float:
            inside = chip.clipped(picture.width, picture.height).area
            return (
                1000 * (chip.area - inside)
                + 100 * sum(chip.intersection(c).area for c in chips)
                + 10 * sum(chip.intersection(face).area for face in faces)
                + sum(chip.intersection(o).area / max(1.0, o.area) * chip.area for o in others)
            )

        chip = min(_places(tag.box, middle, width, height), key=hidden)  # the first of the best
        chips.append(chip)
        colour = colour_of(tag.reference.entity)
        if middle is not None and tag.box.intersection(chip).area == 0:
            _leader(canvas, chip, middle, colour.fill)
        canvas.rounded_rectangle(list(_scaled(chip, _FINE)), radius=height * 0.28 * _FINE, fill=colour.fill)
        x, baseline = (chip.x0 + pad) * _FINE, (chip.y1 - height * 0.3) * _FINE
        lettering.draw(canvas, x, baseline, words, Style(style.size * _FINE, style.weight), colour.ink)
    fine = layer.resize(picture.size, Image.Resampling.BOX)
    picture.paste(fine, mask=fine)


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
    start = (min(max(x, chip.x0), chip.x1), min(max(y, chip.y0), chip.y1))
    line = [value * _FINE for point in (start, middle) for value in point]
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
