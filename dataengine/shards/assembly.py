"""A pair's files: its clip, its record, and its reference images cut out of the stills."""

from __future__ import annotations

import io
from collections.abc import Mapping
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
    pair: Pair,
    stills: Stills,
    segmentation: Segmentation,
    background: Background,
    encoded: EncodedClip,
    others: Mapping[str, tuple[Stills, Segmentation]] | None = None,
) -> tuple[Member, ...]:
    """The files of a sample in the order they stand in a shard; the same records give the same bytes.

    `others`: stills and masks of the other clips that references come from, by clip id.

    A face is the raw crop of its box. An attribute, body or object is its masked pixels on white, cropped to the mask's
    tight box, beside the mask over the whole frame (1 bit). The background is the measured image as it is.
    Raises `ValueError` when a record does not belong to the pair or its media are missing.
    """
    source = _Pictures(pair, stills, segmentation, others or {})
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
    """The stills and masks that a pair's references are cut from; each still is decoded once."""

    def __init__(
        self,
        pair: Pair,
        stills: Stills,
        segmentation: Segmentation,
        others: Mapping[str, tuple[Stills, Segmentation]],
    ) -> None:
        self._pair = pair
        self._clips = {**others, pair.clip.clip_id: (stills, segmentation)}
        self._decoded: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def face(self, reference: Reference) -> Member:
        return Member(reference.member, png(_crop(self._still(reference), reference.box)))

    def cut_out(self, reference: Reference) -> tuple[Member, Member]:
        origin = reference.origin
        entity = reference.entity if origin is None else origin.entity
        masks_there = self._clip(reference)[1].masks
        mask = next((m.mask for m in masks_there if (m.entity, m.still) == (entity, reference.still)), None)
        if mask is None or reference.mask_member is None:
            raise ValueError(f"{self._pair.key}: no mask of {entity} was measured in still {reference.still}")
        pixels, still = masks.decode(mask), self._still(reference)
        if pixels.shape != still.shape[:2]:
            raise ValueError(f"{self._pair.key}: the mask of {reference.entity} has not the still's size")
        inside = _crop(pixels, reference.box)
        image = np.where(inside[:, :, None], _crop(still, reference.box), np.uint8(WHITE))
        return Member(reference.member, png(image)), Member(reference.mask_member, png(pixels))

    def _still(self, reference: Reference) -> NDArray[np.uint8]:
        place = (_clip_id(self._pair, reference), reference.still)
        if place not in self._decoded:
            image = self._clip(reference)[0].stills[reference.still].image
            with Image.open(io.BytesIO(image), formats=("JPEG",)) as opened:
                pixels = np.asarray(opened.convert("RGB"))
            width, height = self._pair.frame_of(reference)
            if pixels.shape[:2] != (height, width):
                size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise ValueError(f"{self._pair.key}: still {reference.still} is {size}, the clip {width}x{height}")
            self._decoded[place] = pixels
        return self._decoded[place]

    def _clip(self, reference: Reference) -> tuple[Stills, Segmentation]:
        clip_id = _clip_id(self._pair, reference)
        if clip_id not in self._clips:
            raise ValueError(f"{self._pair.key}: {reference.entity} comes from clip {clip_id}, which was not given")
        return self._clips[clip_id]


def _clip_id(pair: Pair, reference: Reference) -> str:
    return pair.clip.clip_id if reference.origin is None else reference.origin.clip.clip_id


def png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """An RGB array (H, W, 3) uint8, or a boolean mask (H, W) at 1 bit a pixel, as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=_PNG_EFFORT)
    return stream.getvalue()


def _crop(pixels: NDArray, box: Box) -> NDArray:
    """A box of whole pixels."""
    x0, y0, x1, y1 = (int(v) for v in box)
    return pixels[y0:y1, x0:x1]
