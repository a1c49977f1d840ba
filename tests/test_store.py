"""Commits are whole or invisible; names stay inside the folder."""

from __future__ import annotations

import io
import pickle
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from pyarrow import fs

from dataengine.store import Store, StoreError, errors, filesystems, open_source
from dataengine.store.streams import KEPT, MOST, RemoteFile
from dataengine.video import Video, encode_clip
from object_store import BREAKS, BUCKET, ERRORS, Faults, environment, faulty_proxy, gcs_server, s3_server


def test_write_read_list_delete(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "new")
    store.write("a/b.bin", b"12345")
    store.child("a").write("c.txt", b"")
    assert store.names() == ["a/b.bin", "a/c.txt"]
    assert store.names("a", suffix=".bin") == ["a/b.bin"]
    assert store.read("a/b.bin") == b"12345"
    assert (store.size("a/b.bin"), store.size("a/gone")) == (5, None)
    with store.open_input("a/b.bin") as stream:
        stream.seek(2)
        assert stream.read(2) == b"34"
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    store.write("x", b"old")
    with pytest.raises(RuntimeError), store.open_output("x") as stream:
        stream.write(b"half of the n")
        raise RuntimeError
    assert store.read("x") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_unfinished_file_is_not_listed(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with store.open_output("x") as stream:
        stream.write(b"1")
        stream.flush()
        assert store.names() == []
    assert store.names() == ["x"]


def test_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/x: cannot be written.*nothing of it was committed"):
        Store.at(tmp_path / "file").write("x", b"")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "", "a\\b"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="relative name"):
        Store.at(tmp_path).read(name)


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    store.write("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_a_local_source_is_its_path(tmp_path: Path) -> None:
    with open_source(str(tmp_path / "a.mp4")) as source:
        assert source == tmp_path / "a.mp4"


def test_sizes_are_those_of_committed_files_below_a_folder(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    store.write("a/b.bin", b"123")
    store.write("a/c/d.bin", b"")
    store.write("e.bin", b"1")
    (tmp_path / "a" / ".tmp-killed").write_bytes(b"half")
    assert store.sizes("a") == {"a/b.bin": 3, "a/c/d.bin": 0}
    assert store.sizes("nothing") == {}


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    store.write("a/whole", b"1")
    for name in (".tmp-1", "a/.tmp-2"):
        (tmp_path / name).write_bytes(b"half")
    assert store.sweep() == 2
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "a" / "whole"]
    assert store.sweep() == 0


def test_a_folder_goes_as_a_whole(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    for name in ("a/b", "a/c/d", "e"):
        store.write(name, b"1")
    store.delete_folder("a")
    store.delete_folder("a")
    assert store.names() == ["e"]


# --- Disks that refuse -----------------------------------------------------------------------------------------------


def failed_write(folder: Path, size: int) -> StoreError:
    """The error of writing so many bytes; whatever was there stays, and nothing else comes."""
    store = Store.at(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StoreError) as caught, store.open_output("new/x") as stream:
        for _ in range(size >> 16):
            stream.write(bytes(1 << 16))
    assert not caught.value.transient
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return caught.value


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte, mounted for the test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_says_so_and_shows_nothing_half_written(small_disk: Path) -> None:
    Store.at(small_disk).write("old", b"kept")
    error = failed_write(small_disk, 4 << 20)
    assert re.search(
        r"new/x: cannot be written.*nothing of it was committed.*full: free space, or give another", f"{error}"
    )
    Store.at(small_disk).write("new/x", b"fits")
    assert Store.at(small_disk).names() == ["new/x", "old"]


def test_a_read_only_disk_says_so(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "mounted read-only: mount it for writing, or give another output" in str(failed_write(small_disk, 1 << 16))


def test_a_file_over_the_limit_of_the_process_says_so(tmp_path: Path) -> None:
    script = f"""if True:
        import resource, signal
        from dataengine.store import Store, StoreError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            Store.at({str(tmp_path)!r}).write("x", bytes(1 << 20))
        except StoreError as error:
            print(error, error.transient)
    """
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert re.search(r"x: cannot be written.*nothing of it was committed.*ulimit -f.*False", said)
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_write_is_told_so() -> None:
    script = """if True:
        import os, sys
        from dataengine.store import Store, StoreError
        if os.getuid() == 0:  # who may write anywhere
            os.setgid(65534)
            os.setuid(65534)
        try:
            Store.at(sys.argv[1]).write("x", b"1")
        except StoreError as error:
            print(error, error.transient)
    """
    with tempfile.TemporaryDirectory() as closed:
        Path(closed).chmod(0o555)
        done = subprocess.run([sys.executable, "-c", script, closed], capture_output=True, text=True, check=True)
        assert list(Path(closed).iterdir()) == []
    assert re.search(r"/x: cannot be written.*this user.*may write there, or give another output.*False", done.stdout)


# --- Object stores: a real S3 server on loopback, and a proxy that fails ----------------------------------------------


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        yield port


Behind = Callable[[Faults], AbstractContextManager[Store]]


@pytest.fixture
def behind(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Behind:
    """`behind(faults)`: a store whose every request passes the faulty proxy; short pauses, one try by the client."""
    monkeypatch.setattr(filesystems, "SILENCE_S", 1.0)
    monkeypatch.setattr(filesystems, "CLIENT_ATTEMPTS", 1)
    monkeypatch.setattr(errors, "PAUSE_S", 0.001)
    monkeypatch.setattr(errors, "ATTEMPTS", 8)

    @contextmanager
    def proxied(faults: Faults) -> Iterator[Store]:
        with faulty_proxy(s3_port, faults) as port:
            for key, value in environment(port).items():
                monkeypatch.setenv(key, value)
            yield Store.at(f"s3://{BUCKET}/{uuid4().hex}")

    return proxied


def test_every_operation_works_through_a_store_that_fails(behind: Behind) -> None:
    big = random.Random(1).randbytes(12 << 20)  # a multipart upload, and several ranged reads
    faults = Faults(share=0.25, seed=1)
    with behind(faults) as store:
        store.write("big", big)
        for number in range(12):
            store.write(f"a/{number:02}", str(number).encode())
        assert store.names("a") == [f"a/{number:02}" for number in range(12)]
        assert [store.read(name) for name in store.names("a")] == [str(n).encode() for n in range(12)]
        assert store.read("big") == big
        assert store.sizes() == {**{f"a/{n:02}": len(str(n)) for n in range(12)}, "big": len(big)}
        assert (store.size("big"), store.size("gone")) == (len(big), None)
        with store.open_input("big") as stream:
            assert stream.read_at(1000, 9 << 20) == big[9 << 20 :][:1000]
        store.delete("big")
        store.delete_folder("a")
        store.delete_folder("a")
        assert store.names() == []
    assert set(faults.injected) == {*ERRORS, *BREAKS}


def test_an_error_that_lasts_is_transient_and_says_what_to_do(behind: Behind) -> None:
    with behind(Faults(share=1.0, kinds=("slow-down",))) as store:
        reading, writing = partial(store.read, "x"), partial(store.write, "x", b"1")
        for operation in (store.names, reading, writing, partial(store.size, "x")):
            with pytest.raises(StoreError, match=r"s3://.*cannot be .*8 times.*same command again") as caught:
                operation()
            assert caught.value.transient


def test_what_is_missing_or_denied_is_not_tried_again(behind: Behind) -> None:
    faults = Faults(share=0.0)
    with behind(faults) as store:
        with pytest.raises(StoreError, match="Check that it exists") as missing:
            store.read("x")
        with pytest.raises(StoreError, match="make the bucket") as unknown:
            Store.at("s3://no-such-bucket/x").write("x", b"1")
    assert not missing.value.transient
    assert not unknown.value.transient
    denied = Faults(share=1.0, kinds=("denied",))
    with behind(denied) as store, pytest.raises(StoreError, match=r"these credentials, may write there") as refused:
        store.write("x", b"1")
    assert not refused.value.transient
    assert faults.requests.total() + denied.requests.total() < 6


def test_an_upload_that_fails_leaves_the_old_object(behind: Behind) -> None:
    faults = Faults(share=0.0, kinds=("503",))
    with behind(faults) as store:
        store.write("x", b"old")
        faults.share = 1.0
        with pytest.raises(StoreError, match="nothing of it was committed"):
            store.write("x", bytes(12 << 20))
        faults.share = 0.0
        with pytest.raises(RuntimeError), store.open_output("x") as stream:
            stream.write(bytes(12 << 20))
            raise RuntimeError
        assert store.read("x") == b"old"


def test_a_video_is_decoded_from_the_store_in_few_requests(behind: Behind) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (60, 360, 640, 3), np.uint8)
    video_bytes = encode_clip(list(noise), 12, preset="ultrafast")
    with Video(io.BytesIO(video_bytes)) as video:
        local = [(frame.time_s, frame.rgb.tobytes()) for frame in video.iter_frames(size=(64, 36))]
    faults = Faults(share=0.0, seed=4)

    def decoded(uri: str) -> list[tuple[float, bytes]]:
        with open_source(uri) as source, Video(source) as video:
            return [(frame.time_s, frame.rgb.tobytes()) for frame in video.iter_frames(size=(64, 36))]

    with behind(faults) as store:
        store.write("a b%20?.mp4", video_bytes)
        faults.requests.clear()
        assert decoded(f"{store.uri}/a b%20?.mp4") == local
        requests = faults.requests["GET"]
        faults.share = 0.5
        assert decoded(f"{store.uri}/a b%20?.mp4") == local
    # PyAV asks for 256 KiB at a time: without reading ahead there would be as many requests.
    assert 0 < requests <= len(video_bytes) / (1 << 18) / 4
    assert faults.injected.total() > 0


def test_google_cloud_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "GCS_RETRY_S", 1)
    monkeypatch.setattr(errors, "PAUSE_S", 0.001)
    big = random.Random(5).randbytes(12 << 20)
    with gcs_server(tmp_path / "log") as port:
        for key, value in environment(port).items():
            monkeypatch.setenv(key, value)
        store = Store.at(f"gs://{BUCKET}/out")
        store.write("big", big)
        for name in ("a/b", "a/c/d"):
            store.write(name, b"1")
        assert store.read("big") == big
        assert Store.at(f"gcs://{BUCKET}/out").sizes() == {"a/b": 1, "a/c/d": 1, "big": len(big)}
        with store.open_input("big") as stream:
            assert stream.read_at(1000, 9 << 20) == big[9 << 20 :][:1000]
        store.delete("big")
        store.delete_folder("a")
        store.delete_folder("a")
        assert store.names() == []
        with pytest.raises(StoreError, match="Check that it exists") as missing:
            store.read("big")
        with pytest.raises(StoreError, match="make the bucket") as unknown:
            Store.at("gs://no-such-bucket/x").write("x", b"1")
    # The server is gone.
    with pytest.raises(StoreError, match="same command again") as outage:
        store.read("big")
    assert [error.value.transient for error in (missing, unknown, outage)] == [False, False, True]


def test_reading_holds_a_bounded_part_of_a_file(tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    with long.open("wb") as stream:
        stream.seek(256 << 20)
        stream.write(b"end")
    with RemoteFile("s3://videos/long.mp4", partial(fs.LocalFileSystem().open_input_file, str(long))) as file:
        while file.read(1 << 20).strip(b"\0") != b"end":
            assert sum(len(piece) for piece in file._pieces.values()) <= KEPT * MOST
        assert file.read(1) == b""
        assert file.seek(-4, io.SEEK_END) == (256 << 20) - 1
        assert file.read(100) == b"\0end"


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(StoreError, match="environment variables") as caught:
        Store.at("s3://KEY:SECRET@videos/x").names()
    assert "SECRET" not in str(caught.value)
