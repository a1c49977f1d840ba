"""What several formats say of a reference."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from dataengine import masks
from dataengine.records import Mask, Reference


def owner_of(reference: Reference) -> int:
    """The number of the subject that a reference belongs to; -1 for objects and backgrounds."""
    head = reference.entity.partition(".")[0]
    return int(head[1:]) if head.startswith("s") else -1


def mask_of(data: bytes) -> Mask:
    """A mask's PNG as run lengths."""
    with Image.open(BytesIO(data), formats=("PNG",)) as image:
        return masks.encode(np.asarray(image.convert("L")) >= 128)
