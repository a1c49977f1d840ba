"""Writes videos of the world, each with its truth beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pydantic import Field

from dataengine.records import Record
from dataengine.video import encode_clip
from dataengine.world import drawing
from dataengine.world.drawing import FrameTruth
from dataengine.world.script import HardCase, Script, script
from dataengine.world.wording import Caption, attributes

TRUTH = ".truth.json"
_PARTS = 64
"""Videos that a process makes before it is asked again."""


class PersonTruth(Record):
    """A person of a shot, under the number that the shot's caption gives."""

    identity: str
    noun: str
    wears: tuple[str, ...] = Field(description="all that can be said of the person, named in the caption or not")


class ShotTruth(Record):
    """A shot: [start_s, end_s) in seconds, without the dissolve that it begins with."""

    start_s: float
    end_s: float
    caption: Caption
    people: tuple[PersonTruth, ...] = Field(description="the i-th is subject `s<i>` of the caption")
    objects: tuple[str, ...]
    background: str
    hard: tuple[HardCase, ...]


class VideoTruth(Record):
    """`NAME.truth.json`: what is true of `NAME.mp4`. Boxes and masks are drawn anew when asked for: see `at`."""

    name: str
    width: int
    height: int
    fps: int
    frames: int
    cuts_s: tuple[float, ...] = Field(description="first presentation time of each new shot, dissolves by their middle")
    dissolves_s: tuple[tuple[float, float], ...] = Field(description="spans in which two shots are seen")
    shots: tuple[ShotTruth, ...]
    script: Script

    @classmethod
    def of(cls, made: Script) -> VideoTruth:
        """The truth of a script."""
        shots: list[ShotTruth] = []
        dissolves: list[tuple[float, float]] = []
        cuts: list[float] = []
        start = 0
        for shot in made.shots:
            clear, end = start + shot.dissolve, start + shot.frames
            if shot.dissolve:
                dissolves.append((start / made.fps, clear / made.fps))
            if start:
                cuts.append((start + clear) / 2 / made.fps)
            people = (shot.actors[position].person for position in shot.caption.order)
            shots.append(
                ShotTruth(
                    start_s=clear / made.fps,
                    end_s=end / made.fps,
                    caption=shot.caption,
                    people=tuple(
                        PersonTruth(identity=p.identity.name, noun=p.identity.noun, wears=attributes(p)) for p in people
                    ),
                    objects=tuple(placed.thing.phrase for placed in shot.objects),
                    background=shot.place,
                    hard=shot.hard,
                )
            )
            start = end
        return cls(
            name=video_name(made),
            width=made.width,
            height=made.height,
            fps=made.fps,
            frames=made.frames,
            cuts_s=tuple(cuts),
            dissolves_s=tuple(dissolves),
            shots=tuple(shots),
            script=made,
        )

    def at(self, time_s: float) -> FrameTruth | None:
        """What is seen at a time: boxes, masks and owners; None inside a dissolve and outside the video."""
        number = int(time_s * self.fps + 1e-6)
        return drawing.truth(self.script, number) if 0 <= number < self.frames else None


def video_name(made: Script) -> str:
    return f"world{made.seed}-{made.number:05d}"


def scripts(clips: int, seed: int) -> Iterator[Script]:
    """Videos of the world of this seed, in order, until they have this many shots."""
    number = 0
    while clips > 0:
        made = script(seed, number)
        yield made
        clips -= len(made.shots)
        number += 1


def make_world(folder: Path, clips: int, seed: int = 0, workers: int = 1) -> tuple[VideoTruth, ...]:
    """Write `NAME.mp4` and `NAME.truth.json` until there are `clips` shots; the same bytes whatever the workers.

    Raises `OSError` when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [(folder, made) for made in scripts(clips, seed)]
    if workers == 1:
        return tuple(map(_write, todo))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return tuple(pool.map(_write, todo, chunksize=min(_PARTS, -(-len(todo) // workers))))


def read_truth(folder: Path) -> Mapping[str, VideoTruth]:
    """The truth of every video in a folder, by the video's file name. Raises `ValueError` naming a damaged file."""
    found: dict[str, VideoTruth] = {}
    for path in sorted(folder.glob(f"*{TRUTH}")):
        try:
            truth = VideoTruth.from_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is no truth of this version of the world: make it again") from error
        found[f"{truth.name}.mp4"] = truth
    return found


def _write(todo: tuple[Path, Script]) -> VideoTruth:
    folder, made = todo
    truth = VideoTruth.of(made)
    video = folder / f"{truth.name}.mp4"
    video.write_bytes(encode_clip(drawing.frames(made), made.fps, crf=18, preset="veryfast"))
    (folder / f"{truth.name}{TRUTH}").write_text(json.dumps(json.loads(truth.to_json()), indent=1) + "\n")
    return truth
