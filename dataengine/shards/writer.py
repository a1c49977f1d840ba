"""Writes one shard: the samples it is given, in order, as a tar whose bytes depend on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import IO

from dataengine.records import Pair
from dataengine.shards import tar
from dataengine.shards.assembly import Member
from dataengine.shards.index import IndexRow, MemberAt


def write_shard(
    stream: IO[bytes], shard: str, samples: Iterable[tuple[Pair, Sequence[Member]]]
) -> tuple[IndexRow, ...]:
    """Write all samples and return their rows of the index; one sample is held at a time.

    The caller commits the file: `with store.open_output(f"shards/{shard}") as stream: write_shard(stream, shard, …)`.
    Raises `ValueError` for a sample without files, or a file that tar cannot hold.
    """
    rows: list[IndexRow] = []
    position = 0
    for pair, members in samples:
        if not members:
            raise ValueError(f"{shard}: sample {pair.key} has no files")
        places: list[MemberAt] = []
        for name, data in members:
            head = tar.header(f"{pair.key}.{name}", len(data))
            offset = position + len(head)
            for part in (head, data, tar.padding(len(data))):
                position += stream.write(part)
            digest = hashlib.sha256(data).hexdigest()
            places.append(MemberAt(name=name, offset=offset, size=len(data), sha256=digest))
        rows.append(IndexRow.of(pair, shard, places))
    stream.write(tar.end(position))
    return tuple(rows)
