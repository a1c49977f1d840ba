"""A video of the world before it is drawn: shots, who is in them and where, how they are joined. All from a seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import Field

from dataengine.records import Record
from dataengine.world.cast import CAST, COLOURS, Person, dressed, identity, recoloured
from dataengine.world.figure import BAG_BOTTOM
from dataengine.world.things import PLACES, THINGS, Object, Place
from dataengine.world.wording import Caption, caption

WIDTH, HEIGHT, FPS = 280, 168, 24

HardCase = Literal["same noun", "same garment", "bag beside another", "overlap", "sides swapped"]


class Actor(Record):
    """A person in a shot. Lengths are shares of the frame's height, times in seconds from the shot's start."""

    person: Person
    x: float = Field(description="centre at the start, as a share of the frame's width")
    y: float = Field(description="top of the head")
    head: float
    speed: float = Field(description="of x, a second")
    phase: float
    bag_side: Literal[-1, 1]


class Placed(Record):
    """An object in a shot, at rest. The foot's centre as shares of width and height."""

    thing: Object
    x: float
    y: float
    size: float
    in_front: bool


class Shot(Record):
    """One camera: what is seen, and for how many frames. Actors stand left to right at the start."""

    frames: int
    dissolve: int = Field(description="frames over which it appears out of the shot before; 0: a hard cut")
    place: Place
    place_seed: int
    actors: tuple[Actor, ...]
    depth: tuple[int, ...] = Field(description="actors from the farthest to the nearest")
    objects: tuple[Placed, ...]
    caption: Caption
    hard: tuple[HardCase, ...]


class Script(Record):
    """A video."""

    seed: int
    number: int
    width: int = WIDTH
    height: int = HEIGHT
    fps: int = FPS
    shots: tuple[Shot, ...]

    @property
    def frames(self) -> int:
        """A dissolve's frames belong to the shot that appears."""
        return sum(shot.frames for shot in self.shots)


def script(seed: int, number: int) -> Script:
    """The video of this number in the world of this seed."""
    draw = np.random.default_rng((seed, number))
    cast = _cast(draw)
    shots: list[Shot] = []
    for index in range(int(draw.integers(1, 4))):
        shots.append(_shot(draw, cast, shots[-1] if index else None))
    return Script(seed=seed, number=number, shots=tuple(shots))


def _cast(draw: np.random.Generator) -> tuple[Person, ...]:
    """One to three people in the clothes of this video."""
    numbers = draw.choice(CAST, size=int(draw.choice((1, 2, 2, 3))), replace=False)
    people = [dressed(identity(int(number)), draw) for number in numbers]
    if len(people) > 1 and draw.random() < 0.3:
        people[1] = recoloured(people[1], people[0], draw)
    return tuple(people)


def _shot(draw: np.random.Generator, cast: tuple[Person, ...], before: Shot | None) -> Shot:
    people = [cast[i] for i in draw.permutation(len(cast))]
    if before is not None and len(people) > 1 and draw.random() < 0.5:
        sides = [actor.person.identity.name for actor in before.actors]
        people = sorted(cast, key=lambda person: -sides.index(person.identity.name))
    head = float(draw.uniform(0.26, 0.36)) - 0.03 * (len(people) - 1)
    width = 1 / len(people)
    actors = tuple(_actor(draw, person, (i + 0.5) * width, head, width) for i, person in enumerate(people))
    objects = tuple(_placed(draw, i) for i in range(int(draw.choice((0, 1, 1, 2)))))
    place: Place = PLACES[int(draw.integers(len(PLACES)))]
    told = caption([actor.person for actor in actors], [placed.thing for placed in objects], place, draw)
    return Shot(
        frames=round(float(draw.uniform(1.6, 3.2)) * FPS),
        dissolve=12 if before is not None and draw.random() < 0.3 else 0,
        place=place,
        place_seed=int(draw.integers(1 << 16)),
        actors=actors,
        depth=tuple(int(i) for i in draw.permutation(len(actors))),
        objects=objects,
        caption=told,
        hard=_hard(actors, before),
    )


def _actor(draw: np.random.Generator, person: Person, x: float, head: float, width: float) -> Actor:
    y, head = round(float(draw.uniform(0.1, 0.2)), 4), round(head * float(draw.uniform(0.92, 1.08)), 4)
    if y + BAG_BOTTOM * head > 1.1:  # the frame would cut the bag off
        seen = tuple(item for item in person.accessories if item.kind != "bag")
        person = person.model_copy(update={"accessories": seen})
    return Actor(
        person=person,
        x=round(x + float(draw.uniform(-0.18, 0.18)) * width, 4),
        y=y,
        head=head,
        speed=round(float(draw.uniform(-0.04, 0.04)) * width, 4),
        phase=round(float(draw.uniform(0, 2 * np.pi)), 4),
        bag_side=-1 if draw.random() < 0.5 else 1,
    )


def _placed(draw: np.random.Generator, number: int) -> Placed:
    kind = THINGS[int(draw.integers(len(THINGS)))]
    thing = Object(kind=kind, colour=str(draw.choice(tuple(COLOURS))))
    floats = kind == "balloon"
    return Placed(
        thing=thing,
        x=round(float(draw.uniform(0.05, 0.45)) + 0.5 * (number % 2), 4),
        y=round(float(draw.uniform(0.4, 0.6) if floats else draw.uniform(0.88, 0.99)), 4),
        size=round(float(draw.uniform(0.24, 0.4)), 4),
        in_front=not floats and bool(draw.random() < 0.6),
    )


def _hard(actors: tuple[Actor, ...], before: Shot | None) -> tuple[HardCase, ...]:
    found: list[HardCase] = []
    nouns = [actor.person.identity.noun for actor in actors]
    if len(set(nouns)) < len(nouns):
        found.append("same noun")
    kinds = [actor.person.top.kind for actor in actors]
    if len(set(kinds)) < len(kinds):
        found.append("same garment")
    for i, actor in enumerate(actors):
        carries = any(item.kind == "bag" for item in actor.person.accessories)
        if carries and 0 <= i + actor.bag_side < len(actors):
            found.append("bag beside another")
            break
    if any(b.x - a.x < 0.75 * (a.head + b.head) * HEIGHT / WIDTH for a, b in pairwise(actors)):
        found.append("overlap")
    names = [actor.person.identity.name for actor in actors]
    if before is not None and len(names) > 1 and names == [a.person.identity.name for a in before.actors][::-1]:
        found.append("sides swapped")
    return tuple(found)
