"""Commits are whole or invisible; names stay inside the folder."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from dataengine.store import Store, StoreError, open_source


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
