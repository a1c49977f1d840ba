"""Where a phrase stands in its caption: one place that nothing else claims, or a reason why there is none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from dataengine.records import Phrase, Reason, Span


def resolve(caption: str, phrase: Phrase, taken: Sequence[Span] = ()) -> Span | Reason:
    """The phrase's span in the caption.

    A span that the phrase brings is checked, not searched. Without one the phrase must occur exactly once at word
    boundaries, ignoring case and the width of white space: the released code marks every occurrence, so that two
    people both called "man" share their words. `taken` are the spans of other entities, which it must not touch.
    """
    if phrase.span is None:
        places = _occurrences(caption, phrase.text)
        if len(places) != 1:
            rule, times = ("span_absent", "no time") if not places else ("span_ambiguous", f"{len(places)} times")
            return Reason(rule, f"{phrase.text!r} stands {times} in the caption")
        span = places[0]
    else:
        span = phrase.span
        if not 0 <= span.start < span.end <= len(caption) or span.of(caption) != phrase.text:
            return Reason("span_wrong", f"the caption says {span.of(caption)!r} at {tuple(span)}, not {phrase.text!r}")
    for other in taken:
        if span.start < other.end and other.start < span.end:
            return Reason("span_overlapping", f"{phrase.text!r} shares words with {other.of(caption)!r}")
    return span


def _occurrences(caption: str, phrase: str) -> list[Span]:
    words = phrase.split()
    if not words:
        return []
    # Looked ahead, so that occurrences that overlap each other all count.
    pattern = r"\s+".join(map(re.escape, words))
    spans = (Span(*match.span(1)) for match in re.finditer(f"(?=({pattern}))", caption, re.IGNORECASE))
    return [s for s in spans if not _inside_word(caption, s.start) and not _inside_word(caption, s.end)]


def _inside_word(text: str, position: int) -> bool:
    """Whether the characters on both sides of a position belong to one word (`\\b` would cut at combining marks)."""
    if position in (0, len(text)):
        return False
    left, right = text[position - 1], text[position]
    if _is_mark(right) or "\u200d" in (left, right):  # an accent, or a joiner between emoji
        return True
    if "-" in (left, right):  # the hyphen of "t-shirt", not a dash between words
        hyphen = position - 1 if left == "-" else position
        return 0 < hyphen < len(text) - 1 and _in_words(text[hyphen - 1]) and _in_words(text[hyphen + 1])
    # Chinese, Japanese and Korean write words or their endings without spaces: any boundary of characters will do.
    return _in_words(left) and _in_words(right) and not (_is_wide(left) or _is_wide(right))


def _in_words(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
