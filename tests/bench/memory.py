"""Peak memory of a build's whole process tree: 1× against 10× input, and two minutes against two hours of video.

`python tests/bench/memory.py [--corpus FOLDER]`, or `make bench-engine`, which reuses its own builds for the first.
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import av

from dataengine.video import Video, encode_clip
from dataengine.world.sample import make_sample
from engine.builds import Build, build
from engine.corpus import make_corpus
from engine.table import Line, show

FEW, MANY, CLIPS = 2, 20, 4
"""Videos of the small and of the large input, and the clips of each."""
MINUTES = (2, 120)
LONG_WIDTH, LONG_HEIGHT, LONG_FPS = 160, 90, 6
OVERRIDES = ("stages.shots.detector=adaptive",)
"""For the long video: TransNetV2 would take a quarter of an hour and no more memory."""


def growth(what: str, small: Build, large: Build) -> list[Line]:
    before, after = small.watch.at_peak, large.watch.at_peak
    return [
        Line(
            f"peak memory, {what}",
            f"{after.total / 1e6:.0f} MB (object store {large.watch.shared / 1e6:.0f})",
            f"{before.total / 1e6:.0f} MB (object store {small.watch.shared / 1e6:.0f})",
            f"{after.total / before.total:.2f}",
            "≤ 1.10",
        )
    ]


def parts(small: Build, large: Build) -> list[Line]:
    """The larger peak by process, to see what grows."""
    before, after = small.watch.at_peak.by_name, large.watch.at_peak.by_name
    names = sorted(after, key=lambda name: -after[name])[:6]
    return [Line(f"  {name}", f"{after[name] / 1e6:.0f} MB", f"{before.get(name, 0) / 1e6:.0f} MB") for name in names]


def long_videos(folder: Path) -> list[Build]:
    """Builds of a short and of a long video: scenes without people, so that the gate spares the costly stages."""
    builds = []
    for minutes in MINUTES:
        file = folder / f"{minutes}min.mp4"
        if not file.is_file():
            _looped(folder, file, minutes * 60)
        with tempfile.TemporaryDirectory(prefix="bench-") as output:
            builds.append(build([file], Path(output), *OVERRIDES))
    return builds


def _looped(folder: Path, file: Path, seconds: int) -> None:
    """A piece of the sample, encoded once and repeated by copying its packets."""
    truth = make_sample(folder / "sample")
    empty = [shot for shot in truth.shots if not shot.people]
    with Video(folder / "sample" / "sample.mp4") as video:
        frames = [
            frame.rgb
            for shot in empty
            for frame in video.iter_frames(
                shot.start_s + 0.3, shot.end_s - 0.3, size=(LONG_WIDTH, LONG_HEIGHT), fps=LONG_FPS
            )
        ]
    piece = folder / "piece.mp4"
    piece.write_bytes(encode_clip(frames, LONG_FPS, preset="veryfast"))
    written = file.with_suffix(".part")
    with av.open(str(piece)) as read, av.open(str(written), "w", format="mp4") as out:
        source = read.streams.video[0]
        target = out.add_stream_from_template(source)
        length = round(Fraction(len(frames), LONG_FPS) / source.time_base)
        for turn in range(-(-seconds * LONG_FPS // len(frames))):
            read.seek(0)
            for packet in read.demux(source):
                if packet.dts is None:
                    continue
                packet.pts, packet.dts, packet.stream = packet.pts + turn * length, packet.dts + turn * length, target
                out.mux(packet)
    written.replace(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "dataengine-bench")
    place: Path = parser.parse_args().corpus
    corpus = make_corpus(place, MANY, CLIPS)
    with tempfile.TemporaryDirectory(prefix="bench-") as one, tempfile.TemporaryDirectory(prefix="bench-") as ten:
        single, tenfold = build(corpus.files[:FEW], Path(one)), build(corpus.files, Path(ten))
        show("memory", [*growth("10× input", single, tenfold), *parts(single, tenfold)])
    short, long = long_videos(place)
    show("memory", [*growth("two hours against two minutes", short, long), *parts(short, long)])
