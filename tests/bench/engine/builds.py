"""Builds as a user starts them, each in processes of its own, watched from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from dataengine.records import RunSummary
from engine.processes import REPOSITORY, environment
from process_tree import Load, Watch, watched


@dataclass(frozen=True)
class Build:
    """A finished build and what its processes took."""

    output: Path
    summary: RunSummary
    watch: Watch

    @property
    def stage_cpu_s(self) -> float:
        """Processor seconds of the stages' own work."""
        return sum(stage.cpu_seconds for stage in self.summary.stages)

    @property
    def measuring(self) -> Load:
        """From the start of the first row to the commit of the last, of the stages that this build measured."""
        did = [stage.stage for stage in self.summary.stages if stage.done]
        found = [part for name in did for part in (self.output / "measurements" / name).glob("*/part-*")]
        parts = sorted(found, key=lambda part: part.stat().st_mtime)
        first, last = parts[0].stat().st_mtime, parts[-1].stat().st_mtime
        took = sum(pq.read_table(parts[0], columns=["seconds"])["seconds"].to_pylist())
        return self.watch.load(first - took, last)


def build(inputs: Sequence[Path], output: Path, *overrides: str, every_s: float = 1.0) -> Build:
    """Run `python -m pipelines.build` on these inputs. Raises `RuntimeError` with what it printed when it fails."""
    places = [word for place in inputs for word in ("--input", str(place))]
    command = [sys.executable, "-m", "pipelines.build", *places, "--output", str(output), *overrides]
    with (
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        watched(process.pid, every_s) as watch,
    ):
        printed, _ = process.communicate()
    # 1: finished, without any pair, as videos without people give.
    if process.returncode not in (0, 1) or not (output / "measurements/run.json").is_file():
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{printed}")
    return Build(output, RunSummary.from_json((output / "measurements/run.json").read_bytes()), watch)
