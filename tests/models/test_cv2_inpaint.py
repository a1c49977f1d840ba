"""What is filled comes from outside the hole, and nothing outside changes."""

import numpy as np

from dataengine.models.cv2_inpaint import Cv2Inpainter

INPAINTER = Cv2Inpainter()
Y, X = np.mgrid[:240, :320]
DISC = (X - 160) ** 2 + (Y - 120) ** 2 < 60**2


def test_outside_the_hole_every_pixel_stays() -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    filled = INPAINTER.inpaint(image, DISC)
    assert np.array_equal(filled[~DISC], image[~DISC])
    assert np.array_equal(INPAINTER.inpaint(image, np.zeros_like(DISC)), image)


def test_nothing_of_what_was_removed_is_left() -> None:
    """A pure green figure on grey: no trace of green, not even at the rim."""
    image = np.where(DISC[..., None], (0, 255, 0), (120, 120, 120)).astype(np.uint8)
    assert np.abs(INPAINTER.inpaint(image, DISC).astype(int) - 120).max() <= 6


def test_continues_a_gradient_across_a_large_hole() -> None:
    ramp = (X * 200 / 320 + 20)[..., None].repeat(3, axis=2).astype(np.uint8)
    holed = np.where(DISC[..., None], 0, ramp).astype(np.uint8)
    error = np.abs(INPAINTER.inpaint(holed, DISC).astype(int) - ramp)[DISC]
    assert error.mean() < 12
    assert error.max() < 45


def test_hole_at_the_edge_and_hole_without_rim() -> None:
    image = np.full((90, 160, 3), 200, np.uint8)
    half = np.zeros((90, 160), bool)
    half[:, 80:] = True
    image[half] = 0
    assert np.abs(INPAINTER.inpaint(image, half).astype(int) - 200).max() <= 6
    assert np.all(INPAINTER.inpaint(image, np.ones((90, 160), bool)) == 128)


def test_same_bytes_again() -> None:
    image = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert np.array_equal(INPAINTER.inpaint(image, DISC), INPAINTER.inpaint(image, DISC))
