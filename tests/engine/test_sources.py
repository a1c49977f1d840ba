"""Finding videos: by extension, through link loops, identified by content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataengine.engine.sources import InputError, find, identify, merge
from dataengine.records import Quarantined


def test_copies_are_one_source_with_all_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("b.mp4", "a/copy.MOV"):
        (tmp_path / name).write_bytes(b"same")
    (tmp_path / "c.mkv").write_bytes(b"other")
    (tmp_path / "notes.txt").write_text("not a video")
    found = find([str(tmp_path)])
    sources = merge(map(identify, reversed(found.files)), found.skipped)
    assert {v.names for v in sources.videos} == {("a/copy.MOV", "b.mp4"), ("c.mkv",)}
    assert (sources.skipped, sources.duplicates) == (1, 1)
    assert merge(map(identify, found.files), found.skipped) == sources


def test_names_of_any_kind(tmp_path: Path) -> None:
    names = ["with space.mp4", "new\nline.mp4", "видео 影片.mp4", "=a&b.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    odd = os.fsdecode(b"latin-\xe9.mp4")
    (tmp_path / odd).write_bytes(b"odd")
    sources = merge(map(identify, find([str(tmp_path)]).files), 0)
    assert {v.names[0] for v in sources.videos} == {*names, "latin-\\xe9.mp4"}
    assert not sources.unreadable


def test_link_loops_end_and_dead_links_say_why(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing")
    (tmp_path / "real.mp4").write_bytes(b"1")
    results = [identify(f) for f in find([str(tmp_path)]).files]
    unreadable = {r.source_names[0]: r.message for r in results if isinstance(r, Quarantined)}
    assert set(unreadable) == {"self.mp4", "gone.mp4"}
    assert "No such file" in unreadable["gone.mp4"]
    assert len(results) == 3


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        find([str(tmp_path / "nowhere")])
