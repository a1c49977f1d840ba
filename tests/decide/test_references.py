"""References: the sharpest still or a fair draw, and boxes of whole pixels."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataengine import masks
from dataengine.decide.references import Candidate, choose, of_mask, whole_pixels
from dataengine.records import Box, EntityMask


def candidates(*sharpness: float) -> list[Candidate]:
    return [Candidate(still, Box(0, 0, 8, 8), 0.1, 0.5, value) for still, value in enumerate(sharpness)]


def test_sharpest():
    assert choose(candidates(1, 3, 2), "sharpest", 0, "clip", "s0.face").still == 1
    assert choose(candidates(2, 2, 2), "sharpest", 0, "clip", "s0.face").still == 0, "the first among equals"
    surer = Candidate(2, Box(0, 0, 8, 8), 0.1, 0.9, 2)
    assert choose([*candidates(2, 2), surer], "sharpest", 0, "clip", "s0.face") == surer


def test_the_draw_is_fair_and_repeats():
    three = candidates(1, 2, 3)
    drawn = [choose(three, "random", 0, f"clip{i}", "s0.face").still for i in range(3000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    assert drawn == [choose(three, "random", 0, f"clip{i}", "s0.face").still for i in range(3000)]
    assert drawn != [choose(three, "random", 1, f"clip{i}", "s0.face").still for i in range(3000)]
    assert drawn != [choose(three, "random", 0, f"clip{i}", "s0.a0").still for i in range(3000)]


def test_a_mask_is_as_sure_as_its_weaker_half():
    pixels = np.zeros((20, 40), bool)
    pixels[5:10, 10:30] = True
    found = EntityMask(entity="o0", still=2, box=Box(10, 5, 30, 10), mask=masks.encode(pixels), score=0.9)
    assert of_mask(found, 0.4, 7.0) == Candidate(2, Box(10, 5, 30, 10), 100 / 800, 0.4, 7.0)
    assert of_mask(found, 1.0, 7.0).score == 0.9


@given(st.tuples(*[st.floats(-20, 120)] * 4))
def test_whole_pixels_cover_the_box_inside_the_frame(corners):
    box = Box(*corners)
    whole = whole_pixels(box, 100, 50)
    assert all(value == int(value) for value in whole)
    if whole.area:
        assert whole.intersection(Box(0, 0, 100, 50)) == whole
        inside = box.clipped(100, 50)
        if inside.area:
            assert whole.intersection(inside) == inside
