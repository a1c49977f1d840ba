"""Checks that a dataset is what it says: every shard, every file in it, every clip, and the index against them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

from dataengine.records import Pair
from dataengine.shards import integrity, tar
from dataengine.shards.index import INDEX, SHARDS, Index, IndexRow, MemberAt
from dataengine.shards.integrity import Check, Problem
from dataengine.shards.reader import MAX_SAMPLE_BYTES
from dataengine.store import Store, StoreError

REBUILD = "build the dataset again: measurements are kept, so only packing is repeated"


class Finding(NamedTuple):
    """One thing that is wrong, where, and what to do about it."""

    check: Check
    shard: str
    key: str | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = self.shard if self.key is None else f"{self.shard}, sample {self.key}"
        return f"{self.check}: {where}: {self.problem}; {self.remedy}"


@dataclass(frozen=True)
class Report:
    """What `validate` found, and how much it looked at."""

    findings: tuple[Finding, ...]
    shards: int
    samples: int
    bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.findings


def validate(out: Store, *, clips: bool = True, workers: int = 1) -> Report:
    """Read every byte of a dataset and report all that is wrong with it; damaged data raise nothing.

    Checked: tars well-formed; each sample's files complete against its record, no more and no fewer; hashes and
    offsets equal to the index; records valid with their spans in the caption; masks as large as the frame and
    references as their box; clips decode to the stated number of frames, rate and size; keys unique; index and shards
    agree. Without `clips` no video is decoded: the rest is as fast as the disk. `workers` threads take a shard each.
    """
    started = time.perf_counter()
    rows, findings = _read_index(out)
    names = [name.removeprefix(f"{SHARDS}/") for name in out.names(SHARDS, ".tar")]
    for shard in sorted(rows.keys() - set(names)):
        lost = f"the index has {len(rows[shard])} samples in it, but the shard is gone"
        findings.append(Finding("index", shard, None, lost, REBUILD))
    with ThreadPoolExecutor(workers) as pool:
        checked = list(pool.map(lambda name: _check_shard(out, name, rows.get(name, {}), clips), names))
    owners: dict[str, str] = {}
    for shard_check in checked:
        findings += shard_check.findings
        for key in shard_check.keys:
            if owners.setdefault(key, shard_check.shard) != shard_check.shard:
                again = f"the key is in {owners[key]} too"
                findings.append(Finding("key", shard_check.shard, key, again, REBUILD))
    return Report(
        findings=tuple(findings),
        shards=len(names),
        samples=sum(len(c.keys) for c in checked),
        bytes=sum(c.bytes for c in checked),
        seconds=time.perf_counter() - started,
    )


def _read_index(out: Store) -> tuple[dict[str, dict[str, IndexRow]], list[Finding]]:
    """The index by shard and key, and what is wrong with it alone."""
    rows: dict[str, dict[str, IndexRow]] = {}
    findings: list[Finding] = []
    previous = ("", 0)
    try:
        for row in Index.read(out):
            place = (row.shard, row.span[0])
            if place <= previous:
                findings.append(Finding("index", row.shard, row.key, "the index is out of order here", REBUILD))
            if row.key in rows.setdefault(row.shard, {}):
                findings.append(Finding("key", row.shard, row.key, "the key stands twice in the index", REBUILD))
            rows[row.shard][row.key] = row
            previous = place
    except (StoreError, ValueError) as error:
        findings.append(Finding("index", INDEX, None, str(error), REBUILD))
    return rows, findings


@dataclass
class _ShardCheck:
    """What a shard turned out to hold."""

    shard: str
    findings: list[Finding] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    bytes: int = 0

    def add(self, check: Check, key: str | None, problem: str, remedy: str = REBUILD) -> None:
        self.findings.append(Finding(check, self.shard, key, problem, remedy))


def _check_shard(out: Store, shard: str, rows: Mapping[str, IndexRow], clips: bool) -> _ShardCheck:
    found = _ShardCheck(shard)
    try:
        with out.open_input(f"{SHARDS}/{shard}") as stream:
            for key, files in groupby(tar.entries(stream, shard, MAX_SAMPLE_BYTES), lambda file: file[0].key):
                if key in found.keys:
                    found.add("key", key, "its files are in two places of the shard")
                found.keys.add(key)
                for problem in _check_sample(found, key, files, rows.get(key), clips):
                    found.add(problem.check, key, problem.text)
    except tar.ShardError as error:
        found.add("tar", error.key, error.problem, error.remedy)
    except OSError as error:
        found.add("tar", None, f"it cannot be read: {error}", "check the disk and the rights")
    for key in sorted(rows.keys() - found.keys):
        found.add("index", key, "the index has it, the shard has not")
    return found


def _check_sample(
    found: _ShardCheck, key: str, files: Iterable[tuple[tar.Entry, bytes]], row: IndexRow | None, clips: bool
) -> list[Problem]:
    members: dict[str, bytes] = {}
    places: list[MemberAt] = []
    problems: list[Problem] = []
    for entry, data in files:
        if entry.member in members:
            problems.append(Problem("members", f"{entry.member} stands twice"))
        members[entry.member] = data
        found.bytes += len(data)
        digest = sha256(data).hexdigest()
        places.append(MemberAt(name=entry.member, offset=entry.offset, size=entry.size, sha256=digest))
    pair = integrity.read_pair(key, members)
    problems += _check_index(found.shard, row, pair if isinstance(pair, Pair) else None, places)
    if not isinstance(pair, Pair):
        return problems + pair
    problems += integrity.check_files(pair, members)
    problems += integrity.check_images(pair, members)
    if clips and "mp4" in members:
        problems += integrity.check_clip(pair, members["mp4"])
    return problems


def _check_index(shard: str, row: IndexRow | None, pair: Pair | None, places: list[MemberAt]) -> list[Problem]:
    """Whether the index says of a sample what the shard says."""
    if row is None:
        return [Problem("index", "the shard has it, the index has not")]
    problems: list[Problem] = []
    indexed = {at.name: at for at in row.members}
    if [at.name for at in row.members] != [at.name for at in places]:
        problems.append(Problem("index", "the index lists other files, or in another order"))
    for at in places:
        there = indexed.get(at.name)
        if there is not None and there.sha256 != at.sha256:
            problems.append(Problem("hash", f"{at.name}: its bytes are not those that were written"))
        elif there is not None and there != at:
            problems.append(Problem("index", f"{at.name}: the index says another place in the shard"))
    if pair is not None:
        truth = IndexRow.of(pair, shard, row.members)
        wrong = [name for name in IndexRow.model_fields if getattr(row, name) != getattr(truth, name)]
        if wrong:
            problems.append(Problem("index", f"the index says otherwise of its {', '.join(wrong)}"))
    return problems
