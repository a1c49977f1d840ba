"""Weak answers are told from usable ones, with the reason."""

import json

import pytest

from dataengine.models.answers import Weak, check_caption, check_copied, check_entities, parse, phrases_of
from dataengine.models.interfaces import Answer
from dataengine.records import CaptionAnswer, EntitiesAnswer, PersonWords, Reason

GOOD = "A man in a black shirt talks to a woman in a red dress in front of a brick wall."


def caption(text: str) -> CaptionAnswer:
    return CaptionAnswer(caption=text)


def entities(*people: tuple[str, ...], objects: tuple[str, ...] = (), background: str = "") -> EntitiesAnswer:
    named = tuple(PersonWords(noun=noun, attributes=attributes) for noun, *attributes in people)
    return EntitiesAnswer(people=named, objects=objects, background=background)


def test_a_usable_answer_is_the_record() -> None:
    assert parse(CaptionAnswer, Answer(json.dumps({"caption": GOOD}), True)) == caption(GOOD)
    assert parse(CaptionAnswer, Answer('{"caption":"Two\nlines"}', True)) == caption("Two\nlines"), "as grammars allow"


@pytest.mark.parametrize(
    ("text", "complete", "why"),
    [
        ('{"caption": "A man', False, "cut off"),
        ('{"caption": "A man', True, "not the JSON asked for"),
        ('{"title": "A man"}', True, "caption: Field required"),
        ("Sure! Here is the caption", True, "not the JSON asked for"),
        ('{"caption": ""}', True, "at least 1 character"),
    ],
)
def test_what_is_no_answer(text: str, complete: bool, why: str) -> None:
    with pytest.raises(Weak, match=why):
        parse(CaptionAnswer, Answer(text, complete))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Two boys play football; the boy on the left wears a blue jersey, the boy on the right a white one.",
        "A man, a man, a man and a woman sit around a wooden table in a café…",
    ],
)
def test_real_captions_pass(text: str) -> None:
    check_caption(caption(text), "en")


def test_a_chinese_caption_where_chinese_is_asked_for() -> None:
    text = "一个穿着黑色衬衫的男人在砖墙前与一个穿红裙子的女人交谈，镜头缓慢推进。"
    check_caption(caption(text), "zh")
    with pytest.raises(Weak, match="not written in English"):
        check_caption(caption(text), "en")
    with pytest.raises(Weak, match="not written in Chinese"):
        check_caption(caption(GOOD), "zh")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I'm sorry, but I can't help with identifying people in this image.", "refuses"),
        ("As an AI language model, I am unable to view videos.", "refuses"),
        ("A man in a", "next to nothing"),
        ("A man in a black shirt, a man in a black shirt, a man in a black shirt, a man in a black shirt,", "repeats"),
        ("man man man man man man man man man.", "repeats 'man'"),
        ("The blue and blue with blue on blue of a blue at blue by blue to blue.", "repeats"),
        ("A man in a black shirt talks to a woman who is wearing a", "middle of a sentence"),
        ("Мужчина в чёрной рубашке разговаривает с женщиной у стены.", "not written in English"),
        ("抱歉，我无法识别图片中的人物。", "refuses"),
    ],
)
def test_weak_captions(text: str, why: str) -> None:
    with pytest.raises(Weak, match=why):
        check_caption(caption(text), "en")


def test_entities_of_the_caption_pass() -> None:
    named = entities(("man", "black shirt"), ("woman", "red dress"), background="brick wall")
    check_entities(named, people=2)
    assert phrases_of(named) == ["man", "black shirt", "woman", "red dress", "brick wall"]


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (entities(background="brick wall"), "names nobody, 2 people are seen"),
        (entities(*[("man", "man", "man", "man")] * 3), "repeats 'man'"),
    ],
)
def test_weak_entities(named: EntitiesAnswer, why: str) -> None:
    with pytest.raises(Weak, match=why):
        check_entities(named, people=2)


def test_phrases_must_be_the_captions() -> None:
    absent, overlapping = Reason("span_absent", ""), Reason("span_overlapping", "")
    check_copied([None, absent])
    check_copied([overlapping, absent, absent, None])
    check_copied([])
    with pytest.raises(Weak, match="1 of 3 phrases stand in the caption"):
        check_copied([absent, None, absent])
