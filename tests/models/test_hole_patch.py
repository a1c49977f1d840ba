"""The window around a hole: where it lies, at which scale, and back into the picture."""

import numpy as np
import pytest

from dataengine.models.hole_patch import LEAST, Canvas, Patch

ANY = Canvas(multiple=16, longest=1024)


def scene(height: int, width: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and a hole in it (x0, y0, x1, y1)."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, 0 * x + 90], axis=-1).astype(np.uint8)
    x0, y0, x1, y1 = box
    return image, (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


@pytest.mark.parametrize(
    ("size", "box", "window"),
    [
        ((1080, 1920), (900, 400, 1200, 1000), (750, 0, 1350, 1080)),  # half as much again on each side, cut off
        ((1080, 1920), (0, 0, 10, 10), (0, 0, LEAST, LEAST)),
        ((1080, 1920), (1910, 1070, 1920, 1080), (1920 - LEAST, 1080 - LEAST, 1920, 1080)),
        ((300, 400), (100, 100, 200, 200), (0, 0, 400, 300)),
    ],
)
def test_the_window_shows_the_hole_and_what_is_around_it(size, box, window) -> None:
    assert Patch.of(*scene(*size, box), ANY).window == window


def test_a_picture_that_fits_is_not_resampled() -> None:
    image, hole = scene(301, 403, (150, 100, 250, 200))
    patch = Patch.of(image, hole, ANY)
    assert patch.image.shape == (304, 416, 3)
    assert (patch.image[:301, :403][~hole] == image[~hole]).all()
    assert (patch.hole[:301, :403] == hole).all()
    assert (patch.image[:301, 403:416] == patch.image[:301, 390:403][:, ::-1]).all(), "beyond the edge it is mirrored"
    assert (patch.image[patch.hole] == 0).all()


@pytest.mark.parametrize("canvas", [Canvas(16, 250), Canvas(8, 8000, fixed=(256, 256))])
def test_larger_windows_are_scaled_down_and_keep_their_shape(canvas: Canvas) -> None:
    image, hole = scene(256, 512, (200, 60, 320, 200))
    patch = Patch.of(image, hole, canvas)
    width, height = patch.content
    assert width <= 256 and height <= 256
    assert width / height == pytest.approx(2, rel=0.02)
    assert patch.image.shape[1] % canvas.multiple == 0
    assert (patch.image[patch.hole] == 0).all()
    share = patch.hole[:height, :width].mean()
    assert hole.mean() <= share < 1.1 * hole.mean(), "every pixel that the hole touches belongs to it"


@pytest.mark.parametrize("canvas", [ANY, Canvas(16, 250), Canvas(8, 8000, fixed=(256, 256))])
def test_what_comes_back_lies_where_it_was_cut_out(canvas: Canvas) -> None:
    image, hole = scene(256, 512, (211, 65, 318, 197))
    patch = Patch.of(image, hole, canvas)
    width, height = patch.content
    truth, _ = scene(height, width, (0, 0, 0, 0))  # the same smooth picture at the patch's size
    answer = np.zeros_like(patch.image)
    answer[:height, :width] = truth
    x0, y0, x1, y1 = patch.window
    assert (x0, y0, x1, y1) == (0, 0, 512, 256)
    back = patch.into(image, hole, answer)
    assert (back[~hole] == image[~hole]).all()
    assert np.abs(back.astype(int) - image)[hole].max() <= 3
