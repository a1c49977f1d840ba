"""Rows of the sample video, measured once by the real stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dataengine.config import (
    BackgroundSettings,
    CaptionSettings,
    FaceSettings,
    FramesSettings,
    GroundSettings,
    ProbeSettings,
    SegmentSettings,
)
from dataengine.measure.background import BackgroundStage
from dataengine.measure.caption import CaptionStage
from dataengine.measure.faces import FacesStage
from dataengine.measure.frames import FramesStage
from dataengine.measure.ground import GroundStage
from dataengine.measure.probe import ProbeStage
from dataengine.measure.segment import SegmentStage
from dataengine.records import Clip, SourceVideo
from dataengine.stage import Row, Stage
from dataengine.video import encode_clip
from dataengine.world.sample import Shot


def measure(stage: Stage, rows: Sequence[Row]) -> list[Row]:
    """The rows with what a fresh stage measured on them."""
    stage.setup()
    return [row.with_record(record) for row, record in zip(rows, stage.process(rows), strict=True)]


@pytest.fixture(scope="session")
def row_of() -> Callable[..., Row]:
    """`row_of(path)` a source, `row_of(path, 1.0, 2.5)` a clip of it."""

    def make(path: Path, start_s: float | None = None, end_s: float | None = None) -> Row:
        source = SourceVideo(
            source_id="0" * 24,
            uri=str(path),
            names=(path.name,),
            size_bytes=path.stat().st_size if path.exists() else 0,
        )
        clip = None if start_s is None or end_s is None else Clip.of(source.source_id, start_s, end_s)
        return Row(source, clip)

    return make


@pytest.fixture(scope="session")
def probed(row_of) -> Callable[[Path], Row]:
    """A source row with its `Probe`."""
    return lambda path: measure(ProbeStage(ProbeSettings()), [row_of(path)])[0]


@pytest.fixture(scope="session")
def video_of(tmp_path_factory) -> Callable[..., Path]:
    """`video_of(frames, fps)`: a file that holds these frames, nearly lossless."""

    def write(frames: Sequence[np.ndarray], fps: float = 24) -> Path:
        file = tmp_path_factory.mktemp("video") / "clip.mp4"
        file.write_bytes(encode_clip(frames, fps, crf=4, preset="ultrafast"))
        return file

    return write


@dataclass(frozen=True)
class Seen:
    """A shot of the sample: what is true of it and what was measured."""

    shot: Shot
    row: Row


@pytest.fixture(scope="session")
def seen(sample_video, row_of) -> dict[str, Seen]:
    """Three shots after all stages: `collins` and `hopper` alone, and `both`."""
    shots = [s for s in sample_video.truth.shots if s.people]
    alone = {s.people[0].person: s for s in reversed(shots) if len(s.people) == 1}
    chosen = {
        "collins": alone["Eileen Collins"],
        "hopper": alone["Grace Hopper"],
        "both": next(s for s in shots if len(s.people) == 2),
    }
    rows = [row_of(sample_video.path, s.start_s + 0.1, s.end_s - 0.1) for s in chosen.values()]
    for stage in (
        FramesStage(FramesSettings()),
        FacesStage(FaceSettings()),
        CaptionStage(CaptionSettings()),
        GroundStage(GroundSettings()),
        SegmentStage(SegmentSettings()),
        BackgroundStage(BackgroundSettings()),
    ):
        rows = measure(stage, rows)
    return {name: Seen(shot, row) for (name, shot), row in zip(chosen.items(), rows, strict=True)}
