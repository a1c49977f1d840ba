"""The facts of every clip, stored by groups of sources: deciding again reads a few columns instead of all measurements.

`measurements/facts/<digest>/<hash of the sources>.parquet`: a row a clip (or a source that has none), with how far it
was measured, and what `dataengine.decide.facts` makes of that. A group is read back if and only if every row in it has
today exactly the results that its facts were made from; else it is made again. The folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataengine.decide import facts as boiled
from dataengine.decide.facts import Facts, PictureFacts, facts_of, pictures_of
from dataengine.engine.cargo import Fate, quarantined
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.survey import CUT, Standing, survey
from dataengine.records import Clip, Looks, People, Quality, Quarantined, Rejected, SourceVideo
from dataengine.store import Store
from pipelines.stages import Decisions

FOLDER = "measurements/facts"

_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("clip_id", pa.string()),  # null for a source without clips
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("stored", pa.int64()),  # which stages have a result of it: a bit each, in order
        ("failed", pa.int64()),
        ("stage", pa.string()),  # where it stands if no gate stops it; null when every stage is through
        ("quarantined", pa.string()),
        ("rejected", pa.string()),
        ("pictures", pa.binary()),  # PictureFacts, where faces and quality were measured
        ("facts", pa.binary()),  # Facts, where everything was
        ("vectors", pa.binary()),  # Vectors
    ]
)
_LIGHT = [name for name in _SCHEMA.names if name != "vectors"]
_ROWS = 1024

_MOST_GROUPS = 256
_LEAST_SOURCES = 16


@dataclass(frozen=True)
class Group:
    """Sources that are decided on together; they write one file."""

    number: int
    sources: tuple[SourceVideo, ...]


def grouped(sources: Sequence[SourceVideo]) -> tuple[Group, ...]:
    """Sources in groups for one task each, in their order."""
    size = max(_LEAST_SOURCES, -(-len(sources) // _MOST_GROUPS))
    starts = range(0, len(sources), size)
    return tuple(Group(number, tuple(sources[start : start + size])) for number, start in enumerate(starts))


class Vectors(msgspec.Struct, frozen=True, array_like=True):
    """Embeddings of a clip's people and looks of its attributes, of unit length, as float16."""

    faces: dict[int, bytes] = {}
    looks: dict[str, dict[int, bytes]] = {}
    """By entity and still."""

    def face(self, person: int) -> NDArray[np.float32] | None:
        return _vector(self.faces.get(person))

    def look(self, entity: str, still: int) -> NDArray[np.float32] | None:
        return _vector(self.looks.get(entity, {}).get(still))


@dataclass(frozen=True)
class Known:
    """A row as far as stored results carry it, whatever the rules say of it."""

    source: SourceVideo
    clip: Clip | None
    stored: int
    stage: str | None
    fate: Fate | None
    pictures: PictureFacts | None
    facts: Facts | None
    vectors: Vectors

    def faces(self) -> dict[int, NDArray[np.float32] | None]:
        """The embedding of everybody in it, by person."""
        return {} if self.pictures is None else {p.index: self.vectors.face(p.index) for p in self.pictures.people}


@dataclass(frozen=True)
class FactStore:
    """Makes facts and reads them back; sent to Ray's workers."""

    store: Store
    pipeline: Pipeline
    decisions: Decisions

    @cached_property
    def folder(self) -> str:
        """Facts under other fingerprints, another way of cutting, or other code, lie elsewhere."""
        made_of = {
            "version": boiled.VERSION,
            "stages": self.pipeline.fingerprints,
            "clips": self.decisions.settings.decide.clips.model_dump(mode="json"),
            "forgotten": self.decisions.forgotten.model_dump(mode="json"),
        }
        return f"{FOLDER}/{hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]}"

    def known(self, group: Group, ledgers: Mapping[str, Ledger], vectors: bool = True) -> Iterator[Known]:
        """Every row of a group, in order. Facts that are missing or no longer hold are made and stored first.

        Without `vectors` they are not read, and rows have none.
        """
        self.prepare(group, ledgers)
        yield from self.read(group, vectors)

    def prepare(self, group: Group, ledgers: Mapping[str, Ledger]) -> None:
        """Make and store the facts of a group, unless those that are stored hold."""
        if not self._holds(group, ledgers):
            self._make(group, ledgers)

    def read(self, group: Group, vectors: bool = True) -> Iterator[Known]:
        """As `known`, of facts that were prepared."""
        sources = {source.source_id: source for source in group.sources}
        with self.store.open_input(self._name(group)) as stream:
            file = pq.ParquetFile(stream)
            for batch in file.iter_batches(_ROWS, columns=None if vectors else _LIGHT):
                columns = batch.to_pydict()
                if not vectors:
                    columns["vectors"] = [None] * batch.num_rows
                for values in zip(*(columns[name] for name in _SCHEMA.names), strict=True):
                    yield _known(sources, *values)

    def sweep(self, groups: Sequence[Group]) -> None:
        """Remove the facts of other settings and of groups that are no more."""
        wanted = {self._name(group) for group in groups}
        for name in self.store.names(FOLDER):
            if name not in wanted:
                self.store.delete(name)

    def _name(self, group: Group) -> str:
        ids = "\n".join(source.source_id for source in group.sources)
        return f"{self.folder}/{hashlib.sha256(ids.encode()).hexdigest()[:24]}.parquet"

    def _holds(self, group: Group, ledgers: Mapping[str, Ledger]) -> bool:
        name = self._name(group)
        if not self.store.exists(name):
            return False
        with self.store.open_input(name) as stream:
            table = pq.read_table(stream, columns=["source_id", "clip_id", "stored", "failed"])
        stored, failed = self._bits(table["source_id"].to_pylist(), table["clip_id"].to_pylist(), ledgers)
        return bool((stored == table["stored"].to_numpy()).all() and (failed == table["failed"].to_numpy()).all())

    def _bits(
        self, sources: Sequence[str], clips: Sequence[str | None], ledgers: Mapping[str, Ledger]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each row, a bit for every stage that has a result of it, and of those that failed."""
        stored = np.zeros(len(sources), np.int64)
        failed = np.zeros(len(sources), np.int64)
        of_clips = [clip or "" for clip in clips]
        for number, step in enumerate(self.pipeline.steps):
            ledger = ledgers[step.stage.name]
            places = ledger.find(sources if step in self.pipeline.source_steps else of_clips)
            there = places >= 0
            stored |= there.astype(np.int64) << number
            if there.any():
                failed |= (there & ledger.failed[np.maximum(places, 0)]).astype(np.int64) << number
        return stored, failed

    def _make(self, group: Group, ledgers: Mapping[str, Ledger]) -> None:
        measurements = Measurements(self.store.child("measurements"))
        with (
            self.store.open_output(self._name(group)) as stream,
            pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer,
        ):
            rows: list[dict[str, object]] = []

            def flush() -> None:
                table = pa.Table.from_pylist(rows, _SCHEMA)
                bits = self._bits(table["source_id"].to_pylist(), table["clip_id"].to_pylist(), ledgers)
                for name, values in zip(("stored", "failed"), bits, strict=True):
                    at = _SCHEMA.get_field_index(name)
                    table = table.set_column(at, _SCHEMA.field(name), pa.array(values))
                writer.write_table(table)
                rows.clear()

            for standing in survey(self.pipeline, measurements, ledgers, group.sources, gates=False):
                rows.append(self._row(standing))
                if len(rows) == _ROWS:
                    flush()
            if rows:
                flush()

    def _row(self, standing: Standing) -> dict[str, object]:
        row, fate = standing.cargo.row, standing.cargo.fate
        values: dict[str, object] = {"source_id": row.source.source_id, "stage": standing.stage}
        if row.clip is not None:
            values |= {"clip_id": row.clip.clip_id, "start_s": row.clip.start_s, "end_s": row.clip.end_s}
        if row.clip is not None and People in row.records and Quality in row.records:
            values["pictures"] = msgspec.msgpack.encode(pictures_of(row.clip, row[People], row[Quality]))
            vectors = _vectors(row[People], row[Looks] if Looks in row.records else None)
            values["vectors"] = None if vectors == Vectors() else msgspec.msgpack.encode(vectors)
        if fate is None and standing.stage is None:
            try:
                values["facts"] = msgspec.msgpack.encode(facts_of(self.decisions.measured(row)))
            except Exception as error:
                fate = quarantined(row, "decide", error)
        values["quarantined"] = fate.to_json() if isinstance(fate, Quarantined) else None
        values["rejected"] = fate.to_json() if isinstance(fate, Rejected) else None
        return values


_PICTURES: Callable[[bytes], PictureFacts] = msgspec.msgpack.Decoder(PictureFacts).decode
_FACTS: Callable[[bytes], Facts] = msgspec.msgpack.Decoder(Facts).decode
_VECTORS: Callable[[bytes], Vectors] = msgspec.msgpack.Decoder(Vectors).decode
_NO_VECTORS = Vectors()


def _known(
    sources: Mapping[str, SourceVideo],
    source_id: str,
    clip_id: str | None,
    start_s: float,
    end_s: float,
    stored: int,
    failed: int,
    stage: str | None,
    stopped: str | None,
    rejected: str | None,
    pictures: bytes | None,
    facts: bytes | None,
    vectors: bytes | None,
) -> Known:
    clip = None
    if clip_id is not None:
        clip = Clip(clip_id=clip_id, source_id=source_id, start_s=start_s, end_s=end_s)
    fate: Fate | None = None
    if stopped or rejected:
        fate = Quarantined.from_json(stopped) if stopped else Rejected.from_json(rejected or "")
    return Known(
        source=sources[source_id],
        clip=clip,
        stored=stored,
        stage=stage,
        fate=fate,
        pictures=_PICTURES(pictures) if pictures else None,
        facts=_FACTS(facts) if facts else None,
        vectors=_VECTORS(vectors) if vectors else _NO_VECTORS,
    )


def _vectors(people: People, looks: Looks | None) -> Vectors:
    faces = {p.index: _bytes(p.embedding) for p in people.people if p.embedding}
    seen: dict[str, dict[int, bytes]] = {}
    for look in looks.looks if looks else ():
        seen.setdefault(look.entity, {})[look.still] = _bytes(look.vector)
    return Vectors(faces, seen)


def _bytes(values: Sequence[float]) -> bytes:
    return np.asarray(values, np.float16).tobytes()


def _vector(stored: bytes | None) -> NDArray[np.float32] | None:
    """As unit length again: half precision takes a little of it."""
    if stored is None:
        return None
    vector = np.frombuffer(stored, np.float16).astype(np.float32)
    return vector / np.linalg.norm(vector)


__all__ = ["CUT", "FactStore", "Group", "Known", "Vectors", "grouped"]
