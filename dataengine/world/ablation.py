"""The binding ablation: the same small DiT trained with and without each of LumosX's relational parts.

As in the paper, a base is trained first (there: Wan2.1): on words, then on one reference at a time, which all variants
place alike. Every variant starts from it, learns what belongs together in equal steps over equal data, and generates
held-out pairs of two and three people, which are read by `ablation_reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.lumosx.settings import TrainSettings
from dataengine.records import Pair, Phrase, Reference, Span
from dataengine.shards.reader import Sample
from dataengine.spans import Writer
from dataengine.world import drawing
from dataengine.world.ablation_reading import HEAD, TOP, Colours, are_distinct, expected_colours
from dataengine.world.cast import CAST, COLOURS, Person, Worn, dressed, identity
from dataengine.world.drawing import Image
from dataengine.world.make import VideoTruth
from dataengine.world.pairs import empty, sample, window
from dataengine.world.script import FPS, Actor, Script, Shot
from dataengine.world.things import PLACES, Place
from dataengine.world.wording import SIDES, Caption, Named

SINGLE, WORDS, TRAINING, HELD_OUT = 75, 76, 77, 78
"""Seeds of the stages that the base is trained on, that the variants are, and that is measured on."""
Course = Literal["words", "single", "pairs"]
"""What a run learns from: captions alone; one reference at a time; pairs. The first two make the base."""
_FRAMES = 48


@dataclass(frozen=True, slots=True)
class Variant:
    """Which relational parts a model has."""

    name: str
    r2pe: bool
    csam: bool
    mcam_ratio: float


VARIANTS = (
    Variant("none", False, False, 0.0),
    Variant("+R2PE", True, False, 0.0),
    Variant("+CSAM", True, True, 0.0),
    Variant("+MCAM r=0.1", True, True, 0.1),
    Variant("+MCAM r=0.5", True, True, 0.5),
    Variant("+MCAM r=1.0", True, True, 1.0),
)
"""In the paper's order; each has the parts of the one before it, the last three differ in r alone."""
ARC_SIM = (0.316, 0.363, 0.363, 0.364, 0.429, 0.384)
"""What the paper measured of the same variants (likeness of faces; arXiv 2603.20192, table 4)."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained and measured.

    Attributes:
        clips: to train the base on, of each of its courses. pairs: to train variants on. held_out: to measure on, half
            of them of two people, half of three.
        height, width, frames: of a clip.
        base_batch, words_steps, single_steps: of the base. batch, steps: of every variant.
        sampling_steps: of the sampler; there is no guidance.
    """

    clips: int
    pairs: int
    held_out: int
    height: int
    width: int
    frames: int
    dim: int
    heads: int
    layers: int
    base_batch: int
    words_steps: int
    single_steps: int
    base_lr: float
    batch: int
    steps: int
    lr: float
    sampling_steps: int


SIZES: Mapping[str, Size] = {
    "small": Size(800, 400, 100, 48, 80, 1, 128, 4, 3, 16, 1000, 800, 3e-3, 4, 900, 3e-3, 8),
    "large": Size(20_000, 20_000, 400, 96, 160, 5, 512, 8, 12, 128, 10_000, 5_000, 4e-4, 64, 4_000, 2e-4, 20),
}


def settings(size: Size, course: Course, variant: Variant, seed: int, *, base: Path | None) -> TrainSettings:
    """Of a run from the weights of `base`, or from nothing."""
    pairs = course == "pairs"
    steps = {"words": size.words_steps, "single": size.single_steps, "pairs": size.steps}[course]
    batch = size.batch if pairs else size.base_batch
    chosen: dict[str, Any] = {
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "model": {
            "dim": size.dim,
            "ffn_dim": 4 * size.dim,
            "heads": size.heads,
            "layers": size.layers,
            "r2pe": variant.r2pe,
            "csam": variant.csam,
            "mcam_ratio": variant.mcam_ratio,
            "init": None if base is None else str(base),
            # The other start makes references at equal places easy to see: only without R2PE are all of them there.
            "start": "wan",
        },
        # Just enough for every caption: padding is attended as in Wan2.1, and the less of it there is, the better.
        "text": {"max_tokens": 56},
        "data": {
            "height": size.height,
            "width": size.width,
            "frames": size.frames,
            "fps": FPS,
            "body_share": 0,
            "text_dropout": 0,
            "reference_dropout": 1 if course == "words" else 0,
        },
        "optimizer": {
            "lr": size.lr if pairs else size.base_lr,
            "warmup_steps": max(1, steps // 10),
            "ema_decay": 0.98,
            "schedule": "cosine" if pairs else "constant",
        },
        "validation": {"every_steps": steps, "samples": batch},
        "checkpoint": {"every_steps": min(steps, 200), "keep": 1},
        "sampling": {"steps": size.sampling_steps, "shift": 5, "guidance": 1},
    }
    return TrainSettings.model_validate(chosen)


# --- Pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A held-out pair, and what a picture of it should show.

    Attributes:
        sample: as it goes into the dataset.
        words: the caption with the colours that the sample's own leaves out.
        expected: colours of each person, from left to right.
        true: its true picture, RGB uint8 at the size of the experiment. background: the same without people.
        exchanged: the same with each person in the next one's garment.
    """

    sample: Sample
    words: str
    expected: Colours
    true: Image
    background: Image
    exchanged: Image

    @property
    def subjects(self) -> int:
        return len(self.expected)


def captioned_clips(size: Size) -> Iterator[Sample]:
    """What the base learns words from: clips of two and of three people by turns, captions with colours."""
    return (_sample(stage(WORDS, number), size, "train") for number in range(size.clips))


def single_references(size: Size) -> Iterator[Sample]:
    """What the base learns to look at a reference from: a person alone, by turns with a face or a garment to look at.

    One reference has the next time index and no offset under every variant, so none has an advantage from it.
    """
    for number in range(size.clips):
        told = _of_references(_sample(_alone(number), size, "train"))
        (subject,) = told.pair.subjects
        garment = subject.attributes[0].model_copy(update={"entity": subject.face.entity, "kind": subject.face.kind})
        shown = subject.model_copy(update={"face": garment if number % 2 else subject.face, "attributes": ()})
        pair = told.pair.model_copy(update={"subjects": (shown,)})
        yield Sample(pair, _members(pair, told.members))


def training_samples(size: Size) -> Iterator[Sample]:
    """Pairs of two and of three people by turns; see `stage`."""
    for number in range(size.pairs):
        yield _of_references(_sample(stage(TRAINING, number), size, "train"))


def held_out(size: Size) -> list[Asked]:
    """Pairs whose people cannot be taken for each other by colour: half of them of two people, half of three."""
    left = {2: size.held_out - size.held_out // 2, 3: size.held_out // 2}
    found: list[Asked] = []
    for number in count():
        made = stage(HELD_OUT, number)
        people = len(made.shots[0].actors)
        asked = _asked(made, size) if left[people] else None
        if asked is not None:
            left[people] -= 1
            found.append(asked)
        if not any(left.values()):
            break
    return found


def stage(seed: int, number: int) -> Script:
    """A shot in which people stand where they always do, so that who shows which colours is all there is to learn.

    Two or three of the cast stand at rest, seen from the hips up, named from left to right, each in a garment and half
    of them with a scarf: the number of references does not tell whose they are. Places are six. Nobody wears a
    hat, which would hide the hair that a face is known by.
    """
    draw = np.random.default_rng((seed, number))
    people = 2 + number % 2
    who = draw.choice(CAST, size=people, replace=False)
    actors = [_actor(_dressed(int(one), draw), (i + 0.5) / people) for i, one in enumerate(who)]
    place = PLACES[int(draw.integers(len(PLACES)))]
    return _script(seed, number, actors, place, SIDES[people])


def _alone(number: int) -> Script:
    """One of the people that a stage has, where it stands there."""
    shot = stage(SINGLE, number).shots[0]
    people = len(shot.actors)
    who = int(np.random.default_rng((SINGLE, number, 1)).integers(people))
    return _script(SINGLE, number, [shot.actors[who]], shot.place, [SIDES[people][who]])


def _actor(person: Person, x: float) -> Actor:
    return Actor(person=person, x=x, y=TOP, head=HEAD, speed=0, phase=0, bag_side=1)


def _script(seed: int, number: int, actors: Sequence[Actor], place: Place, sides: Sequence[str]) -> Script:
    shot = Shot(
        frames=_FRAMES,
        dissolve=0,
        place=place,
        place_seed=0,
        actors=tuple(actors),
        depth=tuple(range(len(actors))),
        objects=(),
        caption=_told([actor.person for actor in actors], place, sides),
        hard=(),
    )
    return Script(seed=seed, number=number, shots=(shot,))


def _dressed(who: int, draw: np.random.Generator) -> Person:
    person = dressed(identity(who), draw)
    scarf = Worn(kind="scarf", colour=str(draw.choice(tuple(COLOURS))))
    return person.model_copy(update={"accessories": (scarf,) if draw.random() < 0.5 else ()})


def _told(people: Sequence[Person], place: Place, sides: Sequence[str]) -> Caption:
    """Who stands where in what. No article stands before a colour, so that it can be left out."""
    text = Writer()
    named: list[Named] = []
    for number, (person, side) in enumerate(zip(people, sides, strict=True)):
        text.add(", a " if number else "A ")
        noun = text.phrase(f"{person.identity.noun} {'in' if side == 'middle' else 'on'} the {side}")
        owner = "his" if person.identity.noun == "man" else "her"
        worn: list[Phrase] = []
        for item in (person.top, *person.accessories):
            text.add(f" {'with' if worn else 'in'} {owner} ")
            worn.append(text.phrase(item.phrase))
        named.append(Named(noun=noun, attributes=tuple(worn)))
    text.add(", at the ")
    background = text.phrase(place)
    text.add(".")
    order = tuple(range(len(people)))
    return Caption(text=text.text, people=tuple(named), order=order, objects=(), background=background)


def without_colours(pair: Pair) -> Pair:
    """The pair, its caption naming what everybody wears and no colour of it."""
    text, end = Writer(), 0
    spans = {phrase.span for phrase in (r.phrase for r in pair.references) if phrase.span is not None}
    told: dict[Span, Phrase] = {}
    for span in sorted(spans):
        text.add(pair.caption[end : span.start])
        first, _, rest = span.of(pair.caption).partition(" ")
        told[span] = text.phrase(rest if first in COLOURS else span.of(pair.caption))
        end = span.end
    text.add(pair.caption[end:])

    def retold(reference: Reference) -> Reference:
        assert reference.phrase.span is not None, "Pair refuses a reference without a span"
        return reference.model_copy(update={"phrase": told[reference.phrase.span]})

    subjects = tuple(
        subject.model_copy(
            update={
                "face": retold(subject.face),
                "noun": retold(subject.face).phrase,
                "attributes": tuple(map(retold, subject.attributes)),
            }
        )
        for subject in pair.subjects
    )
    background = None if pair.background is None else retold(pair.background)
    found = pair.model_copy(update={"caption": text.text, "subjects": subjects, "background": background})
    return Pair.model_validate(found.model_dump())


def _sample(made: Script, size: Size, split: str) -> Sample:
    """The pair with faces and what is worn as its references; its place is told by words."""
    found = sample(VideoTruth.of(made), 0, frames=size.frames)
    assert found is not None, "all of a stage is in view"
    subjects = tuple(subject.model_copy(update={"body": None}) for subject in found.pair.subjects)
    pair = found.pair.model_copy(update={"split": split, "subjects": subjects, "background": None, "relations": ()})
    return Sample(pair, _members(pair, found.members))


def _of_references(told: Sample) -> Sample:
    """Without words for what references show: who would know a shirt's colour from the caption need not look at it."""
    pair = without_colours(told.pair)
    return Sample(pair, {**told.members, "json": pair.to_json().encode()})


def _members(pair: Pair, members: Mapping[str, bytes]) -> dict[str, bytes]:
    named = {name for reference in pair.references for name in (reference.member, reference.mask_member)}
    kept = {name: data for name, data in members.items() if name in named}
    return {"mp4": members["mp4"], "json": pair.to_json().encode(), **kept}


def _asked(made: Script, size: Size) -> Asked | None:
    """None where people could be taken for each other."""
    _, first, frames = window(VideoTruth.of(made), 0, size.frames)
    middle, shot = first + frames // 2, made.shots[0]
    true = _scaled(drawing.frame(made, middle), size)
    expected = expected_colours(made, middle, range(len(shot.actors)), true)
    if not are_distinct(expected):
        return None
    background = _scaled(empty(shot.place, shot.place_seed, made.width, made.height), size)
    exchanged = _scaled(drawing.frame(_exchanged(made), middle), size)
    return Asked(
        sample=_of_references(_sample(made, size, "val")),
        words=shot.caption.text,
        expected=expected,
        true=true,
        background=background,
        exchanged=exchanged,
    )


def _exchanged(made: Script) -> Script:
    """Everybody in the next one's garment."""
    shot = made.shots[0]
    tops = [actor.person.top for actor in shot.actors]
    actors = tuple(
        actor.model_copy(update={"person": actor.person.model_copy(update={"top": tops[(i + 1) % len(tops)]})})
        for i, actor in enumerate(shot.actors)
    )
    return made.model_copy(update={"shots": (shot.model_copy(update={"actors": actors}),)})


def _scaled(image: Image, size: Size) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA), np.uint8)
