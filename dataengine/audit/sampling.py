"""Which samples of a dataset people look at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def evenly(total: int, limit: int) -> list[int]:
    """At most `limit` of the numbers 0 … total−1, in order, evenly spread: the middles of `limit` equal parts."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if total <= limit:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * limit) for i in range(limit)]


def random_ranks(keys: Sequence[str], sources: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Each sample's place in a random order of which any beginning is a fair sample, spread over the source videos.

    The samples are laid on a ring, sources in random order, a source's samples side by side in random order, and taken
    from a random place on in the order of van der Corput (bits of the number reversed). So every sample is among the
    first n with probability n/N, whatever the size of its source, and the first n lie almost evenly on the ring: as in
    systematic sampling, a source gives about its share, and two samples only when that share asks for them. More may
    be looked at later without drawing anew.
    """
    total = len(keys)
    if total == 0:
        return np.empty(0, np.int64)
    drawn = {source: _draw(seed, "source", source) for source in set(sources)}
    ring = sorted(
        range(total), key=lambda i: (drawn[sources[i]], sources[i], _draw(seed, "sample", keys[i]), keys[i])
    )  # fmt: skip
    bits = max(1, (total - 1).bit_length())
    numbers = np.arange(1 << bits, dtype=np.int64)
    reversed_ = np.zeros_like(numbers)
    for bit in range(bits):
        reversed_ |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    # With 2^bits places for fewer samples, places are stretched over the ring: beginnings stay even.
    order = reversed_ * total >> bits
    _, first = np.unique(order, return_index=True)
    taken = order[np.sort(first)]
    start = _draw(seed, "start", "") % total
    ranks = np.empty(total, np.int64)
    ranks[np.array(ring)[(taken + start) % total]] = np.arange(total)
    return ranks


def _draw(seed: int, what: str, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {what} {name}".encode()).digest()[:8], "big")
