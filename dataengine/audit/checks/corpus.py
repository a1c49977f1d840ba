"""Checks that need the whole dataset: nothing of one split is to be seen in the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dataengine.audit.checks.basis import Finding
from dataengine.decide.duplicates import apart, near_duplicates


class Seen(NamedTuple):
    """What is known of a sample when all are compared."""

    split: str
    source_id: str
    hashes: tuple[str, ...]


def apart_from_other_split(samples: Mapping[str, Seen], most_bits: int) -> Iterator[tuple[str, Finding]]:
    """No sample of the other split comes from the same video or shows nearly the same pictures."""
    splits: dict[str, dict[str, str]] = {}
    for key, seen in samples.items():
        splits.setdefault(seen.source_id, {}).setdefault(seen.split, key)
    hashed = {key: seen.hashes for key, seen in samples.items() if seen.hashes}
    lengths = {len(hashes) for hashes in hashed.values()}
    groups = {
        key: group
        for length in sorted(lengths)
        for group in near_duplicates({k: h for k, h in hashed.items() if len(h) == length}, most_bits)
        for key in group
    }
    for key, seen in samples.items():
        other = next((name for split, name in splits[seen.source_id].items() if split != seen.split), None)
        if other is not None:
            yield key, _finding(0, False, f"{other} of the other split is cut from the same video")
            continue
        near = {o: apart(seen.hashes, samples[o].hashes) for o in groups.get(key, ()) if samples[o].split != seen.split}
        if near:
            other = min(near, key=lambda name: (near[name], name))
            yield key, _finding(near[other], False, f"{near[other]} bits from {other} of the other split")
        elif seen.hashes:
            yield key, _finding(64, True, "nothing like it in the other split")


def _finding(bits: int, passed: bool, reason: str) -> Finding:
    return Finding(check=apart_from_other_split.__name__, entity="", score=bits, passed=passed, reason=reason)
