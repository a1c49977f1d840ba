"""Reference images: changed at random without changing what they show, then letterboxed to the video's size.

Order and ranges are LumosX's: crop 0.67 to 1, downscale, rotation ±20°, flip, colour jitter, blur, white letterbox.
Images are rgb uint8 [H, W, 3].
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.lumosx.settings import AugmentSettings

Image = NDArray[np.uint8]
_WHITE = (255, 255, 255)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def augment(image: Image, settings: AugmentSettings, rng: np.random.Generator, *, background: bool) -> Image:
    """One random variant, of any size. A background is neither flipped nor scaled down: its layout is what it shows."""
    image = _crop(image, rng.uniform(settings.crop_min_area, 1), rng)
    if not background:
        image = _downscale(image, settings.downscale_min_px, rng)
    if rng.random() < settings.rotate_share:
        image = _rotate(image, rng.uniform(-settings.rotate_deg, settings.rotate_deg))
    if not background and rng.random() < settings.flip_share:
        image = np.ascontiguousarray(image[:, ::-1])
    image = _jitter(image, rng.uniform(1 - settings.jitter, 1 + settings.jitter, size=3))
    if rng.random() < settings.blur_share:
        sigma = rng.uniform(0, settings.blur_max) * max(image.shape[:2])
        image = _uint8(cv2.GaussianBlur(image, (0, 0), sigma)) if sigma > 0.1 else image
    return image


def letterbox(image: Image, height: int, width: int) -> Image:
    """The whole image, as large as fits, centred on white; [height, width, 3]."""
    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    canvas[top : top + h, left : left + w] = _resize(image, h, w)
    return canvas


def cover(image: Image, height: int, width: int) -> Image:
    """Scaled to fill [height, width, 3], what is too much cut off evenly on both sides."""
    scale = max(height / image.shape[0], width / image.shape[1])
    h, w = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
    top, left = (h - height) // 2, (w - width) // 2
    return np.ascontiguousarray(_resize(image, h, w)[top : top + height, left : left + width])


def _resize(image: Image, height: int, width: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0]
    return _uint8(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def _crop(image: Image, area: float, rng: np.random.Generator) -> Image:
    side = area**0.5
    height, width = max(1, round(image.shape[0] * side)), max(1, round(image.shape[1] * side))
    top = int(rng.integers(0, image.shape[0] - height + 1))
    left = int(rng.integers(0, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def _downscale(image: Image, min_px: int, rng: np.random.Generator) -> Image:
    long_side = max(image.shape[:2])
    share = rng.uniform(min(1.0, min_px / long_side), 1)
    return _resize(image, max(1, round(image.shape[0] * share)), max(1, round(image.shape[1] * share)))


def _rotate(image: Image, degrees: float) -> Image:
    """About the centre, on a white canvas that holds all of it."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width, new_height = round(width * cosine + height * sine), round(height * cosine + width * sine)
    matrix[:, 2] += ((new_width - width) / 2, (new_height - height) / 2)
    return _uint8(cv2.warpAffine(image, matrix, (new_width, new_height), flags=cv2.INTER_LINEAR, borderValue=_WHITE))


def _jitter(image: Image, factors: NDArray[np.float64]) -> Image:
    """Brightness, contrast and saturation. White stays white: it is the canvas, not the thing shown."""
    brightness, contrast, saturation = (float(factor) for factor in factors)
    pixels = image.astype(np.float32) * brightness
    luma = pixels @ _LUMA
    pixels = luma.mean() + contrast * (pixels - luma.mean())
    grey = (pixels @ _LUMA)[..., None]
    pixels = grey + saturation * (pixels - grey)
    pixels[(image == 255).all(axis=-1)] = 255
    return _uint8(np.clip(np.rint(pixels), 0, 255))


def _uint8(image: NDArray) -> Image:
    return image.astype(np.uint8, copy=False)
