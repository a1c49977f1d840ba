"""A pipeline whose stages do nothing, or burn a given processor time: what is left over is the engine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dataengine.config import Resources
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.records import Blob, Clip, Decision, Record, Rejected, SourceVideo
from dataengine.stage import Row, Stage

CLIPS = 100
"""Clips of a source."""
IMAGE_BYTES = 100_000
"""Media that a clip carries from its first stage to its second: about three stills."""


class Length(Record):
    clips: int


class Picture(Record):
    image: Blob


class Size(Record):
    bytes: int


class Double(Record):
    value: int


def burn(cpu_s: float) -> None:
    """Keep a core busy for so long; on a shared machine it takes longer, but not more."""
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


class Span:
    """When a process worked, for whoever measures from outside: a file with its first and last second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.first = folder, 0.0

    def note(self, started: float) -> None:
        self.first = self.first or started
        (self.folder / str(os.getpid())).write_text(f"{self.first} {time.time()}")


def span(folder: Path) -> tuple[float, float]:
    """The first start and the last end in all processes (`time.time`)."""
    times = [tuple(map(float, file.read_text().split())) for file in folder.iterdir()]
    return min(first for first, _ in times), max(last for _, last in times)


class _Stage(Stage[Any]):
    version = 1

    def __init__(self, cpu_s: float, spans: Path) -> None:
        self.cpu_s, self.span = cpu_s, Span(spans)

    def parameters(self) -> Mapping[str, Any]:
        return {}

    def process(self, rows: Sequence[Row]) -> list[Any]:
        started = time.time()
        results = [self.one(row) for row in rows]
        self.span.note(started)
        return results

    def one(self, row: Row) -> Record:
        raise NotImplementedError


class MeasureLength(_Stage):
    name: ClassVar[str] = "length"
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = Length

    def one(self, row: Row) -> Length:
        return Length(clips=CLIPS)


class MakePicture(_Stage):
    name: ClassVar[str] = "picture"
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = Picture

    def one(self, row: Row) -> Picture:
        burn(self.cpu_s)
        return Picture(image=bytes(IMAGE_BYTES))


class MeasureSize(_Stage):
    name: ClassVar[str] = "size"
    reads: ClassVar[tuple[type[Record], ...]] = (Picture,)
    writes: ClassVar[type[Record]] = Size

    def one(self, row: Row) -> Size:
        burn(self.cpu_s)
        return Size(bytes=len(row[Picture].image))


class MeasureDouble(_Stage):
    name: ClassVar[str] = "double"
    reads: ClassVar[tuple[type[Record], ...]] = (Size,)
    writes: ClassVar[type[Record]] = Double

    def one(self, row: Row) -> Double:
        burn(self.cpu_s)
        return Double(value=2 * row[Size].bytes)


def cut(row: Row) -> list[Clip]:
    return clips_of(row.id)


def clips_of(source_id: str) -> list[Clip]:
    return [Clip.of(source_id, float(s), float(s + 1)) for s in range(CLIPS)]


def finish(row: Row) -> Decision:
    assert row.clip is not None
    return Decision(outcome=Rejected(clip=row.clip, rule="bench", detail=f"{row[Double].value}"), dropped=())


def sources(count: int) -> list[SourceVideo]:
    return [
        SourceVideo(source_id=f"{n:024x}", uri=f"/bench/{n}.mp4", names=(f"{n}.mp4",), size_bytes=1)
        for n in range(count)
    ]


def pipeline(cpu_s: float, spans: Path, batch: int) -> Pipeline:
    """A pool for the sources and one for each of three stages of the clips, a worker each."""
    resources = Resources(workers=1, cpus=0.25, batch=batch)
    return Pipeline(
        source_steps=(Step(MeasureLength(0.0, spans), Resources(workers=1, cpus=0.25, batch=1)),),
        cut=cut,
        clip_steps=tuple(Step(kind(cpu_s, spans), resources) for kind in (MakePicture, MeasureSize, MeasureDouble)),
        finish=finish,
        verdict=Decision,
    )
