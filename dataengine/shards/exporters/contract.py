"""What an exporter is: it turns one shard into files of its own, then writes what all of them have in common.

Shards are independent of each other and may be exported anywhere, in any order; the files are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from dataengine.shards.index import Index
from dataengine.shards.losses import LossCount
from dataengine.store import Store


@dataclass(frozen=True)
class Exported:
    """What came of one shard."""

    shard: str
    losses: LossCount = field(default_factory=LossCount)


class Exporter(Protocol):
    """One format. Frozen and small: it travels to the workers."""

    @property
    def format(self) -> str: ...

    def shard(self, source: Store, shard: str, target: Store) -> Exported:
        """Write a shard's samples. Raises `ShardError` for a damaged shard, `StoreError`."""

    def finish(self, index: Index, target: Store) -> None:
        """Write what is about all samples, once every shard is: an index, a card."""


class ExportRefused(ValueError):
    """Nothing was exported; the message says why and what to do."""


def shards_of(index: Index, split: str | None = None) -> list[str]:
    """The names of a dataset's shards, or of a split's, sorted."""
    return sorted(set(index.where(split).table["shard"].to_pylist()))


def splits_of(index: Index) -> list[str]:
    return sorted(set(index.table["split"].to_pylist()))
