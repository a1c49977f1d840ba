"""Frames of a script, and what is true of each: the same label map gives both."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dataengine import masks
from dataengine.records import Box, EntityMask, Record
from dataengine.world.cast import Person
from dataengine.world.figure import (
    FACE_PARTS,
    SCALE,
    TOP_PARTS,
    Labels,
    Part,
    Pose,
    draw_person,
    label,
    object_labels,
    paint_person,
    person_labels,
)
from dataengine.world.script import Actor, Script, Shot
from dataengine.world.things import draw_object, draw_place, paint_object
from dataengine.world.wording import attributes

Image = NDArray[np.uint8]


class FrameTruth(Record):
    """What is seen in a frame that belongs to one shot alone.

    Entities are those of the shot's caption: the i-th person that it names is `s<i>`, with `.face`, `.body` and an
    `.a<j>` for its j-th phrase. Only what has a visible pixel is there; masks are of visible pixels.
    """

    frame: int
    time_s: float = Field(description="presentation time in the video")
    shot: int
    masks: tuple[EntityMask, ...] = Field(description="`still` is 0, and scores are 1")


def frames(script: Script) -> Iterator[Image]:
    """Every frame in order, RGB [height, width, 3]."""
    grain = _grain(script)
    for number in range(script.frames):
        yield cv2.add(frame(script, number), grain[number % len(grain)], dtype=cv2.CV_8U)


def frame(script: Script, number: int) -> Image:
    """One frame without its grain."""
    shot, at = place(script, number)
    image = _coloured(script, shot, _labels(script, script.shots[shot], at))
    dissolve = script.shots[shot].dissolve
    if at >= dissolve:
        return image
    before = script.shots[shot - 1]
    old = _coloured(script, shot - 1, _labels(script, before, before.frames + at))
    share = (at + 1) / (dissolve + 1)
    return cv2.addWeighted(image, share, old, 1 - share, 0)


@lru_cache(maxsize=32)  # whoever judges a sample asks for the same few frames again and again
def truth(script: Script, number: int) -> FrameTruth | None:
    """What is true of a frame; None inside a dissolve, where two shots are seen."""
    shot, at = place(script, number)
    if at < script.shots[shot].dissolve:
        return None
    seen = _entities(script.shots[shot], labels(script, number))
    found = tuple(_mask(entity, pixels) for entity, pixels in seen if pixels.any())
    return FrameTruth(frame=number, time_s=number / script.fps, shot=shot, masks=found)


def worn(script: Script, number: int, named: int, phrase: str) -> EntityMask | None:
    """The visible pixels of anything that a person of a frame wears, named in the caption or not.

    `named` is the person's place in the shot's caption, and the entity counts all that the person wears. None where
    nothing of it is seen.
    """
    shot = script.shots[place(script, number)[0]]
    position = shot.caption.order[named]
    person = shot.actors[position].person
    pixels = _is(labels(script, number), *(label(position, part) for part in _parts(person, phrase)))
    return _mask(f"s{named}.a{attributes(person).index(phrase)}", pixels) if pixels.any() else None


@lru_cache(maxsize=8)
def labels(script: Script, number: int) -> Labels:
    """The part that every pixel of a frame shows, uint8 [height, width]; in a dissolve of the shot that appears."""
    shot, at = place(script, number)
    return _labels(script, script.shots[shot], at)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def place(script: Script, number: int) -> tuple[int, int]:
    """The shot that a frame belongs to, and the frame's place in it. Raises `IndexError` outside the video."""
    if not 0 <= number < script.frames:
        raise IndexError(f"frame {number} of a video of {script.frames}")
    for index, shot in enumerate(script.shots):
        if number < shot.frames:
            return index, number
        number -= shot.frames
    raise AssertionError


def _labels(script: Script, shot: Shot, at: int) -> Labels:
    height, width = script.height * SCALE, script.width * SCALE
    labels = np.zeros((height, width), np.uint8)
    for index, placed in enumerate(shot.objects):
        if not placed.in_front:
            draw_object(labels, index, placed.thing, placed.x * width, placed.y * height, placed.size * height)
    for index in shot.depth:
        draw_person(labels, index, shot.actors[index].person, pose(shot.actors[index], at / script.fps, width, height))
    for index, placed in enumerate(shot.objects):
        if placed.in_front:
            draw_object(labels, index, placed.thing, placed.x * width, placed.y * height, placed.size * height)
    return labels


def pose(actor: Actor, time_s: float, width: int, height: int) -> Pose:
    """How an actor stands at a time after the start of the shot, in pixels of a map of that size."""
    sway = np.sin(2 * np.pi * 0.5 * time_s + actor.phase)
    return Pose(
        x=(actor.x + actor.speed * time_s + 0.006 * sway) * width,
        y=(actor.y + 0.008 * abs(np.sin(2 * np.pi * time_s + actor.phase))) * height,
        head=actor.head * height,
        swing=float(np.sin(2 * np.pi * 0.7 * time_s + actor.phase)) * 0.6,
        bag_side=actor.bag_side,
    )


def _coloured(script: Script, shot: int, labels: Labels) -> Image:
    palette, background = _colours(script.shots[shot], script.width * SCALE, script.height * SCALE)
    seen = cv2.copyTo(cv2.merge([cv2.LUT(labels, channel) for channel in palette]), labels, background.copy())
    return cv2.resize(seen, (script.width, script.height), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=4)
def _colours(shot: Shot, width: int, height: int) -> tuple[tuple[NDArray[np.uint8], ...], Image]:
    """Tables from label to red, green and blue, and the background at the map's size."""
    palette = np.zeros((256, 3), np.uint8)
    for index, actor in enumerate(shot.actors):
        paint_person(palette, index, actor.person)
    for index, placed in enumerate(shot.objects):
        paint_object(palette, index, placed.thing)
    return tuple(np.ascontiguousarray(palette.T)), draw_place(shot.place, width, height, shot.place_seed)


def _grain(script: Script) -> list[NDArray[np.int8]]:
    draw = np.random.default_rng((3, script.seed, script.number))
    size = (script.height, script.width, 3)
    return [draw.normal(0, 1.6, size).round().astype(np.int8) for _ in range(4)]


def _entities(shot: Shot, labels: Labels) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Every entity of the shot's caption with its pixels."""
    for index, (position, named) in enumerate(zip(shot.caption.order, shot.caption.people, strict=True)):
        person = shot.actors[position].person
        yield f"s{index}.face", _is(labels, *(label(position, part) for part in FACE_PARTS))
        yield f"s{index}.body", _is(labels, *person_labels(position))
        for number, phrase in enumerate(named.attributes):
            parts = _parts(person, phrase.text)
            yield f"s{index}.a{number}", _is(labels, *(label(position, part) for part in parts))
    for index in range(len(shot.objects)):
        yield f"o{index}", _is(labels, *object_labels(index))


def _parts(person: Person, phrase: str) -> tuple[Part, ...]:
    """What a phrase of a person's stands for."""
    if phrase == person.identity.hair_phrase:
        return (Part.HAIR,)
    if phrase == person.top.phrase:
        return (*TOP_PARTS, Part.UNDERSHIRT)
    return tuple(Part[item.kind.upper()] for item in person.accessories if item.phrase == phrase)


def _is(labels: Labels, *values: int) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table[labels]


def _mask(entity: str, pixels: NDArray[np.bool_]) -> EntityMask:
    mask = masks.encode(pixels)
    box: Box = masks.tight_box(mask)
    return EntityMask(entity=entity, still=0, box=box, mask=mask, score=1.0)
