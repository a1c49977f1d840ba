"""How much of the machine the stages of the embedded profile get, and what a second worker brings.

A stage's own work is counted in processor seconds, so that waiting does not count as work. The bound is what the cores
could give in the time from the first row measured to the last, less what processes outside the build took of them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from engine.builds import Build, build
from engine.corpus import Corpus
from engine.table import Line

CORES = os.cpu_count() or 1
SCALING_FILES = 5


def whole_build(corpus: Corpus, output: Path) -> Build:
    return build(corpus.files, output)


def efficiency(made: Build) -> list[Line]:
    load, stages = made.measuring, made.stage_cpu_s
    free = load.free_s(CORES)
    by_stage = ", ".join(f"{s.stage} {s.cpu_seconds:.0f}" for s in made.summary.stages if s.cpu_seconds >= 0.5)
    what = f"embedded build of {made.summary.clips} clips, stages' cpu"
    return [
        Line(
            f"{what} of what was free",
            f"{stages:.0f} s",
            f"{CORES} cores × {load.wall_s:.0f} s − {load.others_s:.0f} s of others",
            f"{stages / free:.2f}",
            "≥ 0.85",
        ),
        Line(f"{what} of all", f"{stages:.0f} s", f"the build's own {load.cpu_s:.0f} s", f"{stages / load.cpu_s:.2f}"),
        Line("by stage, cpu s", by_stage, ""),
    ]


def scaling(made: Build, corpus: Corpus, folder: Path) -> list[Line]:
    """The clip stages alone, on sources that are measured, with one worker and with two.

    One worker can have one core, two can have two, less what other processes took and the engine itself takes.
    """
    rates = {workers: _clip_stages(made, corpus, folder / f"workers{workers}", workers) for workers in (1, 2)}
    (one, one_free), (two, two_free) = rates[1], rates[2]
    return [
        Line(
            f"clip stages, {SCALING_FILES} files: 2 workers against 1",
            f"{two:.2f} clips/s",
            f"{one:.2f} clips/s",
            f"{two / one:.2f}",
            f"bound {min(2.0, two_free) / min(1.0, one_free):.2f} (cores free: {one_free:.2f}, {two_free:.2f})",
        )
    ]


def _clip_stages(made: Build, corpus: Corpus, output: Path, workers: int) -> tuple[float, float]:
    """Clips a second, and the cores that were free meanwhile."""
    for stage in ("probe", "shots"):
        shutil.copytree(made.output / "measurements" / stage, output / "measurements" / stage)
    again = build(corpus.files[:SCALING_FILES], output, f"stages.frames.resources.workers={workers}")
    load = again.measuring
    return again.summary.clips / load.wall_s, load.free_s(CORES) / load.wall_s
