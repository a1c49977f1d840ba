"""The binding ablation: the same small DiT trained with and without each of LumosX's relational parts.

As in the paper, a base without any of them is trained first (there: Wan2.1); every variant starts from it and takes equal
steps over equal data. What they generate for held-out pairs of two and three people is read by `ablation_reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.lumosx.settings import TrainSettings
from dataengine.records import Pair
from dataengine.shards.reader import Sample
from dataengine.world import drawing
from dataengine.world.ablation_reading import Colours, are_distinct, expected_colours
from dataengine.world.drawing import Image
from dataengine.world.make import VideoTruth
from dataengine.world.pairs import empty, sample, window
from dataengine.world.script import Script, script

TRAINING, HELD_OUT = 77, 78
"""Seeds of the worlds that are trained and measured on."""


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
    "small": Size(1500, 40, 48, 80, 1, 128, 2, 3, 8, 1500, 160, 5e-3, 3e-3, 8),
    "large": Size(20_000, 400, 96, 160, 5, 512, 8, 12, 64, 20_000, 4_000, 4e-4, 2e-4, 20),
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
        "text": {"max_tokens": 64},
        "data": {
            "height": size.height,
            "width": size.width,
            "frames": size.frames,
            "body_share": 0,
            "text_dropout": 0,
        },
        "stored": {"place": stored},
        "optimizer": {
            "lr": size.base_lr if first else size.lr,
            "warmup_steps": max(1, steps // (30 if first else 10)),
            "ema_decay": 0.98,
        },
        "validation": {"every_steps": steps, "samples": size.batch},
        "checkpoint": {"every_steps": max(1, min(steps, 500)), "keep": 1},
        "sampling": {"steps": size.sampling_steps, "shift": 5, "guidance": 1},
    }
    return TrainSettings.model_validate(chosen)


# --- Pairs ------------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A shot that a pair is made of."""

    script: Script
    number: int


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
    """Pairs of two and three people in full view without objects, one garment each."""
    made = 0
    for place in _places(TRAINING):
        found = _sample(place, size, "train")
        if found is not None:
            yield found
            made += 1
        if made == size.pairs:
            return


def held_out(size: Size) -> list[Asked]:
    """Pairs whose people cannot be taken for each other by colour: half of them of two people, half of three.

    People wear no hats, which would hide the hair.
    """
    left = {2: size.held_out - size.held_out // 2, 3: size.held_out // 2}
    found: list[Asked] = []
    for place in _places(HELD_OUT):
        actors = place.script.shots[place.number].actors
        hats = any(item.kind == "hat" for actor in actors for item in actor.person.accessories)
        if hats or not left[len(actors)]:
            continue
        asked = _asked(place, size)
        if asked is not None:
            left[len(actors)] -= 1
            found.append(asked)
        if not any(left.values()):
            return found
    raise AssertionError("the world has no end")


def _places(seed: int) -> Iterator[Place]:
    """Shots of two or three people who do not overlap, without objects."""
    for video in count():
        made = script(seed, video)
        for number, shot in enumerate(made.shots):
            if len(shot.actors) > 1 and not shot.objects and "overlap" not in shot.hard:
                yield Place(made, number)


def _sample(place: Place, size: Size, split: str) -> Sample | None:
    """The pair with garments as its only attributes; None where one has no visible pixel."""
    truth = VideoTruth.of(place.script)
    found = sample(truth, place.number, frames=size.frames)
    if found is None:
        return None
    tops = {
        f"s{index}": place.script.shots[place.number].actors[position].person.top.phrase
        for index, position in enumerate(truth.shots[place.number].caption.order)
    }
    subjects = tuple(
        subject.model_copy(
            update={
                "attributes": tuple(a for a in subject.attributes if a.phrase.text == tops[f"s{subject.index}"]),
                "body": None,
            }
        )
        for subject in found.pair.subjects
    )
    if len(subjects) < len(tops) or not all(subject.attributes for subject in subjects):
        return None
    pair = found.pair.model_copy(update={"split": split, "subjects": subjects, "relations": ()})
    return Sample(pair, _members(pair, found.members))


def _members(pair: Pair, members: Mapping[str, bytes]) -> dict[str, bytes]:
    named = {name for reference in pair.references for name in (reference.member, reference.mask_member)}
    kept = {name: data for name, data in members.items() if name in named}
    return {"mp4": members["mp4"], "json": pair.to_json().encode(), **kept}


def _asked(place: Place, size: Size) -> Asked | None:
    truth = VideoTruth.of(place.script)
    _, first, frames = window(truth, place.number, size.frames)
    middle = first + frames // 2
    shot = place.script.shots[place.number]
    true = _scaled(drawing.frame(place.script, middle), size)
    expected = expected_colours(place.script, middle, shot.caption.order, true)
    if not are_distinct(expected):
        return None
    found = _sample(place, size, "val")
    if found is None:
        return None
    background = _scaled(empty(shot, truth.width, truth.height), size)
    return Asked(found, expected, true, background, _scaled(drawing.frame(_exchanged(place), middle), size))


def _exchanged(place: Place) -> Script:
    """The script with everybody in the next one's garment in one shot."""
    shot = place.script.shots[place.number]
    tops = [actor.person.top for actor in shot.actors]
    actors = tuple(
        actor.model_copy(update={"person": actor.person.model_copy(update={"top": tops[(i + 1) % len(tops)]})})
        for i, actor in enumerate(shot.actors)
    )
    shots = list(place.script.shots)
    shots[place.number] = shot.model_copy(update={"actors": actors})
    return place.script.model_copy(update={"shots": tuple(shots)})


def _scaled(image: Image, size: Size) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA), np.uint8)
