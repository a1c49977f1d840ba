"""A folder of videos as they come in real life, cut, empty, turned, misnamed, each with what should become of it."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from dataengine.video import encode_clip
from dataengine.world.sample import COLLINS, HOPPER, Image, photo

Expected = Literal["processed", "quarantined", "skipped", "duplicate"]
SIZE = (480, 270)
FPS = 24
SECONDS = 3


@dataclass(frozen=True)
class BadFile:
    """A file of the folder and what a run should make of it."""

    name: str
    """Path below the folder, with `/`."""
    expected: Expected
    reason: str = ""
    """For a quarantined file: what its reason must contain."""
    same_as: str = ""
    """For a duplicate: the name of the file it repeats."""


def make_bad_videos(folder: Path) -> tuple[BadFile, ...]:
    """Fill a new folder and say what is in it.

    Beside the files named in the result it holds a link to itself, which must neither hang a walk nor add files.
    Running as root, nothing is unreadable by permission: ``forbidden.mp4`` is then expected to be processed.

    Raises:
        FileExistsError: the folder exists.
    """
    folder.mkdir(parents=True)
    files: list[BadFile] = []

    def add(name: str, expected: Expected, reason: str = "", same_as: str = "") -> Path:
        files.append(BadFile(name, expected, reason, same_as))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # Videos like any other, but for their names, formats or timing.
    plain = _portrait(COLLINS.file, 0)
    add("name with spaces.mp4", "processed").write_bytes(encode_clip(plain, FPS, preset="veryfast"))
    add("name\nwith a newline.mp4", "processed").write_bytes(
        encode_clip(_portrait(HOPPER.file, 1), FPS, preset="veryfast")
    )
    add("имя 名前 🎬/лицо.mp4", "processed").write_bytes(
        encode_clip(_portrait(COLLINS.file, 2), FPS, preset="veryfast")
    )
    turned = [np.rot90(frame) for frame in _portrait(HOPPER.file, 3)]  # as a phone held upright stores it
    write_video(add("phone held upright.mov", "processed"), turned, rotation=-90)
    times = irregular_times()
    write_video(add("variable frame rate.mp4", "processed"), _portrait(COLLINS.file, 4, len(times)), times_s=times)
    write_video(add("hdr 10 bit.mp4", "processed"), _portrait(HOPPER.file, 5), codec="libx265", hdr=True)
    odd = [frame[:-1, :-1] for frame in _portrait(COLLINS.file, 6)]
    # VP9 takes odd sizes in 4:2:0, as x264 does not.
    realtime = {"deadline": "realtime", "cpu-used": "8"}
    write_video(add("odd size.webm", "processed"), odd, codec="libvpx-vp9", options=realtime)
    shutil.copyfile(folder / "name with spaces.mp4", add("zz copy.mp4", "duplicate", same_as="name with spaces.mp4"))
    forbidden = add("forbidden.mp4", "processed")
    forbidden.write_bytes(encode_clip(_portrait(HOPPER.file, 7), FPS, preset="veryfast"))
    forbidden.chmod(0)
    if not os.access(forbidden, os.R_OK):
        files[-1] = BadFile("forbidden.mp4", "quarantined", "cannot be read")

    # Damaged, or no videos at all.
    whole = (folder / "name with spaces.mp4").read_bytes()
    add("truncated.mp4", "quarantined", "cut short").write_bytes(whole[: len(whole) * 2 // 3])
    write_video(folder / "index last.mp4", plain)
    add("truncated before its index.mp4", "quarantined", "cut short").write_bytes(
        (folder / "index last.mp4").read_bytes()[:20_000]
    )
    (folder / "index last.mp4").unlink()
    add("empty.mp4", "quarantined", "empty").touch()
    add("text.mp4", "quarantined", "not a video").write_text("This is not a video.\n" * 50)
    # FFmpeg, left alone, would open whatever a playlist names.
    add("playlist.mp4", "quarantined", "not a video").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nname with spaces.mp4\n#EXT-X-ENDLIST\n"
    )
    _write_audio(add("audio only.mp4", "quarantined", "no video stream"))
    add("one frame.mp4", "quarantined", "single frame").write_bytes(encode_clip(plain[:1], FPS))
    pixel = [np.full((1, 1, 3), value, dtype=np.uint8) for value in range(0, 250, 10)]
    write_video(add("one pixel.mkv", "quarantined", "1 x 1 pixels"), pixel, codec="ffv1", pix_fmt="yuv444p")
    add("dangling link.mp4", "quarantined", "cannot be read").symlink_to("nowhere.mp4")
    add("link to itself.mp4", "quarantined", "cannot be read").symlink_to("link to itself.mp4")
    os.mkfifo(add("pipe.mp4", "quarantined", "cannot be read"))  # opening it would wait for a writer forever

    # Not videos by their names.
    add("notes.txt", "skipped").write_text("Shot list\n")
    cv2.imwrite(str(add("still.jpg", "skipped")), plain[0])
    add("no extension", "skipped").write_bytes(whole[:1000])

    (folder / "a folder that holds itself").symlink_to(".", target_is_directory=True)
    return tuple(files)


def irregular_times() -> list[float]:
    """Presentation times of a three-second video whose frame rate wanders from 12 to 40 frames per second."""
    times, time, step = [], 0.0, 0
    while time < SECONDS:
        times.append(round(time, 3))
        time += 1 / (26 + 14 * np.sin(step / 5.0))
        step += 1
    return times


def write_video(
    path: Path,
    frames: Iterable[Image],
    *,
    times_s: Sequence[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    hdr: bool = False,
    options: dict[str, str] | None = None,
) -> None:
    """Write frames as a camera, phone or editor would; the container follows from the path's suffix.

    Args:
        frames: rgb uint8 (H, W, 3), all of one size.
        times_s: presentation time of each frame, to the millisecond; None: 24 frames per second from 0.
        rotation: degrees counter-clockwise by which a player should turn the picture (the display matrix).
        hdr: write 10-bit BT.2020 PQ, diffuse white at 203 cd/m².
        options: the encoder's, such as {"bf": "3", "g": "48"}.
    """
    tick = Fraction(1, FPS) if times_s is None else Fraction(1, 1000)
    pictures = iter(frames)
    # Without the macroblock tree x264's bytes are the same on every run and CPU (see `encode_clip`).
    defaults = {
        "libx264": {"preset": "veryfast", "mbtree": "0"},
        "libx265": {"preset": "veryfast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    }
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(codec, rate=FPS, options={**defaults.get(codec, {}), **(options or {})})
        stream.thread_count = 1
        stream.codec_context.time_base = tick
        reformatter = VideoReformatter()
        for index, rgb in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = rgb.shape[:2]
                stream.pix_fmt = "yuv420p10le" if hdr else pix_fmt
                if rotation:
                    stream.set_display_rotation(rotation)
                if hdr:
                    stream.codec_context.color_trc = 16  # SMPTE ST 2084
                    stream.codec_context.color_primaries = stream.codec_context.colorspace = 9  # BT.2020
            if hdr:
                picture = av.VideoFrame.from_ndarray(_to_pq(rgb), format="rgb48le")
                space = Colorspace.BT2020
            else:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                space = Colorspace.ITU601
            coded = reformatter.reformat(
                picture,
                format=stream.pix_fmt,
                dst_colorspace=space,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
                threads=1,
            )
            coded.pts = index if times_s is None else round(times_s[index] * 1000)
            coded.time_base = tick
            out.mux(stream.encode(coded))
        out.mux(stream.encode())


def _write_audio(path: Path) -> None:
    rate = 44_100
    tone = np.sin(np.arange(rate * 2) * 2 * np.pi * 440 / rate).astype(np.float32)[None] * 0.2
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream("aac", rate=rate, layout="mono")
        for start in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def _portrait(file: str, variant: int, count: int = FPS * SECONDS) -> list[Image]:
    """A portrait under a slowly moving camera; each variant moves in its own way, so no two files are equal."""
    image = photo(file)
    width, height = SIZE
    face_y = 150.0 if file == COLLINS.file else 280.0
    frames = []
    for index in range(count):
        t = index / (count - 1)
        scale = width / (430 + 10 * variant + 40 * t)
        x, y = 250 - 4 * variant * (t - 0.5), face_y + 3 * variant * t
        matrix = np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])
        frames.append(cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    return frames


def _to_pq(rgb: Image) -> NDArray[np.uint16]:
    """sRGB to full-range BT.2020 PQ (SMPTE ST 2084) with white at 203 cd/m²."""
    signal = rgb.astype(np.float64) / 255
    linear = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    from_709 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
    light = np.clip(linear @ from_709.T, 0, None) * 203 / 10_000
    power = light**0.1593017578125
    coded = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return np.round(coded * 65535).astype(np.uint16)
