"""What was decided on every clip, in files: memory does not grow with it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.decide.ownership import DISPUTES
from dataengine.records import Dropped, Pair, Quarantined, Rejected
from dataengine.shards.index import even_tables
from dataengine.shards.plan import SampleName
from dataengine.store import Store

DECIDED = "measurements/decided"
"""Where the verdicts of the last run lie."""

ALONE = "measurements/alone"
"""Where those on each clip by itself lie while the corpus as a whole is looked at; empty otherwise."""

KEPT, QUARANTINED = "kept", "quarantined"

DISPUTED = "disputes.parquet"
"""Every phrase that the witnesses of its owner do not agree on: it is in no pair, and a person may decide."""

_WITNESS = pa.struct([("person", pa.int32()), ("still", pa.int32()), ("votes", pa.float64()), ("inside", pa.float64())])
_DISPUTE = pa.struct(
    [
        ("entity", pa.string()),
        ("phrase", pa.string()),
        ("rule", pa.string()),
        ("detail", pa.string()),
        ("witnesses", pa.list_(_WITNESS)),
    ]
)
_SCHEMA = pa.schema(
    [
        ("verdict", pa.string()),  # `kept`, `quarantined` or the rule that refused the clip
        ("detail", pa.string()),
        ("dropped", pa.list_(pa.string())),
        ("disputes", pa.list_(_DISPUTE)),
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("key", pa.string()),
        ("split", pa.string()),
        ("subjects", pa.int32()),
        ("persons", pa.list_(pa.int32())),  # of the clip: who each subject is
        ("hashes", pa.list_(pa.string())),  # of the stills of what is kept
        ("sha256", pa.string()),  # of `json`
        ("json", pa.string()),  # the Pair that is kept, or the Quarantined
    ]
)
_CLIPS = ("clip_id", "source_id", "start_s", "end_s", "verdict", "detail", "dropped")
CLIPS_SCHEMA = pa.schema([_SCHEMA.field(name) for name in _CLIPS])
"""Of `clips.parquet`."""
_ROWS_OF_GROUP = 16
"""Packing reads pairs in the order of keys, not of clips."""


def row_of(
    outcome: Pair | Rejected | Quarantined, dropped: Sequence[Dropped] = (), persons: Sequence[int] = ()
) -> dict[str, Any]:
    """A clip's row."""
    values: dict[str, Any] = {"dropped": [f"{d.entity}: {d.rule}: {d.detail}" for d in dropped]}
    disputed = [d for d in dropped if d.rule in DISPUTES]
    values["disputes"] = [d.model_dump(mode="python") for d in disputed]
    if isinstance(outcome, Rejected):
        return values | outcome.clip.model_dump() | {"verdict": outcome.rule, "detail": outcome.detail}
    text = outcome.to_json()
    values |= {"json": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    if isinstance(outcome, Quarantined):
        return values | {"verdict": QUARANTINED, "detail": outcome.message}
    values |= {"persons": list(persons), "hashes": outcome.quality.hashes}
    name = SampleName.of(outcome)
    return values | outcome.clip.model_dump() | name._asdict() | {"verdict": KEPT, "detail": outcome.caption}


def write(store: Store, number: int, rows: Iterable[Mapping[str, Any]], folder: str = DECIDED) -> None:
    """The verdicts of a group, as its file."""
    held: list[Mapping[str, Any]] = []
    with (
        store.open_output(_file(number, folder)) as stream,
        pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer,
    ):
        for row in rows:
            held.append(row)
            if len(held) == _ROWS_OF_GROUP * 16:
                writer.write_table(pa.Table.from_pylist(held, _SCHEMA), row_group_size=_ROWS_OF_GROUP)
                held.clear()
        if held:
            writer.write_table(pa.Table.from_pylist(held, _SCHEMA), row_group_size=_ROWS_OF_GROUP)


@dataclass(frozen=True)
class Kept:
    """A pair that goes into a shard, without the pair: its name, its content's hash, and where it lies."""

    name: SampleName
    sha256: str
    file: int
    row: int


@dataclass(frozen=True)
class Verdicts:
    """The written verdicts of a run, read a file at a time."""

    store: Store
    files: int
    folder: str = DECIDED

    def kept(self) -> Iterator[Kept]:
        """Every pair, in the order of the sources."""
        for file in range(self.files):
            table = self._columns(file, ["verdict", "key", "split", "subjects", "sha256"])
            for row, values in enumerate(table.to_pylist()):
                if values["verdict"] == KEPT:
                    name = SampleName(values["split"], values["subjects"], values["key"])
                    yield Kept(name, values["sha256"], file, row)

    def pairs(self, wanted: Sequence[Kept]) -> list[Pair]:
        """These pairs, in this order."""
        rows: dict[int, list[int]] = defaultdict(list)
        for kept in wanted:
            rows[kept.file].append(kept.row)
        found: dict[tuple[int, int], str] = {}
        for number, places in rows.items():
            with self.store.open_input(_file(number, self.folder)) as stream:
                file = pq.ParquetFile(stream)
                for group in sorted({row // _ROWS_OF_GROUP for row in places}):
                    texts = file.read_row_group(group, columns=["json"])["json"].to_pylist()
                    found |= {(number, group * _ROWS_OF_GROUP + at): text for at, text in enumerate(texts)}
        return [Pair.from_json(found[kept.file, kept.row]) for kept in wanted]

    def quarantined(self) -> Iterator[Quarantined]:
        for file in range(self.files):
            table = self._columns(file, ["verdict", "json"])
            for text in table.filter(pc.equal(table["verdict"], QUARANTINED))["json"].to_pylist():
                yield Quarantined.from_json(text)

    def counts(self) -> Counter[str]:
        """Clips by verdict."""
        counts: Counter[str] = Counter()
        for file in range(self.files):
            counts.update(self._columns(file, ["verdict"])["verdict"].to_pylist())
        return counts

    def write_clips(self) -> None:
        """`clips.parquet`: every clip with what was decided, and which parts of it were dropped and why."""
        with (
            self.store.open_output("clips.parquet") as stream,
            pq.ParquetWriter(stream, CLIPS_SCHEMA) as writer,
        ):
            for table in even_tables(self._clips()):
                writer.write_table(table)

    def write_disputes(self) -> None:
        """`disputes.parquet`: a row a phrase, with what every witness says of everybody it could belong to."""
        columns = ("clip_id", "source_id", "start_s", "end_s", "key")
        schema = pa.schema([*(_SCHEMA.field(name) for name in columns), *(_DISPUTE.field(i) for i in range(5))])
        with self.store.open_output(DISPUTED) as stream, pq.ParquetWriter(stream, schema) as writer:
            for file in range(self.files):
                table = self._columns(file, [*columns, "disputes"])
                rows = [
                    {name: row[name] for name in columns} | dispute
                    for row in table.filter(pc.greater(pc.list_value_length(table["disputes"]), 0)).to_pylist()
                    for dispute in row["disputes"]
                ]
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema))

    def rows(self, file: int) -> Iterator[dict[str, Any]]:
        """Every row of a file as `write` takes it."""
        with self.store.open_input(_file(file, self.folder)) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(1024):
                yield from batch.to_pylist()

    def columns(self, file: int, names: Sequence[str]) -> pa.Table:
        """Some columns of the kept rows of a file."""
        table = self._columns(file, ["verdict", *names])
        return table.filter(pc.equal(table["verdict"], KEPT)).select(list(names))

    def _clips(self) -> Iterator[pa.Table]:
        for file in range(self.files):
            table = self._columns(file, list(_CLIPS))
            yield table.filter(pc.not_equal(table["verdict"], QUARANTINED))

    def _columns(self, file: int, columns: list[str]) -> pa.Table:
        with self.store.open_input(_file(file, self.folder)) as stream:
            return pq.read_table(stream, columns=columns)

    def sweep(self) -> None:
        """Remove the files of an earlier run that had more."""
        wanted = {_file(number, self.folder) for number in range(self.files)}
        for name in self.store.names(self.folder):
            if name not in wanted:
                self.store.delete(name)


def _file(number: int, folder: str) -> str:
    return f"{folder}/{number:05d}.parquet"
