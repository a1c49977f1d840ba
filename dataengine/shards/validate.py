"""Checks that a dataset is what it says: every shard, every file in it, every clip, and the index against them."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from itertools import groupby
from typing import BinaryIO, Literal, NamedTuple

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


Depth = Literal["files", "images", "clips"]
"""How deep to look: at bytes and records; also into every image; also into every frame of every clip."""

PhraseCheck = Callable[[Pair], Iterable[str]]
"""What is wrong with a pair's phrases for some tokenizer: such as one that has no tokens. See `lumosx.text`."""


@dataclass(frozen=True)
class Report:
    """What `validate` found, and how much it looked at."""

    findings: tuple[Finding, ...]
    shards: int
    samples: int
    bytes: int
    seconds: float
    spent: Mapping[str, float]
    """Seconds by kind of work, all threads: `reading` (and hashing), `records`, `images`, `clips`, `phrases`."""

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def bound(self) -> str:
        """The kind of work that took longest."""
        return max(self.spent, key=lambda kind: self.spent[kind], default="reading")


@dataclass(frozen=True)
class Validation:
    """What is to be checked.

    Attributes:
        depth: `files` checks tars, hashes, records, spans and the index and is about as fast as hashing; `images` also
            decodes references and masks; `clips` also decodes every frame.
        sample: look at this many samples only, drawn by `seed`, wherever they lie; None: at all of every shard.
        phrases: asked of every pair.
    """

    depth: Depth = "clips"
    sample: int | None = None
    seed: int = 0
    phrases: PhraseCheck | None = None


def validate(out: Store, what: Validation = Validation(), *, workers: int = 1) -> Report:
    """Read a dataset and report all that is wrong with it; damaged data raise nothing.

    Checked: tars well-formed; each sample's files complete against its record, no more and no fewer; hashes and
    offsets equal to the index; records valid with their spans in the caption; masks as large as the frame and
    references as their box; clips decode to the stated number of frames, rate and size; keys unique; index and shards
    agree. A drawn sample cannot tell of shards' other contents. `workers` threads take a shard each.
    """
    started = time.perf_counter()
    rows, findings = _read_index(out)
    names = [name.removeprefix(f"{SHARDS}/") for name in out.names(SHARDS, ".tar")]
    for shard in sorted(rows.keys() - set(names)):
        lost = f"the index has {len(rows[shard])} samples in it, but the shard is gone"
        findings.append(Finding("index", shard, None, lost, REBUILD))
    if what.sample is not None:
        rows = _drawn(rows, what.sample, what.seed)
        names = [name for name in names if name in rows]
    with ThreadPoolExecutor(workers) as pool:
        checked = list(pool.map(lambda name: _check_shard(out, name, rows.get(name, {}), what), names))
    owners: dict[str, str] = {}
    spent: dict[str, float] = defaultdict(float)
    for shard_check in checked:
        for kind, seconds in shard_check.spent.items():
            spent[kind] += seconds
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
        spent=dict(spent),
    )


def _drawn(rows: Mapping[str, dict[str, IndexRow]], count: int, seed: int) -> dict[str, dict[str, IndexRow]]:
    """`count` rows, the same ones for the same seed whatever else the dataset holds."""
    everything = (row for shard in rows.values() for row in shard.values())
    least = heapq.nsmallest(count, everything, key=lambda row: sha256(f"{seed}:{row.key}".encode()).digest())
    drawn: dict[str, dict[str, IndexRow]] = {}
    for row in least:
        drawn.setdefault(row.shard, {})[row.key] = row
    return drawn


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
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, check: Check, key: str | None, problem: str, remedy: str = REBUILD) -> None:
        self.findings.append(Finding(check, self.shard, key, problem, remedy))

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[kind] += time.perf_counter() - started


def _check_shard(out: Store, shard: str, rows: Mapping[str, IndexRow], what: Validation) -> _ShardCheck:
    found = _ShardCheck(shard)
    try:
        with out.open_input(f"{SHARDS}/{shard}") as stream:
            whole = what.sample is None
            files = tar.entries(stream, shard, MAX_SAMPLE_BYTES) if whole else _files_of(stream, shard, rows.values())
            for key, group in groupby(files, lambda file: file[0].key):
                if key in found.keys:
                    found.add("key", key, "its files are in two places of the shard")
                found.keys.add(key)
                for problem in _check_sample(found, key, group, rows.get(key), what):
                    found.add(problem.check, key, problem.text)
    except tar.ShardError as error:
        found.add("tar", error.key, error.problem, error.remedy)
    except OSError as error:
        found.add("tar", None, f"it cannot be read: {error}", "check the disk and the rights")
    for key in sorted(rows.keys() - found.keys):
        found.add("index", key, "the index has it, the shard has not")
    return found


def _files_of(stream: BinaryIO, shard: str, rows: Iterable[IndexRow]) -> Iterator[tuple[tar.Entry, bytes]]:
    """The files at the places that the index gives, headers included; nothing else of the shard is read."""
    for row in rows:
        first, end = row.span
        start = max(0, first - tar.BLOCK)
        stream.seek(start)
        part = stream.read(end + -end % tar.BLOCK - start)
        yield from tar.entries(BytesIO(part + tar.end(len(part))), shard, MAX_SAMPLE_BYTES, start)


def _check_sample(
    found: _ShardCheck,
    key: str,
    files: Iterable[tuple[tar.Entry, bytes]],
    row: IndexRow | None,
    what: Validation,
) -> list[Problem]:
    members: dict[str, bytes] = {}
    places: list[MemberAt] = []
    problems: list[Problem] = []
    with found.timed("reading"):
        for entry, data in files:
            if entry.member in members:
                problems.append(Problem("members", f"{entry.member} stands twice"))
            members[entry.member] = data
            found.bytes += len(data)
            digest = sha256(data).hexdigest()
            places.append(MemberAt(name=entry.member, offset=entry.offset, size=entry.size, sha256=digest))
    with found.timed("records"):
        pair = integrity.read_pair(key, members)
        problems += _check_index(found.shard, row, pair if isinstance(pair, Pair) else None, places)
        if not isinstance(pair, Pair):
            return problems + pair
        problems += integrity.check_files(pair, members)
    if what.depth != "files":
        with found.timed("images"):
            problems += integrity.check_images(pair, members)
    if what.depth == "clips" and "mp4" in members:
        with found.timed("clips"):
            problems += integrity.check_clip(pair, members["mp4"])
    if what.phrases is not None:
        with found.timed("phrases"):
            problems += [Problem("phrase", text) for text in what.phrases(pair)]
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
