"""What a format cannot hold: counted while samples are converted, printed and written, never dropped in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import Field

from dataengine.records import Record


class Loss(Record):
    """One kind of thing that went lost, and how often."""

    what: str = Field(description="the field or file, as the side that has it calls it")
    why: str
    count: int = Field(description="how many of them")
    example: str = Field(description="a sample in which it happened")


class Losses(Record):
    """Everything that a conversion could not carry over."""

    format: str
    samples: int = Field(description="samples converted")
    losses: tuple[Loss, ...]


@dataclass
class LossCount:
    """Counts losses by kind; counts of several workers add up to the same in any order."""

    found: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, what: str, why: str, example: str, count: int = 1) -> None:
        before, first = self.found.get((what, why), (0, example))
        self.found[what, why] = (before + count, min(first, example))

    def merge(self, other: LossCount) -> None:
        for (what, why), (count, example) in other.found.items():
            self.add(what, why, example, count)

    def report(self, name: str, samples: int) -> Losses:
        """Sorted: the most frequent first."""
        ranked = sorted(self.found.items(), key=lambda item: (-item[1][0], item[0]))
        return Losses(
            format=name,
            samples=samples,
            losses=tuple(Loss(what=k[0], why=k[1], count=v[0], example=v[1]) for k, v in ranked),
        )


def merged(counts: Iterable[LossCount]) -> LossCount:
    """All counts as one."""
    total = LossCount()
    for count in counts:
        total.merge(count)
    return total
