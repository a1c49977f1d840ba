"""Which split a source belongs to: all its clips together, and the same one however much data is added."""

from __future__ import annotations

import hashlib
from typing import Literal


def split_of(source_id: str, val_share: float) -> Literal["train", "val"]:
    """`val` for about `val_share` of all sources. A larger share only ever moves sources from `train` to `val`."""
    place = int.from_bytes(hashlib.sha256(source_id.encode()).digest()[:8], "big") / 2**64
    return "val" if place < val_share else "train"
