"""Reference images from outside: checked before a pixel is decoded, kept byte for byte where they can be."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dataengine.shards.assembly import png
from dataengine.shards.importers.contract import ImportRefused, safe_name

MAX_IMAGE_BYTES = 64_000_000
MAX_IMAGE_PIXELS = 64_000_000
SUFFIXES = (".png", ".jpg", ".jpeg")
_WHITE = 250
"""Pixels at least this bright in all channels count as the white that references stand on."""


@dataclass(frozen=True)
class Picture:
    """A reference image as PNG, at most as large as the frame."""

    png: bytes
    width: int
    height: int
    shown: int
    """Pixels that are not white."""
    scaled: bool


def take_picture(data: bytes, name: str, frame: tuple[int, int]) -> Picture:
    """A PNG or JPEG on white, upright, scaled down where it is larger than the frame (width, height).

    A plain RGB PNG that fits is kept byte for byte. Raises `ImportRefused` for giant and unreadable ones.
    """
    image, plain = _open(data, name)
    factor = min(1.0, frame[0] / image.width, frame[1] / image.height)
    if factor < 1:
        size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
        image, plain = image.resize(size, Image.Resampling.LANCZOS), False
    pixels = np.asarray(image)
    shown = int((pixels < _WHITE).any(axis=2).sum())
    return Picture(data if plain else png(pixels), image.width, image.height, shown, factor < 1)


def take_mask(data: bytes, name: str, frame: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask over the frame (width, height) as booleans (H, W). Raises `ImportRefused` for another size."""
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.size != frame:
                raise ImportRefused(
                    f"{safe_name(name)}: a mask of {image.width}x{image.height}, the video is {frame[0]}x{frame[1]}"
                )
            return np.asarray(image.convert("L")) >= 128
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImportRefused):
            raise
        raise ImportRefused(f"{safe_name(name)}: not a readable PNG ({error})") from error


def _open(data: bytes, name: str) -> tuple[Image.Image, bool]:
    """The image as RGB, and whether its file can stay as it is."""
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ImportRefused(f"{safe_name(name)}: {image.width}x{image.height} pixels are too many")
            if min(image.size) < 2:
                raise ImportRefused(f"{safe_name(name)}: {image.width}x{image.height} pixels show nothing")
            plain = image.format == "PNG" and image.mode == "RGB" and "transparency" not in image.info
            plain = plain and image.getexif().get(0x0112, 1) == 1 and getattr(image, "n_frames", 1) == 1
            upright = ImageOps.exif_transpose(image)
            if plain:
                return upright.convert("RGB"), True
            upright = upright.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImportRefused):
            raise
        raise ImportRefused(f"{safe_name(name)}: not a readable image ({error})") from error
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright).convert("RGB"), False
