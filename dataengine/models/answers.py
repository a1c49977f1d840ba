"""Whether a language model's answer can be used: the JSON that was asked for, whole, and not nonsense."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import ValidationError

from dataengine.models.interfaces import Answer
from dataengine.records import CaptionAnswer, EntitiesAnswer, Reason, Record

R = TypeVar("R", bound=Record)

LEAST_WORDS = 6
"""A caption with fewer says too little to tie anything to it. Chinese characters count for half a word."""
LOOP = 4
"""A phrase that comes so many times in a row is a model that is stuck."""
LONGEST_LOOPED = 12
COMMONEST = 0.4
"""No content word of a real description makes up so much of its words."""
FOUND = 0.5
"""Share of the phrases that must stand in the caption they were copied from, once they were repaired."""

_REFUSAL = re.compile(
    r"\b(as an ai|language model|i(?:'m| am) (?:sorry|unable|not able)|i can(?:'t|not|no) (?:see|help|assist|view|"
    r"identify|provide)|unable to (?:see|view|describe|assist))\b"
    r"|抱歉|无法(?:查看|识别|描述|提供)|作为(?:一个)?人工智能",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?。!?…][\"'”’)）」』]*$")
_SMALL = frozenset(re.findall(r"\w+", "a an and the of in on with is are to at by his her their its"))


class Weak(Exception):
    """The answer cannot be used; says why."""


def parse(kind: type[R], answer: Answer) -> R:
    """The answer as a record. Raises `Weak` when it was cut off or is not the JSON that was asked for."""
    if not answer.complete:
        raise Weak("cut off at the longest answer allowed (stages.caption.qwen.max_tokens)")
    try:
        # A grammar lets line breaks into strings, which strict JSON forbids. Validated as JSON: lists become tuples.
        return kind.from_json(json.dumps(json.loads(answer.text, strict=False)))
    except json.JSONDecodeError as error:
        raise Weak(f"not the JSON asked for: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Weak(f"not the JSON asked for: {f'{where}: ' if where else ''}{first['msg']}") from error


def check_caption(answer: CaptionAnswer, language: Literal["en", "zh"]) -> None:
    """Raises `Weak` for a refusal, another language, a loop, or a text without an end or a content."""
    text = answer.caption.strip()
    if _REFUSAL.search(text):
        raise Weak("refuses to describe the clip")
    chinese = len(re.findall(r"[一-鿿]", text))
    letters = sum(map(str.isalpha, text))
    latin = len(re.findall(r"[a-z]", text, re.IGNORECASE))
    if letters and (chinese if language == "zh" else latin) < 0.7 * letters:
        raise Weak(f"not written in {'Chinese' if language == 'zh' else 'English'}")
    words = re.findall(r"[一-鿿]|[^\W\d_]+(?:['’-][^\W\d_]+)*", text.casefold())
    if len(words) - chinese / 2 < LEAST_WORDS:
        raise Weak(f"says next to nothing: {len(words)} words")
    looped = _loop(words)
    if looped:
        raise Weak(f"repeats {looped!r}")
    content = Counter(word for word in words if word not in _SMALL and not _is_chinese(word))
    if content and content.most_common(1)[0][1] > max(LOOP, COMMONEST * len(words)):
        raise Weak(f"repeats {content.most_common(1)[0][0]!r}")
    if not _END.search(text):
        raise Weak("ends in the middle of a sentence")


def check_entities(answer: EntitiesAnswer, people: int) -> None:
    """Raises `Weak` when the entities go round in circles, or name nobody though people are seen."""
    if people and not answer.people:
        raise Weak(f"names nobody, {people} people are seen")
    phrases = phrases_of(answer)
    if _loop([phrase.casefold() for phrase in phrases]):
        raise Weak(f"repeats {phrases[-1]!r}")


def check_copied(untied: Sequence[Reason | None]) -> None:
    """Raises `Weak` when too few phrases are the caption's; `untied` says of each why it has no place there."""
    found = sum(reason is None or reason.rule != "span_absent" for reason in untied)
    if found < FOUND * len(untied):
        raise Weak(f"entities: {found} of {len(untied)} phrases stand in the caption")


def phrases_of(answer: EntitiesAnswer) -> list[str]:
    """All phrases in the order asked for: each person's noun and attributes, the objects, the background."""
    people = [words for person in answer.people for words in (person.noun, *person.attributes)]
    return [*people, *answer.objects, *([answer.background] if answer.background else [])]


def _loop(items: Sequence[str]) -> str | None:
    """The first run of items that comes `LOOP` times in a row."""
    for size in range(1, min(LONGEST_LOOPED, len(items) // LOOP) + 1):
        for start in range(len(items) - LOOP * size + 1):
            run = items[start : start + size]
            if all(items[start + i * size : start + (i + 1) * size] == run for i in range(1, LOOP)):
                return " ".join(run)
    return None


def _is_chinese(word: str) -> bool:
    return bool(re.match(r"[一-鿿]", word))
