"""The benchmark's layout: read as the released scripts read it, and everything else refused with a reason."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine.records import Pair
from dataengine.shards.importers.contract import Imported, ImportRefused, Item, Refusal, SourceError
from dataengine.shards.importers.lumosx import LumosX
from dataengine.shards.importers.tree import Tree
from dataengine.video import encode_clip

CAPTION = "A man in a black coat and a man in a red hat sit at a table in a dark bar."


def picture(colour: str, width: int = 20, height: int = 30) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def clip(shade: int = 0) -> bytes:
    return encode_clip([np.full((64, 96, 3), 8 * k + shade, np.uint8) for k in range(8)], 8, preset="ultrafast")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A complete sample in a source of its own."""
    folder = tmp_path / "source/0001"
    for name, data in {
        "caption.txt": CAPTION.encode(),
        "clip.mp4": clip(),
        "subjects/0/face_man.png": picture("pink"),
        "subjects/0/black coat.png": picture("black"),
        "subjects/0/fullfullbody_man.png": picture("grey"),
        "subjects/1/face_man.png": picture("orange"),
        "subjects/1/red hat.png": picture("red"),
        "objects/table.png": picture("brown"),
        "background/dark bar.png": picture("navy", 96, 64),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(sample: Path) -> Imported:
    importer = LumosX(Tree.at(sample.parent))
    (item,) = importer.items()
    assert isinstance(item, Item)
    return importer.read(item)


def test_who_has_what_and_which_words_are_whose(sample: Path) -> None:
    imported = read(sample)
    pair = imported.pair
    assert [
        (s.index, s.noun.text, s.noun.span.start, [a.phrase.text for a in s.attributes]) for s in pair.subjects
    ] == [
        (0, "man", 2, ["black coat"]),
        (1, "man", CAPTION.index("man in a red"), ["red hat"]),
    ]
    assert [o.phrase.text for o in pair.objects] == ["table"]
    assert pair.subjects[0].body is not None and pair.subjects[1].body is None
    face, background = pair.subjects[1].face, pair.background
    assert background is not None and background.placed and tuple(background.box) == (0, 0, 96, 64)
    assert not face.placed and tuple(face.box) == (0, 0, 20, 30)
    assert (pair.width, pair.height, pair.fps, pair.frames) == (96, 64, 8, 8)
    stage = pair.provenance.stages[0]
    assert (stage.model, stage.revision, stage.parameters["file"]) == ("imported", "lumosx", "0001")
    members = dict(imported.members())  # checks them as `validate` does
    assert members["s1.face.png"] == picture("orange")
    assert Pair.from_json(members["json"]) == pair


def test_a_source_that_is_one_sample_and_one_that_is_none(sample: Path, tmp_path: Path) -> None:
    (item,) = LumosX(Tree.at(sample)).items()
    assert isinstance(item, Item) and item.name == "0001" and item.place == ""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is it the LumosX layout"):
        list(LumosX(Tree.at(tmp_path / "empty")).items())


def test_the_benchmark_itself_has_no_clips(sample: Path) -> None:
    (sample / "clip.mp4").unlink()
    with pytest.raises(ImportRefused, match="`dataengine sample --folder`"):
        read(sample)


def test_keys_of_ours_are_kept_and_others_depend_on_name_and_clip(sample: Path) -> None:
    ours = sample.rename(sample.parent / ("person2_" + "0a" * 12))
    assert read(ours).pair.key == "0a" * 12
    other = ours.rename(ours.parent / "0001")
    first = read(other).pair.key
    (other / "clip.mp4").write_bytes(clip(40))
    assert read(other).pair.key != first


def test_what_is_not_in_the_caption_is_left_out_with_the_reason(sample: Path) -> None:
    (sample / "subjects/0/blue scarf.png").write_bytes(picture("blue"))
    (sample / "objects/lamp.png").write_bytes(picture("yellow"))
    (sample / "subjects/1/in.png").write_bytes(picture("green"))
    for word in ("sit", "at", "dark"):
        (sample / f"subjects/0/{word}.png").write_bytes(picture("green"))
    imported = read(sample)
    rules = {one.phrase: one.rule for one in imported.dropped}
    assert rules == {
        "blue scarf": "span_absent",
        "lamp": "span_absent",
        "in": "span_ambiguous",
        "dark": "span_overlapping",
    }
    assert len(imported.pair.subjects[0].attributes) == 3


def test_a_noun_that_stands_twice_and_is_one_persons_is_not_guessed(sample: Path) -> None:
    (sample / "subjects/1/face_man.png").rename(sample / "subjects/1/face_woman.png")
    with pytest.raises(ImportRefused, match="'man' stands 2 times"):
        read(sample)


def test_nobody_left_is_no_sample(sample: Path) -> None:
    for number in (0, 1):
        (sample / f"subjects/{number}/face_man.png").unlink()
    with pytest.raises(ImportRefused, match="no subject is left"):
        read(sample)


def test_large_images_and_strange_files_are_counted(sample: Path) -> None:
    (sample / "image.png").write_bytes(picture("red"))
    (sample / "objects/table.png").write_bytes(picture("brown", 960, 100))
    imported = read(sample)
    assert {what for what, _ in imported.losses.found} == {"file image.png", "an image's size"}
    assert imported.pair.objects[0].box.width == 96
    imported.members()


def damage(sample: Path, how: str) -> None:
    face = sample / "subjects/0/face_man.png"
    match how:
        case "no caption":
            (sample / "caption.txt").unlink()
        case "caption is a folder":
            (sample / "caption.txt").unlink()
            (sample / "caption.txt").mkdir()
        case "caption in latin-1":
            (sample / "caption.txt").write_bytes(b"caf\xe9 man")
        case "empty caption":
            (sample / "caption.txt").write_text(" \n")
        case "long caption":
            (sample / "caption.txt").write_text("word " * 10_000)
        case "caption is a pipe":
            (sample / "caption.txt").unlink()
            os.mkfifo(sample / "caption.txt")
        case "link out":
            face.unlink()
            face.symlink_to("/etc/passwd")
        case "folder link out":
            (sample / "subjects/1").rename(sample.parent.parent / "elsewhere")
            (sample / "subjects/1").symlink_to(sample.parent.parent / "elsewhere")
        case "two faces":
            (sample / "subjects/0/face_boy.png").write_bytes(picture("pink"))
        case "two backgrounds":
            (sample / "background/table.png").write_bytes(picture("pink"))
        case "number twice":
            (sample / "subjects/00").mkdir()
        case "no number":
            (sample / "subjects/first").mkdir()
        case "same phrase twice":
            (sample / "objects/table.jpg").write_bytes(picture("pink"))
        case "text as image":
            face.write_text("no image")
        case "odd file":
            (sample / "objects/notes.txt").write_text("")
        case "odd name":
            (sample / "objects/ta\nble.png").write_bytes(picture("red"))
        case "name of other bytes":
            (sample / "objects" / os.fsdecode(b"caf\xe9.png")).write_bytes(picture("red"))
        case "many files":
            for number in range(200):
                (sample / f"objects/{number}.png").touch()
        case "truncated clip":
            (sample / "clip.mp4").write_bytes(clip()[:400])
        case "text as clip":
            (sample / "clip.mp4").write_text("no video")


@pytest.mark.parametrize(
    "how",
    [
        "no caption",
        "caption is a folder",
        "caption in latin-1",
        "empty caption",
        "long caption",
        "caption is a pipe",
        "link out",
        "folder link out",
        "two faces",
        "two backgrounds",
        "number twice",
        "no number",
        "same phrase twice",
        "text as image",
        "odd file",
        "odd name",
        "name of other bytes",
        "many files",
        "truncated clip",
        "text as clip",
    ],
)
def test_bad_samples_are_refused(how: str, sample: Path) -> None:
    damage(sample, how)
    with pytest.raises(ImportRefused) as caught:
        read(sample)
    assert str(caught.value).isprintable()


def test_links_beside_samples_are_told(sample: Path) -> None:
    (sample.parent / "link").symlink_to("/etc")
    found = list(LumosX(Tree.at(sample.parent)).items())
    assert [type(one) for one in found] == [Item, Refusal]
