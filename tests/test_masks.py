"""Masks: the runs say the same as the pixels."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from dataengine import masks
from dataengine.records import Box, Mask

pixels = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(pixels)
def test_decode_is_the_inverse_of_encode(array):
    mask = masks.encode(array)
    assert (masks.decode(mask) == array).all()
    assert (coco.decode({"size": list(array.shape), "counts": mask.counts.encode()}) == array).all()


@given(pixels, st.floats(-5, 20), st.floats(-5, 20), st.floats(-1, 20), st.floats(-1, 20))
@example(np.ones((4, 6), bool), 1.2, -3.0, 2.0, 5.4)
def test_runs_answer_like_pixels(array, x, y, width, height):
    mask = masks.encode(array)
    rows, columns = np.nonzero(array)
    assert masks.area(mask) == len(rows)
    if len(rows):
        assert masks.tight_box(mask) == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    else:
        assert masks.tight_box(mask).area == 0
    box = Box(x, y, x + width, y + height)
    whole = [round(v) for v in box]
    inside = (columns >= whole[0]) & (columns < whole[2]) & (rows >= whole[1]) & (rows < whole[3])
    assert masks.share_inside(mask, masks.tight_box(mask), box) == pytest.approx(inside.mean() if len(rows) else 0.0)


def test_a_large_mask_round_trips():
    y, x = np.mgrid[:480, :832]
    disc = (y - 240) ** 2 + (x - 400) ** 2 < 200**2
    assert (masks.decode(masks.encode(disc)) == disc).all()


@pytest.mark.parametrize("counts", ["", "zz", "0" * 500, "~~~~~", "PPPPPPPPPPPPPPPPPP", "\x01", "é", "ooo"])
def test_damaged_runs_are_refused(counts):
    with pytest.raises(ValueError, match="mask of 832x480"):
        masks.decode(Mask(height=480, width=832, counts=counts))


def test_a_run_cannot_be_negative():
    with pytest.raises(ValueError, match="cover 5 pixels, the shortest -5"):
        masks.decode(Mask(height=1, width=5, counts=":K"))  # 10 unset, -5 set


def test_islands_and_holes_smaller_than_a_share_go():
    array = np.zeros((60, 80), bool)
    array[10:50, 10:60] = True  # 2000 pixels
    array[20:24, 20:24] = False  # a hole of 16
    array[30:36, 30:40] = False  # a hole of 60
    array[5:7, 70:76] = True  # an island of 12
    array[54:58, 64:78] = True  # an island of 56
    whole = array.sum()
    assert masks.without_islands(array, 20 / whole).sum() == whole - 12
    assert masks.without_holes(array, 20 / whole).sum() == whole + 16
    assert masks.without_islands(array, 60 / whole).sum() == whole - 12 - 56
    assert masks.without_holes(array, 61 / whole).sum() == whole + 16 + 60
    assert (masks.without_islands(array, 0) == array).all() and (masks.without_holes(array, 0) == array).all()


def test_what_reaches_the_edge_is_no_hole_and_diagonals_belong_to_an_island():
    array = np.ones((20, 30), bool)
    array[0:3, 10:13] = False
    assert not masks.without_holes(array, 0.5)[0:3, 10:13].any()
    diagonal = np.eye(20, dtype=bool)
    assert (masks.without_islands(diagonal, 0.9) == diagonal).all(), "one piece"
    holes = ~np.pad(np.eye(18, dtype=bool), 1)
    assert masks.without_holes(holes, 2 / holes.sum()).all(), "eighteen holes of one pixel"


@given(pixels, st.floats(0, 0.99))
def test_cleaning_keeps_something_and_settles(array, share):
    once = masks.without_islands(array, share)
    assert once.any() == array.any() and not (once & ~array).any()
    filled = masks.without_holes(array, share)
    assert not (array & ~filled).any()
    assert masks.without_islands(np.zeros_like(array), share).sum() == 0
