"""A pair's files: its clip, its record, and its reference images cut out of the stills."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine import masks
from dataengine.records import Background, Box, EncodedClip, Pair, Reference, Segmentation, Stills

WHITE = 255
_PNG_EFFORT = 6


class Member(NamedTuple):
    """One file of a sample; `name` is what follows `KEY.`"""

    name: str
    data: bytes


def assemble(
    pair: Pair, stills: Stills, segmentation: Segmentation, background: Background, encoded: EncodedClip
) -> tuple[Member, ...]:
    """The files of a sample in the order they stand in a shard; the same records give the same bytes.

    A face is the raw crop of its box. An attribute, body or object is its masked pixels on white, cropped to the mask's
    tight box, beside the mask over the whole frame (1 bit). The background is the measured image as it is.
    Raises `ValueError` when a record does not belong to the pair or its media are missing.
    """
    source = _Pictures(pair, stills, segmentation)
    members = [Member("mp4", encoded.mp4), Member("json", pair.to_json().encode())]
    for subject in pair.subjects:
        members.append(source.face(subject.face))
        for reference in (*subject.attributes, *(() if subject.body is None else (subject.body,))):
            members += source.cut_out(reference)
    for reference in pair.objects:
        members += source.cut_out(reference)
    if pair.background is not None:
        members.append(Member(pair.background.member, background.image))
    empty = [member.name for member in members if not member.data]
    if empty:
        raise ValueError(f"{pair.key}: {', '.join(empty)} would be empty: the records came without their media")
    return tuple(members)


class _Pictures:
    """The stills and masks of one pair; each still is decoded once."""

    def __init__(self, pair: Pair, stills: Stills, segmentation: Segmentation) -> None:
        self._pair = pair
        self._stills = stills
        self._masks = {(found.entity, found.still): found.mask for found in segmentation.masks}
        self._decoded: dict[int, NDArray[np.uint8]] = {}

    def face(self, reference: Reference) -> Member:
        return Member(reference.member, png(_crop(self._still(reference), reference.box)))

    def cut_out(self, reference: Reference) -> tuple[Member, Member]:
        mask = self._masks.get((reference.entity, reference.still))
        if mask is None or reference.mask_member is None:
            raise ValueError(f"{self._pair.key}: no mask of {reference.entity} was measured in still {reference.still}")
        pixels, still = masks.decode(mask), self._still(reference)
        if pixels.shape != still.shape[:2]:
            raise ValueError(f"{self._pair.key}: the mask of {reference.entity} has not the still's size")
        inside = _crop(pixels, reference.box)
        image = np.where(inside[:, :, None], _crop(still, reference.box), np.uint8(WHITE))
        return Member(reference.member, png(image)), Member(reference.mask_member, png(pixels))

    def _still(self, reference: Reference) -> NDArray[np.uint8]:
        number = reference.still
        if number not in self._decoded:
            with Image.open(io.BytesIO(self._stills.stills[number].image), formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
            if pixels.shape[:2] != (self._pair.height, self._pair.width):
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise ValueError(
                    f"{self._pair.key}: still {number} is {size}, the clip {self._pair.width}x{self._pair.height}"
                )
            self._decoded[number] = pixels
        return self._decoded[number]


def png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """An RGB array (H, W, 3) uint8, or a boolean mask (H, W) at 1 bit a pixel, as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=_PNG_EFFORT)
    return stream.getvalue()


def _crop(pixels: NDArray, box: Box) -> NDArray:
    """A box of whole pixels."""
    x0, y0, x1, y1 = (int(v) for v in box)
    return pixels[y0:y1, x0:x1]
