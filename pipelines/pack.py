"""Writes the pairs into shards: those that are there already stay, those that no longer belong go."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from dataengine.config import ShardSettings
from dataengine.engine.measurements import CommittedIds, Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.run import each
from dataengine.records import Background, EncodedClip, Pair, Record, Segmentation, Stills
from dataengine.shards.assembly import Member, assemble
from dataengine.shards.index import Index, IndexRow, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.writer import write_shard
from dataengine.store import Store

VERSION = 1
"""Raise it when the same pair packs to other bytes: shards that were written before are then written again."""


def pack(
    store: Store, measurements: Measurements, pipeline: Pipeline, pairs: Sequence[Pair], settings: ShardSettings
) -> list[IndexRow]:
    """Bring `shards/` to hold exactly these pairs, several shards at a time; returns the rows of the index."""
    by_key = {pair.key: pair for pair in pairs}
    plans = plan_shards([SampleName.of(pair) for pair in pairs], settings)
    packer = _Packer.of(store, measurements, pipeline)
    shards = [(plan.name, tuple(by_key[key] for key in plan.keys)) for plan in plans]
    rows = [row for shard_rows in each(packer, shards) for row in shard_rows]
    wanted = {f"shards/{plan.name}" for plan in plans}
    for name in store.names("shards"):
        if name not in wanted:
            store.delete(name)
    return rows


@dataclass(frozen=True)
class _Packer:
    """Packs one shard; sent to Ray's workers."""

    store: Store
    measurements: Measurements
    writers: dict[type[Record], str]
    committed: tuple[ray.ObjectRef, ...]

    @classmethod
    def of(cls, store: Store, measurements: Measurements, pipeline: Pipeline) -> _Packer:
        kinds: tuple[type[Record], ...] = (Stills, Segmentation, Background, EncodedClip)
        writers = {kind: pipeline.writers[kind] for kind in kinds}
        committed = {name: measurements.committed(name, pipeline.fingerprints[name]) for name in writers.values()}
        return cls(store, measurements, writers, (ray.put(committed),))

    def __call__(self, work: tuple[str, tuple[Pair, ...]]) -> tuple[IndexRow, ...]:
        shard, pairs = work
        # What a shard holds follows from its pairs: a receipt under their hash says that it is written. It is the last
        # thing written and the first removed, so a shard with a receipt is whole and the one that the receipt means.
        content = "\n".join([str(VERSION), *(pair.to_json() for pair in pairs)])
        receipts = f"measurements/packed/{shard}"
        receipt = f"{receipts}/{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
        if self.store.exists(receipt) and self.store.exists(f"shards/{shard}"):
            return tuple(Index.read(self.store, receipt))
        for old in self.store.names(receipts):
            self.store.delete(old)
        committed: dict[str, CommittedIds] = ray.get(self.committed[0])
        with self.store.open_output(f"shards/{shard}") as stream:
            rows = write_shard(stream, shard, ((pair, self._members(pair, committed)) for pair in pairs))
        with self.store.open_output(receipt) as stream:
            write_index(stream, rows)
        return rows

    def _members(self, pair: Pair, committed: dict[str, CommittedIds]) -> tuple[Member, ...]:
        clip_id = pair.clip.clip_id
        records: list[Record] = []
        for kind, stage in self.writers.items():
            places = self.measurements.ids_of([clip_id], committed[stage])
            stored = self.measurements.read(places, blobs=True)[clip_id]
            records.append(kind.unpack(stored.record or "", stored.blobs))
        stills, segmentation, background, encoded = records
        assert isinstance(stills, Stills)
        assert isinstance(segmentation, Segmentation)
        assert isinstance(background, Background)
        assert isinstance(encoded, EncodedClip)
        return assemble(pair, stills, segmentation, background, encoded)
