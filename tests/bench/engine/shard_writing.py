"""Writing shards against plain `tarfile` writing the same bytes; finding samples by the index against scanning."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataengine.records import Pair
from dataengine.shards.assembly import Member
from dataengine.shards.index import Index, IndexRow, read_member, write_index
from dataengine.shards.reader import PairDataset
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from engine.table import Line
from engine.timing import best

MEGABYTES = 300
"""Written by each way in each round."""
ROUNDS = 5
LOOK_UPS = 64

Samples = list[tuple[Pair, Sequence[Member]]]


@dataclass(frozen=True)
class Shard:
    """A shard's samples in memory, and what they weigh."""

    samples: Samples
    bytes: int

    @classmethod
    def of(cls, dataset: Store) -> Shard:
        """The samples of a built dataset, again and again under new keys, up to `MEGABYTES`."""
        held = [(s.pair, [Member(*file) for file in s.members.items()]) for s in PairDataset(dataset)]
        samples: Samples = []
        size = 0
        while size < MEGABYTES * 1e6:
            pair, members = held[len(samples) % len(held)]
            samples.append((pair.model_copy(update={"key": f"bench_{len(samples):06d}"}), members))
            size += sum(len(data) for _, data in members)
        return cls(samples, size)


def compare_writing(shard: Shard, folder: Path) -> list[Line]:
    lines = []
    for sync in (False, True):
        ways = {name: partial(_to_file, folder / "bench.tar", way, shard.samples, sync) for name, way in _WAYS.items()}
        took = best(ways, ROUNDS)
        for name, seconds, peer in (
            ("wall", took["ours"].wall, took["tarfile"].wall),
            ("cpu", took["ours"].cpu, took["tarfile"].cpu),
        ):
            lines.append(
                Line(
                    f"shard writing{', with fsync' if sync else ''}: {name}",
                    f"{shard.bytes / seconds / 1e6:.0f} MB/s",
                    f"tarfile {shard.bytes / peer / 1e6:.0f} MB/s",
                    f"{peer / seconds:.2f}",
                    "≥ 0.80",
                )
            )
    return lines


def _ours(stream: Any, samples: Samples) -> tuple[IndexRow, ...]:
    return write_shard(stream, "bench.tar", samples)


def _tarfile(stream: Any, samples: Samples) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for pair, members in samples:
            for name, data in members:
                info = tarfile.TarInfo(f"{pair.key}.{name}")
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))


_WAYS = {"ours": _ours, "tarfile": _tarfile}


def _to_file(path: Path, way: Any, samples: Samples, sync: bool) -> None:
    with path.open("wb") as stream:
        way(stream, samples)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())
    path.unlink()


def compare_access(shard: Shard, folder: Path) -> list[Line]:
    """One file each of samples in random order: by the index (opening it included) and by reading the tar."""
    out = Store.at(folder)
    with out.open_output("shards/bench.tar") as stream:
        rows = write_shard(stream, "bench.tar", shard.samples)
    with out.open_output("index.parquet") as stream:
        write_index(stream, rows)
    keys = random.Random(0).sample([pair.key for pair, _ in shard.samples], LOOK_UPS)
    took = best({"index": partial(_by_index, out, keys), "scan": partial(_by_scan, out, set(keys))}, ROUNDS)
    ours, peer = took["index"].wall, took["scan"].wall
    return [
        Line(
            f"{LOOK_UPS} samples of {len(rows)} ({shard.bytes / 1e6:.0f} MB, in the page cache)",
            f"index and pread {ours * 1000:.0f} ms",
            f"scanning the tar {peer * 1000:.0f} ms",
            f"{ours / peer:.2f}",
            "< 1",
        )
    ]


def _by_index(out: Store, keys: Sequence[str]) -> list[bytes]:
    index = Index.read(out)
    return [read_member(out, index[index.find(key)], "json") for key in keys]


def _by_scan(out: Store, keys: set[str]) -> list[bytes]:
    found = []
    with tarfile.open(Path(out.uri) / "shards/bench.tar") as tar:
        for info in tar:
            key, _, member = info.name.partition(".")
            if member == "json" and key in keys:
                stream = tar.extractfile(info)
                assert stream is not None
                found.append(stream.read())
    return found
