"""Licences: the nearest word on a source counts, and a table that cannot be right is refused with its line."""

from pathlib import Path

import pytest

from dataengine.config import ConfigError
from dataengine.decide.licences import Licences
from dataengine.records import SourceVideo


def source(*names: str) -> SourceVideo:
    return SourceVideo(source_id="abc", uri="/x", names=names, size_bytes=1)


def read(tmp_path: Path, text: str, otherwise: str = "") -> Licences:
    (tmp_path / "l.csv").write_text(text, encoding="utf-8")
    return Licences.read(str(tmp_path / "l.csv"), otherwise)


def test_the_nearest_word_counts(tmp_path: Path) -> None:
    found = read(tmp_path, "source,licence,note\na/,CC0,x\na/b/,MIT,\na/b/c.mp4,own,\n", "CC BY")
    assert found.of(source("a/x.mp4")) == "CC0"
    assert found.of(source("a/b/x.mp4")) == found.of(source("a/b/d/x.mp4")) == "MIT"
    assert found.of(source("a/b/c.mp4")) == "own"
    assert found.of(source("ab/x.mp4")) == "CC BY", "a/ is a folder, not a beginning"
    assert found.of(source("a/x.mp4", "z.mp4")) == "CC0; CC BY", "copies may have come in two ways"
    assert read(tmp_path, "source,licence\nabc,by id\n").of(source("a/x.mp4")) == "by id"
    assert Licences().of(source("a.mp4")) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,licence\na,b\n", "source,licence"),
        ("source,licence\na,\n", "line 2"),
        ("source,licence\na,MIT\na,CC0\n", "line 3: a has two licences"),
        ("", "source,licence"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Licences.read(str(tmp_path / "gone.csv"), "")
    (tmp_path / "l.csv").write_bytes(b"source,licence\n\xff\xfe,MIT\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        Licences.read(str(tmp_path / "l.csv"), "")
