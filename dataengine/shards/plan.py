"""Which sample goes into which shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Self

from dataengine.config import ShardSettings
from dataengine.records import Pair


class SampleName(NamedTuple):
    """What decides on a sample's shard. Ten million of these fit in memory; ten million pairs do not."""

    split: str
    subjects: int
    key: str

    @classmethod
    def of(cls, pair: Pair) -> Self:
        return cls(pair.split, len(pair.subjects), pair.key)


class ShardPlan(NamedTuple):
    """A shard's file name and the keys of its samples in order."""

    name: str
    keys: tuple[str, ...]


def plan_shards(names: Iterable[SampleName], settings: ShardSettings) -> tuple[ShardPlan, ...]:
    """Shards of `settings.samples` each, a separate set for every split and number of subjects: `train-2s-00000.tar`.

    A trainer mixes the sets as it likes. Keys are content hashes, so their order is already a fixed shuffle of the
    sources. The result depends on the set of names only, not on their order.
    Raises `ValueError` when a key comes twice.
    """
    ordered = sorted(names)
    twice = [key for key, count in Counter(name.key for name in ordered).items() if count > 1]
    if twice:
        raise ValueError(f"sample {twice[0]} comes twice ({len(twice)} such keys): a key names one sample")
    sets: dict[tuple[str, int], list[str]] = {}
    for split, subjects, key in ordered:
        sets.setdefault((split, subjects), []).append(key)
    return tuple(
        ShardPlan(f"{split}-{subjects}s-{number:05d}.tar", tuple(keys[start : start + settings.samples]))
        for (split, subjects), keys in sets.items()
        for number, start in enumerate(range(0, len(keys), settings.samples))
    )
