"""Finding videos: by extension, through link loops, identified by content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dataengine.engine import sources
from dataengine.engine.sources import FoundFile, InputError, KnownSources, find, identify, identify_all, merge
from dataengine.records import GivenVideo, Quarantined, SourceVideo
from dataengine.store import Store, StoreError, errors, filesystems
from object_store import BREAKS, BUCKET, ERRORS, Faults, environment, faulty_proxy, s3_server


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


# --- Names are remembered --------------------------------------------------------------------------------------------


class Reads:
    """`map` that notes which files were read, and can be killed after some."""

    def __init__(self, killed_after: int | None = None) -> None:
        self.names: list[str] = []
        self.killed_after = killed_after

    def __call__(
        self, function: Callable[[FoundFile], SourceVideo | Quarantined], items: Sequence[FoundFile]
    ) -> Iterator[SourceVideo | Quarantined]:
        for item in items:
            if len(self.names) == self.killed_after:
                raise KeyboardInterrupt
            self.names.append(item.name)
            yield function(item)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Ten files of an hour ago; the first and the last are copies of each other."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(10):
        write(folder / f"{number}.mp4", str(number % 9), age_s=3600)
    return folder


def write(path: Path, text: str, age_s: float) -> None:
    path.write_text(text)
    then = path.stat().st_mtime_ns - int(age_s * 1e9)
    os.utime(path, ns=(then, then))


@pytest.fixture
def known(tmp_path: Path) -> KnownSources:
    return KnownSources(Store.at(tmp_path / "out" / "measurements" / "sources"))


def read_by(videos: Path, known: KnownSources) -> list[str]:
    reads = Reads()
    found = find([str(videos)])
    assert identify_all(found, known, reads) == merge(map(identify, found.files), found.skipped)
    return reads.names


def test_a_second_start_reads_nothing_and_says_the_same(videos: Path, known: KnownSources) -> None:
    assert read_by(videos, known) == [f"{number}.mp4" for number in range(10)]
    parts = known.store.names()
    assert read_by(videos, known) == []
    assert known.store.names() == parts
    shutil.copytree(videos, videos.parent / "elsewhere")  # the same files under other URIs are other files
    assert len(read_by(videos.parent / "elsewhere", known)) == 10


def test_what_changed_is_read_again(videos: Path, known: KnownSources) -> None:
    read_by(videos, known)
    write(videos / "1.mp4", "x", age_s=1800)  # the same size
    write(videos / "2.mp4", "longer", age_s=0)
    os.utime(videos / "2.mp4", ns=((videos / "0.mp4").stat().st_mtime_ns,) * 2)
    (videos / "3.mp4").rename(videos / "new.mp4")
    assert read_by(videos, known) == ["1.mp4", "2.mp4", "new.mp4"]
    assert read_by(videos, known) == []


def test_a_file_of_just_now_is_not_remembered_yet(videos: Path, known: KnownSources) -> None:
    read_by(videos, known)
    (videos / "young.mp4").write_text("young")
    assert read_by(videos, known) == ["young.mp4"]
    assert read_by(videos, known) == ["young.mp4"]


def test_what_cannot_be_read_is_not_remembered(videos: Path, known: KnownSources) -> None:
    (videos / "link.mp4").symlink_to(videos / "nothing")
    assert "link.mp4" in read_by(videos, known)
    assert read_by(videos, known) == ["link.mp4"]


def test_a_killed_start_keeps_what_it_had_read(
    videos: Path, known: KnownSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "COMMIT_FILES", 3)
    adding, added = KnownSources.add, []
    monkeypatch.setattr(KnownSources, "add", lambda self, new: (added.append(len(new)), adding(self, new)))
    with pytest.raises(KeyboardInterrupt):
        identify_all(find([str(videos)]), known, Reads(killed_after=7))
    assert added == [3, 3, 1]
    assert read_by(videos, known) == ["7.mp4", "8.mp4", "9.mp4"]


def test_a_file_that_is_being_written_is_told_so(videos: Path) -> None:
    [file] = [f for f in find([str(videos)]).files if f.name == "1.mp4"]
    with (videos / "1.mp4").open("a") as stream:
        stream.write("more")
    result = identify(file)
    assert isinstance(result, Quarantined)
    assert "1.mp4: cannot be read (it changed since it was listed: run again when it is complete)" in result.message


# --- Object stores ---------------------------------------------------------------------------------------------------


def test_an_object_store_that_fails_gives_the_same_sources(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "CLIENT_ATTEMPTS", 1)
    monkeypatch.setattr(errors, "PAUSE_S", 0.001)
    monkeypatch.setattr(errors, "ATTEMPTS", 8)
    big = os.urandom(10 << 20)
    (videos / "sub folder").mkdir()
    (videos / "sub folder" / "b%20ig?.mp4").write_bytes(big)
    faults = Faults(share=0.2, kinds=(*ERRORS, *(kind for kind in BREAKS if kind != "hang")))
    with s3_server(tmp_path / "log") as server, faulty_proxy(server, faults) as port:
        for key, value in environment(port).items():
            monkeypatch.setenv(key, value)
        store = Store.at(f"s3://{BUCKET}/in")
        for path in videos.rglob("*.mp4"):
            store.write(path.relative_to(videos).as_posix(), path.read_bytes())
        known = KnownSources(Store.at(f"s3://{BUCKET}/out/measurements/sources"))
        monkeypatch.setattr(sources, "SETTLED_S", -60.0)
        local, remote = find([str(videos)]), find([f"{store.uri}/"])
        there = identify_all(remote, known, map)
        here = merge(map(identify, local.files), local.skipped)
        assert [(v.source_id, v.names, v.size_bytes) for v in there.videos] == [
            (v.source_id, v.names, v.size_bytes) for v in here.videos
        ]
        assert [v.uri for v in there.videos if "sub folder/b%20ig?.mp4" in v.names] == [
            f"{store.uri}/sub folder/b%20ig?.mp4"
        ]
        reads = Reads()
        assert identify_all(remote, known, reads) == there
        assert reads.names == []
        assert faults.injected.total() > 0
        faults.share = 1.0
        with pytest.raises(StoreError) as outage:
            identify(remote.files[0])
        assert outage.value.transient
        faults.share = 0.0
        store.delete(remote.files[0].name)
        gone = identify(remote.files[0])
        assert isinstance(gone, Quarantined)
        assert f"{remote.files[0].name}: cannot be read" in gone.message
        assert "s3://" not in gone.message
        with pytest.raises(InputError, match="no objects below it"):
            find([f"s3://{BUCKET}/nowhere"])


# --- Tables of videos with captions


def table(folder: Path, *lines: GivenVideo | Quarantined) -> str:
    path = folder / "import.videos.jsonl"
    path.write_text("".join(line.to_json() + "\n" for line in lines))
    return str(path)


def test_a_caption_is_part_of_a_sources_name(tmp_path: Path, known: KnownSources) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text(name)
    plain = {v.names[0]: v for v in identify_all(find([str(tmp_path)]), known, map).videos}

    def named(caption: str) -> dict[str, SourceVideo]:
        place = table(tmp_path, GivenVideo(uri="a.mp4", name="x/a.mp4", caption=caption))
        return {v.names[0]: v for v in identify_all(find([place]), known, map).videos}

    one, other = named("A man.")["x/a.mp4"], named("A woman.")["x/a.mp4"]
    assert one.caption == "A man." and one.uri == plain["a.mp4"].uri
    assert len({plain["a.mp4"].source_id, one.source_id, other.source_id}) == 3
    assert named("A man.")["x/a.mp4"] == one


def test_one_video_under_two_captions_is_taken_once(tmp_path: Path, known: KnownSources) -> None:
    for name in ("a.mp4", "copy.mp4", "same.mp4"):
        (tmp_path / name).write_text("the same bytes")
    place = table(
        tmp_path,
        GivenVideo(uri="copy.mp4", name="copy.mp4", caption="A woman."),
        GivenVideo(uri="a.mp4", name="a.mp4", caption="A man."),
        GivenVideo(uri="same.mp4", name="same.mp4", caption="A man."),
    )
    found = identify_all(find([place]), known, map)
    (video,) = found.videos
    assert (video.names, video.caption) == (("a.mp4", "same.mp4"), "A man.")
    (refused,) = found.unreadable
    assert "with other words" in refused.message and refused.source_names == ("copy.mp4",)


def test_what_a_table_refused_is_not_lost_and_other_lines_are_no_table(tmp_path: Path, known: KnownSources) -> None:
    row = Quarantined(
        id="0" * 24, stage="import", error="ImportRefused", message="row 3", attempts=1, source_names=("t row 3",)
    )
    found = identify_all(find([table(tmp_path, row)]), known, map)
    assert found.unreadable == (row,)
    (tmp_path / "other.videos.jsonl").write_text('{"video": "a.mp4"}')
    with pytest.raises(InputError, match=r"line 1: .*`dataengine import table`"):
        find([str(tmp_path / "other.videos.jsonl")])
    with pytest.raises(InputError, match="No such file"):
        find([str(tmp_path / "missing.videos.jsonl")])
