"""Tables by others: three formats, usual names of columns, bad rows refused one by one."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.shards.importers.contract import Refusal, SourceError
from dataengine.shards.importers.rows import MAX_CAPTION, Row, read_rows
from dataengine.shards.importers.tree import Tree

ROWS = [("a.mp4", "A man, with a hat."), ("b/c.mp4", 'Ein "Mann"\nmit Hut'), ("d.mp4", "")]


def written(folder: Path, kind: str) -> str:
    name = f"table.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"video": [r[0] for r in ROWS], "caption": [r[1] for r in ROWS]}), folder / name)
    elif kind == "jsonl":
        (folder / name).write_text("\n".join(json.dumps({"text": c, "file_name": p, "x": 1}) for p, c in ROWS))
    else:
        mark = "\t" if kind == "tsv" else ","
        quoted = [mark.join((p, '"' + c.replace('"', '""') + '"', "1")) for p, c in ROWS]
        (folder / name).write_text("\n".join([mark.join(("Path", "Prompt", "fps")), *quoted]), encoding="utf-8-sig")
    return name


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_says_the_same(kind: str, tmp_path: Path) -> None:
    found = list(read_rows(Tree.at(tmp_path), written(tmp_path, kind)))
    assert found == [Row(number=n, path=p, caption=c) for n, (p, c) in enumerate(ROWS, 1)]


def test_bad_lines_are_refused_alone(tmp_path: Path) -> None:
    lines = [
        '{"path": "a.mp4", "caption": "one"}',
        '{"path": "b.mp4", "caption": ',
        "[1, 2]",
        "",
        json.dumps({"path": "c.mp4", "caption": "x" * (MAX_CAPTION + 1)}),
        "[" * 100_000,
        '{"path": "d.mp4", "caption": "four"}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = list(read_rows(Tree.at(tmp_path), "t.jsonl"))
    assert [row.path for row in found if isinstance(row, Row)] == ["a.mp4", "d.mp4"]
    assert len([row for row in found if isinstance(row, Refusal)]) == 4


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("t.csv", b"path,words\na,b\n", "no column called caption"),
        ("t.csv", b"name,caption\na,b\n", "no column called path"),
        ("t.csv", b"path,caption\na.mp4,caf\xe9\n", "not UTF-8"),
        ("t.parquet", b"PAR1 nothing", "not readable as parquet"),
        ("t.jsonl", b'{"a": 1}', "no column called path"),
        ("t.xlsx", b"", "no table"),
    ],
)
def test_what_is_no_such_table_is_refused(name: str, data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=why):
        list(read_rows(Tree.at(tmp_path), name))
