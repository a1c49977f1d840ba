"""The released trainer's files, as its dataset class reads them."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine.shards.importers.contract import Imported, ImportRefused, Item, SourceError
from dataengine.shards.importers.lumosx_train import LumosXTrain
from dataengine.shards.importers.tree import Tree
from dataengine.video import encode_clip

CAPTION = "A man in a black coat sits at a table in a dark bar."
VIDEO = "/mnt/oss/panda/part3/4448a5_0:00:07.66.mp4"
NAME = "4448a5_0:00:07.66"


def frame(number: int) -> np.ndarray:
    """A man who moves right by two pixels a frame: pink face, black coat, grey table, on blue."""
    image = np.full((64, 96, 3), (20, 40, 120), np.uint8)
    x = 20 + 2 * number
    image[30:60, x - 10 : x + 12] = (10, 10, 10)
    image[8:28, x - 6 : x + 8] = (230, 170, 160)
    image[50:62, 74:94] = (128, 128, 128)
    return image


def mask(number: int, what: str) -> bytes:
    x = 20 + 2 * number
    pixels = np.zeros((64, 96), np.uint8)
    area = {"coat": (30, 60, x - 10, x + 12), "man": (8, 60, x - 10, x + 12), "table": (50, 62, 74, 94)}[what]
    pixels[area[0] : area[1], area[2] : area[3]] = 255
    return png(pixels)


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def info() -> dict:
    return {
        "video": VIDEO,
        "selected_frames": [1, 4, 7],
        "fps": 8,
        "word_tags_path": {
            "person": [
                {
                    "subject": {
                        "man": ["man_frame1.png", "man_frame4.png"],
                        "face": {"1": [16, 8, 30, 28], "4": [22, 8, 36, 28]},
                    },
                    "attributes": [{"black coat": ["black_coat_frame1.png", "black_coat_frame4.png"]}],
                }
            ],
            "other_subjects": [{"table": ["table_frame7.png"]}],
            "background": {"dark bar": ["bar_0.png", "bar_1.png", "bar_2.png"]},
        },
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source/part3" / NAME
    folder.mkdir(parents=True)
    (tmp_path / "videos/part3").mkdir(parents=True)
    video = encode_clip([frame(k) for k in range(9)], 8, preset="ultrafast", crf=5)
    (tmp_path / "videos/part3" / f"{NAME}.mp4").write_bytes(video)
    (tmp_path / "source/captions.csv").write_text(f'path,text,duration\n{VIDEO},"{CAPTION}",1\n')
    for name, data in {
        "info.json": json.dumps(info()).encode(),
        "man_frame1.png": mask(1, "man"),
        "man_frame4.png": mask(4, "man"),
        "black_coat_frame1.png": mask(1, "coat"),
        "black_coat_frame4.png": png(np.zeros((64, 96), np.uint8)),
        "table_frame7.png": mask(7, "table"),
        "bar_0.png": png(np.zeros((64, 96, 3), np.uint8)),
        "bar_1.png": png(np.full((64, 96, 3), (20, 40, 120), np.uint8)),
    }.items():
        (folder / name).write_bytes(data)
    return tmp_path / "source"


def importer(source: Path) -> LumosXTrain:
    return LumosXTrain(Tree.at(source), Tree.at(source.parent / "videos"))


def read(source: Path) -> Imported:
    (item,) = importer(source).items()
    assert isinstance(item, Item)
    return importer(source).read(item)


def pixels(imported: Imported, member: str) -> np.ndarray:
    with Image.open(BytesIO(imported.media[member])) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_references_are_cut_from_their_frames(source: Path) -> None:
    imported = read(source)
    imported.members()
    pair = imported.pair
    (subject,) = pair.subjects
    assert (subject.noun.text, [a.phrase.text for a in subject.attributes]) == ("man", ["black coat"])
    assert pair.caption == CAPTION
    # The first face, as both are equally large; frame 4's coat mask is empty.
    assert tuple(subject.face.box) == (16, 8, 30, 28) and subject.face.still == 0
    coat = subject.attributes[0]
    assert tuple(coat.box) == (12, 30, 34, 60) and coat.placed
    assert coat.time_s == pytest.approx(1 / 8)
    assert np.abs(pixels(imported, "s0.a0.png") - 10).mean() < 12
    assert np.abs(pixels(imported, "s0.face.png") - (230, 170, 160)).mean() < 12
    assert subject.body is not None and subject.body.mask_member == "s0.body.mask.png"
    assert [o.phrase.text for o in pair.objects] == ["table"] and pair.objects[0].still == 2
    assert pair.background is not None and pair.background.placed
    assert np.abs(pixels(imported, "bg.png") - (20, 40, 120)).max() == 0  # of three images the second
    assert pair.provenance.stages[0].parameters["file"] == f"part3/{NAME}/info.json"
    assert {what for what, _ in imported.losses.found} == {"faces in further frames", "masks in further frames"}


def test_a_caption_in_the_json_will_do_and_none_is_told(source: Path) -> None:
    (source / "captions.csv").unlink()
    with pytest.raises(ImportRefused, match="no caption"):
        read(source)
    (source / "part3" / NAME / "info.json").write_text(json.dumps(info() | {"text": CAPTION}))
    assert read(source).pair.caption == CAPTION


def change(told: dict, how: str) -> None:
    tags = told["word_tags_path"]
    person = tags["person"][0]
    match how:
        case "video elsewhere":
            told["video"] = "/mnt/other.mp4"
        case "video outside":
            told["video"] = "../../../etc/passwd"
        case "frame outside":
            told["selected_frames"] = [1, 4, 700]
        case "many frames":
            told["selected_frames"] = list(range(1000))
        case "mask outside":
            person["attributes"] = [{"black coat": ["../../../x_frame1.png"]}]
        case "absolute mask":
            person["attributes"] = [{"black coat": ["/etc/passwd_frame1.png"]}]
        case "mask of no frame":
            person["attributes"] = [{"black coat": ["coat_frame2.png"]}]
        case "mask without a number":
            person["attributes"] = [{"black coat": ["coat.png"]}]
        case "face outside":
            person["subject"]["face"] = {"1": [900, 900, 950, 950]}
        case "face not a number":
            person["subject"]["face"] = {"1": [float("nan"), 0, 10, 10]}
        case "face of no frame":
            person["subject"]["face"] = {"3": [1, 1, 9, 9]}
        case "two nouns":
            person["subject"]["boy"] = ["man_frame1.png"]
        case "masks as boxes":
            person["subject"]["man"] = {"1": [1, 1, 9, 9]}
        case "no tags":
            del told["word_tags_path"]
        case "wrong types":
            tags["person"] = {"subject": 3}
        case "nobody":
            tags["person"] = []
        case "background outside":
            tags["background"] = {"dark bar": ["../../../x.png"]}


@pytest.mark.parametrize(
    "how",
    [
        "video elsewhere",
        "video outside",
        "frame outside",
        "many frames",
        "mask outside",
        "absolute mask",
        "mask of no frame",
        "mask without a number",
        "face outside",
        "face not a number",
        "face of no frame",
        "two nouns",
        "masks as boxes",
        "no tags",
        "wrong types",
        "nobody",
        "background outside",
    ],
)
def test_bad_json_is_refused(how: str, source: Path) -> None:
    told = info()
    change(told, how)
    (source / "part3" / NAME / "info.json").write_text(json.dumps(told))
    with pytest.raises(ImportRefused):
        read(source).members()


@pytest.mark.parametrize("data", [b"", b'{"video": ', b"[" * 200_000, b"\xff\xfe"])
def test_broken_json_is_refused(data: bytes, source: Path) -> None:
    (source / "part3" / NAME / "info.json").write_bytes(data)
    with pytest.raises(ImportRefused, match=r"info\.json"):
        read(source)


def test_a_mask_of_another_size_is_refused(source: Path) -> None:
    (source / "part3" / NAME / "black_coat_frame1.png").write_bytes(png(np.zeros((10, 10), np.uint8)))
    with pytest.raises(ImportRefused, match="10x10, the video is 96x64"):
        read(source)


def test_another_kind_of_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no info\.json"):
        list(LumosXTrain(Tree.at(tmp_path), Tree.at(tmp_path)).items())
