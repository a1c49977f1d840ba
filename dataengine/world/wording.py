"""What a caption would say of a shot, with the span of every phrase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dataengine.records import Phrase, Record
from dataengine.spans import Writer
from dataengine.world.cast import Person
from dataengine.world.things import Object, Place

MENTIONED = 3
"""Attributes of a person that a caption names, at most."""
SIDES = {2: ("left", "right"), 3: ("left", "middle", "right")}
"""Where people stand who share a noun, by how many are seen: the words that tell them apart."""
_PLACE: dict[Place, str] = {"beach": "on", "street": "on"}
"""Prepositions other than "in"."""


class Chance(Protocol):
    """What a caption's choices are drawn from: numpy's generators, or whoever wants one wording."""

    def random(self) -> float:
        """In [0, 1)."""


class Named(Record):
    """A person as the caption names it."""

    noun: Phrase
    attributes: tuple[Phrase, ...]


class Caption(Record):
    """A caption and its phrases; `people` in its own order, each with its place in the shot's list."""

    text: str
    people: tuple[Named, ...]
    order: tuple[int, ...]
    objects: tuple[Phrase, ...]
    background: Phrase


def attributes(person: Person) -> tuple[str, ...]:
    """Everything that can be said of a person, the garment first."""
    return (person.top.phrase, *(item.phrase for item in person.accessories), person.identity.hair_phrase)


def caption(people: Sequence[Person], things: Sequence[Object], place: Place, draw: Chance) -> Caption:
    """One of several ways to say it, drawn at random. People come left to right, in a quarter of captions reversed.

    Equal nouns are told apart by place, as the annotator's prompt asks: "the man on the left".
    """
    text = Writer()
    nouns = _nouns(people)
    order = list(range(len(people)))
    if draw.random() < 0.25:
        order.reverse()
    named: list[Named] = []
    opening = draw.random() < 0.3
    background: Phrase | None = None
    if opening:
        text.add(f"{_PLACE.get(place, 'in')} {_article(place)}".capitalize())
        background = text.phrase(place)
        text.add(", ")
    joints = ("", " stands beside ", " and ") if draw.random() < 0.5 else ("", " and ", ", and ")
    for number, index in enumerate(order):
        text.add(joints[min(number, 2)])
        article = "the " if " " in nouns[index] else "a "
        text.add(article if opening or number else article.capitalize())
        named.append(_person(text, nouns[index], people[index], draw))
    if len(people) == 1:
        text.add(" looks around" if draw.random() < 0.5 else " stands there")
    elif joints[1] == " and ":
        text.add(" stand together")
    objects: list[Phrase] = []
    for number, thing in enumerate(things):
        text.add(" near " if number == 0 else " and ")
        text.add(_article(thing.phrase))
        objects.append(text.phrase(thing.phrase))
    if background is None:
        text.add(f" {_PLACE.get(place, 'in')} {_article(place)}")
        background = text.phrase(place)
    text.add(".")
    return Caption(
        text=text.text, people=tuple(named), order=tuple(order), objects=tuple(objects), background=background
    )


def _nouns(people: Sequence[Person]) -> list[str]:
    """What each is called: "man", or "man on the left" where another has that noun."""
    nouns = [person.identity.noun for person in people]
    return [
        noun if nouns.count(noun) == 1 else f"{noun} {'in' if side == 'middle' else 'on'} the {side}"
        for noun, side in zip(nouns, SIDES.get(len(nouns), ("",)), strict=True)
    ]


def _person(text: Writer, called: str, person: Person, draw: Chance) -> Named:
    """ "man with short brown hair in a red shirt, wearing a blue hat": at most `MENTIONED` attributes."""
    noun = text.phrase(called)
    rest = [item.phrase for item in person.accessories]
    found: list[Phrase] = []
    if len(rest) < MENTIONED - 1 and draw.random() < 0.6:
        text.add(" with ")
        found.append(text.phrase(person.identity.hair_phrase))
    text.add(" in " if draw.random() < 0.7 else " wearing ")
    text.add(_article(person.top.phrase))
    found.append(text.phrase(person.top.phrase))
    for number, phrase in enumerate(rest[: MENTIONED - len(found)]):
        text.add((" with ", " and ")[min(number, 1)])
        text.add(_article(phrase))
        found.append(text.phrase(phrase))
    return Named(noun=noun, attributes=tuple(found))


def _article(phrase: str) -> str:
    if phrase.endswith("glasses"):
        return ""
    return "an " if phrase[0] in "aeiou" else "a "
