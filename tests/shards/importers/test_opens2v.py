"""OpenS2V's JSON, with the fields of its own demo data; what its masks and crops mean; bad data."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine import masks
from dataengine.shards.importers.contract import ImportRefused, Item, Refusal, SourceError
from dataengine.shards.importers.opens2v import FlatSample, OpenS2VSource
from dataengine.shards.importers.tree import Tree
from dataengine.video import decode_clip, encode_clip

KEY = "gm1252_part2_step1-0-95"


def frame(number: int) -> np.ndarray:
    image = np.full((72, 128, 3), (30, 90, 40), np.uint8)
    image[20:60, 30 + number : 70 + number] = (200, 30, 30)
    return image


def told() -> dict:
    """One clip: frames 2 to 10, cropped to 100x60 at (16, 8), labelled on frame 4."""
    pixels = np.zeros((60, 100), bool)
    pixels[12:52, 18:58] = True
    runs = masks.encode(pixels)
    return {
        "metadata": {
            "cut": [0, 12],
            "crop": [16, 116, 8, 68],
            "face_cut": [2, 10],
            "path": "gm1252_part2.mp4",
            "fps": 12.0,
            "tech": 2.08,
            "resolution": {"height": 72, "width": 128},
            "face_cap_qwen": "A woman in a red top stands on a green lawn. The woman smiles.",
        },
        "word_tags": {
            "background": ["green lawn"],
            "subject": ["woman"],
            "object": ["red top"],
            "pre_define": ["person"],
        },
        "annotation": {
            "ann_frame_data": {
                "ann_frame_idx": 4,
                "annotations": [
                    {"class_name": "red top", "bbox": [18, 12, 58, 52], "gme_score": 0.41, "aes_score": 4.1},
                    {"class_name": "green lawn", "bbox": [0, 0, 100, 60], "gme_score": 0.3, "aes_score": 4.1},
                ],
                "box_format": "xyxy",
                "img_width": 100,
                "img_height": 60,
            },
            "mask_map": {"1": {"class_name": "red top"}, "2": {"class_name": "green lawn"}},
            "mask_annotation": {
                "4": {
                    "1": {"size": [60, 100], "counts": runs.counts, "score": [0.99]},
                    "2": {"size": [60, 100], "counts": masks.encode(~pixels).counts, "score": [0.8]},
                }
            },
        },
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "Jsons").mkdir()
    (tmp_path / "Videos/total_part1").mkdir(parents=True)
    (tmp_path / "Background/total_part1").mkdir(parents=True)
    video = encode_clip([frame(k) for k in range(12)], 12, preset="ultrafast", crf=5)
    (tmp_path / "Videos/total_part1/gm1252_part2.mp4").write_bytes(video)
    stream = BytesIO()
    Image.new("RGB", (100, 60), "green").save(stream, "PNG")
    (tmp_path / f"Background/total_part1/{KEY}.png").write_bytes(stream.getvalue())
    write(tmp_path, told())
    return tmp_path


def write(source: Path, one: dict) -> None:
    (source / "Jsons/total_part1.json").write_text(json.dumps({KEY: one}, indent=4))


def flat(source: Path) -> OpenS2VSource:
    return OpenS2VSource(Tree.at(source), Tree.at(source))


def read(source: Path) -> FlatSample:
    (item,) = flat(source).items()
    assert isinstance(item, Item)
    return flat(source).read(item)


def test_clip_crop_frame_and_masks(source: Path) -> None:
    sample = read(source)
    assert (sample.name, sample.source, sample.video_name) == (f"total_part1/{KEY}", "gm1252", "gm1252_part2.mp4")
    assert (sample.clip.width, sample.clip.height, sample.clip.frames) == (100, 60, 8)
    assert (sample.start_s, sample.end_s, sample.time_s) == pytest.approx((2 / 12, 10 / 12, 2 / 12), abs=1e-4)
    assert np.abs(sample.frame.astype(int) - frame(4)[8:68, 16:116].astype(int)).mean() < 5
    shown = decode_clip(sample.clip.mp4)[2].rgb
    assert np.abs(shown.astype(int) - sample.frame.astype(int)).mean() < 5
    top, lawn = sample.labels
    assert (top.phrase, top.score, tuple(top.box)) == ("red top", 0.41, (18, 12, 58, 52))
    assert lawn.pixels.sum() == 6000 - 1600
    assert sample.background is not None
    # The mask is where the red is.
    assert (sample.frame[top.pixels][:, 0] > 120).mean() > 0.97


def test_every_json_is_read_and_a_cut_one_to_its_end(source: Path) -> None:
    (source / "Jsons/broken.json").write_text(json.dumps({"a": told(), "b": told()})[:-500])
    (source / "Jsons/list.json").write_text("[1]")
    found = list(flat(source).items())
    assert [one.name for one in found if isinstance(one, Item)] == ["broken/a", f"total_part1/{KEY}"]
    assert [one.name for one in found if isinstance(one, Refusal)] == ["Jsons/broken.json", "Jsons/list.json"]


def change(one: dict, how: str) -> None:
    metadata, annotation = one["metadata"], one["annotation"]
    runs = annotation["mask_annotation"]["4"]
    match how:
        case "no caption":
            metadata["face_cap_qwen"] = ""
        case "video outside":
            metadata["path"] = "../../../../etc/passwd"
        case "video missing":
            metadata["path"] = "other.mp4"
        case "crop outside":
            metadata["crop"] = [16, 1000, 8, 68]
        case "crop backwards":
            metadata["crop"] = [116, 16, 68, 8]
        case "span backwards":
            metadata["face_cut"] = [10, 2]
        case "frame outside the span":
            annotation["ann_frame_data"]["ann_frame_idx"] = 11
        case "frame outside the video":
            metadata["face_cut"] = [2, 9000]
            annotation["ann_frame_data"]["ann_frame_idx"] = 8000
        case "frame size":
            annotation["ann_frame_data"]["img_width"] = 128
        case "mask size":
            runs["1"]["size"] = [100, 60]
        case "mask too short":
            runs["1"]["counts"] = runs["1"]["counts"][:-4]
        case "mask not ascii":
            runs["1"]["counts"] = "äöü"
        case "mask empty":
            runs["1"]["counts"] = ""
        case "giant mask":
            runs["1"]["size"] = [1_000_000, 1_000_000]
        case "mask without a name":
            del annotation["mask_map"]["1"]
        case "no masks":
            annotation["mask_annotation"] = {}
        case "many masks":
            annotation["mask_annotation"]["4"] = {str(n): runs["1"] for n in range(500)}
        case "wrong type":
            annotation["mask_map"] = 3


@pytest.mark.parametrize(
    "how",
    [
        "no caption",
        "video outside",
        "video missing",
        "crop outside",
        "crop backwards",
        "span backwards",
        "frame outside the span",
        "frame outside the video",
        "frame size",
        "mask size",
        "mask too short",
        "mask not ascii",
        "mask empty",
        "giant mask",
        "mask without a name",
        "no masks",
        "many masks",
        "wrong type",
    ],
)
def test_bad_clips_are_refused(how: str, source: Path) -> None:
    one = told()
    change(one, how)
    write(source, one)
    with pytest.raises(ImportRefused):
        read(source)


def test_a_background_of_another_size_is_none_of_this_clip(source: Path) -> None:
    Image.new("RGB", (40, 40)).save(source / f"Background/total_part1/{KEY}.png")
    assert read(source).background is None


def test_a_folder_without_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no \.json"):
        list(flat(tmp_path).items())
