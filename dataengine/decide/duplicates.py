"""Clips that show nearly the same pictures, by the perceptual hashes of their stills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

BITS = 64


def hamming(a: str, b: str) -> int:
    """How many bits of two hashes of equal length, in hex, differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def apart(a: Sequence[str], b: Sequence[str]) -> int:
    """How many bits of two clips' hashes differ in the still in which they differ most; stills are paired in order."""
    return max((hamming(x, y) for x, y in zip(a, b, strict=True)), default=0)


def near_duplicates(clips: Mapping[str, Sequence[str]], most_bits: int) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more clips, by id, that chains of pairs at most `most_bits` apart hold together.

    `clips` gives each clip's hashes, all equally many. Sorted inside and among each other, whatever the order given.
    Not every pair is compared: of hashes that differ in `most_bits` bits, cut into one piece more than that, one piece
    is equal. Time therefore grows with the clips that have a piece in common, not with the square of their number.
    """
    if not 0 <= most_bits < BITS:
        raise ValueError(f"most_bits must be 0…{BITS - 1}, got {most_bits}")
    parent = {name: name for name in clips}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    edges = [round(i * BITS / (most_bits + 1)) for i in range(most_bits + 2)]
    for start, end in pairwise(edges):
        alike: dict[int, list[str]] = defaultdict(list)
        for name, hashes in clips.items():
            if hashes:  # near in every still means near in the first
                alike[int(hashes[0], 16) >> start & ((1 << end - start) - 1)].append(name)
        for names in alike.values():
            for i, a in enumerate(names):
                for b in names[:i]:
                    if root(a) != root(b) and apart(clips[a], clips[b]) <= most_bits:
                        parent[root(a)] = root(b)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in clips:
        groups[root(name)].append(name)
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))
