"""Looks: the same cloth is near itself under other light and crop, another is not; only the mask counts."""

import numpy as np
import pytest

from dataengine.config import LookNetworkSettings
from dataengine.models.looks import ClipLook, LabHistogram
from tiny.clip import WIDTH, save_encoder


def cloth(rgb: tuple[int, int, int], light: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shade = rng.normal(1.0, 0.08, (40, 30, 1)) * light
    return np.clip(np.array(rgb) * shade, 0, 255).astype(np.uint8)


WHOLE = np.ones((40, 30), bool)
ORANGE, BLUE, GREY, BLACK = (220, 130, 40), (40, 70, 180), (128, 128, 128), (25, 25, 25)


def look(image: np.ndarray, mask: np.ndarray = WHOLE) -> np.ndarray:
    (vector,) = LabHistogram().encode([(image, mask)])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    return vector


def test_colours_under_other_light_and_other_colours() -> None:
    orange = look(cloth(ORANGE))
    assert orange @ look(cloth(ORANGE, 0.9, seed=1)) > 0.93
    for other in (BLUE, GREY, BLACK):
        assert orange @ look(cloth(other)) < 0.7
    assert look(cloth(GREY)) @ look(cloth(BLACK)) < 0.8
    assert orange @ look(cloth(ORANGE)[:20, :15], WHOLE[:20, :15]) > 0.97, "size does not matter"


def test_only_what_is_in_the_mask_counts() -> None:
    mask = np.zeros((40, 30), bool)
    mask[10:30, 5:25] = True
    image = cloth(ORANGE)
    other = np.where(mask[:, :, None], image, np.uint8(0))
    assert np.array_equal(look(image, mask), look(other, mask))
    with pytest.raises(ValueError, match="without pixels"):
        LabHistogram().encode([(image, np.zeros_like(mask))])


def test_clip_sees_the_crop_on_white(tmp_path) -> None:
    model = ClipLook(LookNetworkSettings(weights=str(save_encoder(tmp_path)), device="cpu"))
    with pytest.raises(RuntimeError, match="load"):
        model.encode([])
    model.load()
    mask = np.zeros((40, 30), bool)
    mask[:, :15] = True
    image = cloth(ORANGE)
    beside = image.copy()
    beside[:, 15:] = BLUE
    one, two, other = model.encode([(image, mask), (beside, mask), (cloth(BLUE, seed=3), WHOLE)])
    assert one.shape == (WIDTH,) and np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert np.allclose(one, two) and not np.allclose(one, other)
    assert model.encode([]) == [] and "clip-look" in model.name
