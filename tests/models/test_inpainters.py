"""What every inpainter keeps to, with the real code of each on a tiny network."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine.config import FluxFillSettings, LamaSettings
from dataengine.models.cv2_inpaint import Cv2Inpainter
from dataengine.models.flux_fill import FluxFill
from dataengine.models.interfaces import Inpainter
from dataengine.models.lama import Lama
from tiny import flux, lama

SIZES = [(67, 93), (12, 40), (64, 64), (130, 75)]
"""Heights and widths: odd, thin, of the network's own size, larger than it takes."""


@pytest.fixture(scope="module", params=["cv2", "flux_fill", "lama of one size", "lama of any size"])
def inpainter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Inpainter:
    folder = tmp_path_factory.mktemp("weights")
    made: Inpainter
    match request.param:
        case "flux_fill":
            weights = str(flux.build(folder / "flux"))
            made = FluxFill(FluxFillSettings(weights=weights, device="cpu", steps=2, max_side=96))
        case "lama of one size":
            made = Lama(LamaSettings(weights=str(lama.build(folder / "lama.onnx")), device="cpu"))
        case "lama of any size":
            made = Lama(LamaSettings(weights=str(lama.build(folder / "lama.onnx", side=None)), device="cpu"))
        case _:
            made = Cv2Inpainter()
    made.load()
    return made


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def hole_of(kind: str, height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width]
    holes = {
        "inside": (abs(y - height // 2) <= height // 5) & (abs(x - width // 2) <= width // 5),
        "edge": x < width // 3,
        "corner": (x > width * 2 // 3) & (y >= height * 2 // 3),
        "speck": (x == width // 2) & (y == height // 2),
        "whole": np.ones((height, width), bool),
    }
    return holes[kind]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["inside", "edge", "corner", "speck", "whole"])
def test_the_hole_alone_is_painted_and_nothing_of_it_is_looked_at(
    inpainter: Inpainter, kind: str, size: tuple[int, int]
) -> None:
    image, hole = picture(*size), hole_of(kind, *size)
    given = image.copy()
    out = inpainter.inpaint(image, hole)
    assert (image == given).all(), "the picture given is not written to"
    assert out.dtype == np.uint8
    assert out.shape == image.shape
    assert (out[~hole] == image[~hole]).all()
    other = np.where(hole[..., None], 255 - image, image)
    assert (inpainter.inpaint(other, hole) == out).all(), "what is to be removed changes nothing"


def test_without_a_hole_the_picture_stays(inpainter: Inpainter) -> None:
    image = picture(50, 70)
    assert (inpainter.inpaint(image, np.zeros((50, 70), bool)) == image).all()


def test_the_surroundings_decide_what_is_painted(inpainter: Inpainter) -> None:
    hole = hole_of("inside", 60, 60)
    dark, bright = (inpainter.inpaint(np.full((60, 60, 3), grey, np.uint8), hole)[hole] for grey in (20, 230))
    assert np.abs(dark.astype(int) - bright).mean() > 1
