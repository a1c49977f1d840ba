"""Examples are repeatable, of frames that belong to one shot, and their labels are those of the truth."""

from __future__ import annotations

import numpy as np

from dataengine import masks
from dataengine.world import drawing
from dataengine.world.figure import person_labels
from dataengine.world.training.examples import HELD_OUT, TRAINING, example


def test_an_example_is_the_same_every_time_and_another_for_another_seed() -> None:
    one, again, other = example(TRAINING, 5), example(TRAINING, 5), example(HELD_OUT, 5)
    assert np.array_equal(one.image, again.image)
    assert one.number == again.number
    assert one.script != other.script


def test_examples_are_never_dissolves_and_look_like_their_frames() -> None:
    for index in range(60):
        seen = example(TRAINING, index)
        shot, at = drawing.place(seen.script, seen.number)
        assert at >= seen.script.shots[shot].dissolve
        if index < 10:
            drawn = drawing.frame(seen.script, seen.number).astype(int)
            assert 0 < np.abs(drawn - seen.image).mean() < 8


def test_labels_are_what_the_masks_are_made_of() -> None:
    seen = example(TRAINING, 3)
    caption = seen.shot.caption
    for index, position in enumerate(caption.order):
        body = next(mask for mask in seen.truth.masks if mask.entity == f"s{index}.body")
        pixels = np.isin(seen.labels, list(person_labels(position)))
        assert np.array_equal(masks.decode(body.mask), pixels)
