"""Requests: what is bound to which words, in which order, and what a hostile folder gets."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine.lumosx.data import SampleError
from dataengine.lumosx.request import MAX_CAPTION_BYTES, MAX_REFERENCES, Request, Shown, SubjectRequest, read_request
from dataengine.lumosx.settings import DataSettings
from dataengine.lumosx.structure import Kind

CAPTION = "A man in a black shirt with a red tie greets a man in a grey coat in a lush garden, near a table and a dog."
SIZE = DataSettings(height=32, width=48, frames=5)


def picture(level: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.full((20, 10, 4 if mode == "RGBA" else 3), level, dtype=np.uint8), mode)


def write(folder: Path, files: dict[str, int], caption: str = CAPTION) -> Path:
    """A folder of grey images whose levels tell them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "caption.txt").write_text(caption + "\n", encoding="utf-8")
    for name, level in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(level).save(folder / name)
    return folder


FILES = {
    "subjects/1/face_man.png": 20, "subjects/1/grey coat.png": 21,
    "subjects/0/red tie.png": 12, "subjects/0/black shirt.png": 11, "subjects/0/face_man.png": 10,
    "subjects/0/fullfullbody_man.png": 99,
    "objects/dog.jpg": 31, "objects/table.png": 30,
    "background/lush garden.png": 40,
}  # fmt: skip


def test_order_and_words(tmp_path: Path) -> None:
    """Background, objects, groups; faces first; as the caption is read. The two men are the caption's two men."""
    request = read_request(write(tmp_path / "sample", FILES))
    assert (request.name, request.caption) == ("sample", CAPTION)
    example = request.to_example(SIZE)
    levels = [int(image.float().min()) for image in example.references]
    assert levels == [40, 30, 31, 10, 11, 12, 20, 21]
    assert [b.kind for b in example.bindings[:4]] == [Kind.BACKGROUND, Kind.OBJECT, Kind.OBJECT, Kind.FACE]
    assert [b.group for b in example.bindings] == [None, None, None, 0, 0, 0, 1, 1]
    assert [b.span.of(CAPTION) for b in example.bindings] == [
        "lush garden", "table", "dog", "man", "black shirt", "red tie", "man", "grey coat",
    ]  # fmt: skip
    assert [b.span.start for b in example.bindings if b.kind is Kind.FACE] == [2, CAPTION.rindex("man")]
    assert example.groups == 2
    assert example.references.shape == (8, 32, 48, 3)
    assert example.video.shape == (5, 32, 48, 3)


def test_the_face_leads_its_group_wherever_its_word_stands() -> None:
    """ "Her red hat suits the woman": the attribute is read first, and still comes after the face."""
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    subject = SubjectRequest(Shown("woman", image), (Shown("red hat", image),))
    example = Request("x", "her red hat suits the woman", (subject,)).to_example(SIZE)
    assert [b.kind for b in example.bindings] == [Kind.FACE, Kind.ATTRIBUTE]


def test_a_caption_alone(tmp_path: Path) -> None:
    example = read_request(write(tmp_path / "a", {})).to_example(SIZE)
    assert example.references.shape == (0, 32, 48, 3)
    assert (example.bindings, example.groups) == ((), 0)


def test_requests_need_no_folder() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    request = Request("x", "a woman in a hat", (SubjectRequest(None, (Shown("hat", image),)), SubjectRequest(None)))
    example = request.to_example(SIZE)
    assert example.groups == 2, "a subject without images still counts, as it does in MCAM"
    assert [b.kind for b in example.bindings] == [Kind.ATTRIBUTE]


def test_names_may_have_dots_and_any_script(tmp_path: Path) -> None:
    caption = "no. 5 bottle beside a 黑色外套, café-brown"
    files = {
        "objects/no. 5 bottle.png": 1,
        "objects/黑色外套.png": 2,
        "objects/café-brown.PNG": 3,
        "objects/.DS_Store.png": 4,
    }
    example = read_request(write(tmp_path / "a", files, caption)).to_example(SIZE)
    assert [b.span.of(caption) for b in example.bindings] == ["no. 5 bottle", "黑色外套", "café-brown"]


def test_transparent_is_white_and_photographs_stand_upright(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"objects/dog.png": 0})
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:4, :, 3] = 255
    Image.fromarray(pixels, "RGBA").save(folder / "objects/dog.png")
    turned = Image.fromarray(np.zeros((10, 30, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(folder / "objects/table.jpg", exif=exif)
    dog, table = read_request(folder).objects
    assert dog.image[0, 0].tolist() == [0, 0, 0] and dog.image[-1, 0].tolist() == [255, 255, 255]
    assert table.image.shape == (30, 10, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"objects/cat.png": 1}, "'cat' stands no time in the caption"),
        ({"subjects/0/face_man.png": 1}, "'man' stands 2 times in the caption"),
        ({"objects/red tie.png": 1, "subjects/0/red tie.png": 2}, "'red tie' stands"),
        ({"objects/ .png": 1}, "' ' stands no time"),
    ],
)
def test_phrases_without_a_place_of_their_own(tmp_path: Path, files: dict[str, int], message: str) -> None:
    folder = write(tmp_path / "a", files)
    with pytest.raises(SampleError, match=message):
        read_request(folder).to_example(SIZE)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"object/dog.png": 1}, "unknown folder 'object'"),
        ({"subjects/one/face_man.png": 1}, "'one' is no numbered folder"),
        ({"subjects/face_man.png": 1}, "'face_man.png' is no numbered folder"),
        ({"subjects/0/face_man.png": 1, "subjects/0/face_woman.png": 1}, "2 faces, a subject has one"),
        ({"background/a.png": 1, "background/b.png": 1}, "2 images, one background"),
        ({"objects/deep/dog.png": 1}, "'deep' is no image file"),
        ({"objects/dog.gif": 1}, "'dog.gif' is no image file"),
        ({f"objects/{i}.png": 1 for i in range(4 * MAX_REFERENCES + 1)}, "129 entries are too many"),
        ({"objects/a\x1b[31m.png": 1}, r"characters that are no text"),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, files: dict[str, int], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        read_request(write(tmp_path / "a", files))


def test_too_many_references(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(MAX_REFERENCES + 1)]
    folder = write(tmp_path / "a", {f"objects/{word}.png": 1 for word in words}, " ".join(words))
    with pytest.raises(SampleError, match="33 references"):
        read_request(folder).to_example(SIZE)


def test_captions_are_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {})
    for data, message in (
        (b"", "empty"), (b"\xff\xfe", "not UTF-8"), (b"a" * (MAX_CAPTION_BYTES + 1), "more than 16384 bytes"),
    ):  # fmt: skip
        (folder / "caption.txt").write_bytes(data)
        with pytest.raises(SampleError, match=message):
            read_request(folder)
    (folder / "caption.txt").unlink()
    with pytest.raises(SampleError, match=r"no file caption\.txt"):
        read_request(folder)
    with pytest.raises(SampleError, match="No such file"):
        read_request(tmp_path / "none")


@pytest.mark.parametrize("place", ["caption.txt", "objects", "objects/dog.png", "subjects/0"])
@pytest.mark.parametrize("kind", ["link", "broken link", "pipe"])
def test_nothing_is_followed(tmp_path: Path, place: str, kind: str) -> None:
    """A link to a secret, a link to nowhere, and a pipe that nobody writes to (reading it would hang)."""
    outside = write(tmp_path / "outside", FILES)
    folder = write(tmp_path / "a", {"objects/dog.png": 1, "subjects/0/face_man.png": 1})
    target = folder / place
    if target.is_dir():
        target.rename(tmp_path / "moved")
    else:
        target.unlink()
    if kind == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to(outside / place if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(SampleError, match="is a link or no plain file"):
        read_request(folder)


def test_a_file_swapped_for_a_link_after_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "a", {"objects/dog.png": 1})
    outside = write(tmp_path / "outside", FILES)
    from dataengine.lumosx import request

    listed = request._entries

    def swap(place: Path) -> dict[str, bool]:
        entries = listed(place)
        if place.name == "objects":
            (place / "dog.png").unlink()
            (place / "dog.png").symlink_to(outside / "objects/dog.jpg")
        return entries

    monkeypatch.setattr(request, "_entries", swap)
    with pytest.raises(SampleError, match=r"dog\.png: Too many levels of symbolic links"):
        read_request(folder)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_of(60_000, 60_000), "too many for a reference|exceeds limit"),
        (png_of(9_000, 9_000), "9000×9000 pixels are too many"),
        (png_of(100, 100), "not a readable image"),
        (b"GIF89a" + bytes(40), "not a readable image"),
        (b"<svg/>", "not a readable image"),
        (b"", "not a readable image"),
    ],
    ids=["bomb", "huge", "hollow", "gif", "svg", "empty"],
)
def test_images_that_are_none(tmp_path: Path, data: bytes, message: str) -> None:
    folder = write(tmp_path / "a", {"objects/dog.png": 1})
    (folder / "objects/dog.png").write_bytes(data)
    with pytest.raises(SampleError, match=message):
        read_request(folder)
