"""Captions and names as people may safely see them: cut into phrases, hidden characters made visible."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from dataengine.records import EntityId, Pair, Reference

# Joiners build emoji and Indic conjuncts; other format characters only mislead a reader: U+202E turns a line round.
_JOINERS = {"\u200c", "\u200d"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}


@dataclass(frozen=True)
class Piece:
    """A stretch of a caption and the entity it is tied to, if any."""

    text: str
    entity: EntityId | None


def visible(text: str) -> str:
    """`text` on one line, with control, format and unassigned characters spelt as ⟨U+202E⟩."""
    return "".join(_visible(character) for character in re.sub(r"\s", " ", text))


def shortened(text: str, limit: int) -> str:
    """`visible(text)`, cut to at most `limit` characters with an ellipsis in the middle: both ends of a path tell."""
    seen = visible(text[: 4 * limit]) + visible(text[max(4 * limit, len(text) - limit) :])
    if len(seen) <= limit:
        return seen
    tail = (limit - 1) // 2
    return seen[: limit - 1 - tail] + "…" + seen[len(seen) - tail :]


def by_caption(pair: Pair) -> list[Reference]:
    """One reference for each phrase of the caption, in its order; a face stands for its subject's noun."""
    first = {reference.phrase.span: reference for reference in reversed(pair.references)}
    return [first[span] for span in sorted(span for span in first if span is not None)]


def pieces(pair: Pair, limit: int = 2000) -> list[Piece]:
    """The caption as tied and untied stretches, in order, safe to show; what goes beyond `limit` characters is cut."""
    parts: list[Piece] = []
    at = 0
    for reference in by_caption(pair):
        span = reference.phrase.span
        if span is None or span.start < at or span.end > limit:
            continue
        parts += [Piece(pair.caption[at : span.start], None), Piece(span.of(pair.caption), reference.entity)]
        at = span.end
    parts.append(Piece(pair.caption[at:limit] + ("…" if len(pair.caption) > limit else ""), None))
    return [Piece(visible(part.text), part.entity) for part in parts if part.text]


def _visible(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN and character not in _JOINERS:
        return f"⟨U+{ord(character):04X}⟩"
    return character
