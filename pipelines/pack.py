"""Writes the pairs into shards: those that are there already stay, those that no longer belong go."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import ray

from dataengine.config import ShardSettings
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.run import each
from dataengine.records import Background, EncodedClip, Pair, Record, Segmentation, Stills
from dataengine.shards.assembly import Member, assemble
from dataengine.shards.index import INDEX, Index, join_indexes, write_index
from dataengine.shards.plan import plan_shards
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from pipelines.verdicts import Kept, Verdicts

VERSION = 2
"""Raise it when the same pair packs to other bytes: shards that were written before are then written again."""

RECEIPTS = "measurements/packed"

R = TypeVar("R", bound=Record)


def pack(
    store: Store, pipeline: Pipeline, ledgers: Mapping[str, Ledger], verdicts: Verdicts, settings: ShardSettings
) -> int:
    """Bring `shards/` and `index.parquet` to hold exactly the kept pairs; returns their number."""
    by_key = {kept.name.key: kept for kept in verdicts.kept()}
    plans = sorted(plan_shards([kept.name for kept in by_key.values()], settings))
    packer = _Packer.of(store, pipeline, ledgers, verdicts)
    receipts = each(packer, [(plan.name, tuple(by_key[key] for key in plan.keys)) for plan in plans])
    with store.open_output(INDEX) as stream:
        rows = join_indexes(stream, (Index.read(store, receipt).table for receipt in receipts))
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
    verdicts: Verdicts
    writers: dict[type[Record], str]
    ledgers: tuple[ray.ObjectRef, ...]

    @classmethod
    def of(cls, store: Store, pipeline: Pipeline, ledgers: Mapping[str, Ledger], verdicts: Verdicts) -> _Packer:
        kinds: tuple[type[Record], ...] = (Stills, Segmentation, Background, EncodedClip)
        writers = {kind: pipeline.writers[kind] for kind in kinds}
        needed = ray.put({stage: ledgers[stage] for stage in writers.values()})
        return cls(store, Measurements(store.child("measurements")), verdicts, writers, (needed,))

    def __call__(self, work: tuple[str, tuple[Kept, ...]]) -> str:
        """Returns the receipt's name: the shard's own index."""
        shard, kept = work
        # What a shard holds follows from its pairs: a receipt under their hash says that it is written. It is the last
        # thing written and the first removed, so a shard with a receipt is whole and the one that the receipt means.
        content = "\n".join([str(VERSION), *(one.sha256 for one in kept)])
        receipts = f"{RECEIPTS}/{shard}"
        receipt = f"{receipts}/{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
        if self.store.exists(receipt) and self.store.exists(f"shards/{shard}"):
            return receipt
        for old in self.store.names(receipts):
            self.store.delete(old)
        ledgers: Mapping[str, Ledger] = ray.get(self.ledgers[0])
        pairs = self.verdicts.pairs(kept)
        with self.store.open_output(f"shards/{shard}") as stream:
            rows = write_shard(stream, shard, ((pair, self._members(pair, ledgers)) for pair in pairs))
        with self.store.open_output(receipt) as stream:
            write_index(stream, rows)
        return receipt

    def _members(self, pair: Pair, ledgers: Mapping[str, Ledger]) -> tuple[Member, ...]:
        clip_id = pair.clip.clip_id
        foreign = sorted({r.origin.clip.clip_id for r in pair.references if r.origin is not None})
        return assemble(
            pair,
            self._read(Stills, clip_id, ledgers),
            self._read(Segmentation, clip_id, ledgers),
            self._read(Background, clip_id, ledgers),
            self._read(EncodedClip, clip_id, ledgers),
            {one: (self._read(Stills, one, ledgers), self._read(Segmentation, one, ledgers)) for one in foreign},
        )

    def _read(self, kind: type[R], clip_id: str, ledgers: Mapping[str, Ledger]) -> R:
        """A clip's record with its media."""
        stage = self.writers[kind]
        found = self.measurements.media(ledgers[stage], [clip_id])[clip_id].result(kind)
        assert isinstance(found, kind)
        return found
