"""Reference images: kept where they can be, on white, upright, and never larger than the frame."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dataengine.shards.importers import images
from dataengine.shards.importers.contract import ImportRefused
from dataengine.shards.importers.images import take_mask, take_picture

FRAME = (64, 48)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_plain_png_keeps_its_bytes() -> None:
    data = encoded(Image.new("RGB", (10, 20), "red"))
    taken = take_picture(data, "x.png", FRAME)
    assert (taken.png, taken.width, taken.height, taken.shown, taken.scaled) == (data, 10, 20, 200, False)


def test_transparent_pixels_become_white_and_count_as_nothing() -> None:
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 5, 10))
    taken = take_picture(encoded(image), "x.png", FRAME)
    assert taken.shown == 50
    with Image.open(BytesIO(taken.png)) as back:
        assert back.mode == "RGB" and back.getpixel((9, 9)) == (255, 255, 255) and back.getpixel((0, 0)) == (0, 0, 255)


def test_larger_than_the_frame_is_scaled_and_photos_are_turned() -> None:
    taken = take_picture(encoded(Image.new("RGB", (640, 100), "red")), "x.png", FRAME)
    assert (taken.width, taken.height, taken.scaled) == (64, 10, True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = take_picture(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif), "x.jpg", FRAME)
    assert (turned.width, turned.height) == (10, 20)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImportRefused, match=r"x\.png: not a readable image"):
        take_picture(data, "x.png", FRAME)


def test_a_giant_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(ImportRefused, match="too many"):
        take_picture(encoded(Image.new("RGB", (10, 10))), "x.png", FRAME)
    with pytest.raises(ImportRefused):
        take_picture(encoded(Image.new("1", (9_000, 9_000))), "bomb.png", FRAME)


def test_masks_have_the_size_of_the_frame() -> None:
    pixels = np.zeros((48, 64), bool)
    pixels[3:9, 4:40] = True
    assert (take_mask(encoded(Image.fromarray(pixels)), "m.png", FRAME) == pixels).all()
    with pytest.raises(ImportRefused, match=r"10x10, the video is 64x48"):
        take_mask(encoded(Image.new("L", (10, 10))), "m.png", FRAME)
