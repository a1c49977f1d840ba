"""The store of results: one outcome for every row id and stage fingerprint, in parquet parts of many rows.

A part is committed whole or not at all, and what is committed is the checkpoint: a restart reads the ids that are there
and does the rest. `measurements/<stage>/<fingerprint>/part-<hash of its ids>.parquet`, columns as in `_SCHEMA`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.records import Quarantined, Record
from dataengine.store import Store

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("record", pa.string()),  # the record's JSON; null when the row failed
        ("blobs", pa.list_(pa.large_binary())),  # its encoded media, in the order the JSON numbers them
        ("failure", pa.string()),  # a Quarantined as JSON; null when it did not
        ("seconds", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Outcome:
    """What became of one row in one stage: a record or a failure."""

    id: str
    result: Record | Quarantined
    seconds: float


@dataclass(frozen=True)
class Stored:
    """An outcome as it was read back."""

    record: str | None
    blobs: list[bytes] | None
    failure: str | None


@dataclass(frozen=True)
class CommittedIds:
    """The ids a stage has outcomes for and the part that holds each: sorted arrays, 28 bytes an id."""

    ids: np.ndarray
    parts: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Sequence[str]) -> list[str | None]:
        """The part of each id, None where there is no outcome yet."""
        if not len(self.ids):
            return [None] * len(ids)
        wanted = np.array([i.encode() for i in ids], dtype=self.ids.dtype)
        at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        found = self.ids[at] == wanted
        return [self.names[self.parts[a]] if f else None for a, f in zip(at, found, strict=True)]


@dataclass(frozen=True)
class Measurements:
    """`OUT/measurements`."""

    store: Store

    def commit(self, stage: str, fingerprint: str, outcomes: Sequence[Outcome]) -> None:
        """Store outcomes as one part. Committing the same rows again replaces the part by an equal one."""
        columns: dict[str, list] = {field.name: [] for field in _SCHEMA}
        for outcome in outcomes:
            failed = isinstance(outcome.result, Quarantined)
            record, blobs = outcome.result.pack()
            columns["id"].append(outcome.id)
            columns["record"].append(None if failed else record)
            columns["blobs"].append(None if failed else blobs)
            columns["failure"].append(record if failed else None)
            columns["seconds"].append(outcome.seconds)
        buffer = BytesIO()
        # A row group a row: packing reads single rows' blobs, in an order of its own.
        pq.write_table(
            pa.table(columns, schema=_SCHEMA), buffer, compression="zstd", use_dictionary=False, row_group_size=1
        )
        name = hashlib.sha256("\n".join(columns["id"]).encode()).hexdigest()[:16]
        self.store.write(f"{stage}/{fingerprint}/part-{name}.parquet", buffer.getvalue())

    def committed(self, stage: str, fingerprint: str) -> CommittedIds:
        """Every id with an outcome. Reads the id column alone."""
        names = self.store.names(f"{stage}/{fingerprint}", suffix=".parquet")
        ids: list[np.ndarray] = []
        parts: list[np.ndarray] = []
        for number, name in enumerate(names):
            with self.store.open_input(name) as stream:
                column = pq.read_table(stream, columns=["id"])["id"]
            ids.append(np.array([i.encode() for i in column.to_pylist()], dtype="S24"))
            parts.append(np.full(len(column), number, dtype=np.int32))
        flat = np.concatenate(ids) if ids else np.empty(0, dtype="S24")
        holders = np.concatenate(parts) if parts else np.empty(0, np.int32)
        order = np.argsort(flat, kind="stable")
        return CommittedIds(flat[order], holders[order], tuple(names))

    def read(self, places: Mapping[str, str], *, blobs: bool) -> dict[str, Stored]:
        """The stored outcomes of `places` (id to part), opening each part once."""
        by_part: dict[str, list[str]] = {}
        for row_id, part in places.items():
            by_part.setdefault(part, []).append(row_id)
        columns = ["id", "record", "failure"] + (["blobs"] if blobs else [])
        found: dict[str, Stored] = {}
        for part, ids in by_part.items():
            with self.store.open_input(part) as stream:
                file = pq.ParquetFile(stream)
                groups = [n for n, i in enumerate(file.read(columns=["id"])["id"].to_pylist()) if i in set(ids)]
                rows = file.read_row_groups(groups, columns=columns).to_pylist()
            for row in rows:
                found[row["id"]] = Stored(row["record"], row.get("blobs"), row["failure"])
        return found

    def ids_of(self, rows: Iterable[str], committed: CommittedIds) -> dict[str, str]:
        """Id to part for those of `rows` that have an outcome."""
        ids = list(rows)
        return {i: part for i, part in zip(ids, committed.find(ids), strict=True) if part is not None}
