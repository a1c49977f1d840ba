"""The folder of bad videos holds what it claims to; what should become of each file is tested where it is done."""

import os
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from dataengine.world.bad_videos import irregular_times, make_bad_videos


def test_every_file_is_there_and_named_once(bad_video_folder) -> None:
    names = [file.name for file in bad_video_folder.files]
    assert len(names) == len(set(names))
    folder = bad_video_folder.folder
    there = {Path(root, name).relative_to(folder).as_posix() for root, _, found in os.walk(folder) for name in found}
    assert there == set(names)
    assert (bad_video_folder.folder / "a folder that holds itself" / "text.mp4").is_file()


def test_only_the_copy_is_a_copy(bad_video_folder) -> None:
    by_hash: dict[str, list[str]] = {}
    for file in bad_video_folder.files:
        path = bad_video_folder.folder / file.name
        if path.is_file() and os.access(path, os.R_OK):
            by_hash.setdefault(sha256(path.read_bytes()).hexdigest(), []).append(file.name)
    assert [names for names in by_hash.values() if len(names) > 1] == [["name with spaces.mp4", "zz copy.mp4"]]
    (copy,) = bad_video_folder.expected("duplicate")
    assert (copy.name, copy.same_as) == ("zz copy.mp4", "name with spaces.mp4")


def test_times_are_irregular() -> None:
    times = irregular_times()
    steps = [b - a for a, b in pairwise(times)]
    assert max(steps) > 2 * min(steps) > 0


def test_made_again_the_videos_are_the_same(bad_video_folder, tmp_path) -> None:
    again = tmp_path / "again"
    assert make_bad_videos(again) == bad_video_folder.files
    for name in ("phone held upright.mov", "variable frame rate.mp4", "hdr 10 bit.mp4", "truncated.mp4"):
        assert (again / name).read_bytes() == (bad_video_folder.folder / name).read_bytes()
