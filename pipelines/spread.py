"""Work on items in order: here where there is little of it, on Ray's workers where there is much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from dataengine.engine.run import connect, each

T = TypeVar("T")
U = TypeVar("U")

FEW = 8
"""So many items are done before another process has started."""


def spread(function: Callable[[T], U], items: Sequence[T], address: str | None = None) -> Iterable[U]:
    """`function` of every item, in order. The results are the same wherever it runs."""
    if len(items) <= FEW and address is None:
        return map(function, items)
    connect(address)
    return each(function, items)
