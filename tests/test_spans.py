"""Spans: one place at word boundaries, or the reason why there is none."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.records import Phrase, Reason, Span
from dataengine.spans import resolve, resolve_all


def find(caption: str, text: str, taken: tuple[Span, ...] = ()) -> str | None:
    """The found words, None when the resolver gives a reason."""
    span = resolve(caption, Phrase(text=text, span=None), taken)
    return None if isinstance(span, Reason) else span.of(caption)


def rule(caption: str, text: str, span: Span | None = None, taken: tuple[Span, ...] = ()) -> str:
    reason = resolve(caption, Phrase(text=text, span=span), taken)
    assert isinstance(reason, Reason)
    return reason.rule


def test_one_occurrence_is_the_span():
    assert resolve("A man in a hat", Phrase(text="man", span=None)) == Span(2, 5)
    assert find("The woman beside the man.", "man") == "man", "not the end of woman"
    assert find("Man with a hat", "man") == "Man", "case is ignored, the caption's is kept"
    assert find("a black\n  shirt", "black shirt") == "black\n  shirt"
    assert find("the man's hat (red).", "man") == "man"
    assert find("the man's hat (red).", "red") == "red"


def test_why_there_is_none():
    assert rule("A man in a hat", "shirt") == "span_absent"
    assert rule("A man and a man", "man") == "span_ambiguous"
    assert rule("A man", "") == "span_absent"
    assert rule("A man in a black shirt", "black shirt", taken=(Span(17, 22),)) == "span_overlapping"
    assert find("A man in a black shirt", "black", taken=(Span(17, 22),)) == "black"


def test_words_are_not_cut():
    assert find("a t-shirt", "shirt") is None
    assert find("a T-shirt", "t-shirt") == "T-shirt"
    assert find("a shirt - and a hat", "shirt") == "shirt", "a dash is no hyphen"
    assert find("hats", "hat") is None
    assert find("hat_2", "hat") is None


def test_any_script():
    assert find("un cafe\u0301 noir", "cafe") is None, "the accent belongs to the letter before it"
    assert find("か\u3099 です", "か") is None
    assert find("a ☺\ufe0f", "☺") is None
    assert find("ein Mädchen", "dchen") is None
    assert find("девушка в красной шапке", "красной шапке") == "красной шапке"
    assert find("一个男人穿着黑色衬衫", "男人") == "男人", "no spaces between words"
    assert find("人人人", "人人") is None, "two occurrences that overlap are two"
    assert find("👩‍🚀 waves", "👩") is None, "a joined emoji is one"
    assert find("a (man", "(man") == "(man", "no pattern characters"


def test_a_given_span_is_checked_and_not_searched():
    caption = "A man and a man"
    assert resolve(caption, Phrase(text="man", span=Span(12, 15))) == Span(12, 15)
    for span in (Span(11, 14), Span(2, 2), Span(-3, 0), Span(12, 99)):
        assert rule(caption, "man", span) == "span_wrong"
    assert rule(caption, "man", Span(12, 15), taken=(Span(10, 13),)) == "span_overlapping"


words = st.lists(st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=6), min_size=1)


@given(words, st.data())
def test_a_word_among_words(vocabulary, data):
    number = data.draw(st.integers(0, len(vocabulary) - 1))
    caption = " ".join(vocabulary)
    span = resolve(caption, Phrase(text=vocabulary[number], span=None))
    if isinstance(span, Reason):
        assert span.rule == "span_ambiguous", "it is there, so it can only be there too often"
    else:
        start = len(" ".join(vocabulary[:number])) + (number > 0)
        assert span == Span(start, start + len(vocabulary[number]))


@given(st.text(max_size=40), st.text(max_size=8))
def test_what_is_found_is_unique_and_says_the_phrase(caption, text):
    span = resolve(caption, Phrase(text=text, span=None))
    if isinstance(span, Span):
        assert [len(word) for word in span.of(caption).split()] == [len(word) for word in text.split()]
        assert resolve(caption, Phrase(text=span.of(caption), span=span)) == span
        assert find(caption[: span.start], text) is None
        assert find(caption[span.end :], text) is None


@pytest.mark.parametrize("mark", ["'", '"', ",", ".", "(", "…", "–"])
def test_punctuation_ends_a_word(mark):
    assert find(f"a {mark}hat{mark} there", "hat") == "hat"


# --- All phrases of a caption together --------------------------------------------------------------------------------


def places(caption: str, *phrases: str) -> list[str]:
    """The words found and where, or the rule that says why not."""
    return [f"{s.of(caption)}@{s.start}" if isinstance(s, Span) else s.rule for s in resolve_all(caption, phrases)]


def test_same_nouns_get_different_spans():
    caption = "The man on the left talks to the man on the right."
    assert places(caption, "man on the left", "man on the right") == ["man on the left@4", "man on the right@33"]
    assert places(caption, "man", "man") == ["man@4", "man@33"], "as many as there are: in order"
    assert places(caption, "man on the left", "man") == ["man on the left@4", "man@33"], "the one that is left"
    assert places(caption, "man") == ["span_ambiguous"]
    assert places(caption, "man", "man", "man") == ["span_ambiguous"] * 3


def test_longer_words_first():
    caption = "A man in a black shirt and a woman in a white shirt under a shirt shop's sign."
    assert places(caption, "shirt", "black shirt", "white shirt") == ["shirt@60", "black shirt@11", "white shirt@40"]
    assert places("A man in a red shirt", "man in a red shirt", "red shirt") == [
        "man in a red shirt@2",
        "span_overlapping",
    ]
    assert places("A man in a red shirt", "hat", "") == ["span_absent", "span_absent"]


def test_plurals_and_repeated_words():
    assert places("Two men and a man", "men", "man") == ["men@4", "man@14"]
    assert places("a hat, a hat, a hat", "hat", "hat", "hat") == ["hat@2", "hat@9", "hat@16"]
    assert places("the girls' hats", "girl", "hat") == ["span_absent", "span_absent"]
    assert places("A Man. a man", "MAN", "man") == ["Man@2", "man@9"], "case does not tell phrases apart"


def listed(caption: str, *people: tuple[str, ...]) -> list[list[str]]:
    """The same for people's nouns, each with what is listed under it."""
    phrases = [words for person in people for words in person]
    under: list[int | None] = []
    for person in people:
        under += [len(under)] * len(person)
    found = iter(resolve_all(caption, phrases, under))
    told = iter([f"{s.of(caption)}@{s.start}" if isinstance(s, Span) else s.rule for s in found])
    return [[next(told) for _ in person] for person in people]


def test_what_is_ambiguous_stands_behind_its_noun():
    caption = "A man in a red hat with a bag talks to a woman in a red hat."
    assert listed(caption, ("man",), ("woman", "red hat")) == [["man@2"], ["woman@41", "red hat@52"]]
    assert listed(caption, ("man", "red hat"), ("woman",)) == [["man@2", "red hat@11"], ["woman@41"]]
    assert listed(caption, ("woman", "red hat"), ("man",)) == [["woman@41", "red hat@52"], ["man@2"]]
    unknown = listed("A red hat lies before a man and a lady in a red hat.", ("man", "red hat"), ("woman",))
    assert unknown == [["man@24", "span_ambiguous"], ["span_absent"]], "where the next person begins is not known"


def test_what_is_listed_twice_is_whose_noun_it_stands_behind():
    caption = "A man in a red hat talks to a woman in a blue scarf."
    twice = listed(caption, ("man", "red hat", "blue scarf"), ("woman", "blue scarf"))
    assert twice == [["man@2", "red hat@11", "span_overlapping"], ["woman@30", "blue scarf@41"]]
    once_each = listed("A man and a woman wear a hat.", ("man", "hat"), ("woman", "hat"))
    assert once_each == [["man@2", "span_overlapping"], ["woman@12", "hat@25"]], "the votes then tell whose it is"
    assert listed("A hat beside a man and a woman.", ("man", "hat"), ("woman", "hat"))[1][1] == "span_ambiguous"
    assert listed("A man in a hat with a hat.", ("man", "hat")) == [["man@2", "span_ambiguous"]]
    assert listed("A man in a hat.", ("man", "hat", "hat")) == [["man@2", "hat@11", "span_overlapping"]]


def test_chinese_captions():
    caption = "左边的男人穿着黑色衬衫，右边的男人穿着白色衬衫，背景是公园。"
    assert places(caption, "左边的男人", "黑色衬衫", "右边的男人", "白色衬衫", "公园") == [
        "左边的男人@0", "黑色衬衫@7", "右边的男人@12", "白色衬衫@19", "公园@27",
    ]  # fmt: skip
    assert places(caption, "男人") == ["span_ambiguous"]


pieces = st.sampled_from(
    ["man", "woman", "red hat", "hat", "t-shirt", "男人", "帽子", "café", "👩‍🚀", "the", "(", ".", ","]
)
captions = st.lists(pieces, max_size=14).map(" ".join) | st.text(max_size=30)


@given(captions, st.lists(pieces | st.text(max_size=5), max_size=8), st.integers(1, 9))
def test_spans_never_meet_and_say_their_phrase(caption, phrases, each):
    found = resolve_all(caption, phrases, [i - i % each for i in range(len(phrases))])
    assert len(found) == len(phrases)
    spans = sorted(span for span in found if isinstance(span, Span))
    assert all(a.end <= b.start for a, b in pairwise(spans))
    for span, phrase in zip(found, phrases, strict=True):
        if isinstance(span, Span):
            assert resolve(caption, Phrase(text=span.of(caption), span=span)) == span
            assert span.of(caption).casefold().split() == phrase.casefold().split() or len(span.of(caption)) != len(
                phrase
            )
        else:
            assert span.rule in ("span_absent", "span_ambiguous", "span_overlapping")


@given(captions, st.lists(pieces, max_size=6), st.randoms())
def test_the_order_of_different_phrases_does_not_matter(caption, phrases, random):
    phrases = list(dict.fromkeys(phrases))
    shuffled = random.sample(phrases, len(phrases))
    found = dict(zip(phrases, resolve_all(caption, phrases), strict=True))
    again = dict(zip(shuffled, resolve_all(caption, shuffled), strict=True))
    lengths = [len(phrase) for phrase in phrases]
    if len(set(lengths)) == len(lengths):  # equally long ones that overlap are taken in order
        assert again == found


@given(st.lists(pieces, min_size=1, max_size=8, unique=True))
def test_what_stands_once_is_found(words):
    caption = " ; ".join(words)
    for phrase, span in zip(words, resolve_all(caption, words), strict=True):
        if len(words) == 1 or not any(phrase != other and phrase in other for other in words):
            assert isinstance(span, Span) or not phrase.isalnum(), phrase
