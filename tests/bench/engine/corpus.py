"""The bench's input: small videos with hard cuts and real faces, re-cut from the sample video.

Every span lies inside one shot that shows people, is mirrored or not and has a tint of its own, so that no two are
equal. The same files each time; they are made once a folder and found again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataengine.video import Video, encode_clip
from dataengine.world.sample import make_sample

Image = NDArray[np.uint8]

WIDTH, HEIGHT, FPS = 320, 180, 24
SECONDS = (1.25, 1.75)
"""Length of a span: long enough for a clip (`decide.clips.min_s`)."""


@dataclass(frozen=True)
class Corpus:
    """`files` hold `clips` spans in all, and `frames` frames."""

    files: tuple[Path, ...]
    clips: int
    frames: int


def make_corpus(folder: Path, files: int, clips: int) -> Corpus:
    """`files` videos of `clips` spans each in `folder`; a file that is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"montage{clips:02d}-{number:03d}.mp4" for number in range(files))
    plans = [_plan(number, clips) for number in range(files)]
    if not all(path.is_file() for path in paths):
        shots = _shots(folder / "sample")
        for path, plan in zip(paths, plans, strict=True):
            if not path.is_file():
                written = path.with_suffix(".part")
                written.write_bytes(encode_clip(_frames(shots, plan), FPS, crf=23, preset="veryfast"))
                written.replace(path)
    return Corpus(paths, files * clips, sum(span.frames for plan in plans for span in plan))


@dataclass(frozen=True)
class _Span:
    """`shot` and `offset` are shares, of the number of shots and of the room in one."""

    shot: float
    offset: float
    frames: int
    mirrored: bool
    tint: tuple[float, float, float]


def _plan(number: int, clips: int) -> tuple[_Span, ...]:
    rng = random.Random(number)
    spans: list[_Span] = []
    shot = 0.0
    for _ in range(clips):
        # Never the shot before: a cut within one would be hard to see.
        shot = (shot + rng.uniform(0.2, 0.8)) % 1
        tint = (rng.uniform(0.92, 1.08), rng.uniform(0.92, 1.08), rng.uniform(0.92, 1.08))
        spans.append(_Span(shot, rng.random(), round(rng.uniform(*SECONDS) * FPS), rng.random() < 0.5, tint))
    return tuple(spans)


def _shots(cache: Path) -> list[list[Image]]:
    """The frames of the sample's shots with people, small, without those that belong to a transition."""
    truth = make_sample(cache)
    spans = [(shot.start_s + 0.3, shot.end_s - 0.3) for shot in truth.shots if shot.people]
    with Video(cache / "sample.mp4") as video:
        return [[frame.rgb for frame in video.iter_frames(*span, size=(WIDTH, HEIGHT))] for span in spans]


def _frames(shots: Sequence[list[Image]], plan: Sequence[_Span]) -> Iterator[Image]:
    for span in plan:
        shot = shots[int(span.shot * len(shots))]
        first = int(span.offset * (len(shot) - span.frames))
        gain = np.asarray(span.tint, dtype=np.float32)
        for frame in shot[first : first + span.frames]:
            picture = np.clip(np.rint(frame * gain), 0, 255).astype(np.uint8)
            yield picture[:, ::-1] if span.mirrored else picture
