"""Tables of videos and captions as others write them: CSV, JSON lines or parquet, one row at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.records import Box, GivenBox, Record
from dataengine.shards.importers.contract import Refusal, SourceError, safe_name
from dataengine.shards.importers.tree import Tree

PATH_COLUMNS = ("path", "video", "video_path", "file", "file_name", "filename", "url", "clip")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description", "txt")
MAX_LINE = 1 << 20
MAX_CAPTION = 16_384
MAX_BOXES = 64
_BATCH = 1024


class Row(Record):
    """One row: its number from 1, and what it says. Either text may be empty."""

    number: int
    path: str
    caption: str
    boxes: tuple[GivenBox, ...] = ()


def read_rows(tree: Tree, name: str) -> Iterator[Row | Refusal]:
    """A table's rows in order, in bounded memory; a row that cannot be read is a `Refusal` in its place.

    The columns are found by the usual names (`PATH_COLUMNS`, `CAPTION_COLUMNS`), ignoring case. Raises `SourceError`
    for a table that is none, or lacks them.
    """
    reader = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    kind = PurePosixPath(name).suffix.lower()
    if kind not in reader:
        raise SourceError(f"{safe_name(name)}: no table: expected {', '.join(reader)}")
    with tree.open(name) as stream:
        columns: tuple[str, str] | None = None
        for number, values in enumerate(reader[kind](stream, safe_name(name)), 1):
            if isinstance(values, str):
                yield Refusal(name=f"{safe_name(name)} row {number}", reason=values)
                continue
            if columns is None or kind in (".jsonl", ".ndjson"):
                columns = _columns(values, safe_name(name))
            path, caption = (str(values.get(column) or "").strip() for column in columns)
            if len(caption) > MAX_CAPTION:
                reason = f"a caption of {len(caption)} characters, at most {MAX_CAPTION} are taken"
                yield Refusal(name=f"{safe_name(name)} row {number}", reason=reason)
                continue
            try:
                yield Row(number=number, path=path, caption=caption, boxes=_boxes(values))
            except (TypeError, ValueError) as error:
                yield Refusal(name=f"{safe_name(name)} row {number}", reason=f"its boxes: {error}")


def _boxes(values: Mapping[str, Any]) -> tuple[GivenBox, ...]:
    """The column `boxes`: a list, or its JSON, of `{"label": …, "box": [x0, y0, x1, y1], "time_s": …}`.

    Raises `TypeError` or `ValueError` (pydantic's among them) for anything else.
    """
    told = next((value for name, value in values.items() if str(name).strip().lower() == "boxes"), None)
    told = json.loads(told) if isinstance(told, str) and told.strip() else told
    if not told:
        return ()
    if not isinstance(told, list) or len(told) > MAX_BOXES:
        raise ValueError(f"a list of at most {MAX_BOXES} is expected")
    return tuple(
        GivenBox(phrase=one["label"], box=Box(*map(float, one["box"])), time_s=one.get("time_s"))
        for one in map(_as_dict, told)
    )


def _as_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not {"label", "box"} <= value.keys():
        raise ValueError('each needs a "label" and a "box"')
    return value


def _columns(values: Mapping[str, Any], name: str) -> tuple[str, str]:
    by_name = {str(column).strip().lower(): column for column in values}
    found = [next((by_name[c] for c in wanted if c in by_name), None) for wanted in (PATH_COLUMNS, CAPTION_COLUMNS)]
    if found[0] is None or found[1] is None:
        wanted = PATH_COLUMNS if found[0] is None else CAPTION_COLUMNS
        raise SourceError(
            f"{name}: no column called {', '.join(wanted)}; there are {', '.join(map(safe_name, by_name)) or 'none'}"
        )
    return found[0], found[1]


def _csv(stream: BinaryIO, name: str) -> Iterator[dict[str, Any] | str]:
    delimiter = "\t" if name.lower().endswith(".tsv") else ","
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="strict", newline="")
    csv.field_size_limit(MAX_LINE)
    reader = csv.DictReader(text, delimiter=delimiter)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            text.detach()
            return
        except csv.Error as error:
            yield f"not readable as CSV: {error}"
            continue
        except UnicodeDecodeError as error:
            # What follows is in no known place of the text: the rest of the file cannot be trusted.
            raise SourceError(f"{name}: not UTF-8 text ({error}): save the table as UTF-8") from error
        yield {key: value for key, value in values.items() if key is not None}


def _jsonl(stream: BinaryIO, name: str) -> Iterator[dict[str, Any] | str]:
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)
            yield f"a line of more than {MAX_LINE} bytes"
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
            continue
        yield values if isinstance(values, dict) else "not a JSON object"


def _parquet(stream: BinaryIO, name: str) -> Iterator[dict[str, Any] | str]:
    try:
        file = pq.ParquetFile(stream)
        wanted = {*PATH_COLUMNS, *CAPTION_COLUMNS, "boxes"}
        columns = [c for c in file.schema_arrow.names if c.strip().lower() in wanted]
        if not columns:
            _columns(dict.fromkeys(file.schema_arrow.names), name)
        for batch in file.iter_batches(_BATCH, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name}: not readable as parquet: {error}") from error
