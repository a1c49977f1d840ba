"""Foreign tars: names are never paths, links are refused, damage ends a tar and not the import."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataengine.shards.importers import tars as module
from dataengine.shards.importers.contract import Refusal, SourceError
from dataengine.shards.importers.tars import TarSample, tar_samples, tars
from dataengine.shards.importers.tree import Tree


def pack(path: Path, *files: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def read(folder: Path, name: str = "x.tar") -> tuple[list[TarSample], list[Refusal], dict[str, bytes]]:
    saved: dict[str, bytes] = {}

    def save(key: str, ending: str, chunks: Iterator[bytes]) -> str:
        saved[key] = b"".join(chunks)
        return f"{len(saved)}.{ending}"

    found = list(tar_samples(Tree.at(folder), name, save))
    samples = [one for one in found if isinstance(one, TarSample)]
    return samples, [one for one in found if isinstance(one, Refusal)], saved


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_videos_with_captions_in_either_order(format: int, tmp_path: Path) -> None:
    pack(
        tmp_path / "x.tar",
        ("0001.mp4", b"video 1"),
        ("0001.txt", b" A man.\n"),
        ("a/0002.json", json.dumps({"Caption": "Two.", "fps": 3}).encode()),
        ("a/0002.webm", b"video 2"),
        ("a/0002.jpg", b"passed over"),
        format=format,
    )
    samples, refused, saved = read(tmp_path)
    assert samples == [TarSample("0001", "1.mp4", "A man."), TarSample("a/0002", "2.webm", "Two.")]
    assert saved == {"0001": b"video 1", "a/0002": b"video 2"}
    assert not refused


def test_what_is_no_sample_is_refused_alone(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (
            ("one.mp4", b"1"),
            ("two.txt", b"no video"),
            ("three.mp4", b"3"),
            ("three.mov", b"3"),
            ("three.txt", b"c"),
            ("four.mp4", b"4"),
            ("four.json", b'{"caption": '),
            ("five.mp4", b"5"),
            ("five.txt", b"caf\xe9"),
            ("../../six.mp4", b"6"),
            ("../../six.txt", b"Six."),
            ("one.txt", b"too late"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("seven.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    samples, refused, _ = read(tmp_path)
    assert [sample.key for sample in samples] == ["../../six"]  # a name, and no path: `save` chooses where it goes
    reasons = {one.name.rpartition("/")[2]: one.reason for one in refused}
    assert set(reasons) == {"one", "two", "three", "four", "five", "seven"}
    assert "a link" in reasons["seven"] and "2 videos" in reasons["three"] and "not readable" in reasons["four"]


def test_damage_ends_the_tar_and_keeps_what_stands_before(tmp_path: Path) -> None:
    pack(tmp_path / "x.tar", ("a.mp4", b"1" * 5000), ("a.txt", b"A."), ("b.mp4", b"2" * 5000), ("b.txt", b"B."))
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[: 2 * 512 + 5120 + 1024 + 600])
    samples, refused, _ = read(tmp_path)
    assert [sample.key for sample in samples] == ["a"]
    assert len(refused) == 1 and "damaged" in refused[0].reason
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    assert "damaged or no tar" in read(tmp_path)[1][0].reason


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", 4096)
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 7 << 30
    with (tmp_path / "x.tar").open("wb") as stream:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        stream.truncate(8 << 30)  # sparse: takes no room
    samples, refused, _ = read(tmp_path)
    assert not samples and "a header of" in refused[0].reason


def test_tars_of_a_folder_and_of_the_folders_in_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("b.tar", "train/a.tar"):
        pack(tmp_path / name, ("a.mp4", b"1"))
    (tmp_path / "link.tar").symlink_to(tmp_path / "b.tar")
    assert tars(Tree.at(tmp_path)) == ["b.tar", "train/a.tar"]
    with pytest.raises(SourceError, match=r"no \.tar"):
        tars(Tree.at(_empty(tmp_path)))


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"
