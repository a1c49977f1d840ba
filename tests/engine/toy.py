"""Stages small enough to follow by hand, for tests of the engine."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Any

from dataengine.config import Resources
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.records import Blob, Clip, Record, Rejected, SourceVideo
from dataengine.stage import BadInput, Outage, Row, Stage


class Length(Record):
    seconds: float


class Thumb(Record):
    image: Blob


class Size(Record):
    bytes: int


class Count(Record):
    """Made by `CountSize` from `Size`: no blob is read."""

    doubled: int


class _Toy(Stage):
    version = 1

    def __init__(self, journal: Path, **behaviour: Any) -> None:
        """`journal` is a folder that gets a file per processed row, so that a test can count work across processes."""
        self.journal, self.behaviour = journal, behaviour

    def parameters(self) -> Mapping[str, Any]:
        return {"prompt": self.behaviour.get("prompt", "")}

    def note(self, row: Row) -> None:
        (self.journal / f"{self.name}-{row.id}-{time.time_ns()}-{os.getpid()}").touch()


class MeasureLength(_Toy):
    name, reads, writes = "length", (), Length

    def process(self, rows: Sequence[Row]) -> list[Length]:
        for row in rows:
            self.note(row)
            if "broken" in row.source.names[0]:
                raise BadInput(f"{row.source.uri}: no video stream")
        return [Length(seconds=3.0) for _ in rows]


class MakeThumb(_Toy):
    name, reads, writes = "thumb", (), Thumb

    def process(self, rows: Sequence[Row]) -> list[Thumb]:
        for row in rows:
            self.note(row)
        return [Thumb(image=row.id.encode() * 3) for row in rows]


class MeasureSize(_Toy):
    name, reads, writes = "size", (Thumb,), Size

    def setup(self) -> None:
        self.inside, self.counting, self.met = 0, Lock(), Event()
        if "together" in self.behaviour:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
            (self.journal / f"setup-{time.time_ns()}-{os.getpid()}").write_text(seen)

    def process(self, rows: Sequence[Row]) -> list[Size]:
        if "together" in self.behaviour:
            self._meet(self.behaviour["together"])
        for row in rows:
            self.note(row)
            if row.id in self.behaviour.get("poison", ()):
                raise RuntimeError("cannot look at this one")
            if row.id in self.behaviour.get("hang", ()):
                time.sleep(3600)
            if row.id in self.behaviour.get("crash", ()):
                ctypes.string_at(0)
            if row.id in self.behaviour.get("kill", ()):
                os.kill(os.getpid(), signal.SIGKILL)
            if row.id in self.behaviour.get("full_disk", ()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if row.id in self.behaviour.get("outage", ()):
                raise Outage("the server is away")
        return [Size(bytes=len(row[Thumb].image)) for row in rows]

    def _meet(self, number: int) -> None:
        """Wait until so many calls are here at the same time, once, and not again in the next process."""
        if (self.journal / "met").exists():
            return
        with self.counting:
            self.inside += 1
            if self.inside == number:
                (self.journal / "met").touch()
                self.met.set()
        if not self.met.wait(60):
            raise RuntimeError(f"fewer than {number} batches were worked on at the same time")


class CountSize(_Toy):
    name, reads, writes = "count", (Size,), Count

    def process(self, rows: Sequence[Row]) -> list[Count]:
        for row in rows:
            self.note(row)
        return [Count(doubled=2 * row[Size].bytes) for row in rows]


def cut(row: Row) -> list[Clip]:
    """A clip a second."""
    return [Clip.of(row.id, float(s), float(s + 1)) for s in range(int(row[Length].seconds))]


def cut_all(source: SourceVideo) -> list[Clip]:
    """The clips that `cut` makes of it."""
    return [Clip.of(source.source_id, float(s), float(s + 1)) for s in range(3)]


def cut_at(source: SourceVideo, number: int) -> Clip:
    return cut_all(source)[number]


def finish(row: Row) -> Rejected:
    assert row.clip is not None
    return Rejected(clip=row.clip, rule="toy", detail=f"{row[Size].bytes} {row[Count].doubled}")


def admit_but_first(row: Row) -> Rejected | None:
    assert row.clip is not None
    if row.clip.start_s > 0:
        return None
    return Rejected(clip=row.clip, rule="first", detail="the first clip is not wanted")


def source(number: int, name: str = "video") -> SourceVideo:
    return SourceVideo(
        source_id=f"{number:024x}", uri=f"/x/{name}{number}.mp4", names=(f"{name}{number}.mp4",), size_bytes=1
    )


def pipeline(journal: Path, workers: int = 1, batch: int = 2, gate: bool = False, **behaviour: Any) -> Pipeline:
    resources = Resources(
        workers=workers,
        max_workers=behaviour.pop("max_workers", None),
        in_flight=behaviour.pop("in_flight", 1),
        batch=batch,
        cpus=0.1,
        row_timeout_s=behaviour.pop("row_timeout_s", 60),
    )
    count_prompt = behaviour.pop("count_prompt", "")
    return Pipeline(
        source_steps=(Step(MeasureLength(journal), resources),),
        cut=cut,
        clip_steps=(
            Step(MakeThumb(journal), resources),
            Step(MeasureSize(journal, **behaviour), resources, admit_but_first if gate else None),
            Step(CountSize(journal, prompt=count_prompt), resources),
        ),
        finish=finish,
        verdict=Rejected,
    )
