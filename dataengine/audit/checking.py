"""Runs the checks on a whole dataset, shard by shard, and writes what they found beside it.

Each shard's findings are kept with a digest of the shard and the settings: only what changed is looked at again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.audit.checks import (
    READABLE,
    Aids,
    Case,
    Finding,
    Seen,
    apart_from_other_split,
    check_sample,
    score_matrix,
)
from dataengine.audit.risk import risk_of
from dataengine.audit.sampling import random_ranks
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.tables import CHECKS, CHECKS_SCHEMA, MATRIX, MATRIX_SCHEMA, RISK, RISK_SCHEMA
from dataengine.audit.wording import shortened
from dataengine.config import AuditSettings
from dataengine.records import Pair
from dataengine.shards.index import SHARDS, Index, IndexRow
from dataengine.store import Store, StoreError

log = logging.getLogger(__name__)

VERSION = 1
"""Raise it when a check finds something else on the same sample: stored findings are then not used again."""

CHECKED = "audit/checked"
_DIGEST = b"digest"
_FINDING = pa.struct([field for field in CHECKS_SCHEMA if field.name != "key"])
_CELL = pa.struct([field for field in MATRIX_SCHEMA if field.name != "key"])
_SAMPLE = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("source_id", pa.string()),
        ("hashes", pa.list_(pa.string())),
        ("findings", pa.list_(_FINDING)),
        ("cells", pa.list_(_CELL)),
    ]
)


@dataclass(frozen=True)
class Summary:
    """What a pass over a dataset came to."""

    samples: int
    failed: int
    unreadable: int
    shards: int
    reused: int
    """Shards of which stored findings still held."""
    checks: dict[str, tuple[int, int]]
    """How many findings of each check there are, and how many of them failed."""


def check_dataset(
    out: Store,
    settings: AuditSettings,
    aids: Aids | None = None,
    workers: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Check every sample of a dataset and write `checks.parquet`, `risk.parquet` and `matrix.parquet`.

    A sample whose files are missing, damaged or not those of the index has one finding, `readable`, and the rest goes
    on. Memory holds one sample a worker, and of all samples the key, the source and the hashes of the stills. `tell`
    is called with the shards done and their number. Raises what `Index.read` raises when `out` holds no dataset.
    """
    index = Index.read(out)
    aids = aids or Aids(frames=settings.frames)
    shards = _shards(index)
    names = {f"{CHECKED}/{name}.parquet" for name, _, _ in shards}
    for stale in set(out.names(CHECKED)) - names:
        out.delete(stale)
    work = _Work(out, index, settings, aids)
    reused = 0
    with ThreadPoolExecutor(workers) as pool:
        for done, held in enumerate(pool.map(lambda shard: work.bring_up_to_date(*shard), shards), 1):
            reused += held
            tell(done, len(shards))
    return _join(out, index, [name for name, _, _ in shards], settings, reused)


def _shards(index: Index) -> list[tuple[str, int, int]]:
    """Every shard with the first of its rows and the end."""
    names = index.table["shard"].to_pylist()
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    return [(names[a], a, b) for a, b in pairwise([*starts, len(names)])]


@dataclass(frozen=True)
class _Work:
    out: Store
    index: Index
    settings: AuditSettings
    aids: Aids

    def bring_up_to_date(self, shard: str, start: int, end: int) -> bool:
        """Check a shard, unless its stored findings still hold; says whether they did."""
        digest = self._digest(shard, start, end)
        name = f"{CHECKED}/{shard}.parquet"
        if _stored_digest(self.out, name) == digest:
            return True
        rows = [self._row(row, members) for row, members in self._samples(shard, start, end)]
        schema = _SAMPLE.with_metadata({_DIGEST: digest})
        with self.out.open_output(name) as stream:
            pq.write_table(pa.Table.from_pylist(rows, schema), stream, compression="zstd")
        return False

    def _digest(self, shard: str, start: int, end: int) -> bytes:
        """What findings follow from: the shard's bytes, as the index and the disk know them, and the settings."""
        kept = self.settings.model_dump(mode="json", include={"frames", "scorer", "clip", "tokenizer", "limits"})
        given = (self.aids.scorer is not None, self.aids.tokens is not None, self.aids.faces is not None)
        hashed = hashlib.sha256(json.dumps([VERSION, kept, given, self.aids.frames], sort_keys=True).encode())
        for members in self.index.table["members"].slice(start, end - start).to_pylist():
            hashed.update("".join(member["sha256"] for member in members).encode())
        name = f"{SHARDS}/{shard}"
        hashed.update(f"{self.out.size(name)} {self.out.modified_ns(name)}".encode())
        return hashed.hexdigest().encode()

    def _samples(self, shard: str, start: int, end: int) -> Iterator[tuple[IndexRow, dict[str, bytes] | str]]:
        """Each sample's files, or what is wrong with them; the shard is read once, a sample at a time."""
        rows = (self.index[position] for position in range(start, end))
        try:
            with self.out.open_input(f"{SHARDS}/{shard}") as stream:
                for row in rows:
                    yield row, _members(stream, row)
        except (StoreError, OSError) as error:
            yield from ((row, f"{shard}: {error}") for row in rows)

    def _row(self, row: IndexRow, members: dict[str, bytes] | str) -> dict[str, Any]:
        known: dict[str, Any] = {"key": row.key, "split": row.split, "source_id": row.source_id}
        try:
            if isinstance(members, str):
                raise UnreadableSample(members)
            scene = _scene(row, members)
            findings = check_sample(scene, self.settings.limits, self.aids)
            cells = score_matrix(Case(scene, self.settings.limits, self.aids))
        except Exception as error:  # whatever a hostile file makes a decoder do is a finding, not the end
            if not isinstance(error, UnreadableSample):
                log.warning("%s: %s", row.key, error, exc_info=error)
            told = str(error) if isinstance(error, UnreadableSample) else f"{type(error).__name__}: {error}"
            lost = Finding(check=READABLE, entity="", score=0, passed=False, reason=shortened(told, 400))
            return known | {"hashes": [], "findings": [lost.model_dump()], "cells": []}
        readable = Finding(check=READABLE, entity="", score=1, passed=True, reason="all files are as they were written")
        return known | {
            "hashes": list(scene.pair.quality.hashes or ()),
            "findings": [finding.model_dump() for finding in (readable, *findings)],
            "cells": [
                {"attribute": entity, "subject": subject, "votes": c.votes, "inside": c.inside, "match": c.match}
                for (entity, subject), c in cells.items()
            ],
        }


def _members(stream: Any, row: IndexRow) -> dict[str, bytes] | str:
    """A sample's files by one ranged read, if each is what was indexed."""
    start, end = row.span
    try:
        data = stream.read_at(end - start, start)
    except OSError as error:
        return f"{row.shard}: {error}"
    members = {m.name: data[m.offset - start : m.offset - start + m.size] for m in row.members}
    for member in row.members:
        if hashlib.sha256(members[member.name]).hexdigest() != member.sha256:
            return f"{row.key}.{member.name}: its bytes are not those that were written; run `dataengine validate`"
    return members


def _scene(row: IndexRow, members: dict[str, bytes]) -> Scene:
    try:
        pair = Pair.from_json(members["json"])
    except (KeyError, ValueError) as error:
        raise UnreadableSample(f"{row.key}.json: {error}") from error
    if pair.key != row.key:
        raise UnreadableSample(f"{row.key}.json: it is the record of {pair.key}")
    return Scene(pair, members)


def _stored_digest(out: Store, name: str) -> bytes | None:
    if not out.exists(name):
        return None
    try:
        with out.open_input(name) as stream:
            return (pq.read_schema(stream).metadata or {}).get(_DIGEST)
    except (pa.ArrowInvalid, OSError):
        return None


# --- All shards together ----------------------------------------------------------------------------------------------


def _join(out: Store, index: Index, shards: Sequence[str], settings: AuditSettings, reused: int) -> Summary:
    seen: dict[str, Seen] = {}
    for shard in shards:
        for row in _read(out, shard, ["key", "split", "source_id", "hashes"]):
            seen[row["key"]] = Seen(row["split"], row["source_id"], tuple(row["hashes"]))
    corpus = dict(apart_from_other_split(seen, settings.limits.duplicate_bits))
    ranks = random_ranks(list(seen), [one.source_id for one in seen.values()], settings.seed)
    counts: dict[str, tuple[int, int]] = {}
    position = failed = unreadable = 0
    with (
        out.open_output(CHECKS) as checks_stream,
        out.open_output(RISK) as risk_stream,
        out.open_output(MATRIX) as matrix_stream,
        pq.ParquetWriter(checks_stream, CHECKS_SCHEMA, compression="zstd") as checks,
        pq.ParquetWriter(risk_stream, RISK_SCHEMA, compression="zstd") as risks,
        pq.ParquetWriter(matrix_stream, MATRIX_SCHEMA, compression="zstd") as matrix,
    ):
        numbers = index.table.select(["subjects", "attributes"])
        for shard in shards:
            found, ranked, cells = [], [], []
            for row in _read(out, shard, ["key", "split", "source_id", "findings", "cells"]):
                key = row["key"]
                findings = [Finding.model_validate(values) for values in row["findings"]]
                findings += [corpus[key]] if key in corpus else []
                risk = risk_of(findings, settings.risk)
                readable = READABLE not in risk.failed
                failed += bool(risk.failed)
                unreadable += not readable
                for finding in findings:
                    all_, bad = counts.get(finding.check, (0, 0))
                    counts[finding.check] = (all_ + 1, bad + (not finding.passed))
                found += [{"key": key, **finding.model_dump()} for finding in findings]
                cells += [{"key": key, **cell} for cell in row["cells"]]
                ranked.append(
                    {
                        "key": key,
                        "risk": risk.risk,
                        "failed": list(risk.failed),
                        "readable": readable,
                        "random_rank": int(ranks[position]),
                        "split": row["split"],
                        "source_id": row["source_id"],
                        "subjects": numbers["subjects"][position].as_py(),
                        "attributes": numbers["attributes"][position].as_py(),
                        "shard": shard,
                    }
                )
                position += 1
            checks.write_table(pa.Table.from_pylist(found, CHECKS_SCHEMA))
            risks.write_table(pa.Table.from_pylist(ranked, RISK_SCHEMA))
            matrix.write_table(pa.Table.from_pylist(cells, MATRIX_SCHEMA))
    return Summary(len(seen), failed, unreadable, len(shards), reused, counts)


def _read(out: Store, shard: str, columns: list[str]) -> list[dict[str, Any]]:
    with out.open_input(f"{CHECKED}/{shard}.parquet") as stream:
        return pq.read_table(stream, columns=columns).to_pylist()


def stored_findings(out: Store) -> Iterator[tuple[str, tuple[Finding, ...]]]:
    """Every sample's key and findings as `check_dataset` left them, in the order of the index.

    One row group, that is a shard's, is held at a time. Raises `StoreError` where nothing was checked.
    """
    with out.open_input(CHECKS) as stream:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group).to_pylist()
            for key, found in groupby(rows, key=lambda row: row["key"]):
                yield (
                    key,
                    tuple(Finding.model_validate({k: v for k, v in row.items() if k != "key"}) for row in found),
                )


def are_checked(out: Store) -> bool:
    """Whether findings are stored that belong to the dataset's index as it is."""
    if not (out.exists(RISK) and out.exists(CHECKS)):
        return False
    with out.open_input(RISK) as stream:
        keys = pq.read_table(stream, columns=["key", "shard"])
    index = Index.read(out).table.select(["key", "shard"])
    return bool(keys.equals(index))
