"""Mends a dataset in place: drops damaged samples, keeps all others, and makes the index say what there is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from pydantic import Field

from dataengine.records import Pair, Record
from dataengine.shards import tar
from dataengine.shards.assembly import Member
from dataengine.shards.index import INDEX, SHARDS, Index, IndexRow, write_index
from dataengine.shards.reader import MAX_SAMPLE_BYTES
from dataengine.shards.validate import Depth, Validation, check_sample
from dataengine.shards.writer import write_shard
from dataengine.store import Store, StoreError

DAMAGED = "damaged"
"""Where the old bytes of shards go that are written again: what was dropped is still in them."""
REPORT = "repair.json"


class DroppedSample(Record):
    """A sample that is no longer in the dataset, or bytes of a shard that belong to none."""

    shard: str
    key: str | None = Field(description="None for bytes that are no file of a sample")
    problems: tuple[str, ...]


class Repair(Record):
    """`repair.json`: what was done, or would be."""

    kept: int = Field(description="samples")
    dropped: tuple[DroppedSample, ...]
    shards: dict[str, Literal["rewritten", "removed"]] = Field(description="those whose bytes change")
    index: bool = Field(description="the index was missing or said something else, and is written anew")


def repair(out: Store, *, depth: Depth = "clips", dry_run: bool = False, workers: int = 1) -> Repair:
    """Keep every sample that is whole and as it was written; drop the others and say why.

    A shard with something wrong in it is written again without that, and its old bytes go to `damaged/`; one without
    any whole sample is removed. Bytes that make no sense are skipped up to the next file. A sample whose bytes differ
    from their hash in the index is dropped even if it can be read; without an index, what can be read is kept.
    Nothing else may work on the dataset meanwhile. Killed, it can be run again. Unless `dry_run`, the report is written
    to `repair.json`.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    indexed = _indexed(out)
    names = [name.removeprefix(f"{SHARDS}/") for name in out.names(SHARDS, ".tar")]
    rows: dict[str, dict[str, IndexRow]] = {name: {} for name in names}
    dropped: list[DroppedSample] = []
    for row in indexed or ():
        if row.shard in rows:
            rows[row.shard][row.key] = row
        else:
            dropped.append(DroppedSample(shard=row.shard, key=row.key, problems=("its shard is gone",)))
    with ThreadPoolExecutor(workers) as pool:
        judged = list(pool.map(lambda name: _judge(out, name, rows[name], depth), names))
    owners: dict[str, str] = {}
    for shard in judged:
        for key in tuple(shard.kept):
            if owners.setdefault(key, shard.name) != shard.name:
                del shard.kept[key]
                shard.drop(key, f"key: {owners[key]} has it too")
        dropped += shard.dropped
    fresh = [row for shard in judged for row in _settled(out, shard, dry_run)]
    found = Repair(
        kept=len(fresh),
        dropped=tuple(dropped),
        shards={shard.name: "rewritten" if shard.kept else "removed" for shard in judged if shard.spoilt},
        index=indexed is None or fresh != indexed,
    )
    if not dry_run:
        if found.index:
            with out.open_output(INDEX) as stream:
                write_index(stream, fresh)
        out.write(REPORT, found.to_json().encode())
    return found


def _indexed(out: Store) -> list[IndexRow] | None:
    """The index's rows, or None when there is none that can be read."""
    try:
        return list(Index.read(out))
    except (StoreError, ValueError):
        return None


@dataclass
class _Judged:
    """A shard's samples: rows of those to keep, as the shard stands, and what is wrong with the others."""

    name: str
    kept: dict[str, IndexRow] = field(default_factory=dict)
    dropped: list[DroppedSample] = field(default_factory=list)
    spoilt: bool = False
    """Some of its bytes have to go."""

    def drop(self, key: str | None, *problems: str, spoilt: bool = True) -> None:
        self.dropped.append(DroppedSample(shard=self.name, key=key, problems=problems))
        self.spoilt |= spoilt


def _judge(out: Store, name: str, rows: Mapping[str, IndexRow], depth: Depth) -> _Judged:
    judged, seen = _Judged(name), set[str]()
    with out.open_input(f"{SHARDS}/{name}") as stream:
        for found in _samples(stream):
            if isinstance(found, tar.Gap):
                judged.drop(None, f"bytes {found.start}…{found.end} are no file")
                continue
            key = found[0][0].key
            sample = check_sample(name, key, found, rows.get(key), Validation(depth))
            # What the index says of a place is no fault of the sample's.
            wrong = [f"{problem.check}: {problem.text}" for problem in sample.problems if problem.check != "index"]
            if key in seen:
                wrong.append("key: the shard has had files of it before")
            seen.add(key)
            if wrong or sample.pair is None:
                judged.drop(key, *wrong)
            else:
                judged.kept[key] = IndexRow.of(sample.pair, name, sample.places)
    for key in sorted(rows.keys() - seen):
        judged.drop(key, "the shard does not have it", spoilt=False)
    return judged


def _samples(stream: BinaryIO) -> Iterator[list[tuple[tar.Entry, bytes]] | tar.Gap]:
    """The files of one sample after the other, and what is none."""
    held: list[tuple[tar.Entry, bytes]] = []
    for found in tar.salvage(stream, MAX_SAMPLE_BYTES):
        if held and (isinstance(found, tar.Gap) or found[0].key != held[0][0].key):
            yield held
            held = []
        if isinstance(found, tar.Gap):
            yield found
        else:
            held.append(found)
    if held:
        yield held


def _settled(out: Store, shard: _Judged, dry_run: bool) -> tuple[IndexRow, ...]:
    """The rows of a shard, after it was brought to hold the kept samples alone."""
    rows = tuple(shard.kept.values())
    if not shard.spoilt or dry_run:
        return rows
    name, aside = f"{SHARDS}/{shard.name}", f"{DAMAGED}/{shard.name}"
    with out.open_input(name) as old, out.open_output(aside) as copy:
        shutil.copyfileobj(old, copy, 1 << 20)
    if not rows:
        out.delete(name)
        return ()
    with out.open_input(aside) as old, out.open_output(name) as stream:
        return write_shard(stream, shard.name, (_sample(old, row) for row in rows))


def _sample(shard: Any, row: IndexRow) -> tuple[Pair, tuple[Member, ...]]:
    """A sample's record and files, from where its row says that they stand."""
    members = tuple(Member(at.name, shard.read_at(at.size, at.offset)) for at in row.members)
    return Pair.from_json(dict(members)["json"]), members
