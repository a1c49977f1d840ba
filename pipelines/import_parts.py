"""What was read of a source, between reading and packing: tars of samples in the order of the source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.config import ShardSettings
from dataengine.shards import tar
from dataengine.shards.index import INDEX, SHARDS, Index, IndexRow, even_tables, join_indexes, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.store import Store
from pipelines.spread import spread
from pipelines.verdicts import CLIPS_SCHEMA, KEPT

PARTS = "measurements/import"
"""A killed import goes on from them; a finished one leaves none."""


@dataclass(frozen=True)
class Stored:
    """A sample that was read: its name, and its row in a part."""

    name: SampleName
    part: str
    row: int


def named(store: Store, parts: Sequence[str]) -> tuple[list[Stored], list[str]]:
    """Every sample once, and the keys of those left out: of two with one key the first in order of the source stays."""
    kept: dict[str, Stored] = {}
    twice = []
    for part in parts:
        table = _index(store, part).table
        columns = zip(*(table[name].to_pylist() for name in ("split", "subjects", "key")), strict=True)
        for row, (split, subjects, key) in enumerate(columns):
            if key in kept:
                twice.append(key)
            else:
                kept[key] = Stored(SampleName(split, subjects, key), part, row)
    return list(kept.values()), twice


def pack(store: Store, stored: Sequence[Stored], settings: ShardSettings, address: str | None = None) -> int:
    """Bring `shards/` and `index.parquet` to hold exactly these samples; returns their number."""
    by_key = {one.name.key: one for one in stored}
    plans = sorted(plan_shards((one.name for one in stored), settings))
    work = [(plan.name, tuple(by_key[key] for key in plan.keys)) for plan in plans]
    names = list(spread(partial(_pack_shard, store), work, address))
    with store.open_output(INDEX) as stream:
        rows = join_indexes(stream, (Index.read(store, name).table for name in names))
    wanted = {f"{SHARDS}/{plan.name}" for plan in plans}
    for name in store.names(SHARDS):
        if name not in wanted:
            store.delete(name)
    return rows


def write_clips(store: Store, parts: Sequence[str]) -> None:
    """`clips.parquet`: every sample, and which parts of it were dropped and why."""
    with store.open_output("clips.parquet") as stream, pq.ParquetWriter(stream, CLIPS_SCHEMA) as writer:
        for table in even_tables(_clips(store, parts)):
            writer.write_table(table)


def _clips(store: Store, parts: Sequence[str]) -> Iterator[pa.Table]:
    for part in parts:
        dropped = json.loads(store.read(f"{PARTS}/{part}.json"))["dropped"]
        table = _index(store, part).table
        rows = zip(*(table[name].to_pylist() for name in ("key", "clip_id", "source_id", "seconds")), strict=True)
        captions = table["caption"].to_pylist()
        yield pa.Table.from_pylist(
            [
                {
                    "clip_id": clip_id,
                    "source_id": source_id,
                    "start_s": 0.0,
                    "end_s": seconds,
                    "verdict": KEPT,
                    "detail": caption,
                    "dropped": dropped[key],
                }
                for (key, clip_id, source_id, seconds), caption in zip(rows, captions, strict=True)
            ],
            CLIPS_SCHEMA,
        )


def _index(store: Store, part: str) -> Index:
    return Index.read(store, f"{PARTS}/{part}.parquet")


def _pack_shard(store: Store, work: tuple[str, tuple[Stored, ...]]) -> str:
    """Copy samples out of their parts; returns where the shard's own index lies.

    In a tar a sample is the same bytes wherever it stands, so nothing is encoded or hashed again.
    """
    shard, stored = work
    indexes = {part: _index(store, part) for part in sorted({one.part for one in stored})}
    rows: list[IndexRow] = []
    position = 0
    with store.open_output(f"{SHARDS}/{shard}") as stream:
        for one in stored:
            row = indexes[one.part][one.row]
            start, end = row.span[0] - tar.BLOCK, row.span[1] + -row.span[1] % tar.BLOCK
            shift = position - start
            members = tuple(m.model_copy(update={"offset": m.offset + shift}) for m in row.members)
            rows.append(row.model_copy(update={"shard": shard, "members": members}))
            with store.open_input(f"{PARTS}/{one.part}.tar") as part:
                position += stream.write(part.read_at(end - start, start))
        stream.write(tar.end(position))
    name = f"{PARTS}/{shard}.parquet"
    with store.open_output(name) as stream:
        write_index(stream, rows)
    return name
