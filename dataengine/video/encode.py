"""Constant-rate H.264 clips, reproducible byte for byte."""

import math
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from dataengine.video.picture import SCALING
from dataengine.video.read import Frame, OnError, Source, Video, as_rate


def cut_clip(
    source: Source,
    start_s: float,
    end_s: float,
    *,
    fps: Fraction | float | None = None,
    size: tuple[int, int] | None = None,
    crf: int = 18,
    preset: str = "medium",
    gop_s: float = 1.0,
    on_error: OnError = "skip",
) -> bytes:
    """A span of a video as an H.264 mp4 of constant rate; `fps` None means the source's average rate.

    Variable frame rate is resampled by presentation time (`Video.iter_frames`), then encoded (`encode_clip`).
    """
    with Video(source, on_error=on_error) as video:
        rate = as_rate(video.info.fps if fps is None else fps)
        frames = video.iter_frames(start_s, end_s, size=size, fps=rate)
        return encode_clip((frame.rgb for frame in frames), rate, crf=crf, preset=preset, gop_s=gop_s)


def encode_clip(
    frames: Iterable[NDArray[np.uint8]],
    fps: Fraction | float,
    *,
    crf: int = 18,
    preset: str = "medium",
    gop_s: float = 1.0,
) -> bytes:
    """Encode frames as an H.264 mp4 (yuv420p, constant rate, index in front), the same bytes for the same frames.

    The bytes are the same on every run and x86-64 CPU: one thread, bit-exact flags, and no macroblock tree, whose float
    assembly differs between CPUs and, with AVX-512, reads memory that was never written (x264 core 165). There are no
    B-frames, so frame k is at exactly k / fps in every reader, and closed GOPs of at most `gop_s` seconds keep seeking
    cheap. An odd width or height loses its last column or row: cropping there, unlike padding or scaling, leaves box
    coordinates valid. The matrix is BT.601 and tagged so: readers that obey the tag and those that assume 601 show the
    same colours.

    Args:
        frames: rgb uint8 (H, W, 3), all of one size; consumed as a stream.
        fps: frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's speed preset.
        gop_s: most seconds between keyframes.

    Raises:
        ValueError: no frames, unequal sizes, or a size below 2 x 2.
    """
    rate = as_rate(fps)
    stream_of = iter(frames)
    first = next(stream_of, None)
    if first is None:
        raise ValueError("encode_clip needs at least one frame")
    height, width = first.shape[0] & ~1, first.shape[1] & ~1
    if min(height, width) < 2:
        raise ValueError(f"encode_clip needs frames of at least 2 x 2 pixels, got {first.shape[1]} x {first.shape[0]}")

    # A real file: the mp4 muxer opens its own output a second time to move the index to the front.
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        path = Path(folder, "clip.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as out:
            options = {"crf": str(crf), "preset": preset, "bf": "0", "mbtree": "0", "flags": "+bitexact+cgop"}
            stream = out.add_stream("libx264", rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.gop_size = max(1, math.floor(gop_s * rate))
            stream.thread_count = 1
            stream.color_range = ColorRange.MPEG
            stream.colorspace = 6  # AVCOL_SPC_SMPTE170M: the BT.601 matrix
            stream.color_primaries = stream.color_trc = 1  # BT.709
            reformatter = VideoReformatter()
            for index, rgb in enumerate(chain([first], stream_of)):
                if rgb.shape != first.shape:
                    raise ValueError(f"encode_clip: frame {index} has shape {rgb.shape}, the first has {first.shape}")
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
                yuv = reformatter.reformat(
                    picture,
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU601,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=SCALING | Interpolation.FULL_CHR_H_INP,
                    threads=1,
                )
                yuv.pts, yuv.time_base = index, 1 / rate
                out.mux(stream.encode(yuv))
            out.mux(stream.encode())
        return path.read_bytes()


def decode_clip(mp4: bytes, *, size: tuple[int, int] | None = None) -> list[Frame]:
    """All frames of an encoded clip, strictly: damage raises `VideoError`."""
    with Video(BytesIO(mp4), on_error="raise") as video:
        return list(video.iter_frames(size=size))
