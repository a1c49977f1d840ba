"""Open a video, describe it, and read exact frames by presentation time."""

import logging
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dataengine.video.errors import (
    EmptyFileError,
    KeyframeTooFarError,
    NotAVideoError,
    NoVideoStreamError,
    TooLargeError,
    TooShortError,
    TooSmallError,
    TruncatedVideoError,
    UndecodableError,
    UnreadableError,
    VideoError,
)
from dataengine.video.picture import Display

log = logging.getLogger(__name__)

Source = str | Path | BinaryIO
_Timed = tuple[int, av.VideoFrame]  # presentation time in ticks of the stream's time base
OnError = Literal["skip", "raise"]

MIN_SIDE = 16
"""Smallest side, pixels, that `probe` accepts."""
MAX_PIXELS = 8192 * 8192
"""Most pixels a frame may have; a header can claim a size that would fill the memory."""
MAX_FRAMES_TO_REACH = 20_000
"""Most frames decoded from a keyframe to reach one wanted frame (14 minutes at 24 fps)."""

_CONTAINERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,nut,ivf,obu,h264,hevc,m4v,dv,yuv4mpegpipe,gif,"
    "mp3,wav,flac,aac"  # so that sound alone is reported as that
)
_MAGIC = {
    4: (b"ftyp", b"moov", b"mdat", b"wide", b"free"),
    0: (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"\x00\x00\x01\xba"),
}
_SLACK_S = Fraction(1, 1_000_000)
_END_TOLERANCE_S = 1.0  # headers round durations, and some count the sound's
_MAX_FAILURES_IN_A_ROW = 1_000


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is. Sizes in pixels, times in seconds."""

    width: int
    """As displayed: rotated, with square pixels. The width of the frames read from it."""
    height: int
    coded_width: int
    """As stored."""
    coded_height: int
    sample_aspect_ratio: float
    """Width of a stored pixel over its height."""
    rotation: int
    """Degrees clockwise by which the stored picture is turned for display: 0, 90, 180 or 270."""
    mirrored: bool
    """The stored picture is also flipped left to right, before the rotation."""
    container: str
    codec: str
    pix_fmt: str
    bit_depth: int
    transfer: str
    """``sdr``, ``pq`` or ``hlg``."""
    fps: float
    """Average frames per second; the header's nominal rate where the container has no index of all frames."""
    variable_frame_rate: bool | None
    """None where the container has no index of all frames, so that knowing would need a pass over the file."""
    duration_s: float
    """From the first frame's time to the end of the last frame."""
    start_s: float
    """The first frame's time on the container's own clock; players, and we, call it 0."""
    frame_count: int
    """The index's count, or duration times fps."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded picture: rgb uint8 (H, W, 3) and its own presentation time in seconds."""

    time_s: float
    rgb: NDArray[np.uint8]


def probe(source: Source) -> VideoInfo:
    """Describe a video and refuse what cannot become clips, decoding two frames.

    Args:
        source: a path, or a seekable binary file object (read from its offset 0, left open).

    Raises:
        VideoError: one of its subclasses; the message is fit for a quarantine report.
    """
    with Video(source) as video:
        info = video.info
        video.require_usable()
    return info


def frames_at(
    source: Source, times_s: Sequence[float], *, size: tuple[int, int] | None = None, on_error: OnError = "skip"
) -> list[Frame]:
    """The frames on screen at the given times, in the given order. See `Video.frames_at`."""
    with Video(source, on_error=on_error) as video:
        return video.frames_at(times_s, size=size)


def iter_frames(
    source: Source,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    fps: Fraction | float | None = None,
    on_error: OnError = "skip",
) -> Iterator[Frame]:
    """Stream the frames of a span; memory does not grow with its length. See `Video.iter_frames`."""
    with Video(source, on_error=on_error) as video:
        yield from video.iter_frames(start_s, end_s, size=size, fps=fps)


def as_rate(fps: Fraction | float) -> Fraction:
    """The exact frame rate that a float stands for: 29.97002997 is 30000/1001.

    Raises:
        ValueError: not a positive, finite rate.
    """
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise ValueError(f"fps must be above 0 and at most 1000, got {fps}")
    return Fraction(fps).limit_denominator(1001)


class Video:
    """An open video: several reads of one file without opening it again.

    Not thread-safe, and one read at a time: starting a second while an `iter_frames` is unfinished ends the first with
    `RuntimeError`.

    Args:
        source: a path, or a seekable binary file object (read from its offset 0, left open).
        on_error: what to do about a packet that cannot be decoded in mid-stream. ``skip``: count it in
            `decode_errors`, log once and go on; a frame lost that way counts as not there, so its predecessor stays
            on screen. ``raise``: `UndecodableError`.

    Attributes:
        decode_errors: packets and frames lost or damaged so far.

    Raises:
        VideoError: the source cannot be read, holds no video, or no frame of it can be decoded.
    """

    def __init__(self, source: Source, on_error: OnError = "skip") -> None:
        self._source = source
        self._on_error = on_error
        self._name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "<bytes>"))
        self._reads = 0
        self.decode_errors = 0
        self._file_bytes = self._check_file()
        self._container, self._stream = self._open()
        try:
            self._origin = 0
            self._key_reach = 0  # most ticks seen between a keyframe and the next: how far a seek may fall back
            self._position: _Position | None = None
            self._look_at_first_frame()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that was opened here; a file object given by the caller stays open."""
        self._reads += 1
        self._position = None
        self._container.close()

    @cached_property
    def info(self) -> VideoInfo:
        """The video's description. Reads (not decodes) the whole file where no header tells the duration."""
        context = self._stream.codec_context
        duration = self._duration_s()
        known_frames = self._stream.frames
        rate = self._stream.average_rate or self._stream.guessed_rate
        if rate is None or not 0 < rate <= 1000:
            rate = Fraction(known_frames / duration) if known_frames and duration else Fraction(25)
        display = self._display
        return VideoInfo(
            width=display.size[0],
            height=display.size[1],
            coded_width=context.width,
            coded_height=context.height,
            sample_aspect_ratio=float(display.pixel_aspect),
            rotation=display.rotation,
            mirrored=display.mirrored,
            container=self._container.format.name,
            codec=context.name,
            pix_fmt=display.pix_fmt,
            bit_depth=display.bit_depth,
            transfer=display.transfer,
            fps=float(rate),
            variable_frame_rate=self._variable_frame_rate(),
            duration_s=duration or float(1 / rate),
            start_s=float(self._origin * self._tick),
            frame_count=known_frames or max(1, round(duration * rate)),
        )

    def require_usable(self) -> None:
        """Raise for a readable video that cannot become clips.

        Raises:
            TooSmallError, TooShortError, TruncatedVideoError: as they say.
        """
        self._reads += 1
        width, height = self._display.size
        if min(width, height) < MIN_SIDE:
            raise TooSmallError(
                self._name,
                f"the picture is {width} x {height} pixels, below {MIN_SIDE} on a side",
                "Leave it out, or find the full-size version",
            )
        if len(list(islice(self._from_start(), 2))) < 2:
            raise TooShortError(
                self._name,
                "the video has a single frame: it is a still picture",
                "Leave it out, or find the full-length version",
            )
        missing = self._missing_bytes()
        if missing > 0:
            raise self._truncated(f"the file ends {missing:,} bytes before the last frames that its index lists")

    def frames_at(self, times_s: Sequence[float], *, size: tuple[int, int] | None = None) -> list[Frame]:
        """The frames on screen at the given times.

        Seeks to the keyframe before each time and decodes forward from it, or goes on from the previous time where
        that is nearer; the times may be in any order. Exact for variable frame rate, B-frames, open GOPs and files
        without an index.

        Args:
            times_s: presentation times in seconds, >= 0. Up to a second past the end means the last frame, as players
                hold it.
            size: (width, height) to scale to; None: as displayed.

        Returns:
            One `Frame` a time, in the order of `times_s`, each with its own presentation time.

        Raises:
            TruncatedVideoError: the header promises a frame at that time and the file ends before it.
            UndecodableError: with on_error="raise", a packet on the way cannot be decoded.
            KeyframeTooFarError: the time is more than MAX_FRAMES_TO_REACH frames after its keyframe.
            ValueError: a time is negative, not finite, or past the end.
        """
        for time in times_s:
            if not (math.isfinite(time) and time >= 0):
                raise ValueError(f"times must be finite and >= 0 s, got {time}")
        self._reads += 1
        found: dict[float, Frame] = {}
        frame: Frame | None = None
        for time in sorted(set(times_s)):
            pts, picture = self._show(time)
            if frame is None or frame.time_s != self._seconds(pts):
                frame = Frame(self._seconds(pts), self._display.rgb(picture, size))
            found[time] = frame
        return [found[time] for time in times_s]

    def iter_frames(
        self,
        start_s: float = 0.0,
        end_s: float | None = None,
        *,
        size: tuple[int, int] | None = None,
        fps: Fraction | float | None = None,
    ) -> Iterator[Frame]:
        """Stream the frames of [start_s, end_s); memory does not grow with its length.

        Args:
            start_s: first presentation time.
            end_s: end of the span, not included; None: the video's end.
            size: (width, height) to scale to; None: as displayed.
            fps: None: each frame whose own time is in the span, as it is. A rate: constant rate by presentation time;
                frame k has time start_s + k / fps and shows what is on screen in the middle of its 1 / fps (the
                middle, because many containers round times to milliseconds, and a boundary would fall on either
                side). Frames are repeated or left out as needed.

        Raises:
            TruncatedVideoError: the file ends before the span that its header promises.
            UndecodableError, KeyframeTooFarError: as in `frames_at`.
            ValueError: a negative start, or an end before it.
        """
        if not (math.isfinite(start_s) and start_s >= 0):
            raise ValueError(f"start_s must be finite and >= 0, got {start_s}")
        if end_s is not None and not end_s >= start_s:
            raise ValueError(f"end_s {end_s} is before start_s {start_s}")
        if fps is not None and end_s is None:
            end_s = self.info.duration_s
        self._reads += 1
        read = self._reads
        if fps is None:
            frames = self._span(start_s, end_s)
        else:
            assert end_s is not None
            frames = self._resampled(start_s, end_s, as_rate(fps))
        last: tuple[int, NDArray[np.uint8]] | None = None
        for time, pts, picture in frames:
            if last is None or last[0] != pts:
                last = (pts, self._display.rgb(picture, size))
            yield Frame(time, last[1])
            if read != self._reads:
                raise RuntimeError(
                    "another read of this Video began, or it was closed, before this iter_frames was finished"
                )

    # -- opening ------------------------------------------------------------------------------------------------------

    def _check_file(self) -> int:
        """The source's size in bytes, after refusing what FFmpeg would hang on or explain badly."""
        if isinstance(self._source, str | Path):
            try:
                status = Path(self._source).stat()
                if not stat.S_ISREG(status.st_mode):
                    raise UnreadableError(
                        self._name,
                        "the file cannot be read: it is a folder, pipe or device",
                        "Give the video file itself",
                    )
                with Path(self._source).open("rb"):
                    size = status.st_size
            except FileNotFoundError as error:
                problem = (
                    "the file cannot be read: it is a link to nothing"
                    if Path(self._source).is_symlink()
                    else "the file cannot be read: it does not exist"
                )
                raise UnreadableError(self._name, problem, "Check the path, or restore the file") from error
            except OSError as error:
                reason = error.strerror or str(error)
                raise UnreadableError(
                    self._name, f"the file cannot be read ({reason})", "Check its permissions, links and disk"
                ) from error
        else:
            size = self._source.seek(0, os.SEEK_END)
        if size == 0:
            raise EmptyFileError(self._name, "the file is empty (0 bytes)", "Copy or download it again")
        return size

    def _open(self) -> tuple[InputContainer, VideoStream]:
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        try:
            if isinstance(self._source, str | Path):
                # "file:" keeps a name with a colon from being taken for a protocol.
                container = av.open(f"file:{os.fspath(self._source)}", "r", options=options, metadata_errors="replace")
            else:
                self._source.seek(0)
                container = av.open(self._source, "r", options=options, metadata_errors="replace", buffer_size=1 << 18)
        except (av.error.FFmpegError, UnicodeError) as error:
            raise self._not_opened(error) from error
        try:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                held = sorted({stream.type for stream in container.streams}) or ["nothing"]
                raise NoVideoStreamError(
                    self._name,
                    f"the file has no video stream (it holds: {', '.join(held)})",
                    "Give a file with pictures, or leave it out",
                )
            stream = streams[0]
            if stream.codec_context is None:
                raise UndecodableError(
                    self._name, "the video's codec is not known here", "Re-encode it, for instance to H.264"
                )
            self._require_reasonable(stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.thread_count = 1  # concealed damage must not depend on thread timing
        except BaseException:
            container.close()
            raise
        return container, stream

    def _not_opened(self, error: Exception) -> VideoError:
        if isinstance(error, OSError):
            return UnreadableError(
                self._name, f"the file cannot be read ({error})", "Check its permissions, links and disk"
            )
        if isinstance(self._source, str | Path):
            with Path(self._source).open("rb") as file:
                head = file.read(16)
        else:
            self._source.seek(0)
            head = self._source.read(16)
        if any(head[at:].startswith(magic) for at, magics in _MAGIC.items() for magic in magics):
            return self._truncated("the file begins as a video but its index is missing or damaged")
        return NotAVideoError(
            self._name, "this is not a video file", "Check the file; its content matches no known video format"
        )

    def _look_at_first_frame(self) -> None:
        """Take from the first frame what headers may lack: the origin of time, the orientation, the format."""
        self._tick = self._stream.time_base or Fraction(1, 1000)
        first = next(self._decoded(), None)
        if first is None:
            if self._missing_bytes() > 0:
                raise self._truncated("the file ends before its first frame")
            raise UndecodableError(
                self._name,
                "no frame can be decoded: the video stream is empty or damaged",
                "Copy or download it again, or re-encode it",
            )
        self._origin, frame = first
        self._timeless = frame.pts is None and frame.dts is None
        self._display = Display(frame, self._stream.sample_aspect_ratio)
        self._require_reasonable(*self._display.size)

    def _require_reasonable(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            problem = f"the picture is {width} x {height}, over {MAX_PIXELS:,} pixels"
            raise TooLargeError(self._name, problem, "Scale it down first")

    # -- description --------------------------------------------------------------------------------------------------

    def _duration_s(self) -> float:
        stream = self._stream
        if stream.duration:
            start = self._origin if stream.start_time is None else stream.start_time
            return max(0.0, float((start + stream.duration - self._origin) * self._tick))
        tagged = _clock_seconds(stream.metadata.get("DURATION", ""))
        if tagged:
            return max(0.0, tagged - float(self._origin * self._tick))
        end, packets = self._origin, 0
        self._reads += 1  # a pass over the file ends any read in progress
        self._rewind()
        for packet in self._packets():
            if packet.size:
                packets += 1
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
        if end > self._origin:
            return float((end - self._origin) * self._tick)
        return float(packets * self._frame_period())

    def _variable_frame_rate(self) -> bool | None:
        """From the container's index, where it lists every frame (mp4, mov, avi)."""
        entries = self._stream.index_entries
        count = min(len(entries), 20_000)
        if count < 3 or len(entries) < self._stream.frames or self._stream.frames == 0:
            return None
        steps = np.diff([entry.timestamp for entry in entries[:count]])
        usual = np.median(steps)
        return bool(np.abs(steps - usual).max() > 0.1 * usual + float(Fraction(1, 1000) / self._tick))

    def _missing_bytes(self) -> int:
        """How far the index points past the end of the file."""
        entries = self._stream.index_entries
        tail = entries[max(0, len(entries) - 100) :]
        return max((int(entry.pos + entry.size) for entry in tail), default=0) - self._file_bytes

    def _truncated(self, problem: str) -> TruncatedVideoError:
        return TruncatedVideoError(self._name, f"{problem}: it was cut short or damaged", "Copy or download it again")

    # -- decoding -----------------------------------------------------------------------------------------------------

    def _show(self, time_s: float) -> _Timed:
        """The frame on screen at a time, going forward from the last one shown or from a keyframe."""
        tick = self._origin + math.floor((Fraction(time_s) + _SLACK_S) / self._tick)
        if self._position is None or tick < self._position.shown[0] or self._seek_pays(tick):
            self._position = self._seek(tick)
        position = self._position
        for _ in range(MAX_FRAMES_TO_REACH):
            if position.ahead is None:
                self._require_covered(time_s, position)
                return position.shown
            if position.ahead[0] > tick:
                return position.shown
            position.step()
        raise KeyframeTooFarError(
            self._name,
            f"the frame at {time_s:.3f} s is more than {MAX_FRAMES_TO_REACH:,} frames after the keyframe it depends on",
            "Re-encode with a keyframe every few seconds, for instance ffmpeg -i IN -g 48 OUT.mp4",
        )

    def _seek_pays(self, tick: int) -> bool:
        """Whether a seek would skip decoding: only if a keyframe lies between here and there, as far as is known."""
        assert self._position is not None
        ahead = self._position.ahead
        return ahead is not None and tick - ahead[0] > max(self._key_reach, math.ceil(1 / self._tick))

    def _require_covered(self, time_s: float, position: "_Position") -> None:
        """Refuse to pass the last frame off as one that a cut file has lost, or that never was."""
        pts, frame = position.shown
        end_s = self._seconds(pts + max(frame.duration or 0, 0))
        if time_s <= end_s + _END_TOLERANCE_S:
            return
        if time_s <= self.info.duration_s + _SLACK_S:
            raise self._truncated(
                f"the video ends at {end_s:.3f} s though its header promises {self.info.duration_s:.3f} s"
            )
        raise ValueError(f"{self._name}: {time_s} s is past the video's end at {end_s:.3f} s")

    def _span(self, start_s: float, end_s: float | None) -> Iterator[tuple[float, int, av.VideoFrame]]:
        start = self._first_tick(start_s)
        end = math.inf if end_s is None else self._first_tick(end_s)
        if start >= end:
            return
        if start > self._origin:
            self._show(start_s)
        else:
            self._position = _Position(self._from_start())
        position = self._position
        assert position is not None
        while position.shown[0] < end:
            if position.shown[0] >= start:
                yield self._seconds(position.shown[0]), *position.shown
            if position.ahead is None:
                wanted = self.info.duration_s if end_s is None else min(end_s, self.info.duration_s)
                self._require_covered(wanted, position)
                return
            position.step()

    def _resampled(self, start_s: float, end_s: float, rate: Fraction) -> Iterator[tuple[float, int, av.VideoFrame]]:
        count = math.ceil((Fraction(end_s) - Fraction(start_s) - _SLACK_S) * rate)
        for k in range(count):
            middle = float(Fraction(start_s) + (k + Fraction(1, 2)) / rate)
            yield float(Fraction(start_s) + k / rate), *self._show(middle)

    def _seek(self, tick: int) -> "_Position":
        """Decode from a keyframe such that the first frame is at or before `tick`, going further back until it is."""
        back = 0
        step = math.ceil(1 / self._tick)
        while not self._timeless and tick - back > self._origin:
            try:
                self._container.seek(tick - back, stream=self._stream)
            except av.error.FFmpegError:
                break
            run = self._decoded(after_seek=True)
            first = next(run, None)
            if first is not None and first[0] <= tick:
                return _Position(chain([first], run))
            back += step
            step *= 2
        return _Position(self._from_start())

    def _from_start(self) -> Iterator[_Timed]:
        self._rewind()
        return self._decoded()

    def _rewind(self) -> None:
        """Open the file again: unlike a seek to 0, this brings every container back to exactly its first packet."""
        self._container.close()
        self._container, self._stream = self._open()
        self._position = None

    def _decoded(self, *, after_seek: bool = False) -> Iterator[_Timed]:
        """(time in ticks, frame) in order of presentation, from where the container stands.

        After a seek, decoding begins at the first keyframe, and frames shown before it are left out: in an open GOP
        they refer to frames that were not decoded.
        """
        keyframe: int | None = None
        earliest: float = -math.inf
        latest: float = -math.inf
        frames_seen = failures = 0
        for packet in self._packets():
            at = packet.pts if packet.pts is not None else packet.dts
            if packet.size and at is not None:
                if packet.is_keyframe:
                    if keyframe is None and after_seek:
                        earliest = at
                    keyframe = at
                elif keyframe is not None:
                    self._key_reach = max(self._key_reach, at - keyframe)
            if after_seek and keyframe is None:
                continue
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                failures += 1
                self._failed(f"a packet cannot be decoded ({error})", error, failures)
                continue
            for frame in frames:
                failures = 0
                pts = frame.pts if frame.pts is not None else frame.dts
                if pts is None:
                    pts = round(frames_seen * self._frame_period() / self._tick)
                frames_seen += 1
                if frame.is_corrupt:
                    self._failed("a frame is damaged")
                if pts < earliest:
                    continue
                if pts <= latest:
                    self._failed("the time stamps go backwards")
                    continue
                latest = pts
                yield pts, frame

    def _packets(self) -> Iterator[Packet]:
        """The stream's packets from where the container stands, then the empty packet that drains the decoder."""
        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    yield packet
                return
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                failures += 1
                self._failed(f"the file cannot be read on ({error})", error, failures)

    def _failed(self, problem: str, error: Exception | None = None, in_a_row: int = 0) -> None:
        """Count damage; raise if it is the system's, if the caller wants that, or if there is no end to it."""
        if isinstance(error, OSError):
            raise UnreadableError(
                self._name, f"reading failed ({error})", "Check the disk or the connection"
            ) from error
        if self._on_error == "raise" or in_a_row > _MAX_FAILURES_IN_A_ROW:
            raise UndecodableError(self._name, problem, "Copy or download it again, or re-encode it") from error
        self.decode_errors += 1
        if self.decode_errors == 1:
            log.warning("%s: %s; going on without it", self._name, problem)

    # -- times ---------------------------------------------------------------------------------------------

    def _seconds(self, pts: int) -> float:
        return float((pts - self._origin) * self._tick)

    def _first_tick(self, time_s: float) -> int:
        """The least tick that is at or after a time: spans cut there tile the video."""
        return self._origin + math.ceil((Fraction(time_s) - _SLACK_S) / self._tick)

    def _frame_period(self) -> Fraction:
        return 1 / (self._stream.guessed_rate or Fraction(25))


class _Position:
    """Where decoding stands: the frame shown and the next one. A run has at least one frame, or opening had failed."""

    def __init__(self, run: Iterator[_Timed]) -> None:
        self._run = run
        self.shown = next(run)
        self.ahead = next(run, None)

    def step(self) -> None:
        """Show the next frame; there must be one."""
        assert self.ahead is not None
        self.shown, self.ahead = self.ahead, next(self._run, None)


def _clock_seconds(text: str) -> float:
    """Seconds of a Matroska DURATION tag such as 00:01:02.500000000; 0.0 if it is none."""
    try:
        hours, minutes, seconds = text.split(":")
        value = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
