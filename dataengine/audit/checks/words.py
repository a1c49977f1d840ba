"""Checks of the caption: each phrase at its place and its own, and nothing named that nobody has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dataengine.audit.checks.basis import Case, Check, Finding, finding
from dataengine.records import Reference, Span


def phrase_at_span(case: Case) -> Iterator[Finding]:
    """The caption says a reference's phrase at the span it is tied to."""
    caption = case.pair.caption
    for reference in case.pair.references:
        span, words = reference.phrase.span, reference.phrase.text
        said = "" if span is None or not 0 <= span.start < span.end <= len(caption) else span.of(caption)
        passed = bool(words.strip()) and said == words
        found = f"the caption says {said!r}" if said else "its span is empty or outside the caption"
        yield finding(
            phrase_at_span, reference.entity, float(passed), passed, found if passed else f"{found}, not {words!r}"
        )


def phrase_whole(case: Case) -> Iterator[Finding]:
    """A phrase is whole words with a word of its own: not half a word, and not only "in a"."""
    for reference in case.pair.references:
        span = reference.phrase.span
        if span is None or not 0 <= span.start < span.end <= len(case.pair.caption):
            continue
        text = span.of(case.pair.caption)
        cut = _cuts_a_word(case.pair.caption, span.start) or _cuts_a_word(case.pair.caption, span.end)
        own = [word for word in re.findall(r"[^\W\d_]+", text.casefold()) if word not in _EMPTY]
        joins = _JOINS & set(re.findall(r"[a-z]+", text.casefold())[:1]) or re.search(r"[.;!?]\s", text)
        reason = (
            f"{text!r} begins or ends inside a word"
            if cut
            else f"{text!r} names nothing"
            if not own
            else f"{text!r} begins in the middle of a clause, or goes on into the next sentence"
            if joins
            else "it is whole"
        )
        passed = not cut and bool(own) and not joins
        yield finding(phrase_whole, reference.entity, float(passed), passed, reason)


def phrase_has_tokens(case: Case) -> Iterator[Finding]:
    """The trainer's tokenizer has tokens for every phrase: what binds a reference to its words is not empty."""
    tokens = case.aids.tokens
    if tokens is None:
        return
    for reference in case.pair.references:
        span = reference.phrase.span
        if span is not None and 0 <= span.start < span.end <= len(case.pair.caption):
            count = tokens(case.pair.caption, span)
            reason = f"{count} tokens" if count else "no token, or it lies past the longest text that the encoder takes"
            yield finding(phrase_has_tokens, reference.entity, count, count > 0, reason)


def spans_apart(case: Case) -> Iterator[Finding]:
    """No two entities share characters of the caption: two subjects called "man" have a "man" each."""
    for reference in case.pair.references:
        span = reference.phrase.span
        if span is None:
            continue
        shared = [
            other.entity
            for other in case.pair.references
            if other.phrase.span is not None
            and _ties(other) != _ties(reference)
            and max(span.start, other.phrase.span.start) < min(span.end, other.phrase.span.end)
        ]
        reason = f"it shares characters with {', '.join(shared)}" if shared else "its characters are its own"
        yield finding(spans_apart, reference.entity, float(not shared), not shared, reason)


def people_taken(case: Case) -> Iterator[Finding]:
    """Whoever the caption names is a subject: no "woman" is left that no face is tied to."""
    yield from _taken(case, people_taken, _PEOPLE, "people that no subject takes")


def clothes_taken(case: Case) -> Iterator[Finding]:
    """What the caption says people wear belongs to somebody: no "hat" is left that no reference shows."""
    yield from _taken(case, clothes_taken, _CLOTHES, "things worn that no reference takes")


def subject_dressed(case: Case) -> Iterator[Finding]:
    """A subject has something of its own beside the face."""
    for subject in case.pair.subjects:
        count = len(subject.attributes)
        reason = f"{count} attributes" if count else "it has no attribute"
        yield finding(subject_dressed, subject.face.entity, count, count > 0, reason)


def _taken(case: Case, check: Check, words: frozenset[str], what: str) -> Iterator[Finding]:
    taken = [r.phrase.span for r in case.pair.references if r.phrase.span is not None]
    left = [
        match.group()
        for match in _WORD.finditer(case.pair.caption)
        if _singular(match.group().casefold()) in words and not _inside(Span(*match.span()), taken)
    ]
    left += [
        word
        for word in sorted(words)
        if _CHINESE.search(word)
        for match in re.finditer(word, case.pair.caption)
        if not _inside(Span(*match.span()), taken)
    ]
    reason = f"{what}: {', '.join(left[:8])}" if left else f"no {what}"
    yield finding(check, "", len(left), not left, reason)


def _inside(span: Span, taken: list[Span]) -> bool:
    return any(max(span.start, other.start) < min(span.end, other.end) for other in taken)


def _ties(reference: Reference) -> str:
    """What a phrase is tied to: a subject's face and body share its noun."""
    head, _, part = reference.entity.partition(".")
    return head if part in ("face", "body") else reference.entity


def _cuts_a_word(text: str, position: int) -> bool:
    """Whether a position lies between two letters that belong together; Chinese has no spaces and no such place."""
    if not 0 < position < len(text):
        return False
    left, right = text[position - 1], text[position]
    return left.isalnum() and right.isalnum() and not (_CHINESE.match(left) or _CHINESE.match(right))


def _singular(word: str) -> str:
    if word in _PLURALS:
        return _PLURALS[word]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


_WORD = re.compile(r"[^\W\d_]+")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PLURALS = {"men": "man", "women": "woman", "people": "person", "children": "child", "scarves": "scarf"}
_PLURALS |= {"dresses": "dress"} | {word: word for word in _words("glasses sunglasses trousers jeans shorts pants")}
_PEOPLE = _words("man woman boy girl person child lady gentleman guy teenager baby 男人 女人 男孩 女孩 男子 女子")
_CLOTHES = _words(
    """hat cap helmet shirt blouse sweater jumper hoodie jacket coat suit vest dress skirt trousers pants jeans shorts
    scarf tie glove belt glasses sunglasses necklace earring boot shoe sneaker sandal uniform apron cardigan robe
    帽子 衬衫 毛衣 外套 西装 裙子 裤子 围巾 眼镜 项链"""
)
_JOINS = _words("in on of and with to at by is are wearing")
_EMPTY = _JOINS | _words("a an the his her their this that")
