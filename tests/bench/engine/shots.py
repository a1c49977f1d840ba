"""The shot stage against PySceneDetect's command line and against decoding alone, on one file."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av

from dataengine.config import ProbeSettings, ShotSettings
from dataengine.measure.probe import ProbeStage
from dataengine.measure.shots import ShotsStage
from dataengine.models.scenedetect import Adaptive
from dataengine.records import SourceVideo
from dataengine.stage import Row
from dataengine.video import Video
from engine.table import Line
from engine.timing import Took

ROUNDS = 2


def compare(file: Path) -> list[Line]:
    """Each way in turn; processor seconds, because the command line and the decoders use several threads."""
    stages = {detector: _stage(detector, file) for detector in ("transnetv2", "adaptive")}
    ways: dict[str, Callable[[], object]] = {
        "transnetv2": stages["transnetv2"],
        "adaptive": stages["adaptive"],
        "PyAV decode": partial(_decode, file),
        "our decode": partial(_read, file),
    }
    took: dict[str, Took] = {}
    for _ in range(ROUNDS):
        for name, way in (*ways.items(), ("scenedetect", partial(_command_line, file))):
            seconds = _timed(way)
            before = took.get(name, seconds)
            took[name] = Took(min(seconds.wall, before.wall), min(seconds.cpu, before.cpu))
    with Video(file) as video:
        frames = video.info.frame_count
    lines = []
    for ours, peers in (
        ("adaptive", ("scenedetect", "PyAV decode", "our decode")),
        ("transnetv2", ("scenedetect", "PyAV decode", "our decode")),
        ("our decode", ("PyAV decode",)),
    ):
        for peer in peers:
            lines.append(
                Line(
                    f"shots, {frames} frames: {ours}",
                    f"{frames / took[ours].cpu:.0f} frames/cpu s ({frames / took[ours].wall:.0f}/s)",
                    f"{peer} {frames / took[peer].cpu:.0f} frames/cpu s ({frames / took[peer].wall:.0f}/s)",
                    f"{took[ours].cpu / took[peer].cpu:.2f} of its cpu",
                )
            )
    return lines


def _stage(detector: str, file: Path) -> Callable[[], object]:
    """The stage with its model loaded, on the probed source."""
    source = SourceVideo(source_id="0" * 24, uri=str(file), names=(file.name,), size_bytes=file.stat().st_size)
    row = Row(source)
    row = row.with_record(ProbeStage(ProbeSettings()).process([row])[0])
    stage = ShotsStage(ShotSettings(detector=detector))  # type: ignore[arg-type]
    stage.setup()
    return partial(stage.process, [row])


def _decode(file: Path) -> None:
    """Bare: every frame, as the codec gives it."""
    with av.open(str(file)) as container:
        for _ in container.decode(video=0):
            pass


def _read(file: Path) -> None:
    """Every frame with its exact time, as RGB of the size that the adaptive detector looks at."""
    with Video(file) as video:
        for _ in video.iter_frames(size=Adaptive.size):
            pass


def _command_line(file: Path) -> None:
    """With its start-up, as a user runs it."""
    command = [str(Path(sys.executable).with_name("scenedetect")), "-q", "-i", str(file), "detect-adaptive"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _timed(way: Callable[[], object]) -> Took:
    wall, cpu = time.perf_counter(), _cpu_s()
    way()
    return Took(time.perf_counter() - wall, _cpu_s() - cpu)


def _cpu_s() -> float:
    """Of this process and of children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
