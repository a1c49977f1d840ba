"""A clip as shards hold it, from whatever video a source has: kept byte for byte where it is one, else encoded anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from io import BytesIO

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from dataengine.records import EncodedClip
from dataengine.shards.importers.contract import ImportRefused
from dataengine.video import Source, Video, VideoError, as_rate, encode_clip

MAX_CLIP_BYTES = 512_000_000
MAX_CLIP_S = 60.0
"""Longer videos are sources to build from, not clips."""
MOST_FPS = 120.0


def take_clip(data: bytes, crf: int = 18) -> EncodedClip:
    """The clip in a file. Raises `ImportRefused` for what is no video, too long, or damaged."""
    try:
        with Video(BytesIO(data)) as video:
            info = video.info
            _require_clip(info.duration_s, info.fps)
            if is_shard_clip(data):
                return EncodedClip(
                    mp4=data, width=info.width, height=info.height, fps=info.fps, frames=info.frame_count
                )
        return cut_clip(BytesIO(data), 0.0, None, crf=crf)
    except VideoError as error:
        raise ImportRefused(f"the clip: {error.problem}") from error


def cut_clip(
    source: Source,
    start_s: float,
    end_s: float | None,
    *,
    crop: tuple[int, int, int, int] | None = None,
    crf: int = 18,
) -> EncodedClip:
    """A span of a video, cropped to (left, top, right, bottom), at its average rate.

    Raises `ImportRefused` for a span that is too long or a crop outside the picture, `VideoError` for bad videos.
    """
    with Video(source) as video:
        info = video.info
        end_s = info.duration_s if end_s is None else min(end_s, info.duration_s)
        _require_clip(end_s - start_s, info.fps)
        x0, y0, x1, y1 = crop or (0, 0, info.width, info.height)
        if not (0 <= x0 < x1 <= info.width and 0 <= y0 < y1 <= info.height and min(x1 - x0, y1 - y0) >= 2):
            raise ImportRefused(f"the crop {(x0, y0, x1, y1)} is not inside {info.width}x{info.height}")
        rate = as_rate(info.fps)
        count = [0]
        frames = (frame.rgb[y0:y1, x0:x1] for frame in video.iter_frames(start_s, end_s, fps=rate))
        try:
            mp4 = encode_clip(_counted(frames, count), rate, crf=crf, preset="veryfast")
        except ValueError as error:
            raise ImportRefused(f"the clip: {error}") from error
    return EncodedClip(mp4=mp4, width=(x1 - x0) & ~1, height=(y1 - y0) & ~1, fps=float(rate), frames=count[0])


def is_shard_clip(data: bytes) -> bool:
    """Whether a file is as `video.encode_clip` writes: one H.264 stream, upright, constant rate, frames in order, a
    keyframe a second. Nothing is decoded.
    """
    try:
        with av.open(BytesIO(data), format="mp4") as file:
            if len(file.streams) != 1 or len(file.streams.video) != 1:
                return False
            stream = file.streams.video[0]
            context, rate = stream.codec_context, stream.average_rate
            plain = context.name == "h264" and context.pix_fmt == "yuv420p" and not stream.sample_aspect_ratio
            plain = plain or (context.pix_fmt == "yuv420p" and stream.sample_aspect_ratio == 1)
            if not plain or context.name != "h264" or rate is None or (context.width | context.height) & 1:
                return False
            packets = [(p.pts, p.dts, p.is_keyframe) for p in file.demux(stream) if p.size]
            step = 1 / rate / stream.time_base
    except (FFmpegError, ValueError):
        return False
    if not packets or step.denominator != 1 or len(packets) != stream.frames:
        return False
    in_order = all(pts == dts == number * step for number, (pts, dts, _) in enumerate(packets))
    keys = [number for number, (_, _, key) in enumerate(packets) if key] + [len(packets)]
    return in_order and keys[0] == 0 and max(np.diff(keys)) <= math.ceil(rate)


def _require_clip(seconds: float, fps: float) -> None:
    if not 0 < seconds <= MAX_CLIP_S:
        raise ImportRefused(
            f"the clip: {seconds:.1f} s long, at most {MAX_CLIP_S:g} s are taken: build from longer videos instead"
        )
    if fps > MOST_FPS:
        raise ImportRefused(f"the clip: {fps:g} frames a second, at most {MOST_FPS:g} are taken")


def _counted(frames: Iterable[NDArray[np.uint8]], count: list[int]) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        count[0] += 1
        yield frame
