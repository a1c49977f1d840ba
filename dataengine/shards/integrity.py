"""What must hold inside one sample: its files are complete, and each is what the record says of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from PIL import Image
from pydantic import ValidationError

from dataengine import video
from dataengine.records import Box, Pair, Reference

Check = Literal["tar", "members", "hash", "pair", "image", "clip", "key", "index", "phrase"]

_FPS_TOLERANCE = 1e-3
"""Relative: containers store rates as fractions, records as decimals."""


class Problem(NamedTuple):
    """What is wrong, in words, and the check that found it."""

    check: Check
    text: str


def read_pair(key: str, members: Mapping[str, bytes]) -> Pair | list[Problem]:
    """The sample's record, or everything that is wrong with it."""
    if "json" not in members:
        return [Problem("members", "its json is missing")]
    try:
        pair = Pair.from_json(members["json"])
    except ValidationError as error:
        wrong = ((".".join(str(part) for part in e["loc"]) or "record", e["msg"]) for e in error.errors())
        return [Problem("pair", f"json: {where}: {message}") for where, message in wrong]
    if pair.key != key:
        return [Problem("pair", f"its json is of sample {pair.key}")]
    if not (pair.subjects and pair.fps > 0):
        return [Problem("pair", f"json: {len(pair.subjects)} subjects at {pair.fps} frames a second")]
    return pair


def check_files(pair: Pair, members: Mapping[str, bytes]) -> Iterator[Problem]:
    """Whether there is every file that the record names, and no other."""
    named = {"mp4", "json"}
    for reference in pair.references:
        named |= {reference.member, *(() if reference.mask_member is None else (reference.mask_member,))}
    for name in sorted(named - members.keys()):
        yield Problem("members", f"{name} is missing")
    for name in sorted(members.keys() - named):
        yield Problem("members", f"{name} is not in its record")


def check_images(pair: Pair, members: Mapping[str, bytes]) -> Iterator[Problem]:
    """Whether each reference has the size of its box, and each mask its frame's size with its pixels in that box."""
    for reference in pair.references:
        size = pair.frame_of(reference)
        frame = Box(0, 0, *size)
        if reference.box != reference.box.intersection(frame) or reference.box.area == 0:
            yield Problem("image", f"{reference.entity}: its box {tuple(reference.box)} is not inside the frame")
            continue
        if reference.member in members:
            yield from _check_reference(reference, members[reference.member])
        if reference.mask_member is not None and reference.mask_member in members:
            yield from _check_mask(reference, members[reference.mask_member], size)


def check_clip(pair: Pair, mp4: bytes) -> Iterator[Problem]:
    """Whether every frame of the clip decodes, and their number, rate and size are as stated."""
    try:
        with video.Video(io.BytesIO(mp4), on_error="raise") as clip:
            info = clip.info
            # Frames are only counted: made tiny, they cost decoding alone.
            frames = sum(1 for _ in clip.iter_frames(size=(16, 16)))
    except video.VideoError as error:
        yield Problem("clip", f"mp4: {error.problem}")
        return
    if (info.width, info.height) != (pair.width, pair.height):
        yield Problem("clip", f"mp4: {info.width}x{info.height}, the record says {pair.width}x{pair.height}")
    if frames != pair.frames:
        yield Problem("clip", f"mp4: {frames} frames, the record says {pair.frames}")
    if not abs(info.fps - pair.fps) <= _FPS_TOLERANCE * pair.fps:
        yield Problem("clip", f"mp4: {info.fps:.3f} frames a second, the record says {pair.fps:.3f}")


def _check_reference(reference: Reference, data: bytes) -> Iterator[Problem]:
    size = (int(reference.box.width), int(reference.box.height))
    try:
        with _png(data, size):
            pass
    except ValueError as error:
        yield Problem("image", f"{reference.member}: {error}")


def _check_mask(reference: Reference, data: bytes, frame: tuple[int, int]) -> Iterator[Problem]:
    try:
        with _png(data, frame) as mask:
            if mask.mode not in ("1", "L") or any(n and v not in (0, 255) for v, n in enumerate(mask.histogram())):
                yield Problem("image", f"{reference.mask_member}: it is not black and white")
            elif mask.getbbox() != tuple(reference.box):
                yield Problem(
                    "image",
                    f"{reference.mask_member}: its pixels lie in {mask.getbbox()}, the record says "
                    f"{tuple(int(v) for v in reference.box)}",
                )
    except ValueError as error:
        yield Problem("image", f"{reference.mask_member}: {error}")


@contextmanager
def _png(data: bytes, size: tuple[int, int]) -> Iterator[Image.Image]:
    """A decoded PNG. Raises `ValueError` for other data and, before any pixel is decoded, for another size."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != size:
                raise ValueError(f"{image.size[0]}x{image.size[1]} pixels instead of {size[0]}x{size[1]}")
            image.load()
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be decoded as PNG ({error})") from error
