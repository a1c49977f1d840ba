"""Held-out pairs as pictures: references, the true picture, and what each variant made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from dataengine.shards.reader import Sample
from dataengine.world.drawing import Image

_TILE, _GAP, _LINE = 200, 6, 18
_INK, _PAPER, _GOOD, _BAD = "#24292f", "#ffffff", "#1a7f37", "#cf222e"


class Tile(NamedTuple):
    """A picture and, where it was read, how many of its figures are bound, of how many."""

    picture: Image
    bound: tuple[int, int] | None = None


class Line(NamedTuple):
    """A held-out pair: its references come first, then the tiles."""

    sample: Sample
    tiles: Sequence[Tile]


def grid(heads: Sequence[str], lines: Sequence[Line]) -> PilImage.Image:
    """RGB; `heads` names the columns of tiles, after the one of references."""
    height, width = lines[0].tiles[0].picture.shape[:2]
    tile = (_TILE, round(_TILE * height / width))
    columns = len(heads) + 1
    size = (columns * (_TILE + _GAP) + _GAP, _LINE + _GAP + len(lines) * (tile[1] + _LINE + _GAP))
    sheet = PilImage.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, name in enumerate(("references", *heads)):
        draw.text((_GAP + column * (_TILE + _GAP), 2), name, fill=_INK, font=font)
    for number, line in enumerate(lines):
        top = _LINE + _GAP + number * (tile[1] + _LINE + _GAP)
        sheet.paste(_references(line.sample, tile), (_GAP, top))
        for column, one in enumerate(line.tiles, start=1):
            left = _GAP + column * (_TILE + _GAP)
            sheet.paste(PilImage.fromarray(one.picture).resize(tile, PilImage.Resampling.BICUBIC), (left, top))
            if one.bound is not None:
                bound, people = one.bound
                told = f"{bound} of {people} bound"
                draw.text((left, top + tile[1] + 1), told, fill=_GOOD if bound == people else _BAD, font=font)
    return sheet


def _references(sample: Sample, size: tuple[int, int]) -> PilImage.Image:
    """A row for faces, a row for garments, a column a subject; the background behind them."""
    sheet = PilImage.new("RGB", size, _PAPER)
    pair = sample.pair
    if pair.background is not None:
        sheet.paste(PilImage.fromarray(sample.image(pair.background)).resize(size))
    wide, high = size[0] // max(1, len(pair.subjects)), size[1] // 2
    for column, subject in enumerate(pair.subjects):
        for row, reference in enumerate((subject.face, *subject.attributes[:1])):
            image = PilImage.fromarray(sample.image(reference))
            image.thumbnail((wide - 8, high - 6))
            sheet.paste(image, (column * wide + (wide - image.width) // 2, row * high + (high - image.height) // 2))
    return sheet


def webp(sheet: PilImage.Image) -> bytes:
    """As it stands in documentation."""
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=85, method=6)
    return stream.getvalue()
