"""References: the sharpest still or a fair draw, and boxes of whole pixels."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataengine import masks
from dataengine.decide import facts
from dataengine.decide.facts import Face
from dataengine.decide.references import Candidate, How, choose, of_mask, whole_pixels
from dataengine.records import Box, EntityMask, People


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
    nobody = People(people=())
    wearer = Face(2, Box(0, 0, 9, 9), 0.9, 7.0, 0.6, 1.0)
    shown = of_mask(facts.of_mask(found, 0.4, nobody), wearer)
    assert shown == Candidate(2, Box(10, 5, 30, 10), 100 / 800, 0.4, 7.0, 0.6)
    assert of_mask(facts.of_mask(found, 1.0, nobody), None) == Candidate(2, Box(10, 5, 30, 10), 100 / 800, 0.9, 0.0)


def test_what_a_reference_should_show():
    def still(how: How, *seen: Candidate) -> int:
        return choose(seen, how, 0, "clip", "s0.face").still

    box = Box(0, 0, 8, 8)
    sharp = Candidate(0, box, 0.1, 0.9, 100.0, 0.2, 0.9)
    frontal = Candidate(1, box, 0.1, 0.9, 40.0, 1.0, 0.6)
    clear = Candidate(2, box, 0.1, 0.9, 60.0, 0.7, 1.0)
    for how, expected in (("sharpest", 0), ("frontal", 1), ("unoccluded", 2), ("best", 2)):
        assert still(how, sharp, frontal, clear) == expected, how
    unknown = Candidate(0, box, 0.1, 0.9, 50.0)
    assert still("frontal", unknown, frontal) == 0, "where nothing was measured, sharpness decides"
    half, whole = Candidate(0, box, 0.05, 0.9, 80.0), Candidate(1, box, 0.1, 0.9, 50.0)
    assert still("unoccluded", half, whole) == 1, "of a garment, the still that shows most of it"
    assert still("best", half, whole) == 1


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
