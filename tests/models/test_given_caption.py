"""Rules on captions they did not write: who is named, what is whose, and when nobody can say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.models.given_caption import Seen, annotate
from dataengine.records import Caption

ORANGE = Seen(0, {"brown": 0.8, "blond": 0.2}, {"orange": 0.7, "red": 0.3}, 0.25)
BLACK = Seen(1, {"grey": 0.9}, {"black": 0.6, "blue": 0.3, "white": 0.1}, 0.75)


def told(caption: Caption) -> list[tuple[str, int | None, list[tuple[str, int | None]]]]:
    return [
        (
            person.noun.phrase.text,
            person.noun.owner.person if person.noun.owner else None,
            [(a.phrase.text, a.owner.person if a.owner else None) for a in person.attributes],
        )
        for person in caption.people
    ]


@pytest.mark.parametrize("order", [(ORANGE, BLACK), (BLACK, ORANGE)])
def test_colours_tell_who_is_who(order) -> None:
    text = "A man in a dark black jacket talks to a woman with long brown hair, who wears an orange shirt."
    assert told(annotate(text, order)) == [
        ("man", 1, [("dark black jacket", 1)]),
        ("woman", 0, [("brown hair", 0), ("orange shirt", 0)]),
    ]


def test_sides_tell_who_is_who() -> None:
    text = "The man on the right laughs, the man on the left listens."
    assert told(annotate(text, (ORANGE, BLACK))) == [("man", 1, []), ("man", 0, [])]


def test_one_name_and_one_person_are_each_others() -> None:
    found = annotate("A chef cooks. The chef smiles.", (ORANGE,))
    assert told(found) == [("chef", 0, [])]
    assert found.people[0].noun.votes[0].share == 1


def test_what_pixels_do_not_show_gets_no_vote() -> None:
    found = annotate("A man in a green jacket.", (BLACK,))
    assert told(found) == [("man", 1, [("green jacket", None)])]


def test_equal_clothes_tie() -> None:
    twins = (ORANGE, Seen(1, ORANGE.hair, ORANGE.top, 0.75))
    found = annotate("A man in an orange shirt and a woman in an orange dress.", twins)
    assert all(a.owner is None for p in found.people for a in p.attributes)
    assert all(p.noun.owner is None or p.noun.owner.share <= 0.5 for p in found.people)


def test_nobody_is_named_or_seen() -> None:
    assert annotate("Waves on a beach.", (ORANGE,)).people == ()
    assert told(annotate("A man in a red coat.", ())) == [("man", None, [("red coat", None)])]
    assert annotate("A woman against a plain grey wall.", ()).background is not None


WORDS = st.sampled_from(re.findall(r"\S+", "A a the man woman red blue dark shirt hair in with on left right and , ."))


@given(st.lists(WORDS, max_size=30).map(" ".join), st.lists(st.sampled_from([ORANGE, BLACK]), max_size=2))
def test_any_text_is_kept_and_spans_are_its_own(text, people) -> None:
    people = [Seen(i, p.hair, p.top, p.x) for i, p in enumerate(people)]
    found = annotate(text, people)
    assert found.text == text
    taken: set[int] = set()
    for mention in (m for p in found.people for m in (p.noun, *p.attributes)):
        assert mention.phrase.span is not None and mention.phrase.span.of(text) == mention.phrase.text
        letters = set(range(*mention.phrase.span))
        assert letters and not letters & taken
        taken |= letters
        assert sum(vote.share for vote in mention.votes) <= 1 + 1e-3
