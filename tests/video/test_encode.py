"""Clips: the same bytes each time, constant rate, short closed GOPs, index in front, true colours."""

import os
import subprocess
import sys
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from dataengine.video import VideoError, as_rate, cut_clip, decode_clip, encode_clip, probe


def _moving(count: int, width: int = 128, height: int = 96) -> list[np.ndarray]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    frames = []
    for k in range(count):
        wave = 128 + 60 * np.sin((x + 3 * k) / 14.0) + 40 * np.cos((y - k) / 9.0)
        frames.append(np.stack([wave, 255 - wave, np.full_like(wave, 90)], axis=-1).clip(0, 255).astype(np.uint8))
    return frames


def test_same_frames_same_bytes() -> None:
    frames = _moving(40)
    assert encode_clip(frames, 24) == encode_clip(iter(frames), 24)
    other = [*frames[:-1], 255 - frames[-1]]
    assert encode_clip(frames, 24) != encode_clip(other, 24)


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_no_byte_depends_on_memory_that_was_never_written() -> None:
    """x264's macroblock tree reads such memory at sizes that are no multiple of 16; glibc can fill it."""
    program = (
        "import hashlib, numpy as np; from dataengine.video import encode_clip, decode_clip\n"
        "y, x = np.mgrid[:270, :478]\n"
        "frames = [np.stack([(3 * x + 5 * k) % 256, (y * 2 + x) % 256, (x + y * k) % 256], -1) for k in range(30)]\n"
        "clip = encode_clip([frame.astype(np.uint8) for frame in frames], 24, preset='veryfast')\n"
        "pixels = b''.join(frame.rgb.tobytes() for frame in decode_clip(clip, size=(101, 77)))\n"
        "print(hashlib.sha256(clip + pixels).hexdigest())"
    )
    root = Path(__file__).parents[2]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "MALLOC_PERTURB_": fill, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for fill in ("0", "1", "170")
    }
    assert len(hashes) == 1


def test_streamable_closed_gops_without_b_frames() -> None:
    clip = encode_clip(_moving(100), Fraction(30000, 1001), gop_s=0.5)
    assert clip.find(b"moov") < clip.find(b"mdat")  # a player can start before it has all of it
    with av.open(BytesIO(clip)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert stream.codec_context.name == "h264"
        assert (stream.codec_context.pix_fmt, stream.codec_context.colorspace) == ("yuv420p", 6)
        assert stream.average_rate == Fraction(30000, 1001)
        assert all(packet.pts == packet.dts for packet in packets)
        times = [packet.pts * stream.time_base for packet in packets]
        assert times == [Fraction(k * 1001, 30000) for k in range(100)]
        keys = [time for time, packet in zip(times, packets, strict=True) if packet.is_keyframe]
        assert max(later - key for key, later in pairwise([*keys, times[-1]])) <= Fraction(1, 2)


def test_pictures_and_colours_survive() -> None:
    frames = _moving(12)
    back = decode_clip(encode_clip(frames, 24, crf=10))
    assert len(back) == 12
    for frame, original in zip(back, frames, strict=True):
        assert np.abs(frame.rgb.astype(int) - original).mean() < 3
    for colour in ((200, 30, 40), (20, 140, 60), (40, 60, 200), (250, 140, 20)):
        shown = decode_clip(encode_clip([np.full((32, 32, 3), colour, np.uint8)] * 3, 24, crf=10))[1]
        np.testing.assert_allclose(shown.rgb[16, 16], colour, atol=4)


def test_a_reader_that_ignores_tags_sees_the_same_colours() -> None:
    import cv2

    clip = encode_clip([np.full((64, 64, 3), (250, 140, 20), np.uint8)] * 3, 24, crf=10)
    with av.open(BytesIO(clip)) as container:
        yuv = next(container.decode(video=0)).to_ndarray(format="yuv420p")
    by_601 = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB_I420)
    np.testing.assert_allclose(by_601[32, 32], (250, 140, 20), atol=5)


def test_odd_sizes_lose_the_last_column_and_row_only() -> None:
    frames = [np.zeros((65, 99, 3), np.uint8) for _ in range(3)]
    for frame in frames:
        frame[20:40, 30:50] = 255
        frame[-1], frame[:, -1] = (255, 0, 0), (255, 0, 0)
    shown = decode_clip(encode_clip(frames, 24, crf=5))[0].rgb
    assert shown.shape == (64, 98, 3)
    rows, columns = np.nonzero(shown[..., 1] > 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 30, 49)
    assert shown[-1].max() < 60 and shown[:, -1].max() < 60


def test_a_cut_has_the_span_and_the_rate(sample_video) -> None:
    shot = sample_video.truth.shots[3]
    clip = cut_clip(sample_video.path, shot.start_s, shot.end_s, fps=16, size=(320, 180), preset="veryfast")
    info = probe(BytesIO(clip))
    assert (info.width, info.height, info.fps, info.variable_frame_rate) == (320, 180, 16.0, False)
    assert info.duration_s == pytest.approx(shot.end_s - shot.start_s, abs=1 / 16)
    own_rate = probe(BytesIO(cut_clip(sample_video.path, 1.0, 2.0)))
    assert (own_rate.fps, own_rate.frame_count) == (24.0, 24)


def test_variable_rate_becomes_constant_at_the_right_times(bad_video_folder) -> None:
    path = bad_video_folder.folder / "variable frame rate.mp4"
    info = probe(BytesIO(cut_clip(path, 0.0, 3.0, fps=24)))
    assert (info.variable_frame_rate, info.frame_count, info.duration_s) == (False, 72, 3.0)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 5000])
def test_impossible_rates_are_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="fps must be"):
        encode_clip(_moving(2), fps)


def test_floats_stand_for_exact_rates() -> None:
    assert as_rate(29.97002997002997) == Fraction(30000, 1001)
    assert as_rate(23.976023976) == Fraction(24000, 1001)
    assert as_rate(25) == 25


def test_no_frames_or_unequal_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        encode_clip([], 24)
    with pytest.raises(ValueError, match="frame 1 has shape"):
        encode_clip([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)], 24)
    with pytest.raises(ValueError, match="at least 2 x 2"):
        encode_clip([np.zeros((1, 32, 3), np.uint8)], 24)


def test_a_clip_that_was_cut_is_refused() -> None:
    clip = encode_clip(_moving(60), 24)
    with pytest.raises(VideoError):
        decode_clip(clip[: len(clip) // 2])
