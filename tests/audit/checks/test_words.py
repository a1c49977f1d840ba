"""Captions: phrases at their place, whole, with tokens; nothing named that nobody has."""

from __future__ import annotations

import pytest

from dataengine.audit.checks import words
from dataengine.audit.scene import Scene
from dataengine.records import Phrase, Span


def with_caption(scene: Scene, caption: str) -> Scene:
    """The sample with more said at its end; no span changes."""
    return Scene(scene.pair.model_copy(update={"caption": scene.pair.caption + caption}), scene.members)


def with_phrase(scene: Scene, text: str) -> Scene:
    """The sample whose first attribute is tied to `text` at the end of a longer caption."""
    caption = f"{scene.pair.caption} {text}"
    phrase = Phrase(text=text, span=Span(len(caption) - len(text), len(caption)))
    subjects = list(scene.pair.subjects)
    first = subjects[0].attributes[0].model_copy(update={"phrase": phrase})
    subjects[0] = subjects[0].model_copy(update={"attributes": (first, *subjects[0].attributes[1:])})
    return Scene(scene.pair.model_copy(update={"caption": caption, "subjects": tuple(subjects)}), scene.members)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("red hat", True),
        ("t-shirt", True),
        ("红色帽子", True),
        ("hat with a brim", True),
        ("in a", False),
        ("and", False),
        ("with a red", False),
        ("red hat. A dog", False),
        ("...", False),
        ("42", False),
    ],
)
def test_a_phrase_names_something(clean, found, text: str, passes: bool) -> None:
    finding = found(words.phrase_whole, with_phrase(clean, text))["s0.a0"]
    assert finding.passed is passes


def test_a_phrase_does_not_begin_inside_a_word(clean, found) -> None:
    attribute = clean.pair.subjects[0].attributes[0]
    span = Span(attribute.phrase.span.start + 1, attribute.phrase.span.end)
    cut = attribute.model_copy(update={"phrase": Phrase(text=span.of(clean.pair.caption), span=span)})
    subject = clean.pair.subjects[0].model_copy(update={"attributes": (cut,)})
    pair = clean.pair.model_copy(update={"subjects": (subject, *clean.pair.subjects[1:])})
    assert "inside a word" in found(words.phrase_whole, Scene(pair, clean.members))["s0.a0"].reason


def test_tokens_are_asked_for_every_phrase(clean, found) -> None:
    assert found(words.phrase_has_tokens, clean) == {}
    limit = clean.pair.subjects[1].noun.span.start
    few = found(words.phrase_has_tokens, clean, tokens=lambda caption, span: 2 if span.end <= limit else 0)
    assert few["s0.a0"].passed
    assert few["s0.a0"].score == 2
    assert not few["s1.face"].passed
    assert set(few) == {r.entity for r in clean.pair.references}


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("", ""),
        (" Two women and a boy look on.", "women, boy"),
        (" Everyone claps.", ""),
        (" 一个女孩在看。", "女孩"),
        (" A MAN waves.", "MAN"),
    ],
)
def test_people_whom_nobody_takes(clean, found, said: str, left: str) -> None:
    finding = found(words.people_taken, with_caption(clean, said))[""]
    assert finding.passed is (left == "")
    assert left in finding.reason


@pytest.mark.parametrize(
    ("said", "left"), [(" Their hats are wet.", "hats"), (" She wears jeans.", "jeans"), (" A dog barks.", "")]
)
def test_clothes_that_nobody_takes(clean, found, said: str, left: str) -> None:
    finding = found(words.clothes_taken, with_caption(clean, said))[""]
    assert (finding.passed, finding.score) == (left == "", float(left != ""))
    assert left in finding.reason


def test_a_subject_without_anything(clean, found) -> None:
    bare = clean.pair.subjects[1].model_copy(update={"attributes": ()})
    pair = clean.pair.model_copy(update={"subjects": (clean.pair.subjects[0], bare)})
    findings = found(words.subject_dressed, Scene(pair, clean.members))
    assert findings["s0.face"].passed
    assert not findings["s1.face"].passed
