"""The store of results: one outcome for every row id and stage fingerprint, in parquet parts of many rows.

`measurements/<stage>/<fingerprint>/part-<hash of its ids>.parquet` holds outcomes with their media. A part is committed
whole or not at all, and what is committed is the checkpoint: a restart reads the ids that are there and does the rest.

`summary-<hash of its parts>.parquet` beside them repeats many parts' rows without the media, so that finding and
deciding read a few files instead of all parts. Summaries only repeat: without them the parts are read, more slowly.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataengine.records import Quarantined, Record
from dataengine.store import Store

_PART = pa.schema(
    [
        ("id", pa.string()),
        ("record", pa.string()),  # the record's JSON; null when the row failed
        ("blobs", pa.list_(pa.large_binary())),  # its encoded media, in the order the JSON numbers them
        ("failure", pa.string()),  # a Quarantined as JSON; null when it did not
        ("seconds", pa.float64()),
        ("cpu_seconds", pa.float64()),
    ]
)
_SUMMARY = pa.schema([field for field in _PART if field.name != "blobs"] + [pa.field("part", pa.string())])
_WITHOUT_MEDIA = [field.name for field in _PART if field.name != "blobs"]

_GROUP = 256
"""Rows of a row group in a summary: what one look-up of a row decodes."""
_PARTS_OF_SUMMARY = 4096
"""So that folding holds about a hundred megabytes, whatever the number of parts."""
_READERS = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one row in one stage: a record or a failure, and the time it took."""

    id: str
    result: Record | Quarantined
    seconds: float
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Stored:
    """An outcome as it was read back; `blobs` is None where only the JSON was asked for."""

    record: str | None
    blobs: list[bytes] | None
    failure: str | None

    def result(self, kind: type[Record]) -> Record | Quarantined:
        """The record (of that type) or the failure."""
        if self.failure:
            return Quarantined.from_json(self.failure)
        return kind.unpack(self.record or "", self.blobs)


@dataclass(frozen=True)
class Ledger:
    """Which rows a stage has outcomes for, and where: arrays sorted by id, 45 bytes a row.

    `part` and `file` are places in `files`: the part that has the media, and the file (a summary, or that part itself)
    whose row `row` has the JSON. `failed` and the seconds are of the outcome.
    """

    ids: NDArray[np.bytes_]
    part: NDArray[np.int32]
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    failed: NDArray[np.bool_]
    seconds: NDArray[np.float32]
    cpu_seconds: NDArray[np.float32]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The place of each id in the arrays, -1 where there is no outcome."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        wanted = np.array([i.encode() for i in ids], dtype=self.ids.dtype)
        at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        return np.where(self.ids[at] == wanted, at, -1)

    def has(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that have an outcome."""
        return {i for i, at in zip(ids, self.find(ids), strict=True) if at >= 0}


@dataclass(frozen=True)
class Measurements:
    """`OUT/measurements`."""

    store: Store

    def commit(self, stage: str, fingerprint: str, outcomes: Sequence[Outcome]) -> int:
        """Store outcomes as one part; returns its bytes. The same rows again replace the part by an equal one."""
        columns: dict[str, list] = {field.name: [] for field in _PART}
        for outcome in outcomes:
            failed = isinstance(outcome.result, Quarantined)
            record, blobs = outcome.result.pack()
            columns["id"].append(outcome.id)
            columns["record"].append(None if failed else record)
            columns["blobs"].append(None if failed else blobs)
            columns["failure"].append(record if failed else None)
            columns["seconds"].append(outcome.seconds)
            columns["cpu_seconds"].append(outcome.cpu_seconds)
        return self._write_part(stage, fingerprint, pa.table(columns, schema=_PART))

    def committed(self, stage: str, fingerprint: str, ids: Sequence[str]) -> dict[str, Stored] | None:
        """The outcomes of a batch if exactly its rows were committed as one part, else None.

        That is how a batch that Ray runs again (its output was lost with a node) finds what it already did.
        """
        name = _part_name(stage, fingerprint, ids)
        if not self.store.exists(name):
            return None
        with self.store.open_input(name) as stream:
            return _stored(pq.read_table(stream))

    def ledger(self, stage: str, fingerprint: str) -> Ledger:
        """Every row with an outcome. Reads no record and no media."""
        names = self._files(stage, fingerprint)
        number = {name: n for n, name in enumerate(names)}
        columns = ["id", "failure", "seconds", "cpu_seconds"]
        found: list[tuple[pa.Table, NDArray[np.int32], int]] = []
        covered: set[str] = set()
        summaries = [name for name in names if _is_summary(name)]
        for name, table in zip(summaries, self._tables(summaries, [*columns, "part"]), strict=True):
            parts = table["part"].combine_chunks().dictionary_encode()
            # A part that somebody deleted takes its rows in a summary along.
            places = np.array([number.get(part, -1) for part in parts.dictionary.to_pylist()], dtype=np.int32)
            covered.update(parts.dictionary.to_pylist())
            found.append((table, places[parts.indices.to_numpy()], number[name]))
        others = [name for name in names if not _is_summary(name) and name not in covered]
        for name, table in zip(others, self._tables(others, columns), strict=True):
            found.append((table, np.full(len(table), number[name], dtype=np.int32), number[name]))
        return _ledger(found, tuple(names))

    def unfolded(self, stage: str, fingerprint: str) -> list[str]:
        """The parts that no summary repeats yet."""
        names = self._files(stage, fingerprint)
        covered: set[str] = set()
        summaries = [name for name in names if _is_summary(name)]
        for table in self._tables(summaries, ["part"]):
            covered.update(table["part"].unique().to_pylist())
        return [name for name in names if not _is_summary(name) and name not in covered]

    def fold(self, stage: str, fingerprint: str) -> None:
        """Write summaries for the parts that none repeats yet."""
        fresh = self.unfolded(stage, fingerprint)
        for start in range(0, len(fresh), _PARTS_OF_SUMMARY):
            parts = fresh[start : start + _PARTS_OF_SUMMARY]
            digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
            tables = [
                table.append_column("part", pa.array([name] * len(table), pa.string()))
                for name, table in zip(parts, self._tables(parts, _WITHOUT_MEDIA), strict=True)
            ]
            with self.store.open_output(f"{stage}/{fingerprint}/summary-{digest}.parquet") as stream:
                pq.write_table(
                    pa.concat_tables(tables).cast(_SUMMARY), stream, compression="zstd", row_group_size=_GROUP
                )

    def records(self, ledger: Ledger, ids: Sequence[str]) -> dict[str, Stored]:
        """The outcomes of those of `ids` that have one, without media. Cheap for rows that were measured together."""
        places = ledger.find(ids)
        return self._read(ledger, places[places >= 0], ledger.file, _WITHOUT_MEDIA)

    def media(self, ledger: Ledger, ids: Sequence[str]) -> dict[str, Stored]:
        """The outcomes of those of `ids` that have one, with media, from their parts."""
        places = ledger.find(ids)
        return self._read(ledger, places[places >= 0], ledger.part, _PART.names)

    def void(self, stage: str, fingerprint: str, ids: Iterable[str]) -> int:
        """Take these rows' outcomes out of the store, so that they are measured again; returns how many there were.

        Parts do not change: each that holds such a row is replaced by one with the rest. A kill in between leaves both,
        and voiding again finishes it.
        """
        unwanted = set(ids)
        count = 0
        names = self._files(stage, fingerprint)
        # Summaries first: a part that is measured again gets the old one's name.
        summaries = [name for name in names if _is_summary(name)]
        for name, table in zip(summaries, self._tables(summaries, ["id"]), strict=True):
            if not unwanted.isdisjoint(table["id"].to_pylist()):
                self.store.delete(name)
        for name in [n for n in names if not _is_summary(n)]:
            with self.store.open_input(name) as stream:
                file = pq.ParquetFile(stream)
                held = file.read(columns=["id"])["id"].to_pylist()
                keep = [number for number, row_id in enumerate(held) if row_id not in unwanted]
                if len(keep) == len(held):
                    continue
                if keep:
                    self._write_part(stage, fingerprint, file.read().take(keep))
            self.store.delete(name)
            count += len(held) - len(keep)
        return count

    def copy(self, target: Measurements, stage: str, fingerprint: str, ids: Set[str]) -> int:
        """Copy these rows' outcomes into another store and nothing of any other row; returns how many were left out."""
        left = 0
        for name in self._files(stage, fingerprint):
            if _is_summary(name):
                continue
            with self.store.open_input(name) as stream:
                table = pq.read_table(stream)
            wanted = [number for number, row_id in enumerate(table["id"].to_pylist()) if row_id in ids]
            left += len(table) - len(wanted)
            if wanted:
                target._write_part(stage, fingerprint, table.take(wanted))
        return left

    def _read(
        self, ledger: Ledger, places: NDArray[np.int64], files: NDArray[np.int32], columns: list[str]
    ) -> dict[str, Stored]:
        by_file: dict[int, list[int]] = defaultdict(list)
        for place in places.tolist():
            by_file[int(files[place])].append(place)
        found: dict[str, Stored] = {}
        for number, held in by_file.items():
            name = ledger.files[number]
            wanted = {ledger.ids[place].decode() for place in held}
            with self.store.open_input(name) as stream:
                file = pq.ParquetFile(stream)
                if _is_summary(name):
                    groups = sorted({int(ledger.row[place]) // _GROUP for place in held})
                else:
                    rows = file.read(columns=["id"])["id"].to_pylist()
                    groups = [n for n, row_id in enumerate(rows) if row_id in wanted]
                table = file.read_row_groups(groups, columns=columns)
            found |= {i: stored for i, stored in _stored(table).items() if i in wanted}
        return found

    def _write_part(self, stage: str, fingerprint: str, table: pa.Table) -> int:
        buffer = BytesIO()
        # A row group a row: packing reads single rows' media, in an order of its own.
        pq.write_table(table, buffer, compression="zstd", use_dictionary=False, row_group_size=1)
        self.store.write(_part_name(stage, fingerprint, table["id"].to_pylist()), buffer.getvalue())
        return buffer.tell()

    def _files(self, stage: str, fingerprint: str) -> list[str]:
        return self.store.names(f"{stage}/{fingerprint}", suffix=".parquet")

    def _tables(self, names: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
        """These columns of each file in order, several files under way at a time."""

        def read(name: str) -> pa.Table:
            with self.store.open_input(name) as stream:
                return pq.read_table(stream, columns=columns, use_threads=False)

        with ThreadPoolExecutor(_READERS) as pool:
            left = iter(names)
            waiting = [pool.submit(read, name) for name in islice(left, 4 * _READERS)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(read, name) for name in islice(left, 1)]


def ledgers(measurements: Measurements, fingerprints: Mapping[str, str]) -> dict[str, Ledger]:
    """The ledger of every stage, by name."""
    return {stage: measurements.ledger(stage, print_) for stage, print_ in fingerprints.items()}


def _ledger(found: Sequence[tuple[pa.Table, NDArray[np.int32], int]], files: tuple[str, ...]) -> Ledger:
    def joined(arrays: Sequence[NDArray], dtype: str) -> NDArray:
        return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.empty(0, dtype)

    ids = joined([np.array([i.encode() for i in table["id"].to_pylist()], dtype="S24") for table, _, _ in found], "S24")
    part = joined([parts for _, parts, _ in found], "i4")
    file = joined([np.full(len(table), number) for table, _, number in found], "i4")
    row = joined([np.arange(len(table)) for table, _, _ in found], "i4")
    failed = joined([table["failure"].is_valid().to_numpy() for table, _, _ in found], "?")
    seconds = joined([table["seconds"].to_numpy() for table, _, _ in found], "f4")
    cpu = joined([table["cpu_seconds"].to_numpy() for table, _, _ in found], "f4")
    # A row in two parts (killed in the middle of `void`) counts once, a success before a failure.
    order = np.lexsort((failed, ids))
    order = order[part[order] >= 0]
    first = np.ones(len(order), dtype=bool)
    first[1:] = ids[order][1:] != ids[order][:-1]
    order = order[first]
    return Ledger(ids[order], part[order], file[order], row[order], failed[order], seconds[order], cpu[order], files)


def _stored(table: pa.Table) -> dict[str, Stored]:
    return {r["id"]: Stored(r["record"], r.get("blobs"), r["failure"]) for r in table.to_pylist()}


def _part_name(stage: str, fingerprint: str, ids: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    return f"{stage}/{fingerprint}/part-{digest}.parquet"


def _is_summary(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith("summary-")
