"""The two public-domain portraits that ship in the scikit-image and matplotlib wheels."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import skimage.data
from PIL import Image

from dataengine.models.centerface import CenterFace
from dataengine.models.face_regions import BODY
from dataengine.records import Box, Sighting


@pytest.fixture(scope="session")
def collins() -> np.ndarray:
    """Eileen Collins, 512 x 512: brown hair, orange suit, flag and shuttle behind her."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def hopper() -> np.ndarray:
    """Grace Hopper, 512 wide, 600 high: dark uniform, hat over grey hair."""
    file = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.fixture(scope="session")
def centerface() -> CenterFace:
    model = CenterFace(floor=0.3)
    model.load()
    return model


@pytest.fixture(scope="session")
def sighting_of(centerface):
    """`sighting_of(image)`: the best face of an image as a `Sighting` in still 0."""

    def make(image: np.ndarray, others: tuple[Box, ...] = ()) -> Sighting:
        face = centerface.detect([image])[0][0]
        height, width = image.shape[:2]
        return Sighting(
            still=0,
            face=face.box,
            face_score=face.score,
            landmarks=face.landmarks,
            body=BODY.box(face.box, others, width, height),
            body_score=None,
            sharpness=100.0,
        )

    return make


@pytest.fixture(scope="session")
def patterns() -> dict[str, np.ndarray]:
    """Blurred random colours in a wide, an odd-sized and an upright image, none of a network's own size."""
    random = np.random.default_rng(0)
    sizes = {"wide": (90, 160), "odd": (333, 517), "upright": (203, 97)}
    return {
        name: cv2.resize(random.integers(0, 256, (7, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        for name, (height, width) in sizes.items()
    }
