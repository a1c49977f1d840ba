"""Reading pairs back: any sample by its place in the index, or all of a shard in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import BinaryIO

from pydantic import ValidationError

from dataengine.records import Pair
from dataengine.shards import tar
from dataengine.shards.index import Index, IndexRow, read_range
from dataengine.shards.tar import ShardError
from dataengine.store import Store

MAX_SAMPLE_BYTES = 1 << 30
"""A sample is held in memory: 1 GiB is a hundred times the longest clip that is built by default."""


@dataclass(frozen=True)
class Sample:
    """A pair and its files by name, still encoded: `mp4`, `s0.face.png`, …; `json` is the pair."""

    pair: Pair
    members: Mapping[str, bytes]


class PairDataset:
    """A dataset's samples by position, ready for `torch.utils.data.DataLoader` or a plain loop.

    Every sample costs one ranged read. The object is small to send to workers where the index is small; nothing is
    held open between reads.
    """

    def __init__(self, out: Store, split: str | None = None, subjects: Iterable[int] | None = None) -> None:
        """All samples, or those of one split (`train`, `val`) or of some numbers of subjects.

        Raises `StoreError` when `out` holds no index, `ValueError` for one of another version.
        """
        self.out = out
        self.index = Index.read(out).where(split, subjects)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Sample:
        """Raises `IndexError`, `StoreError` when the shard is gone, `ShardError` when it is not what was indexed."""
        return self._read(self.index[position])

    def find(self, key: str) -> Sample:
        """A sample by its key. Raises `KeyError` when there is none, else as by position."""
        return self[self.index.find(key)]

    def _read(self, row: IndexRow) -> Sample:
        start, end = row.span
        data = read_range(self.out, row.shard, start, end - start)
        if len(data) != end - start:
            raise ShardError(row.shard, row.key, "the shard ends before it", "run `dataengine validate`")
        return _sample(
            row.shard, row.key, {m.name: data[m.offset - start : m.offset - start + m.size] for m in row.members}
        )


def iter_samples(stream: BinaryIO, shard: str, max_bytes: int = MAX_SAMPLE_BYTES) -> Iterator[Sample]:
    """Every sample of a shard from a stream that is read once, forwards; nothing is extracted.

    Names in the tar are compared and never used as paths; `max_bytes` bounds what a sample may hold. Raises
    `ShardError` for a file that is not one of ours: other types of entries, names or sizes, a sample without its
    record, samples whose files are scattered.
    """
    seen: set[str] = set()
    for key, group in groupby(tar.entries(stream, shard, max_bytes), key=lambda found: found[0].key):
        if key in seen:
            raise ShardError(shard, key, "its files do not stand together", "build the shard again")
        seen.add(key)
        members: dict[str, bytes] = {}
        total = 0
        for entry, data in group:
            total += len(data)
            if total > max_bytes:
                raise ShardError(shard, key, f"it is larger than {max_bytes} bytes", "raise max_bytes if that is right")
            if entry.member in members:
                raise ShardError(shard, key, f"{entry.member} comes twice", "build the shard again")
            members[entry.member] = data
        yield _sample(shard, key, members)


def _sample(shard: str, key: str, members: dict[str, bytes]) -> Sample:
    if "json" not in members:
        raise ShardError(shard, key, "it has no json", "run `dataengine validate`")
    try:
        pair = Pair.from_json(members["json"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ShardError(
            shard, key, f"its json is not a pair: {where or 'record'}: {first['msg']}", "run `dataengine validate`"
        ) from error
    if pair.key != key:
        raise ShardError(shard, key, f"its json is of sample {pair.key}", "run `dataengine validate`")
    return Sample(pair, members)
