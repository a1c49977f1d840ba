"""What a measurement says, and how it is printed: every figure beside a peer or a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One row of the bench's table. `ratio` and `target` are empty where there is nothing to compare."""

    what: str
    ours: str
    peer: str
    ratio: str = ""
    target: str = ""


def show(title: str, lines: Sequence[Line]) -> None:
    rows = [
        ("", "ours", "peer or bound", "ratio", "target"),
        *((n.what, n.ours, n.peer, n.ratio, n.target) for n in lines),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
