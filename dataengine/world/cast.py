"""Who can appear in the world and what they can wear: drawn from a seed, and named as a caption would name it.

An identity (face and hair) stays the same through the whole world; clothes are chosen anew for every video.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from dataengine.records import Record

Garment = Literal["shirt", "t-shirt", "sweater", "jacket", "dress"]
Pattern = Literal["plain", "striped"]
Hair = Literal["short", "long", "curly", "bun"]
Accessory = Literal["hat", "glasses", "scarf", "bag"]
Noun = Literal["man", "woman"]
RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (205, 38, 38),
    "orange": (240, 138, 30),
    "yellow": (240, 214, 60),
    "green": (48, 140, 62),
    "blue": (40, 84, 190),
    "purple": (122, 56, 160),
    "pink": (240, 150, 180),
    "white": (238, 238, 234),
    "black": (34, 34, 38),
    "grey": (135, 136, 140),
}
"""Of clothes and objects."""
HAIR_COLOURS: dict[str, RGB] = {
    "black": (38, 32, 34),
    "brown": (104, 66, 36),
    "blond": (226, 190, 106),
    "red": (176, 74, 34),
    "grey": (164, 162, 160),
}
SKINS: tuple[RGB, ...] = ((246, 214, 186), (232, 186, 148), (204, 150, 110), (160, 108, 74), (112, 74, 52))
EYES: tuple[RGB, ...] = ((60, 42, 30), (70, 110, 60), (50, 90, 150))
GARMENTS: tuple[Garment, ...] = ("shirt", "t-shirt", "sweater", "jacket", "dress")
ACCESSORIES: tuple[Accessory, ...] = ("hat", "glasses", "scarf", "bag")
TROUSERS: tuple[RGB, ...] = ((52, 60, 84), (70, 62, 54), (90, 92, 98), (44, 70, 64))

CAST = 60
"""Identities of the world."""


class Identity(Record):
    """A face and its hair. Numbers are shares of the head's size."""

    name: str
    noun: Noun
    skin: RGB
    eyes: RGB
    face_width: float
    brow: float
    mouth: float
    beard: bool
    hair: Hair
    hair_colour: str

    @property
    def hair_phrase(self) -> str:
        if self.hair == "bun":
            return f"{self.hair_colour} hair in a bun"
        return f"{self.hair} {self.hair_colour} hair"


class Worn(Record):
    """A garment or an accessory."""

    kind: Garment | Accessory
    colour: str
    pattern: Pattern = "plain"

    @property
    def phrase(self) -> str:
        return f"{self.colour} {'striped ' if self.pattern == 'striped' else ''}{self.kind}"


class Person(Record):
    """An identity in the clothes of one video."""

    identity: Identity
    top: Worn
    trousers: RGB
    accessories: tuple[Worn, ...]


def identity(number: int) -> Identity:
    """One of the world's people, the same for the same number 0 … `CAST` − 1."""
    return somebody(f"person{number:02d}", "man" if number % 2 else "woman", np.random.default_rng((1, number)))


def somebody(name: str, noun: Noun, draw: np.random.Generator) -> Identity:
    """Anybody who could be of the world."""
    styles: tuple[Hair, ...] = ("short", "short", "curly") if noun == "man" else ("long", "long", "bun", "curly")
    return Identity(
        name=name,
        noun=noun,
        skin=SKINS[int(draw.integers(len(SKINS)))],
        eyes=EYES[int(draw.integers(len(EYES)))],
        face_width=round(float(draw.uniform(0.74, 0.92)), 3),
        brow=round(float(draw.uniform(-0.5, 0.5)), 3),
        mouth=round(float(draw.uniform(0.5, 1.0)), 3),
        beard=noun == "man" and bool(draw.random() < 0.4),
        hair=styles[int(draw.integers(len(styles)))],
        hair_colour=str(draw.choice(tuple(HAIR_COLOURS))),
    )


def dressed(who: Identity, draw: np.random.Generator) -> Person:
    """The identity in clothes drawn at random; only women wear dresses, so that the noun is not the garment's doing."""
    garments = GARMENTS if who.noun == "woman" else GARMENTS[:-1]
    top = Worn(
        kind=garments[int(draw.integers(len(garments)))],
        colour=str(draw.choice(tuple(COLOURS))),
        pattern="striped" if draw.random() < 0.3 else "plain",
    )
    kinds = [kind for kind in ACCESSORIES if draw.random() < 0.35][:2]
    accessories = tuple(Worn(kind=kind, colour=_other(top.colour, draw)) for kind in kinds)
    return Person(identity=who, top=top, trousers=TROUSERS[int(draw.integers(len(TROUSERS)))], accessories=accessories)


def recoloured(person: Person, like: Person, draw: np.random.Generator) -> Person:
    """The person in the same kind of top as another, in another colour: a hard case on purpose."""
    kind = like.top.kind if like.top.kind != "dress" or person.identity.noun == "woman" else "shirt"
    top = Worn(kind=kind, colour=_other(like.top.colour, draw), pattern=like.top.pattern)
    return person.model_copy(update={"top": top})


def _other(colour: str, draw: np.random.Generator) -> str:
    return str(draw.choice([name for name in COLOURS if name != colour]))
