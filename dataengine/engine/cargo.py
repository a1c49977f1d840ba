"""Rows as they travel between stages: Arrow tables of JSON and encoded bytes, never frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dataengine.engine.pipeline import Pipeline
from dataengine.records import Clip, Quarantined, Record, Rejected, SourceVideo
from dataengine.stage import Row

Fate = Quarantined | Rejected
"""What stops a row: a failure, or a rule's refusal."""


@dataclass(frozen=True)
class Cargo:
    """A row and, once something stopped it, what did. A stopped row passes the remaining stages untouched."""

    row: Row
    fate: Fate | None = None

    def stopped(self, fate: Fate) -> Cargo:
        return replace(self, fate=fate)


def schema(pipeline: Pipeline) -> pa.Schema:
    fields = [("source", pa.string()), ("clip", pa.string()), ("quarantined", pa.string()), ("rejected", pa.string())]
    for step in pipeline.steps:
        fields += [(step.stage.name, pa.string()), (f"{step.stage.name}:blobs", pa.list_(pa.large_binary()))]
    return pa.schema(fields)


def to_table(
    cargo: Iterable[Cargo],
    pipeline: Pipeline,
    keep: Callable[[type[Record]], bool] = lambda kind: True,
    keep_blobs: Callable[[type[Record]], bool] = lambda kind: True,
) -> pa.Table:
    """Encode rows; records that nobody behind will read, and blobs likewise, are left behind."""
    target = schema(pipeline)
    columns: dict[str, list] = {name: [] for name in target.names}
    for item in cargo:
        columns["source"].append(item.row.source.to_json())
        columns["clip"].append(item.row.clip.to_json() if item.row.clip else None)
        columns["quarantined"].append(item.fate.to_json() if isinstance(item.fate, Quarantined) else None)
        columns["rejected"].append(item.fate.to_json() if isinstance(item.fate, Rejected) else None)
        for kind, stage in pipeline.writers.items():
            record = item.row.records.get(kind)
            text, blobs = record.pack() if record is not None and keep(kind) else (None, None)
            columns[stage].append(text)
            columns[f"{stage}:blobs"].append(blobs if blobs and keep_blobs(kind) else None)
    return pa.table(columns, schema=target)


def from_table(table: pa.Table, pipeline: Pipeline) -> list[Cargo]:
    """Decode rows. A record whose blobs were left behind has empty ones."""
    return [_cargo(values, pipeline) for values in table.to_pylist()]


def _cargo(values: Mapping, pipeline: Pipeline) -> Cargo:
    records: dict[type[Record], Record] = {}
    for kind, stage in pipeline.writers.items():
        if values[stage] is not None:
            records[kind] = kind.unpack(values[stage], values[f"{stage}:blobs"])
    clip = Clip.from_json(values["clip"]) if values["clip"] else None
    fate: Fate | None = None
    if values["quarantined"]:
        fate = Quarantined.from_json(values["quarantined"])
    elif values["rejected"]:
        fate = Rejected.from_json(values["rejected"])
    return Cargo(Row(SourceVideo.from_json(values["source"]), clip, records), fate)


def of_sources(sources: Sequence[SourceVideo], pipeline: Pipeline) -> pa.Table:
    return to_table([Cargo(Row(source)) for source in sources], pipeline)


def cut(row: Row, pipeline: Pipeline) -> list[Cargo]:
    """A measured source's clips, or the source itself, stopped, where it cannot be cut."""
    try:
        clips = pipeline.cut(row)
    except Exception as error:
        return [Cargo(row, quarantined(row, "cut", error))]
    if not clips:
        whole = Clip.of(row.source.source_id, 0.0, 0.0)
        detail = f"{row.source.names[0]}: no shot is long enough for a clip"
        return [Cargo(row, Rejected(clip=whole, rule="clips", detail=detail))]
    return [Cargo(Row(row.source, clip, row.records)) for clip in clips]


def quarantined(row: Row, stage: str, error: Exception, attempts: int = 1) -> Quarantined:
    """The record of a row that failed, in words a person understands."""
    # The name below the input folder, not this machine's path: the table is the same wherever the run was.
    message = (str(error) or repr(error)).replace(row.source.uri, row.source.names[0])
    return Quarantined(
        id=row.id,
        stage=stage,
        error=type(error).__name__,
        message=message,
        attempts=attempts,
        source_names=row.source.names,
        start_s=row.clip.start_s if row.clip else None,
        end_s=row.clip.end_s if row.clip else None,
        answers=getattr(error, "answers", ()),
    )
