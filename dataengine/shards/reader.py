"""Reading pairs back: any sample by its place in the index, or all of a shard in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from dataengine.records import Pair, Reference
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

    def image(self, reference: Reference) -> NDArray[np.uint8]:
        """A reference as RGB, [h, w, 3]: masked on white, but for faces and backgrounds. Raises `ValueError`."""
        return self._decoded(reference.member, "RGB")

    def mask(self, reference: Reference) -> NDArray[np.bool_] | None:
        """Its pixels in the frame it was cut from, [height, width] of the clip; None where it was not cut by a mask."""
        return None if reference.mask_member is None else self._decoded(reference.mask_member, "1")

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The clip's frames in order, RGB [height, width, 3]. Raises `VideoError`."""
        from dataengine.video import iter_frames  # a second of imports that only this needs

        for frame in iter_frames(BytesIO(self.members["mp4"]), on_error="raise"):
            yield frame.rgb

    def _decoded(self, member: str, mode: str) -> NDArray:
        if member not in self.members:
            raise ValueError(f"sample {self.pair.key} has no {member}: run `dataengine validate`")
        try:
            with Image.open(BytesIO(self.members[member]), formats=("PNG",)) as image:
                return np.asarray(image.convert(mode))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"sample {self.pair.key}: {member} cannot be decoded ({error})") from error


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
        return sample_of(row, read_range(self.out, row.shard, start, end - start))


def sample_of(row: IndexRow, data: bytes) -> Sample:
    """The sample whose bytes these are, from the first one of its first file. Raises `ShardError`."""
    start, end = row.span
    if len(data) != end - start:
        raise ShardError(row.shard, row.key, "the shard ends before it", "run `dataengine validate`")
    files = {at.name: data[at.offset - start : at.offset - start + at.size] for at in row.members}
    return _sample(row.shard, row.key, files)


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
