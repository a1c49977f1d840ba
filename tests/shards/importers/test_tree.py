"""Nothing outside a source is reached, waited for or read without a limit."""

import os
from pathlib import Path

import pytest

from dataengine.shards.importers.contract import ImportRefused, SourceError
from dataengine.shards.importers.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "secret.txt").write_text("outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_text("inside")
    (source / ".DS_Store").write_text("")
    (source / "link").symlink_to(tmp_path / "secret.txt")
    (source / "folder link").symlink_to(tmp_path / "outside")
    os.mkfifo(source / "pipe")
    return Tree.at(source)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "a/../../secret.txt",
        "/etc/passwd",
        "link",
        "folder link/file",
        "pipe",
        "a",
        "",
        "nothing",
        "a\0b",
        "a\\..\\b",
        "x" * 300,
        "/".join("a" * 40),
    ],
)
def test_what_leads_elsewhere_is_refused(tree: Tree, name: str) -> None:
    with pytest.raises(ImportRefused):
        tree.read(name, 100)
    assert not tree.has(name)


def test_files_and_folders_are_listed_by_name_and_links_are_neither(tree: Tree) -> None:
    assert tree.read("a/b/file", 6) == b"inside"
    with pytest.raises(ImportRefused, match="more than 5 bytes"):
        tree.read("a/b/file", 5)
    kinds = {entry.name: (entry.is_file, entry.is_folder) for entry in tree.entries()}
    assert kinds == {"a": (False, True), "link": (False, False), "folder link": (False, False), "pipe": (False, False)}
    assert list(tree.walk("file")) == ["a/b/file"]
    with pytest.raises(ImportRefused, match="more than 1 entries"):
        tree.entries("", 1)
    with pytest.raises(ImportRefused, match="links are not followed"):
        tree.entries("folder link")


def test_a_link_as_the_source_itself_is_what_the_user_said(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(tree.root)
    assert Tree.at(tmp_path / "named") == tree
    with pytest.raises(SourceError, match="no such folder"):
        Tree.at(tmp_path / "nothing")


def test_other_peoples_paths_are_found_by_their_tails_and_never_outside(tree: Tree) -> None:
    assert tree.by_tail("/mnt/data/a/b/file") == "a/b/file"
    assert tree.by_tail("b/file", under="a") == "a/b/file"
    assert tree.by_tail("/../../secret.txt") is None
    assert tree.by_tail("link") is None


def test_text_is_utf8_and_not_empty(tree: Tree) -> None:
    folder = Path(tree.root)
    (folder / "bom").write_bytes(b"\xef\xbb\xbf words \n")
    (folder / "latin").write_bytes(b"caf\xe9")
    (folder / "blank").write_text(" \n")
    assert tree.text("bom", 100) == "words"
    with pytest.raises(ImportRefused, match="not UTF-8"):
        tree.text("latin", 100)
    with pytest.raises(ImportRefused, match="empty"):
        tree.text("blank", 100)


def test_a_hundred_thousand_entries_are_no_sample(tree: Tree) -> None:
    folder = Path(tree.root) / "many"
    folder.mkdir()
    for number in range(2_000):
        (folder / str(number)).touch()
    with pytest.raises(ImportRefused, match="more than 128 entries"):
        tree.entries("many", 128)
    assert len(tree.entries("many")) == 2_000
