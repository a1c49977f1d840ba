"""Text on pictures: fonts from the matplotlib wheel, a fallback for scripts they lack, measuring, wrapping, drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

Weight = Literal["regular", "bold", "mono"]

# The second font draws any other script as a frame that names it, so Chinese shows as Chinese and not as nothing.
_FILES: dict[Weight, str] = {"regular": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf", "mono": "DejaVuSansMono.ttf"}
_LAST_RESORT = "LastResortHE-Regular.ttf"
_CLOSING = frozenset(",.;:!?)]}…")
"""May hang over the line's end: a comma after a phrase is a stretch of its own, but never starts a line."""


@dataclass(frozen=True)
class Style:
    """How a stretch of text looks. `size` is in pixels."""

    size: int
    weight: Weight = "regular"


@dataclass(frozen=True)
class Word:
    """A word set on a line. `tag` is whatever the caller tied to the stretch it comes from."""

    text: str
    x: float
    line: int
    width: float
    tag: str | None


def width(text: str, style: Style) -> float:
    """Advance of `text` in pixels."""
    return sum(font.getlength(run) for run, font in _runs(text, style))


def draw(canvas: ImageDraw.ImageDraw, x: float, baseline: float, text: str, style: Style, fill: str) -> float:
    """Draw one line of text on its baseline; returns the x where it ends."""
    for run, font in _runs(text, style):
        canvas.text((x, baseline), run, font=font, fill=fill, anchor="ls")
        x += font.getlength(run)
    return x


def fit(text: str, style: Style, room: float) -> str:
    """`text`, cut with an ellipsis so that it is at most `room` pixels wide."""
    if width(text, style) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(text[:middle].rstrip() + "…", style) <= room else (low, middle - 1)
    return text[:low].rstrip() + "…"


def wrap(stretches: Sequence[tuple[str, str | None]], style: Style, room: float, lines: int) -> list[Word]:
    """Set tagged stretches as one paragraph of at most `lines` lines, `room` pixels wide; the last one may be cut.

    A space belongs to the word before it, so consecutive words of one tag can be underlined without a gap. Words that
    are wider than a line are broken.
    """
    space = width(" ", style)
    words: list[Word] = []
    x, line = 0.0, 0
    for text, tag in _words(stretches, style, room):
        bare = text.rstrip()
        length = width(bare, style)
        if x and x + length > room and text[0] not in _CLOSING:
            x, line = 0.0, line + 1
        if line == lines:
            last = words[-1]
            cut = fit(last.text.rstrip() + "…", style, room - last.x)
            words[-1] = Word(cut, last.x, last.line, width(cut, style), last.tag)
            break
        advance = length + space * (len(text) - len(bare))
        words.append(Word(text, x, line, advance, tag))
        x += advance
    return words


def _words(stretches: Sequence[tuple[str, str | None]], style: Style, room: float) -> Iterator[tuple[str, str | None]]:
    for text, tag in stretches:
        for word in _split(text):
            while width(word.rstrip(), style) > room:
                head = fit(word, style, room)[:-1] or word[0]
                yield head, tag
                word = word[len(head) :]
            yield word, tag


def _split(text: str) -> list[str]:
    """Words with the spaces after them; joined again they are `text`."""
    groups = ["".join(group) for _, group in groupby(text, key=lambda c: c == " ")]
    if groups and groups[0].startswith(" "):
        return [groups[0], *_pairs(groups[1:])]
    return _pairs(groups)


def _pairs(groups: list[str]) -> list[str]:
    return ["".join(groups[i : i + 2]) for i in range(0, len(groups), 2)]


def _runs(text: str, style: Style) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """`text` cut where the font changes."""
    main, fallback = _font(_FILES[style.weight], style.size), _font(_LAST_RESORT, style.size)
    known = _coverage(_FILES[style.weight])
    groups = groupby(text, key=lambda character: ord(character) in known)
    return [("".join(group), main if covered else fallback) for covered, group in groups]


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_folder() / file), size)


@cache
def _coverage(file: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_folder() / file)).get_charmap())


def _folder() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"
