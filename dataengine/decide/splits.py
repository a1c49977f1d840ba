"""Which split a source belongs to: all its clips together, and the same one however much data is added.

By identity, sources that show the same person go together (a *component*), and the smallest source id among them
decides. What is stable when sources are added: a source that shares nobody with an older one changes nothing. One that
joins a component, or several into one, changes nothing either unless its id, or that of another part, is smaller than
the one that decided: then the whole component follows the smallest id, and may change sides. With a share v held out
that happens to a component of k sources that grows by one with probability 2 v (1 − v) / (k + 1). No run ever has a
person on both sides.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from dataengine.decide.duplicates import grouped


def split_of(source_id: str, val_share: float) -> Literal["train", "val"]:
    """`val` for about `val_share` of all sources. A larger share only ever moves sources from `train` to `val`."""
    place = int.from_bytes(hashlib.sha256(source_id.encode()).digest()[:8], "big") / 2**64
    return "val" if place < val_share else "train"


def components(sources: Iterable[str], identities: Mapping[int, Iterable[str]]) -> dict[str, str]:
    """For each source the smallest source id that chains of shared people join it to. `identities`: by person, the
    sources that show it.
    """
    ordered = sorted(set(sources))
    place = {source: at for at, source in enumerate(ordered)}
    links = []
    for shown in identities.values():
        first, *others = sorted({place[source] for source in shown}) or [0]
        links += [(first, other) for other in others]
    return {source: ordered[at] for source, at in zip(ordered, grouped(len(ordered), links), strict=True)}


def leaks(splits: Mapping[str, str], identities: Mapping[int, Iterable[str]]) -> list[int]:
    """The people that sources of more than one split show; `splits` by source."""
    sides: dict[int, set[str]] = defaultdict(set)
    for identity, shown in identities.items():
        sides[identity] |= {splits[source] for source in shown}
    return sorted(identity for identity, seen in sides.items() if len(seen) > 1)
