"""Videos whose frames carry their number in black and white blocks, so that a test can tell which frame it got."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS, BLOCK = 12, 16
WIDTH, HEIGHT = BITS * BLOCK, 64


@dataclass(frozen=True)
class Numbered:
    """A video, and the presentation time in seconds of frame k as a player counts it: from the first frame."""

    path: Path
    times_s: list[float]


def numbered_frame(number: int) -> np.ndarray:
    """rgb (64, 192, 3): the number's bits as blocks above a drifting ramp that gives B-frames something to predict."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[:] = ((np.arange(WIDTH) + 3 * number) % 160 + 40)[None, :, None]
    for bit in range(BITS):
        frame[: HEIGHT // 2, bit * BLOCK : (bit + 1) * BLOCK] = 235 if number >> bit & 1 else 16
    return frame


@pytest.fixture(scope="session")
def number_of() -> Callable[[np.ndarray], int]:
    """The number that a decoded frame carries."""

    def read(rgb: np.ndarray) -> int:
        blocks = rgb[4 : HEIGHT // 2 - 4, :, 1].reshape(-1, BITS, BLOCK)[:, :, 4:-4].mean(axis=(0, 2))
        return sum(int(value > 128) << bit for bit, value in enumerate(blocks))

    return read


def write_numbered(
    path: Path,
    ticks: list[int],
    tick: Fraction,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    to_pipe: bool = False,
) -> Numbered:
    """Frame k at ticks[k]; `to_pipe` writes without seeking back, so that the file gets neither index nor duration."""

    class Pipe:
        def __init__(self) -> None:
            self.file = path.open("wb")
            self.write = self.file.write
            self.close = self.file.close

    form = {".ts": "mpegts", ".mkv": "matroska", ".h264": "h264"}.get(path.suffix, path.suffix[1:])
    target = Pipe() if to_pipe else str(path)
    with av.open(target, "w", format=form, options=container or {}) as out:
        stream = out.add_stream(codec, rate=Fraction(24), options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_count = 1
        stream.codec_context.time_base = tick
        for number, at in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = at, tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    if to_pipe:
        target.close()
    return Numbered(path, [float((at - ticks[0]) * tick) for at in ticks])


FRAMES = 120
_EVEN = list(range(FRAMES))
_RNG = np.random.default_rng(7)
_UNEVEN = [0, *np.cumsum(_RNG.choice([10, 17, 33, 42, 100, 400], FRAMES - 1)).tolist()]
_24, _MS = Fraction(1, 24), Fraction(1, 1000)
_B = {"bf": "3", "g": "12"}

KINDS: dict[str, dict] = {
    "constant": {"name": "a.mp4", "ticks": _EVEN, "tick": _24, "options": {"bf": "0", "g": "24"}},
    "b-frames": {"name": "a.mp4", "ticks": _EVEN, "tick": _24, "options": _B},
    "open gop": {"name": "a.mkv", "ticks": _EVEN, "tick": _24, "options": {**_B, "x264-params": "open-gop=1"}},
    "open gop mp4": {"name": "a.mp4", "ticks": _EVEN, "tick": _24, "options": {**_B, "x264-params": "open-gop=1"}},
    "open gop hevc": {
        "name": "a.mp4",
        "ticks": _EVEN,
        "tick": _24,
        "codec": "libx265",
        "options": {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=4:log-level=none", "preset": "veryfast"},
    },
    "variable mp4": {"name": "a.mp4", "ticks": _UNEVEN, "tick": _MS, "options": _B},
    "variable mkv": {"name": "a.mkv", "ticks": _UNEVEN, "tick": _MS, "options": _B},
    "late start mp4": {"name": "a.mp4", "ticks": [t + 240 for t in _EVEN], "tick": _24, "options": _B},
    "late start mkv": {"name": "a.mkv", "ticks": [t + 5000 for t in _UNEVEN], "tick": _MS, "options": _B},
    "transport stream": {"name": "a.ts", "ticks": _EVEN, "tick": _24, "options": {**_B, "x264-params": "open-gop=1"}},
    "avi": {
        "name": "a.avi",
        "ticks": _EVEN,
        "tick": _24,
        "codec": "mpeg4",
        "options": {"bf": "0", "g": "12", "q": "3"},
    },
    "avi b-frames": {"name": "a.avi", "ticks": _EVEN, "tick": _24, "codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "vp9": {
        "name": "a.webm",
        "ticks": _UNEVEN,
        "tick": _MS,
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "10"},
    },
    "no index mkv": {"name": "a.mkv", "ticks": _UNEVEN, "tick": _MS, "options": _B, "to_pipe": True},
    "fragments": {
        "name": "a.mp4",
        "ticks": _UNEVEN,
        "tick": _MS,
        "options": _B,
        "container": {"movflags": "frag_keyframe+empty_moov"},
    },
    "one gop": {"name": "a.mp4", "ticks": _EVEN, "tick": _24, "options": {"bf": "3", "g": "9999", "sc_threshold": "0"}},
    "bare stream": {"name": "a.h264", "ticks": _EVEN, "tick": _24, "options": {"bf": "0", "g": "12"}},
}


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.replace(" ", "-"))
def numbered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Numbered:
    """120 numbered frames in each way of storing them that readers get wrong."""
    kind = dict(KINDS[request.param])
    return write_numbered(tmp_path_factory.mktemp("numbered") / kind.pop("name"), **kind)


@pytest.fixture(scope="session")
def make_numbered(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Numbered]:
    """Write another numbered video: name, ticks, tick and the encoder's options, as for KINDS."""

    def make(name: str, ticks: list[int], tick: Fraction, **how: object) -> Numbered:
        return write_numbered(tmp_path_factory.mktemp("numbered") / name, ticks, tick, **how)  # type: ignore[arg-type]

    return make
