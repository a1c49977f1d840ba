"""Clips that show nearly the same pictures, by the perceptual hashes of their stills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BITS = 64

_BLOCK = 512
"""Rows compared at once with all that share a piece with them."""


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
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in sorted(clips):
        if clips[name]:
            alike[tuple(int(h, 16) for h in clips[name])].append(name)
    links = _links(np.array(list(alike), np.uint64).reshape(len(alike), -1), most_bits)
    groups: dict[int, list[str]] = defaultdict(list)
    for names, group in zip(alike.values(), grouped(len(alike), links), strict=True):
        groups[group] += names
    return tuple(sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1))


def surplus(clips: Mapping[str, Sequence[str]], most_bits: int) -> dict[str, str]:
    """Of every group of near duplicates all but the first by id, each with that first one: ids are content, so the one
    that is kept does not depend on the order of anything."""
    return {name: group[0] for group in near_duplicates(clips, most_bits) for name in group[1:]}


def grouped(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` things the smallest one that links join it to (its connected component)."""
    parent = list(range(count))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for a, b in links:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return [root(one) for one in range(count)]


def _links(hashes: NDArray[np.uint64], most_bits: int) -> Iterator[tuple[int, int]]:
    """Pairs of rows (n, stills) at most `most_bits` apart in every still; near in every still is near in the first."""
    if not len(hashes):
        return
    edges = [round(i * BITS / (most_bits + 1)) for i in range(most_bits + 2)]
    for start, end in pairwise(edges):
        piece = hashes[:, 0] >> np.uint64(start) & np.uint64((1 << end - start) - 1)
        order = np.argsort(piece, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            for at in range(0, len(members) - 1, _BLOCK):
                rows, others = members[at : at + _BLOCK], members[at:]
                near = np.bitwise_count(hashes[rows, None, 0] ^ hashes[None, others, 0]) <= most_bits
                a, b = np.nonzero(near & (rows[:, None] != others[None, :]))
                a, b = rows[a], others[b]
                same = (np.bitwise_count(hashes[a] ^ hashes[b]) <= most_bits).all(axis=1)
                yield from zip(a[same].tolist(), b[same].tolist(), strict=True)
