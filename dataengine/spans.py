"""Where a phrase stands in its caption: one place that nothing else claims, or a reason why there is none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from dataengine.records import Phrase, Reason, Span


def resolve(caption: str, phrase: Phrase, taken: Sequence[Span] = ()) -> Span | Reason:
    """The phrase's span in the caption.

    A span that the phrase brings is checked, not searched. Without one the phrase must occur exactly once at word
    boundaries, ignoring case and the width of white space: the released code marks every occurrence, so that two
    people both called "man" share their words. `taken` are the spans of other entities, which it must not touch.
    """
    if phrase.span is None:
        places = occurrences(caption, phrase.text)
        if len(places) != 1:
            rule, times = ("span_absent", "no time") if not places else ("span_ambiguous", f"{len(places)} times")
            return Reason(rule, f"{phrase.text!r} stands {times} in the caption")
        span = places[0]
    else:
        span = phrase.span
        if not 0 <= span.start < span.end <= len(caption) or span.of(caption) != phrase.text:
            return Reason("span_wrong", f"the caption says {span.of(caption)!r} at {tuple(span)}, not {phrase.text!r}")
    for other in taken:
        if _meet(span, other):
            return Reason("span_overlapping", f"{phrase.text!r} shares words with {other.of(caption)!r}")
    return span


def resolve_all(caption: str, phrases: Sequence[str], under: Sequence[int | None] = ()) -> list[Span | Reason]:
    """Where each of an annotation's phrases stands, all looked at together; in order, a span or why there is none.

    Phrases that occur once stand there. What they leave decides the others: "man" is unique once "man in a hat" is
    taken, and n equal phrases that are left with n places take them in order, as the caption was read. Of two phrases
    that overlap the longer one stays, the first of equal ones. What is still ambiguous, or listed more often than it
    stands, is looked for between its own noun and the next one. Spans never overlap, and depend on nothing but the
    caption and the phrases.

    Args:
        under: for each phrase the place among them of the noun that it is listed under, its own for a noun; None for
            what is listed under none. Empty: nothing is listed under anything.
    """
    keys = [" ".join(phrase.split()).casefold() for phrase in phrases]
    equal = Counter(keys)
    places = {key: occurrences(caption, phrases[keys.index(key)]) for key in equal}
    found: list[Span | None] = [None] * len(phrases)
    taken: list[Span] = []
    while True:
        # The longest first: what is left of a shorter phrase's places then shows.
        for key in sorted(equal, key=lambda key: (-len(key), keys.index(key))):
            free = [place for place in places[key] if not any(_meet(place, other) for other in taken)]
            asking = [i for i, other in enumerate(keys) if other == key and found[i] is None]
            if asking and len(free) == len(asking) and not any(_meet(a, b) for a, b in pairwise(free)):
                for i, place in zip(asking, free, strict=True):
                    found[i] = place
                taken += free
                break
        else:
            own = _behind_their_nouns(keys, found, places, taken, under)
            if not own:
                break
            for i, place in own.items():
                found[i] = place
            taken += own.values()
    return [span or _why_not(caption, phrase, taken) for span, phrase in zip(found, phrases, strict=True)]


def _behind_their_nouns(
    keys: Sequence[str],
    found: Sequence[Span | None],
    places: Mapping[str, Sequence[Span]],
    taken: Sequence[Span],
    under: Sequence[int | None],
) -> dict[int, Span]:
    """Phrases without a place that have one alone between their noun and the next; none unless all nouns are found."""
    nouns = {noun: found[noun] for noun in under if noun is not None}
    starts = sorted(span.start for span in nouns.values() if span is not None)
    if len(starts) < len(nouns):
        return {}
    own: dict[int, Span] = {}
    for i, noun in enumerate(under):
        name = None if noun is None else nouns[noun]
        if name is None or found[i] is not None:
            continue
        end = next((start for start in starts if start > name.start), None)
        behind = [p for p in places[keys[i]] if p.start >= name.end and (end is None or p.end <= end)]
        free = [p for p in behind if not any(_meet(p, other) for other in (*taken, *own.values()))]
        if len(free) == 1:
            own[i] = free[0]
    return own


def _why_not(caption: str, phrase: str, taken: Sequence[Span]) -> Reason:
    places = occurrences(caption, phrase)
    free = [place for place in places if not any(_meet(place, other) for other in taken)]
    if not places:
        return Reason("span_absent", f"{phrase!r} stands no time in the caption")
    if not free:
        other = next(other for place in places for other in taken if _meet(place, other))
        return Reason("span_overlapping", f"{phrase!r} shares words with {other.of(caption)!r}")
    return Reason("span_ambiguous", f"{phrase!r} stands {len(places)} times in the caption")


def _meet(a: Span, b: Span) -> bool:
    return a.start < b.end and b.start < a.end


def occurrences(caption: str, phrase: str) -> list[Span]:
    """Every place of a phrase at word boundaries, ignoring case and the width of white space; in order."""
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


class Writer:
    """A caption under construction: `text` so far, and the span of each phrase as it is written."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, words: str) -> None:
        self.text += words

    def phrase(self, words: str) -> Phrase:
        """Write words that something is to be tied to."""
        start = len(self.text)
        self.add(words)
        return Phrase(text=words, span=Span(start, len(self.text)))
