"""The binding ablation: the same small DiT trained with and without each of LumosX's relational parts.

As in the paper, a base without any of them is trained first (there: Wan2.1); every variant starts from it and takes
equal steps over equal data. What they generate for held-out pairs of two and three people is read by
`ablation_reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.lumosx.settings import TrainSettings
from dataengine.records import Pair
from dataengine.shards.reader import Sample
from dataengine.world import drawing
from dataengine.world.ablation_reading import Colours, are_distinct, expected_colours
from dataengine.world.cast import CAST, COLOURS, Accessory, Person, Worn, dressed, identity
from dataengine.world.drawing import Image
from dataengine.world.make import VideoTruth
from dataengine.world.pairs import empty, sample, window
from dataengine.world.script import FPS, Actor, Script, Shot
from dataengine.world.things import PLACES, Place
from dataengine.world.wording import Caption, caption

TRAINING, HELD_OUT = 77, 78
"""Seeds of the stages that are trained and measured on."""
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
        pairs: to train on. held_out: to measure on, half of them of two people, half of three.
        height, width, frames: of a clip.
        base_steps, steps: of the base, and of every variant.
        sampling_steps: of the sampler; there is no guidance.
    """

    pairs: int
    held_out: int
    height: int
    width: int
    frames: int
    dim: int
    heads: int
    layers: int
    batch: int
    base_steps: int
    steps: int
    base_lr: float
    lr: float
    sampling_steps: int


SIZES: Mapping[str, Size] = {
    "small": Size(500, 100, 48, 80, 9, 160, 2, 3, 8, 1500, 250, 6e-3, 4e-3, 8),
    "large": Size(20_000, 400, 96, 160, 17, 512, 8, 12, 64, 20_000, 4_000, 4e-4, 2e-4, 20),
}


def settings(size: Size, variant: Variant, seed: int, *, base: Path | None, stored: str | None) -> TrainSettings:
    """Of a variant's run; without `base`, of the run that makes it.

    Args:
        base: weights to start from.
        stored: place of latents and contexts that were computed before.
    """
    first = base is None
    steps = size.base_steps if first else size.steps
    chosen: dict[str, Any] = {
        "seed": seed,
        "steps": steps,
        "batch": size.batch,
        "model": {
            "dim": size.dim,
            "ffn_dim": 4 * size.dim,
            "heads": size.heads,
            "layers": size.layers,
            "r2pe": variant.r2pe,
            "csam": variant.csam,
            "mcam_ratio": variant.mcam_ratio,
            "init": None if base is None else str(base),
        },
        "text": {"max_tokens": 80},
        "data": {
            "height": size.height,
            "width": size.width,
            "frames": size.frames,
            "fps": FPS,
            "body_share": 0,
            "text_dropout": 0,
        },
        "stored": {"place": stored},
        "optimizer": {
            "lr": size.base_lr if first else size.lr,
            "warmup_steps": max(1, steps // (30 if first else 10)),
            "ema_decay": 0.98,
            # A base can be stopped, or go on, at any step.
            "schedule": "constant" if first else "cosine",
        },
        "validation": {"every_steps": steps, "samples": size.batch},
        "checkpoint": {"every_steps": min(steps, 100), "keep": 1},
        "sampling": {"steps": size.sampling_steps, "shift": 5, "guidance": 1},
    }
    return TrainSettings.model_validate(chosen)


# --- Pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A held-out pair, and what a picture of it should show.

    Attributes:
        sample: as it goes into the dataset.
        expected: colours of each subject.
        true: its true picture, RGB uint8 at the size of the experiment. background: the same without people.
        exchanged: the same with each person in the next one's garment.
    """

    sample: Sample
    expected: Colours
    true: Image
    background: Image
    exchanged: Image

    @property
    def subjects(self) -> int:
        return len(self.expected)


def training_samples(size: Size) -> Iterator[Sample]:
    """Pairs of two and of three people by turns; see `stage`."""
    for number in range(size.pairs):
        yield _sample(stage(TRAINING, number), size, "train")


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

    Two or three of the cast stand at rest, named from left to right, each in a garment and half of them with a bag or a
    scarf: the number of references does not tell whose they are. Places are six. Nobody wears a hat, which would hide
    the hair that a face is known by.
    """
    draw = np.random.default_rng((seed, number))
    people = 2 + number % 2
    actors = tuple(
        Actor(
            person=_dressed(int(who), draw),
            x=(i + 0.5) / people,
            y=0.14,
            head=0.31 - 0.03 * (people - 1),
            speed=0,
            phase=0,
            bag_side=1,
        )
        for i, who in enumerate(draw.choice(CAST, size=people, replace=False))
    )
    place = PLACES[int(draw.integers(len(PLACES)))]
    shot = Shot(
        frames=_FRAMES,
        dissolve=0,
        place=place,
        place_seed=0,
        actors=actors,
        depth=tuple(range(people)),
        objects=(),
        caption=_told(actors, place, draw),
        hard=(),
    )
    return Script(seed=seed, number=number, shots=(shot,))


def _dressed(who: int, draw: np.random.Generator) -> Person:
    person = dressed(identity(who), draw)
    kind: Accessory = "bag" if draw.random() < 0.5 else "scarf"
    held = (Worn(kind=kind, colour=str(draw.choice(tuple(COLOURS)))),) if draw.random() < 0.5 else ()
    return person.model_copy(update={"accessories": held})


def _told(actors: tuple[Actor, ...], place: Place, draw: np.random.Generator) -> Caption:
    """A caption that names people from left to right, as three of four do."""
    while True:
        told = caption([actor.person for actor in actors], (), place, draw)
        if told.order == tuple(range(len(actors))):
            return told


def _sample(made: Script, size: Size, split: str) -> Sample:
    """The pair with what is worn as its attributes; hair is seen with the face."""
    found = sample(VideoTruth.of(made), 0, frames=size.frames)
    assert found is not None, "all of a stage is in view"
    subjects = tuple(
        subject.model_copy(
            update={"attributes": tuple(a for a in subject.attributes if "hair" not in a.phrase.text), "body": None}
        )
        for subject in found.pair.subjects
    )
    pair = found.pair.model_copy(update={"split": split, "subjects": subjects, "relations": ()})
    return Sample(pair, _members(pair, found.members))


def _members(pair: Pair, members: Mapping[str, bytes]) -> dict[str, bytes]:
    named = {name for reference in pair.references for name in (reference.member, reference.mask_member)}
    kept = {name: data for name, data in members.items() if name in named}
    return {"mp4": members["mp4"], "json": pair.to_json().encode(), **kept}


def _asked(made: Script, size: Size) -> Asked | None:
    """None where people could be taken for each other."""
    _, first, frames = window(VideoTruth.of(made), 0, size.frames)
    middle, shot = first + frames // 2, made.shots[0]
    true = _scaled(drawing.frame(made, middle), size)
    expected = expected_colours(made, middle, shot.caption.order, true)
    if not are_distinct(expected):
        return None
    background = _scaled(empty(shot.place, shot.place_seed, made.width, made.height), size)
    exchanged = _scaled(drawing.frame(_exchanged(made), middle), size)
    return Asked(_sample(made, size, "val"), expected, true, background, exchanged)


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
