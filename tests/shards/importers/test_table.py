"""Rows whose paths lead elsewhere are refused; the others are videos below one folder."""

from pathlib import Path

import pytest

from dataengine.records import GivenVideo
from dataengine.shards.importers.contract import Refusal
from dataengine.shards.importers.table import VideoTable
from dataengine.shards.importers.tree import Tree


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos/deep").mkdir(parents=True)
    for name in ("videos/a.mp4", "videos/deep/b.mp4", "outside.mp4"):
        (tmp_path / name).write_text(name)
    (tmp_path / "videos/link.mp4").symlink_to(tmp_path / "outside.mp4")
    return tmp_path / "videos"


def read(videos: Path, *rows: tuple[str, str]) -> list[GivenVideo | Refusal]:
    table = videos.parent / "t.csv"
    table.write_text("path,caption\n" + "".join(f'"{path}","{caption}"\n' for path, caption in rows))
    return list(VideoTable(Tree.at(table.parent), "t.csv", Tree.at(videos)).rows())


def test_relative_and_absolute_paths_below_the_folder(videos: Path) -> None:
    found = read(videos, ("a.mp4", "One."), (f"{videos}/deep/b.mp4", "Two."))
    assert found == [
        GivenVideo(uri=f"{videos}/a.mp4", name="a.mp4", caption="One."),
        GivenVideo(uri=f"{videos}/deep/b.mp4", name="deep/b.mp4", caption="Two."),
    ]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../outside.mp4", "leads out"),
        ("/etc/passwd", "not below the folder"),
        ("link.mp4", "links are not followed"),
        ("https://example.org/a.mp4", "an address"),
        ("s3://bucket/a.mp4", "an address"),
        ("nothing.mp4", "No such file"),
        ("deep", "not a plain file"),
        ("", "no path"),
    ],
)
def test_other_paths_are_refused_with_the_row(path: str, why: str, videos: Path) -> None:
    (found,) = read(videos, (path, "One."))
    assert isinstance(found, Refusal)
    assert found.name == "t.csv row 1" and why in found.reason


def test_a_video_twice(videos: Path) -> None:
    found = read(videos, ("a.mp4", "One."), ("./a.mp4", "One."), (f"{videos}/a.mp4", "Another."), ("deep/b.mp4", ""))
    assert isinstance(found[0], GivenVideo)
    assert [one.reason for one in found[1:] if isinstance(one, Refusal)] == [
        "a.mp4 was taken already, with another caption",
        "no caption: build from videos without captions by `dataengine build`",
    ]
