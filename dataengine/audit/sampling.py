"""Which samples of a dataset people look at."""

from __future__ import annotations


def evenly(total: int, limit: int) -> list[int]:
    """At most `limit` of the numbers 0 … total−1, in order, evenly spread: the middles of `limit` equal parts."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if total <= limit:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * limit) for i in range(limit)]
