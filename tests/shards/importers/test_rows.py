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


BOXES = [{"label": "red hat", "box": [1, 2, 30, 40.5]}, {"label": "man", "box": [0, 0, 9, 9], "time_s": 1.5}]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet of text"])
def test_boxes_may_come_along(kind: str, tmp_path: Path) -> None:
    name = f"t.{kind.split()[0]}"
    if kind.startswith("parquet"):
        boxes = json.dumps(BOXES) if "text" in kind else [{"time_s": None} | box for box in BOXES]
        pq.write_table(pa.Table.from_pylist([{"path": "a.mp4", "caption": "c", "boxes": boxes}]), tmp_path / name)
    elif kind == "jsonl":
        (tmp_path / name).write_text(json.dumps({"path": "a.mp4", "caption": "c", "Boxes": BOXES}))
    else:
        quoted = json.dumps(BOXES).replace('"', '""')
        (tmp_path / name).write_text(f'path,caption,boxes\na.mp4,c,"{quoted}"\nb.mp4,c,\n')
    (first, *_) = read_rows(Tree.at(tmp_path), name)
    assert isinstance(first, Row)
    assert [(b.phrase, tuple(b.box), b.time_s) for b in first.boxes] == [
        ("red hat", (1, 2, 30, 40.5), None),
        ("man", (0, 0, 9, 9), 1.5),
    ]


@pytest.mark.parametrize(
    "boxes",
    [
        '"x"',
        "3",
        '{"label": "a"}',
        '[{"box": [1, 2, 3, 4]}]',
        '[{"label": "a", "box": [1, 2, 3]}]',
        '[{"label": "a", "box": [5, 2, 3, 4]}]',
        '[{"label": "a", "box": [1, 2, NaN, 4]}]',
        "[[]]",
        "[[[[[",
    ],
)
def test_strange_boxes_refuse_their_row(boxes: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,caption,boxes\na.mp4,c,"' + boxes.replace('"', '""') + '"\nb.mp4,c,\n')
    bad, good = read_rows(Tree.at(tmp_path), "t.csv")
    assert isinstance(bad, Refusal) and "its boxes" in bad.reason
    assert isinstance(good, Row)


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
