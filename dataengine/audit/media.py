"""Pictures of samples for the audit page: single members read by offset, exact frames, small versions of both.

Nothing reads a whole shard. A member that has not the bytes that were indexed is refused, so damage shows as damage.
What was made is kept in memory up to a bound.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine import video
from dataengine.audit.palette import colour_of
from dataengine.audit.scene import MaskPixels, Picture, UnreadableSample
from dataengine.records import STILL_POSITIONS, EntityId, Pair, Reference
from dataengine.shards.index import Index, IndexRow, read_range
from dataengine.store import Store, StoreError

THUMB_WIDTH = 400
MAX_PIXELS = 64_000_000
"""Most pixels of a stored picture that is decoded here."""
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90]
_THUMB_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 84]
_AHEAD = 6
_TINT = 0.32


class Kept:
    """The last results of something costly, at most `limit` bytes of them. For several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Hashable, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, name: Hashable, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            found = self._held.get(name)
            if found is not None:
                self._held.move_to_end(name)
                return found
        made = make()
        self.put(name, made)
        return made

    def put(self, name: Hashable, data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._held.pop(name, b""))
            self._held[name] = data
            while self._bytes > self._limit and self._held:
                self._bytes -= len(self._held.popitem(last=False)[1])

    def __contains__(self, name: Hashable) -> bool:
        with self._lock:
            return name in self._held

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._bytes


@dataclass(frozen=True)
class Media:
    """The pictures of one dataset. Every method raises `UnreadableSample` naming the member and what is wrong."""

    out: Store
    index: Index
    kept: Kept = field(default_factory=lambda: Kept(128 << 20))

    def pair(self, position: int) -> Pair:
        """A sample's record."""
        row = self.index[position]
        try:
            pair = Pair.from_json(self.member(row, "json"))
        except ValueError as error:
            raise UnreadableSample(f"{row.key}.json: {error}") from error
        if pair.key != row.key:
            raise UnreadableSample(f"{row.key}.json: it is the record of {pair.key}")
        return pair

    def member(self, row: IndexRow, name: str) -> bytes:
        """One member of a sample, with the bytes that were indexed."""
        try:
            at = row.member(name)
            data = read_range(self.out, row.shard, at.offset, at.size)
        except (KeyError, OSError, StoreError) as error:
            raise UnreadableSample(f"{row.key}.{name}: {error}") from error
        if len(data) != at.size:
            raise UnreadableSample(f"{row.key}.{name}: {row.shard} ends before it")
        if hashlib.sha256(data).hexdigest() != at.sha256:
            raise UnreadableSample(f"{row.key}.{name}: its bytes in {row.shard} are not those that were indexed")
        return data

    def clip_range(self, position: int, start: int, end: int) -> bytes:
        """Bytes `start … end` (half open) of the clip's file."""
        row = self.index[position]
        try:
            at = row.member("mp4")
            data = read_range(self.out, row.shard, at.offset + start, end - start)
        except (KeyError, OSError, StoreError) as error:
            raise UnreadableSample(f"{row.key}.mp4: {error}") from error
        if len(data) != end - start:
            raise UnreadableSample(f"{row.key}.mp4: {row.shard} ends before it")
        return data

    def clip_size(self, position: int) -> int:
        """Bytes of the clip's file."""
        row = self.index[position]
        try:
            return row.member("mp4").size
        except KeyError as error:
            raise UnreadableSample(f"{row.key}.mp4: {error}") from error

    def frame(self, position: int, number: int) -> bytes:
        """Frame `number` of the clip, counted from 0, as JPEG of the clip's size.

        The frames behind it are made in the same go: whoever scrubs asks for them next. A still comes alone: it is
        what a sample is opened at, and nothing may keep it waiting.
        """

        def make() -> bytes:
            row = self.index[position]
            pair = self.pair(position)
            if not 0 <= number < pair.frames:
                raise UnreadableSample(f"{row.key}.mp4: there is no frame {number} of {pair.frames}")
            ahead = 1 if number in still_frames(pair) else _AHEAD
            numbers = range(number, min(number + ahead, pair.frames))
            pictures = _frames(row, self.member(row, "mp4"), [n / pair.fps for n in numbers])
            for n, picture in reversed(list(zip(numbers, pictures, strict=True))):
                self.kept.put(("frame", position, n), _jpeg(picture, _JPEG))
            return _jpeg(pictures[0], _JPEG)

        return self.kept.get(("frame", position, number), make)

    def thumb(self, position: int, pair: Pair, stored: Mapping[EntityId, Reference]) -> bytes:
        """The still that most references come from as a small JPEG, with what was cut from it drawn in.

        `pair` is the sample as it is shown, `stored` the stored reference that each of its entities is made of.
        """

        def make() -> bytes:
            row = self.index[position]
            still = main_still(pair)
            scale = min(1.0, THUMB_WIDTH / pair.width)
            size = (max(2, round(pair.width * scale)), max(2, round(pair.height * scale)))
            time = still_frames(pair)[still] / pair.fps
            picture = _frames(row, self.member(row, "mp4"), [time], size)[0].copy()
            for reference in _drawn(pair, still):
                own = stored[reference.entity]
                mask = None if own.mask_member is None else self.mask(position, pair, own)
                _draw(picture, reference, mask, scale)
            return _jpeg(picture, _THUMB_JPEG)

        return self.kept.get(("thumb", pair.key), make)

    def mask(self, position: int, pair: Pair, reference: Reference) -> MaskPixels:
        """A reference's mask: boolean, (height, width) of the clip."""
        row = self.index[position]
        name = reference.mask_member or ""
        image = _image(f"{row.key}.{name}", self.member(row, name))
        clip = reference.origin or pair
        if image.size != (clip.width, clip.height):
            raise UnreadableSample(f"{row.key}.{name}: it is {image.size}, the clip is {clip.width}x{clip.height}")
        return np.asarray(image.convert("L")) > 127

    def overlay(self, position: int, pair: Pair, reference: Reference) -> bytes:
        """A reference's mask as a PNG that is opaque where the entity is: the page gives it its colour."""

        def make() -> bytes:
            alpha = self.mask(position, pair, reference).astype(np.uint8)
            image = Image.fromarray(alpha, "P")
            image.putpalette([0, 0, 0, 255, 255, 255])
            stream = io.BytesIO()
            image.save(stream, "PNG", transparency=bytes([0, 255]), bits=1)
            return stream.getvalue()

        return self.kept.get(("overlay", position, reference.mask_member), make)

    def reference(self, position: int, reference: Reference) -> bytes:
        """A reference image as the trainer gets it: PNG. Decoded once here, so that damage shows."""

        def make() -> bytes:
            row = self.index[position]
            data = self.member(row, reference.member)
            _image(f"{row.key}.{reference.member}", data)
            return data

        return self.kept.get(("reference", position, reference.member), make)


def still_frames(pair: Pair) -> tuple[int, ...]:
    """The frame numbers of the three stills in the clip: those on screen at their times."""
    times = [position * pair.clip.seconds for position in STILL_POSITIONS]
    for reference in pair.references:
        if reference.origin is None and 0 <= reference.still < len(times):
            times[reference.still] = reference.time_s
    return tuple(min(max(0, int(time * pair.fps + 1e-4)), max(0, pair.frames - 1)) for time in times)


def main_still(pair: Pair) -> int:
    """The still that most references come from; the middle one if it is among them."""
    tied = [r for r in pair.references if r.kind != "background" and r.located]
    counts = [sum(r.still == still for r in tied) for still in range(3)]
    return max((1, 0, 2), key=lambda still: counts[still])


def _frames(row: IndexRow, mp4: bytes, times: list[float], size: tuple[int, int] | None = None) -> list[Picture]:
    try:
        return [frame.rgb for frame in video.frames_at(io.BytesIO(mp4), times, size=size)]
    except (OSError, ValueError, video.VideoError) as error:
        raise UnreadableSample(f"{row.key}.mp4: {error}") from error


def _drawn(pair: Pair, still: int) -> list[Reference]:
    """What a small picture shows: the largest first, so that what is small stays whole."""
    tied = (r for r in pair.references if r.still == still and r.located)
    shown = (r for r in tied if r.kind in ("face", "attribute", "object"))
    return sorted(shown, key=lambda r: (r.kind == "face", -r.area_share))


def _draw(picture: Picture, reference: Reference, mask: MaskPixels | None, scale: float) -> None:
    """Tint a mask and draw its edge, or draw a box, in the entity's colour."""
    colour = colour_of(reference.entity).rgb
    if mask is None:
        x0, y0, x1, y1 = (round(value * scale) for value in reference.box)
        cv2.rectangle(picture, (x0, y0), (x1, y1), (255, 255, 255), 4, cv2.LINE_AA)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, 2, cv2.LINE_AA)
        return
    small = cv2.resize(mask.astype(np.uint8) * 255, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    share = (small.astype(np.float32) / 255 * _TINT)[..., None]
    picture[:] = (picture * (1 - share) + np.array(colour, np.float32) * share).round().astype(np.uint8)
    shapes, _ = cv2.findContours((small > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, shapes, -1, colour, 1, cv2.LINE_AA)


def _jpeg(picture: NDArray[np.uint8], options: list[int]) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()


def _image(name: str, data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableSample(f"{name}: {image.width}x{image.height} is larger than any picture we write")
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableSample(f"{name}: {error}") from error
    return image
