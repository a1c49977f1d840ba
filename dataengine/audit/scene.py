"""What there is to see of one sample, decoded: its stills, masks and reference images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine import video
from dataengine.records import STILL_POSITIONS, EntityId, Pair, Reference
from dataengine.shards.index import IndexRow, read_member
from dataengine.store import Store

Picture = NDArray[np.uint8]
"""RGB, (height, width, 3)."""
MaskPixels = NDArray[np.bool_]
"""(height, width) of the clip's frames; true where the entity is."""


class UnreadableSample(ValueError):
    """A member of a sample is missing or cannot be decoded; the message names both."""


@dataclass(frozen=True)
class Scene:
    """A sample's record and its members by their name after the key (`mp4`, `s0.face.png`), decoded when asked for.

    Every property raises `UnreadableSample`.
    """

    pair: Pair
    members: Mapping[str, bytes]

    @classmethod
    def stored(cls, out: Store, row: IndexRow) -> Scene:
        """The sample of an index row; only what is looked at is read. Raises `UnreadableSample`."""
        members = _Stored(out, row)
        try:
            pair = Pair.from_json(members["json"])
        except (KeyError, OSError, ValueError) as error:
            raise UnreadableSample(f"{row.key}.json: {error}") from error
        if pair.key != row.key:
            raise UnreadableSample(f"{row.key}.json: it is the record of {pair.key}")
        return cls(pair, members)

    @cached_property
    def still_times(self) -> tuple[float, ...]:
        """When the three stills were taken, in seconds from the clip's start."""
        times = [position * self.pair.clip.seconds for position in STILL_POSITIONS]
        for reference in self.pair.references:
            if reference.origin is None and 0 <= reference.still < len(times):
                times[reference.still] = reference.time_s
        last = max(0, self.pair.frames - 1) / self.pair.fps
        return tuple(min(max(0.0, time), last) for time in times)

    @cached_property
    def stills(self) -> tuple[Picture, ...]:
        """The three stills that references come from, of the clip's size."""
        times = self.still_times
        try:
            frames = video.frames_at(io.BytesIO(self._member("mp4")), times)
        except (OSError, ValueError, video.VideoError) as error:
            raise UnreadableSample(f"{self.pair.key}.mp4: {error}") from error
        if len(frames) != len(times):
            raise UnreadableSample(f"{self.pair.key}.mp4: {len(frames)} of {len(times)} stills could be decoded")
        return tuple(frame.rgb for frame in frames)

    @cached_property
    def masks(self) -> dict[EntityId, MaskPixels]:
        """The mask of every reference that was cut by one, of the size of the frames it was cut from."""
        masks = {}
        for reference in self.pair.references:
            if reference.mask_member is None:
                continue
            clip = reference.origin or self.pair
            size = (clip.width, clip.height)
            image = self._image(reference.mask_member)
            if image.size != size:
                name = f"{self.pair.key}.{reference.mask_member}"
                raise UnreadableSample(f"{name}: it is {image.size}, the clip is {size} pixels")
            masks[reference.entity] = np.asarray(image.convert("L")) > 127
        return masks

    def image(self, reference: Reference) -> Image.Image:
        """The reference image as the trainer gets it, RGB."""
        return self._image(reference.member).convert("RGB")

    def _image(self, name: str) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self._member(name)), formats=("PNG",))
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableSample(f"{self.pair.key}.{name}: {error}") from error
        return image

    def _member(self, name: str) -> bytes:
        try:
            return self.members[name]
        except KeyError:
            raise UnreadableSample(f"{self.pair.key}.{name}: the sample has no such member") from None
        except OSError as error:
            raise UnreadableSample(f"{self.pair.key}.{name}: {error}") from error


@dataclass(frozen=True)
class _Stored(Mapping[str, bytes]):
    """A sample's members, each fetched from its shard by one ranged read when it is asked for."""

    out: Store
    row: IndexRow

    def __getitem__(self, name: str) -> bytes:
        return read_member(self.out, self.row, name)

    def __iter__(self) -> Iterator[str]:
        return (member.name for member in self.row.members)

    def __len__(self) -> int:
        return len(self.row.members)
