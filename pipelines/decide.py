"""Decides on every clip from stored measurements alone; verdicts go to files: memory does not grow with them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from dataengine.engine.cargo import quarantined
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.run import each
from dataengine.engine.survey import Census, StageStanding, Standing, survey
from dataengine.records import Decision, Dropped, Pair, Quarantined, Rejected, SourceVideo
from dataengine.shards.index import even_tables
from dataengine.shards.plan import SampleName
from dataengine.store import Store

DECIDED = "measurements/decided"
"""Where the verdicts of the last run lie."""

KEPT, QUARANTINED = "kept", "quarantined"

_SCHEMA = pa.schema(
    [
        ("verdict", pa.string()),  # `kept`, `quarantined` or the rule that refused the clip
        ("detail", pa.string()),
        ("dropped", pa.list_(pa.string())),
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("key", pa.string()),
        ("split", pa.string()),
        ("subjects", pa.int32()),
        ("sha256", pa.string()),  # of `json`
        ("json", pa.string()),  # the Pair that is kept, or the Quarantined
    ]
)
_CLIPS = ("clip_id", "source_id", "start_s", "end_s", "verdict", "detail", "dropped")
CLIPS_SCHEMA = pa.schema([_SCHEMA.field(name) for name in _CLIPS])
"""Of `clips.parquet`."""
_ROWS_OF_GROUP = 16
"""Packing reads pairs in the order of keys, not of clips."""
_MOST_TASKS = 256
_LEAST_SOURCES = 16


@dataclass(frozen=True)
class Kept:
    """A pair that goes into a shard, without the pair: its name, its content's hash, and where it lies."""

    name: SampleName
    sha256: str
    file: int
    row: int


@dataclass(frozen=True)
class Group:
    """Sources that are decided on together; they write one file."""

    number: int
    sources: tuple[SourceVideo, ...]


@dataclass(frozen=True)
class Reached:
    """What stored measurements allowed to say of a group."""

    stages: dict[str, StageStanding]
    waiting: tuple[SourceVideo, ...]


@dataclass(frozen=True)
class Decider:
    """Decides on one group; sent to Ray's workers."""

    store: Store
    pipeline: Pipeline
    ledgers: tuple[ray.ObjectRef, ...]

    def __call__(self, group: Group) -> Reached:
        measurements = Measurements(self.store.child("measurements"))
        census = Census(self.pipeline)
        waiting: dict[str, SourceVideo] = {}
        rows: list[dict[str, Any]] = []
        with (
            self.store.open_output(_file(group.number)) as stream,
            pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer,
        ):
            for standing in survey(self.pipeline, measurements, ray.get(self.ledgers[0]), group.sources):
                census.add(standing)
                if standing.waits:
                    waiting[standing.cargo.row.source.source_id] = standing.cargo.row.source
                    continue
                rows.append(_verdict(standing, self.pipeline))
                if len(rows) == _ROWS_OF_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
                    rows.clear()
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
        return Reached(census.stages, tuple(waiting.values()))


def grouped(sources: Sequence[SourceVideo]) -> tuple[Group, ...]:
    """Sources in groups for one task each, in their order."""
    size = max(_LEAST_SOURCES, -(-len(sources) // _MOST_TASKS))
    starts = range(0, len(sources), size)
    return tuple(Group(number, tuple(sources[start : start + size])) for number, start in enumerate(starts))


def decide(
    store: Store, pipeline: Pipeline, ledgers: Mapping[str, Ledger], groups: Sequence[Group]
) -> dict[int, Reached]:
    """Write the verdicts of these groups; returns what each lacks, by its number."""
    decider = Decider(store, pipeline, (ray.put(dict(ledgers)),))
    return {group.number: reached for group, reached in zip(groups, each(decider, groups), strict=True)}


@dataclass(frozen=True)
class Verdicts:
    """The written verdicts of a run, read a file at a time."""

    store: Store
    files: int

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
            with self.store.open_input(_file(number)) as stream:
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

    def _clips(self) -> Iterator[pa.Table]:
        for file in range(self.files):
            table = self._columns(file, list(_CLIPS))
            yield table.filter(pc.not_equal(table["verdict"], QUARANTINED))

    def _columns(self, file: int, columns: list[str]) -> pa.Table:
        with self.store.open_input(_file(file)) as stream:
            return pq.read_table(stream, columns=columns)

    def sweep(self) -> None:
        """Remove the files of an earlier run that had more."""
        wanted = {_file(number) for number in range(self.files)}
        for name in self.store.names(DECIDED):
            if name not in wanted:
                self.store.delete(name)


def _file(number: int) -> str:
    return f"{DECIDED}/{number:05d}.parquet"


def _verdict(standing: Standing, pipeline: Pipeline) -> dict[str, Any]:
    row, fate = standing.cargo.row, standing.cargo.fate
    dropped: tuple[Dropped, ...] = ()
    outcome: Any = fate
    if fate is None:
        try:
            decision = pipeline.finish(row)
            assert isinstance(decision, Decision)
            outcome, dropped = decision.outcome, decision.dropped
        except Exception as error:
            outcome = quarantined(row, "decide", error)
    values: dict[str, Any] = {"dropped": [f"{d.entity}: {d.rule}: {d.detail}" for d in dropped]}
    if isinstance(outcome, Rejected):
        return values | outcome.clip.model_dump() | {"verdict": outcome.rule, "detail": outcome.detail}
    text = outcome.to_json()
    values |= {"json": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    if isinstance(outcome, Quarantined):
        return values | {"verdict": QUARANTINED, "detail": outcome.message}
    assert isinstance(outcome, Pair)
    name = SampleName.of(outcome)
    return values | outcome.clip.model_dump() | name._asdict() | {"verdict": KEPT, "detail": outcome.caption}
