"""What can be asked for in the world, in words; and what it looks like when it is asked for and not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np

from dataengine.world.cast import ACCESSORIES, COLOURS, GARMENTS, HAIR_COLOURS, Hair, Person
from dataengine.world.figure import TOP_PARTS, Part, label, object_labels, person_labels
from dataengine.world.things import THINGS, Object

NOUNS = ("man", "woman")
STYLES: tuple[Hair, ...] = get_args(Hair)


class Term(NamedTuple):
    """A phrase before it is worded. None leaves a property open: "red shirt" is a striped one, too."""

    kind: str
    colour: str | None = None
    detail: str | None = None
    """"striped", or the style of hair."""

    @property
    def text(self) -> str:
        """As the world's captions word it."""
        if self.kind == "hair" and self.detail == "bun":
            return " ".join(filter(None, (self.colour, "hair in a bun")))
        if self.kind == "hair":
            return " ".join(filter(None, (self.detail, self.colour, "hair")))
        if self.kind == "plant" and self.colour:
            return f"plant in a {self.colour} pot"
        return " ".join(filter(None, (self.colour, self.detail, self.kind)))

    def names(self, seen: Term) -> bool:
        """Whether the phrase is true of what the other describes in full."""
        kind = seen.kind == self.kind or (self.kind == "person" and seen.kind in NOUNS)
        return kind and self.colour in (None, seen.colour) and self.detail in (None, seen.detail)


class Entity(NamedTuple):
    """Something drawn: the term that says all of it, whose it is, and its labels on the map."""

    term: Term
    owner: int | None
    labels: tuple[int, ...]


def describes(word: str, term: Term, seen: Term) -> bool:
    """Whether a word of a term is its colour, pattern or style, and true of what the other describes in full."""
    return (word == term.colour == seen.colour) or (word == term.detail == seen.detail)


def classifies(word: str, term: Term, seen: Term) -> bool:
    """Whether a word of a term is its kind, and true of what the other describes in full."""
    return word in term.kind.split("-") and Term(term.kind).names(seen)


def entities(people: Sequence[Person], things: Sequence[Object]) -> tuple[Entity, ...]:
    """All that the people and objects of a shot are and wear, seen or not."""
    found: list[Entity] = []
    for i, person in enumerate(people):
        who, top = person.identity, person.top
        stripes = "striped" if top.pattern == "striped" else None
        found.append(Entity(Term(who.noun), i, tuple(person_labels(i))))
        found.append(Entity(Term("hair", who.hair_colour, who.hair), i, (label(i, Part.HAIR),)))
        parts = (*TOP_PARTS, Part.UNDERSHIRT)
        found.append(Entity(Term(top.kind, top.colour, stripes), i, tuple(label(i, part) for part in parts)))
        for item in person.accessories:
            found.append(Entity(Term(item.kind, item.colour), i, (label(i, Part[item.kind.upper()]),)))
    for i, thing in enumerate(things):
        found.append(Entity(Term(thing.kind, thing.colour), None, tuple(object_labels(i))))
    return tuple(found)


def wording(term: Term, draw: np.random.Generator) -> str:
    """The term's text; sometimes with an article, as an annotator may leave it on."""
    if draw.random() < 0.85 or term.kind in ("hair", "glasses"):
        return term.text
    text = term.text
    return f"{'the' if draw.random() < 0.4 else 'an' if text[0] in 'aeiou' else 'a'} {text}"


def loosened(term: Term, draw: np.random.Generator) -> Term:
    """The term as it is; sometimes without its detail or its colour."""
    chance = draw.random()
    if chance < 0.06:
        return Term(term.kind)
    return Term(term.kind, term.colour) if chance < 0.14 else term


def recoloured(term: Term, draw: np.random.Generator) -> Term:
    """Another colour of the same thing."""
    colours = [c for c in (HAIR_COLOURS if term.kind == "hair" else COLOURS) if c != term.colour]
    return term._replace(colour=str(draw.choice(colours)))


def renamed(term: Term, draw: np.random.Generator) -> Term:
    """Another thing of the same colour: another style of hair, another garment or accessory, another object."""
    if term.kind == "hair":
        return term._replace(detail=str(draw.choice([style for style in STYLES if style != term.detail])))
    if term.kind in THINGS:
        return Term(str(draw.choice([kind for kind in THINGS if kind != term.kind])), term.colour)
    worn = GARMENTS if term.kind in GARMENTS and draw.random() < 0.6 else (*GARMENTS, *ACCESSORIES)
    kind = str(draw.choice([kind for kind in worn if kind != term.kind]))
    return Term(kind, term.colour, term.detail if kind in GARMENTS else None)


def restriped(term: Term) -> Term:
    """The same garment with the other pattern, where the phrase says so."""
    return term._replace(detail="striped") if term.kind in GARMENTS and term.detail is None else term


def any_worn(draw: np.random.Generator) -> Term:
    """Something that people wear or have, drawn at random."""
    kind = str(draw.choice((*GARMENTS, *ACCESSORIES, "hair")))
    colour = str(draw.choice(list(HAIR_COLOURS if kind == "hair" else COLOURS)))
    if kind == "hair":
        return Term(kind, colour, str(draw.choice(STYLES)))
    return Term(kind, colour, "striped" if kind in GARMENTS and draw.random() < 0.3 else None)


def any_object(draw: np.random.Generator) -> Term:
    return Term(str(draw.choice(THINGS)), str(draw.choice(list(COLOURS))))
