"""`index.parquet`: a row a sample, with where each of its files stands in its shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from dataengine.records import Pair, Record
from dataengine.store import Store

INDEX = "index.parquet"
SHARDS = "shards"

_MEMBER = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("sha256", pa.string())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("pairing", pa.string()),
        ("subjects", pa.int32()),
        ("attributes", pa.int32()),
        ("objects", pa.int32()),
        ("background", pa.bool_()),
        ("shard", pa.string()),
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("caption", pa.string()),
        ("seconds", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("face_px", pa.float64()),
        ("face_score", pa.float64()),
        ("mask_score", pa.float64()),
        ("owner_share", pa.float64()),
        ("members", pa.list_(_MEMBER)),
    ]
)


class MemberAt(Record):
    """Where a file's data stand in its shard, in bytes."""

    name: str
    offset: int
    size: int
    sha256: str


class IndexRow(Record):
    """A sample in the index. Scores are the worst among its references, None where it has no such reference."""

    key: str
    split: str
    pairing: str
    subjects: int
    attributes: int
    objects: int
    background: bool
    shard: str
    clip_id: str
    source_id: str
    licence: str | None
    caption: str
    seconds: float
    width: int
    height: int
    face_px: float
    face_score: float
    mask_score: float | None
    owner_share: float
    members: tuple[MemberAt, ...] = Field(min_length=1)

    @classmethod
    def of(cls, pair: Pair, shard: str, members: Iterable[MemberAt]) -> Self:
        faces = [subject.face for subject in pair.subjects]
        return cls(
            key=pair.key,
            split=pair.split,
            pairing=pair.pairing,
            subjects=len(pair.subjects),
            attributes=sum(len(subject.attributes) for subject in pair.subjects),
            objects=len(pair.objects),
            background=pair.background is not None,
            shard=shard,
            clip_id=pair.clip.clip_id,
            source_id=pair.clip.source_id,
            licence=pair.licence,
            caption=pair.caption,
            seconds=pair.frames / pair.fps,
            width=pair.width,
            height=pair.height,
            face_px=min(min(face.box.width, face.box.height) for face in faces),
            face_score=min(face.score for face in faces),
            mask_score=min((r.score for r in pair.references if r.mask_member is not None), default=None),
            owner_share=min(subject.owner_share for subject in pair.subjects),
            members=tuple(members),
        )

    @property
    def span(self) -> tuple[int, int]:
        """First byte and end of the sample's data in its shard."""
        return self.members[0].offset, self.members[-1].offset + self.members[-1].size

    def member(self, name: str) -> MemberAt:
        """Raises `KeyError` naming what there is."""
        for found in self.members:
            if found.name == name:
                return found
        raise KeyError(f"sample {self.key} has no {name!r}: there are {', '.join(m.name for m in self.members)}")


def write_index(stream: IO[bytes], rows: Iterable[IndexRow]) -> None:
    """Rows sorted by shard, then by their order in it."""
    ordered = sorted(rows, key=lambda row: (row.shard, row.span))
    table = pa.Table.from_pylist([row.model_dump() for row in ordered], SCHEMA)
    pq.write_table(table, stream, compression="zstd")


def join_indexes(stream: IO[bytes], tables: Iterable[pa.Table]) -> int:
    """Write the indexes of single shards, in order, as one; returns its rows. One row group is held at a time."""
    rows = 0
    with pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
        for table in even_tables(tables):
            writer.write_table(table)
            rows += len(table)
    return rows


def even_tables(tables: Iterable[pa.Table], rows: int = 16_384) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` each but the last: how they came does not show in what is written."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, rows).combine_chunks()
            held = [joined.slice(rows)]
    if any(map(len, held)):
        yield pa.concat_tables(held).combine_chunks()


@dataclass(frozen=True)
class Index:
    """The index in memory as columns; rows are made when asked for."""

    table: pa.Table

    @classmethod
    def read(cls, out: Store, name: str = INDEX) -> Index:
        """The index of a dataset, or one written under another name.

        Raises `StoreError` when there is none, `ValueError` when it is not one of ours.
        """
        with out.open_input(name) as stream:
            try:
                table = pq.read_table(stream)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{out.uri}/{name} cannot be read: {error}; build the dataset again") from error
        if not table.schema.equals(SCHEMA):
            other = ", ".join(sorted(set(SCHEMA.names) ^ set(table.schema.names))) or "types"
            raise ValueError(f"{out.uri}/{name} differs from what this version writes ({other}): build again")
        return cls(table)

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, position: int) -> IndexRow:
        """Raises `IndexError` outside 0 … len − 1 (from the end when negative)."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of an index of {len(self)}")
        values: dict[str, Any] = self.table.slice(position % len(self), 1).to_pylist()[0]
        return IndexRow.model_validate(values)

    def __iter__(self) -> Iterator[IndexRow]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from (IndexRow.model_validate(values) for values in batch.to_pylist())

    def find(self, key: str) -> int:
        """A sample's position. Raises `KeyError` when there is no such key."""
        try:
            return self._positions[key]
        except KeyError:
            raise KeyError(f"no sample {key!r} among {len(self)}") from None

    def where(self, split: str | None = None, subjects: Iterable[int] | None = None) -> Index:
        """The rows of one split and of some numbers of subjects; None takes all."""
        table = self.table
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        if subjects is not None:
            table = table.filter(pc.is_in(table["subjects"], pa.array(list(subjects), pa.int32())))
        return Index(table)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self.table["key"].to_pylist())}


def read_member(out: Store, row: IndexRow, name: str) -> bytes:
    """One file of a sample by one ranged read. Raises `KeyError`, or `StoreError` when the shard is gone."""
    at = row.member(name)
    return read_range(out, row.shard, at.offset, at.size)


def read_range(out: Store, shard: str, offset: int, size: int) -> bytes:
    """Bytes of a shard. Fewer come back when it is shorter than the index says."""
    with out.open_input(f"{SHARDS}/{shard}") as stream:
        return stream.read_at(size, offset)
