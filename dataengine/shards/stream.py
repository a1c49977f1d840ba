"""Reading pairs in long runs, shuffled and shared: for trainers of one's own, on disks and object stores alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dataengine.shards.index import SHARDS, Index, IndexRow
from dataengine.shards.reader import Sample, sample_of
from dataengine.store import Store

RUN = 32
"""Samples that are read one behind the other before the reader jumps."""


class PairStream:
    """One pass over a dataset's samples per iteration.

    Runs of neighbouring samples are shuffled by (seed, epoch) and dealt to ranks in equal shares, which differ by one
    sample at most: every sample comes exactly once over all ranks. Each rank then draws its samples from a buffer. A
    sample can therefore stand anywhere in an epoch, but neighbours in a shard (other sources: keys are hashes) come
    near each other. For shares over a `torch.utils.data.DataLoader`'s workers see `TorchPairStream`.

    Args:
        split, subjects: as for `PairDataset`.
        shuffle: samples that the buffer holds, in memory; 0 gives the shards' own order.
        rank, world: this reader among all that share the dataset.

    Attributes:
        epoch: set it before each pass; the same epoch gives the same order.

    Raises:
        StoreError: there is no dataset.
        ValueError: its index is of another version.
    """

    def __init__(
        self,
        out: Store,
        split: str | None = None,
        subjects: Iterable[int] | None = None,
        *,
        seed: int = 0,
        shuffle: int = 128,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world}")
        self.out = out
        self.index = Index.read(out).where(split, subjects)
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[Sample]:
        """Raises `StoreError` when a shard is gone, `ShardError` when it is not what was indexed."""
        yield from self._share(self._rank, self._world)

    def _share(self, rank: int, world: int) -> Iterator[Sample]:
        order = _order(len(self.index), (self.seed, self.epoch), bool(self.shuffle))
        share = order[rank * len(order) // world : (rank + 1) * len(order) // world]
        read = _read(self.out, (self.index[int(position)] for position in share))
        if not self.shuffle:
            yield from read
            return
        draw = np.random.default_rng((self.seed, self.epoch, rank, world))
        held: list[Sample] = []
        for sample in read:
            if len(held) < self.shuffle:
                held.append(sample)
                continue
            at = int(draw.integers(len(held)))
            yield held[at]
            held[at] = sample
        draw.shuffle(held)
        yield from held


def _order(count: int, seed: tuple[int, int], shuffled: bool) -> NDArray[np.int64]:
    """Positions 0 … count − 1 in runs, the runs shuffled."""
    positions = np.arange(count)
    if not shuffled or not count:
        return positions
    runs = np.array_split(positions, -(-count // RUN))
    return np.concatenate([runs[i] for i in np.random.default_rng(seed).permutation(len(runs))])


def _read(out: Store, rows: Iterable[IndexRow]) -> Iterator[Sample]:
    """Samples in this order; a shard stays open while they come from it."""
    shard, stream = None, None
    try:
        for row in rows:
            if row.shard != shard:
                if stream is not None:
                    stream.close()
                shard, stream = row.shard, out.open_input(f"{SHARDS}/{row.shard}")
            assert stream is not None
            start, end = row.span
            stream.seek(start)
            yield sample_of(row, stream.read(end - start))
    finally:
        if stream is not None:
            stream.close()
