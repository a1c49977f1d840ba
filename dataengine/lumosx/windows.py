"""Which part of a clip an example shows: drawn by name, so that it is known before the clip is opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np

from dataengine.lumosx.augment import Image, cover
from dataengine.lumosx.order import Curriculum, Size, Traits, buckets, sizes
from dataengine.lumosx.settings import DataSettings, TrainSettings
from dataengine.shards.index import Index
from dataengine.video import Video

_SIDES = re.compile(r"\b(left|right|(counter|anti)?-?clockwise|east|west)(most|wards?|ern|-\w+)?\b", re.IGNORECASE)


class SampleError(ValueError):
    """A sample cannot be trained on; the message says why."""


class Draws(NamedTuple):
    """A sample's random choices in one epoch, each uniform in 0 … 1: what is below a setting's share happens."""

    body: float
    references: float
    text: float
    flip: float

    @classmethod
    def of(cls, seed: int, epoch: int, key: str) -> Draws:
        return cls(*generator(seed, epoch, key).random(4).tolist())


class Window(NamedTuple):
    """A part of a clip, as a run shows it; it begins at second `start_s`. `sample` is the clip's place in the index."""

    sample: int
    size: Size
    start_s: float
    mirrored: bool


def generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the run's seed, the epoch and a content name, and on nothing else."""
    digest = hashlib.sha256(f"{seed}:{epoch}:{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def names_sides(caption: str) -> bool:
    """Whether a caption says left or right: mirrored, its clip would not be what it says."""
    return _SIDES.search(caption) is not None


def is_mirrored(draws: Draws, caption: str, settings: DataSettings) -> bool:
    """Whether an example shows left and right exchanged."""
    return draws.flip < settings.flip_share and not names_sides(caption)


def window_start(
    seconds: float, size: Size, settings: DataSettings, seed: int = 0, epoch: int | None = None, key: str = ""
) -> float:
    """Where a clip's window begins, in seconds, to the microsecond. Without an epoch it is in the middle.

    Args:
        seconds: of the clip.
    """
    spare = max(0.0, seconds - (size.frames - 1) / settings.fps)
    if epoch is None or settings.window == "center":
        return round(spare * 0.5, 6)
    return round(spare * float(generator(seed, epoch, f"{key}/window").random()), 6)


def read_window(mp4: bytes, size: Size, fps: float, start_s: float) -> Image:
    """Frames at `fps` of a clip, resampled by time, scaled and cropped to fill the size: uint8 [F, H, W, 3].

    Raises:
        SampleError: the clip ends before the window does.
        VideoError: it cannot be decoded.
    """
    span = (size.frames - 1) / fps
    with Video(BytesIO(mp4), on_error="raise") as video:
        duration, frame = video.info.duration_s, 1 / video.info.fps
        if duration - start_s - span < -frame:  # less than a frame short: the last frame is held
            raise SampleError(
                f"the clip has {duration:.2f} s, and {size.frames} frames at {fps:g} fps need {start_s + span:.2f} s; "
                "lower data.frames, or leave short clips out when building"
            )
        last = max(0.0, duration - 0.5 * frame)
        frames = video.frames_at([min(start_s + k / fps, last) for k in range(size.frames)])
    return np.stack([cover(found.rgb, size.height, size.width) for found in frames])


def mirrored(image: Image) -> Image:
    """Left and right exchanged, [..., H, W, 3]."""
    return np.ascontiguousarray(image[..., ::-1, :])


def run_windows(index: Index, settings: TrainSettings, per_step: int) -> Iterator[Window]:
    """Every window that a run over these samples shows, some more than once.

    Windows in the middle do not depend on the order: all samples are named, mirrored as well where that may happen.

    Raises:
        OrderError: the dataset lacks samples of a kind that is asked for.
    """
    data, traits = settings.data, Traits.of(index)
    captions = index.table["caption"].to_pylist()
    if data.window == "center":
        offered = sizes(data)
        for number, bucket in enumerate(buckets(traits, data).tolist()):
            start_s = window_start(float(traits.seconds[number]), offered[bucket], data)
            yield Window(number, offered[bucket], start_s, False)
            if data.flip_share and not names_sides(captions[number]):
                yield Window(number, offered[bucket], start_s, True)
        return
    keys = index.table["key"].to_pylist()
    order = Curriculum(traits, data, per_step, settings.seed)
    for position in range(settings.steps * per_step):
        place = order.place(position)
        key = keys[place.index]
        turned = is_mirrored(Draws.of(settings.seed, place.epoch, key), captions[place.index], data)
        seconds = float(traits.seconds[place.index])
        start_s = window_start(seconds, place.size, data, settings.seed, place.epoch, key)
        yield Window(place.index, place.size, start_s, turned)
