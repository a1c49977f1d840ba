"""What the tiny Qwen2.5-VL learns from: the annotator's own questions about frames of the world, and true answers.

Pictures, prompts and chat are made by the code that asks in production. Lesson `i` of a seed is the same on every
machine. Several answers about the same pictures share them, each a branch of one sequence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.models.face_regions import BODY
from dataengine.models.interfaces import Image, Question, Scene
from dataengine.models.numbered import crop
from dataengine.models.prompts import Prompts
from dataengine.models.qwen_annotator import marked, numbered_list, pictures
from dataengine.models.qwen_messages import Turn, chat, turn
from dataengine.records import Box, People, Person, Phrase, Sighting
from dataengine.world import drawing
from dataengine.world.cast import (
    ACCESSORIES,
    CAST,
    COLOURS,
    GARMENTS,
    HAIR_COLOURS,
    Worn,
    dressed,
    identity,
    recoloured,
)
from dataengine.world.cast import Person as Dressed
from dataengine.world.figure import FACE_PARTS, Labels, Part, label, object_labels, person_labels
from dataengine.world.script import Script, Shot, script
from dataengine.world.things import PLACES, THINGS, Object
from dataengine.world.training.examples import QUALITIES, compressed
from dataengine.world.training.qwen_words import MERGED, PATCH, Processor, speaker
from dataengine.world.wording import Caption, attributes, caption

SENSES: Mapping[str, int] = {
    "noun": 2, "hair": 4, "hair colour": 5, "garment": 5, "colour": 10, "pattern": 2,
    "hat": 11, "glasses": 11, "scarf": 11, "bag": 11, "place of person": 6, "number": 4,
    "object": 6, "object colour": 10, "background": 6,
}  # fmt: skip
"""What every merged token is asked for while the vision tower learns, and how many answers there are."""
UNASKED = -100
STILLS = (0.05, 0.5, 0.95)
MAX_PIXELS = 602112
_COVERS = 80
"""Pixels of a merged token's 784 that something must cover to be what the token shows."""
_COLOURS = list(COLOURS)
PARTS = len(Part) + 1
TINTS: Mapping[str, tuple[Part, list[str]]] = {
    part.name.lower(): (part, list(HAIR_COLOURS) if part == Part.HAIR else _COLOURS)
    for part in (Part.HAIR, Part.TOP, Part.HAT, Part.GLASSES, Part.SCARF, Part.BAG)
}
"""Parts of which a patch is asked for the colour, and what that may be."""
_SHOWS = 5
"""Pixels of a patch's 196 from which it shows a part."""
_HAIRS = ("short", "long", "curly", "bun")
_DIGIT = 4.0
"""Weight of a number in an answer about owners that is not the one before it: whoever has found one person's number has
little to do for what else that person wears, and the rest of the answer is forced by the grammar."""

Kind = Literal["telling", "owning", "reading"]
Key = tuple[int, str]
"""Of an image: its shot's index, and which of the shot's images it is."""


@dataclass(frozen=True)
class Seen:
    """An image as the model is shown it, and what each of its merged tokens shows.

    Attributes:
        image: uint8 [height, width, 3], sides in multiples of 28 pixels.
        senses: int64 [merged tokens, len(SENSES)]; `UNASKED` where there is no answer.
        parts: bool [patches, PARTS], what is seen in each patch: people's parts, and at last things.
        tints: int64 [patches, len(TINTS)], the colour of each kind of part that is seen in a patch.
        key: the same for the same image alone.
    """

    image: Image
    senses: NDArray[np.int64]
    parts: NDArray[np.bool_]
    tints: NDArray[np.int64]
    key: Key

    @property
    def grid(self) -> tuple[int, int]:
        return self.image.shape[0] // MERGED, self.image.shape[1] // MERGED


@dataclass(frozen=True)
class Material:
    """A shot as questions show it.

    Attributes:
        frame: one of its frames.
        still: another, with numbered boxes.
        crops: of the people in the still's boxes, by their numbers from 1.
        numbers: of people, by position; who is missing here was not found.
    """

    shot: Shot
    frame: Seen
    still: Seen
    crops: tuple[Seen, ...]
    numbers: Mapping[int, int]


@dataclass(frozen=True)
class Lesson:
    """Pictures and what is to be said of them. Several answers about the same pictures are branches of one sequence.

    Attributes:
        images: keys of those of which the sequence has tokens, in order.
        ids: int64 [length], tokens of the shared beginning and of every branch.
        positions: int64 [3, length], of M-RoPE.
        branch: int64 [length]; 0 is shared.
        weight: float32 [length], of predicting each token from the one before.
    """

    images: tuple[Key, ...]
    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    branch: NDArray[np.int64]
    weight: NDArray[np.float32]


class _Usual:
    """Chance by which a caption comes out in its fullest and commonest wording, people from left to right."""

    def random(self) -> float:
        return 0.45


def usual(shot: Shot) -> Caption:
    """The caption that the network is to write: one for what is seen, objects from left to right too."""
    objects = sorted(shot.objects, key=lambda placed: placed.x)
    return caption([a.person for a in shot.actors], [placed.thing for placed in objects], shot.place, _Usual())


def entities_json(told: Caption) -> str:
    """The true answer to what a caption names."""
    people = [{"noun": p.noun.text, "attributes": [a.text for a in p.attributes]} for p in told.people]
    return _json({"people": people, "objects": [o.text for o in told.objects], "background": told.background.text})


def _json(answer: object) -> str:
    return json.dumps(answer, separators=(",", ":"))


def material(seed: int, index: int) -> Material:
    """The shot of this index, the same on every machine."""
    draw = np.random.default_rng((21, seed, index))
    made = script(seed, index)
    at = int(draw.integers(len(made.shots)))
    shot = made.shots[at]
    number = moment(made, at, float(draw.uniform(0.05, 0.95)))
    labels = drawing.labels(made, number)
    frame = Seen(_shown(coded(made, number, draw)), sensed(labels, shot), *parts_in(labels, shot), (index, "frame"))
    number = moment(made, at, STILLS[int(draw.integers(3))] + float(draw.uniform(-0.05, 0.05)))
    picture, labels = coded(made, number, draw), drawing.labels(made, number)
    people, positions = found(labels, shot, draw)
    numbers = dict(zip((p.index for p in people), (int(n) + 1 for n in draw.permutation(len(people))), strict=True))
    parts = pictures(Scene("", (picture,), People(people=people)), numbers)
    boxed, *cut = (part for part in parts if not isinstance(part, str))
    number_of = {positions[person]: number for person, number in numbers.items()}
    still = Seen(_shown(boxed), sensed(labels, shot, number_of), *parts_in(labels, shot), (index, "still"))
    crops: list[Seen] = []
    for person, image in zip(sorted(people, key=lambda p: numbers[p.index]), cut, strict=True):
        shown = _shown(image)
        part = np.asarray(
            cv2.resize(crop(labels, person.sightings[0].body), shown.shape[1::-1], interpolation=cv2.INTER_NEAREST),
            np.uint8,
        )
        crops.append(Seen(shown, sensed(part, shot, None), *parts_in(part, shot), (index, f"crop {len(crops)}")))
    return Material(shot, frame, still, tuple(crops), number_of)


@dataclass(frozen=True)
class Teacher:
    """Asks about material in the words of a checkpoint's processor."""

    processor: Processor
    prompts: Prompts = field(default_factory=Prompts.read)

    def telling(self, seen: Material, strange: Caption | None) -> Lesson:
        """A caption of the frame; and, where there is one, what a strange caption names.

        Strange, so that phrases are copied from the caption and not read off the picture.
        """
        ask = self.prompts.ask
        branches = [(ask("caption", frames=1, language="English"), _json({"caption": usual(seen.shot).text}))]
        if strange is not None:
            branches.append((ask("entities", frames=1, caption=strange.text), entities_json(strange)))
        return self._lesson((seen.frame,), (), branches)

    def reading(self, draw: np.random.Generator) -> Lesson:
        """What a caption names that is of no picture: learned from words alone, at a tenth of the cost."""
        told = made_up(draw)
        return self._lesson((), (), [(self.prompts.ask("entities", frames=1, caption=told.text), entities_json(told))])

    def owning(self, seen: Material, stills: Sequence[int], branches: int, draw: np.random.Generator) -> Lesson:
        """Whose the phrases of captions are, by stills with numbered boxes and crops of people.

        Only these of the three stills are there, the others leave their positions. Without any, numbers are drawn anew.
        """
        numbers, crops = dict(seen.numbers), seen.crops
        if not stills:
            other = [int(n) for n in draw.permutation(len(crops))]
            crops = tuple(crops[n] for n in other)
            numbers = {position: other.index(number - 1) + 1 for position, number in numbers.items()}
        asked = [self._whose(seen.shot, numbers, draw) for _ in range(branches)]
        names = [f"Person {number}:" for number in range(1, len(crops) + 1)]
        return self._lesson((*[seen.still] * 3, *crops), ("", "", "", *names), asked, set(range(3)) - set(stills))

    def _whose(self, shot: Shot, number_of: Mapping[int, int], draw: np.random.Generator) -> tuple[str, str]:
        """A question about owners and its answer; some captions give a person what it does not wear."""
        actors = [actor.person for actor in shot.actors]
        said_of = list(actors)
        chance = draw.random()
        if chance < 0.2 and len(actors) > 1:
            one, two = (int(i) for i in draw.permutation(len(actors))[:2])
            said_of[one], said_of[two] = _swapped(actors[one], actors[two], draw)
        elif chance < 0.4:
            one = int(draw.integers(len(actors)))
            said_of[one] = _mistaken(actors[one], draw)
        things = [placed.thing for placed in shot.objects]
        told = caption(said_of, things, shot.place, _Usual() if draw.random() < 0.5 else draw)
        worn = [set(attributes(person)) for person in actors]
        phrases: list[Phrase] = []
        owners: list[int] = []
        for position, named in zip(told.order, told.people, strict=True):
            phrases += (named.noun, *named.attributes)
            owners.append(number_of.get(position, 0))
            for words in (phrase.text for phrase in named.attributes):
                wearing = [position] if words in worn[position] else [i for i, w in enumerate(worn) if words in w]
                owners.append(number_of.get(wearing[0], 0) if wearing else 0)
        listed = [phrase.text for phrase in phrases]
        spans = [phrase.span for phrase in phrases if phrase.span is not None]
        prompt = self.prompts.ask("ownership", caption=marked(told.text, spans), phrases=numbered_list(listed))
        choices = [{"phrase": words, "person": owner} for words, owner in zip(listed, owners, strict=True)]
        return prompt, _json({"choices": choices})

    def _lesson(
        self,
        images: Sequence[Seen],
        names: Sequence[str],
        branches: Sequence[tuple[str, str]],
        left_out: AbstractSet[int] = frozenset(),
    ) -> Lesson:
        tokenizer: Any = self.processor.tokenizer
        pad, end = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|vision_end|>"])
        digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
        parts: list[Any] = []
        for image, name in zip_longest(images, names, fillvalue=""):
            parts += ([name] if name else []) + [image]
        rows: list[tuple[NDArray[Any], ...]] = []
        shared = 0
        for number, (prompt, answer) in enumerate(branches, 1):
            asked = tokenizer.encode(chat(self.processor, Turn((*parts, prompt))))
            said = tokenizer.encode(answer + "<|im_end|>")
            ids, positions, there = _spread([*asked, *said], [image.grid for image in images], pad, left_out)
            if number == 1:
                shared = len(ids) - int((ids[::-1] == end).argmax())
            answering = np.arange(len(ids)) >= len(ids) - len(said)
            weight = answering.astype(np.float32)
            if "choices" in answer[:12]:
                weight[_news(ids, answering & np.isin(ids, digits))] = _DIGIT
            branch = np.where(np.arange(len(ids)) < shared, 0, number)
            there = there & ((branch > 0) | (number == 1))
            rows.append((ids[there], positions[:, there], branch[there], weight[there]))
        ids, positions, branch, weight = (np.concatenate(part, axis=-1) for part in zip(*rows, strict=True))
        shown = tuple(image.key for i, image in enumerate(images) if i not in left_out)
        return Lesson(shown, ids, positions, branch, weight)


@dataclass(frozen=True)
class Portion:
    """A shot as training meets it.

    Attributes:
        frame, still, crops: keys of its images.
        images: themselves.
        lessons: of each kind about them; about owners there is none where nobody was found.
    """

    frame: Key
    still: Key
    crops: tuple[Key, ...]
    images: tuple[Seen, ...]
    lessons: Mapping[Kind, tuple[Lesson, ...]]


@dataclass(frozen=True)
class Portions:
    """Makes the portion of an index, the same on every machine."""

    seed: int

    def __call__(self, index: int) -> Portion:
        teacher, draw = _teacher(), np.random.default_rng((23, self.seed, index))
        shot = material(self.seed, index)
        strange = (made_up(draw), made_up(draw), None)
        stills: list[tuple[int, ...]] = [(), (), (int(draw.integers(3)),), (0, 1, 2), (0, 1, 2)]
        return Portion(
            frame=shot.frame.key,
            still=shot.still.key,
            crops=tuple(image.key for image in shot.crops),
            images=(shot.frame, shot.still, *shot.crops),
            lessons={
                "telling": tuple(teacher.telling(shot, told) for told in strange),
                "owning": tuple(teacher.owning(shot, some, 1, draw) for some in stills if shot.crops),
                "reading": tuple(teacher.reading(draw) for _ in range(3)),
            },
        )


@cache
def _teacher() -> Teacher:
    return Teacher(speaker())


def _news(ids: NDArray[np.int64], numbers: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where numbers stand that are not the same as the number before."""
    at = np.flatnonzero(numbers)
    return at[np.diff(ids[at], prepend=-1) != 0]


def made_up(draw: np.random.Generator) -> Caption:
    """The caption of people, things and a place that were never drawn, often in the usual wording."""
    count = int(draw.choice((1, 2, 2, 3)))
    people = [dressed(identity(int(number)), draw) for number in draw.choice(CAST, size=count, replace=False)]
    if count > 1 and draw.random() < 0.3:
        people[1] = recoloured(people[1], people[0], draw)
    things = [
        Object(kind=THINGS[int(draw.integers(len(THINGS)))], colour=_COLOURS[int(draw.integers(len(_COLOURS)))])
        for _ in range(int(draw.choice((0, 1, 1, 2))))
    ]
    place = PLACES[int(draw.integers(len(PLACES)))]
    return caption(people, things, place, _Usual() if draw.random() < 0.4 else draw)


def sensed(labels: Labels, shot: Shot, numbers: Mapping[int, int] | None = {}) -> NDArray[np.int64]:
    """What each merged token of a label map shows, int64 [tokens, len(SENSES)].

    `numbers`: of the boxes drawn around people, by position; empty: none are drawn; None: the map is a crop, in which
    places say nothing.
    """
    table = np.zeros(256, np.uint8)
    for position in range(len(shot.actors)):
        table[list(person_labels(position))] = 1 + position
    for number in range(len(shot.objects)):
        table[list(object_labels(number))] = 4 + number
    height, width = labels.shape[0] // MERGED, labels.shape[1] // MERGED
    cells = table[labels].reshape(height, MERGED, width, MERGED)
    shares = np.stack([(cells == entity).sum(axis=(1, 3)).ravel() for entity in range(7)])
    asked = {name: np.full(height * width, UNASKED) for name in SENSES}
    asked["background"][:] = PLACES.index(shot.place)
    most = 1 + shares[1:].argmax(axis=0)
    most[shares[1:].max(axis=0) < _COVERS] = 0
    for position, actor in enumerate(shot.actors):
        who, here = actor.person, most == 1 + position
        worn: dict[str, int] = {item.kind: 1 + _COLOURS.index(item.colour) for item in who.accessories}
        facts: dict[str, int] = {
            "noun": ("man", "woman").index(who.identity.noun),
            "hair": _HAIRS.index(who.identity.hair),
            "hair colour": list(HAIR_COLOURS).index(who.identity.hair_colour),
            "garment": list[str](GARMENTS).index(who.top.kind),
            "colour": _COLOURS.index(who.top.colour),
            "pattern": int(who.top.pattern == "striped"),
            **{kind: worn.get(kind, 0) for kind in ACCESSORIES},
        }
        if numbers is not None:
            facts["place of person"] = (0, 1, 3)[len(shot.actors) - 1] + position
        if numbers:
            facts["number"] = numbers.get(position, 0)
        for name, fact in facts.items():
            asked[name][here] = fact
    for number, placed in enumerate(shot.objects):
        asked["object"][most == 4 + number] = THINGS.index(placed.thing.kind)
        asked["object colour"][most == 4 + number] = _COLOURS.index(placed.thing.colour)
    return np.stack(list(asked.values()), axis=1)


def parts_in(labels: Labels, shot: Shot) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The parts that each patch of a label map shows, and their colours: `Seen.parts` and `Seen.tints`.

    The four patches of a merged token stand together.
    """
    height, width = labels.shape[0] // PATCH, labels.shape[1] // PATCH
    cells = labels.reshape(height // 2, 2, PATCH, width // 2, 2, PATCH).transpose(0, 3, 1, 4, 2, 5)
    cells = cells.reshape(height * width, PATCH**2)
    counts = np.stack([np.bincount(cell, minlength=256) for cell in cells])
    parts = np.zeros((len(cells), PARTS), bool)
    tints = np.full((len(cells), len(TINTS)), UNASKED)
    most = np.full((len(cells), len(TINTS)), _SHOWS - 1)
    for position, actor in enumerate(shot.actors):
        first = label(position, Part.SKIN)
        parts[:, :-1] |= counts[:, first : first + len(Part)] >= _SHOWS
        colours = {"top": actor.person.top.colour} | {item.kind: item.colour for item in actor.person.accessories}
        for kind, (part, names) in enumerate(TINTS.values()):
            name = part.name.lower()
            worn = actor.person.identity.hair_colour if part == Part.HAIR else colours.get(name)
            here = counts[:, label(position, part)] > most[:, kind]
            if worn is not None:
                tints[here, kind] = names.index(worn)
                most[here, kind] = counts[here, label(position, part)]
    for number in range(len(shot.objects)):
        parts[:, -1] |= counts[:, list(object_labels(number))].sum(axis=1) >= _SHOWS
    return parts, tints


def _spread(
    words: Sequence[int], grids: Sequence[tuple[int, int]], pad: int, left_out: AbstractSet[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens with one for each merged token of an image, their M-RoPE positions [3, length], and which are there."""
    ids: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    there: list[NDArray[np.bool_]] = []
    place, image = 0, 0
    for word in words:
        if word != pad:
            ids.append(np.array([word]))
            positions.append(np.full((3, 1), place))
            there.append(np.ones(1, bool))
            place += 1
            continue
        rows, columns = np.indices(grids[image]).reshape(2, -1)
        ids.append(np.full(len(rows), pad))
        positions.append(place + np.stack([np.zeros_like(rows), rows, columns]))
        there.append(np.full(len(rows), image not in left_out))
        place, image = place + max(grids[image]), image + 1
    return np.concatenate(ids), np.concatenate(positions, axis=1), np.concatenate(there)


def moment(made: Script, shot: int, share: float) -> int:
    """The frame at a share of a shot, without its dissolve."""
    start = sum(before.frames for before in made.shots[:shot]) + made.shots[shot].dissolve
    clear = made.shots[shot].frames - made.shots[shot].dissolve
    return start + min(clear - 1, max(0, int(share * clear)))


def coded(made: Script, number: int, draw: np.random.Generator) -> Image:
    return compressed(drawing.frame(made, number), int(draw.integers(*QUALITIES)))


def _shown(image: Image) -> Image:
    """The image at the size at which the model is shown it."""
    return np.asarray(turn(Question((image,), {}, 0), MAX_PIXELS).images[0])


def found(
    labels: Labels, shot: Shot, draw: np.random.Generator, missing: bool = True
) -> tuple[tuple[Person, ...], dict[int, int]]:
    """People as detectors find them: boxes not quite right, `missing` somebody at times. And the position of each."""
    missed = int(draw.integers(len(shot.actors))) if missing and len(shot.actors) > 1 and draw.random() < 0.15 else None
    faces = [_box(labels, [label(position, part) for part in FACE_PARTS]) for position in range(len(shot.actors))]
    by_face = draw.random() < 0.2
    people: list[Person] = []
    positions: dict[int, int] = {}
    for position, face in enumerate(faces):
        body = _box(labels, person_labels(position))
        if position == missed or body is None or face is None:
            continue
        if by_face:
            others = [other for other in faces if other is not None and other is not face]
            body = BODY.box(face, others, *labels.shape[::-1])
        body = _shaken(body, draw).clipped(*labels.shape[::-1])
        positions[len(people)] = position
        sighting = Sighting(still=0, face=face, face_score=1, landmarks=(), body=body, body_score=None, sharpness=0)
        people.append(Person(index=len(people), sightings=(sighting,)))
    return tuple(people), positions


def _box(labels: Labels, values: Iterable[int]) -> Box | None:
    table = np.zeros(256, bool)
    table[list(values)] = True
    there = table[labels]
    if there.sum() < 40:
        return None
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _shaken(box: Box, draw: np.random.Generator) -> Box:
    dx0, dy0, dx1, dy1 = draw.normal(0, 0.04, 4) * (box.width, box.height, box.width, box.height)
    return Box(box.x0 + float(dx0), box.y0 + float(dy0), box.x1 + float(dx1), box.y1 + float(dy1))


def _swapped(one: Dressed, two: Dressed, draw: np.random.Generator) -> tuple[Dressed, Dressed]:
    """Two people of whom each is said to wear what the other does: the tops or the accessories."""
    if draw.random() < 0.5 and (one.accessories or two.accessories):
        return one.model_copy(update={"accessories": two.accessories}), two.model_copy(
            update={"accessories": one.accessories}
        )
    return one.model_copy(update={"top": two.top}), two.model_copy(update={"top": one.top})


def _mistaken(person: Dressed, draw: np.random.Generator) -> Dressed:
    """A person of whom one thing is said in another colour, or that is not there."""
    colour = str(draw.choice(list(COLOURS)))
    place = int(draw.integers(len(person.accessories) + 2))
    if place < len(person.accessories):
        items = list(person.accessories)
        items[place] = items[place].model_copy(update={"colour": colour})
        return person.model_copy(update={"accessories": tuple(items)})
    if place == len(person.accessories):
        return person.model_copy(update={"top": person.top.model_copy(update={"colour": colour})})
    free = [kind for kind in ACCESSORIES if kind not in {item.kind for item in person.accessories}]
    added = Worn(kind=free[int(draw.integers(len(free)))], colour=colour)
    return person.model_copy(update={"accessories": (*person.accessories, added)[-2:]})
