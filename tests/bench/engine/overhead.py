"""The engine's part of a row's time, and the same stages written directly in Ray Data.

The direct form is what one would write without this project: the same pools, batches and work, and the results in
parquet at the end; nothing is stored in between, nothing resumes, a bad row stops all. Each form runs in a process of
its own, watched from outside.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.run import connect, measure
from dataengine.engine.tally import Tally
from dataengine.store import Store
from engine import synthetic
from engine.processes import environment
from engine.synthetic import CLIPS, IMAGE_BYTES, Span, burn
from engine.table import Line
from process_tree import watched

BATCH = 8
NO_OP_SOURCES, WORK_SOURCES = 20, 3
WORK_S = 0.05
"""Processor seconds a row and stage of the realistic case. The embedded clip stages take 0.4 s in all at this size of
picture for the cheapest rows; a network on a GPU takes more."""


def compare() -> list[Line]:
    lines = []
    for title, count, cpu_s in (("no-op stages", NO_OP_SOURCES, 0.0), ("stages of 50 ms", WORK_SOURCES, WORK_S)):
        rows = count * CLIPS
        took = {form: _run(form, count, cpu_s) for form in ("engine", "direct")}
        for unit, index in (("wall", 0), ("cpu", 1)):
            ours, peer = took["engine"][index] / rows * 1000, took["direct"][index] / rows * 1000
            lines.append(
                Line(
                    f"three {title}, {rows} rows: {unit}",
                    f"{ours:.2f} ms/row",
                    f"direct Ray Data {peer:.2f} ms/row",
                    f"{ours / peer:.2f}",
                    "≤ 1.15" if cpu_s else "",
                )
            )
    return lines


def _run(form: str, count: int, cpu_s: float) -> tuple[float, float]:
    """Seconds of the clock from the first row to the last, and of the processor in the whole tree meanwhile."""
    command = [sys.executable, "-m", "engine.overhead", form, str(count), str(cpu_s)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process,
        watched(process.pid) as watch,
    ):
        printed, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    start, end = json.loads(printed.splitlines()[-1])
    return end - start, watch.load(start, end).cpu_s


def engine(count: int, cpu_s: float, folder: Path, spans: Path) -> None:
    pipeline = synthetic.pipeline(cpu_s, spans, BATCH)
    connect(None, pipeline.steps)
    measurements = Measurements(Store.at(folder).child("measurements"))
    stored = ledgers(measurements, pipeline.fingerprints)
    measure(pipeline, synthetic.sources(count), measurements, stored, Tally(), "bench")


def direct(count: int, cpu_s: float, folder: Path, spans: Path) -> None:
    connect(None, synthetic.pipeline(cpu_s, spans, BATCH).steps)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    pool: dict[str, Any] = {"compute": ActorPoolStrategy(size=1), "num_cpus": 0.25}
    data = ray.data.from_items([{"source": source.source_id} for source in synthetic.sources(count)])
    data = data.repartition(count)
    data = data.map_batches(_Length, batch_size=1, fn_constructor_args=(spans,), **pool)
    data = data.flat_map(_clips, num_cpus=0.1).repartition(target_num_rows_per_block=BATCH)
    for stage in (_Picture, _Size, _Double):
        data = data.map_batches(stage, batch_size=BATCH, fn_constructor_args=(spans, cpu_s), **pool)
    data.write_parquet(str(folder))


def _clips(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"source": row["source"], "clip": clip.clip_id} for clip in synthetic.clips_of(row["source"])]


class _Direct:
    def __init__(self, spans: Path, cpu_s: float = 0.0) -> None:
        self.cpu_s, self.span = cpu_s, Span(spans)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        started = time.time()
        rows = [self.one({name: column[i] for name, column in batch.items()}) for i in range(len(batch["source"]))]
        self.span.note(started)
        return {name: [row[name] for row in rows] for name in rows[0]}

    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class _Length(_Direct):
    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"clips": CLIPS}


class _Picture(_Direct):
    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        burn(self.cpu_s)
        return row | {"image": bytes(IMAGE_BYTES)}


class _Size(_Direct):
    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        burn(self.cpu_s)
        return row | {"bytes": len(row["image"])}


class _Double(_Direct):
    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        burn(self.cpu_s)
        return row | {"value": 2 * int(row["bytes"])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("form", choices=["engine", "direct"])
    parser.add_argument("count", type=int)
    parser.add_argument("cpu_s", type=float)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as out, tempfile.TemporaryDirectory(prefix="bench-") as noted:
        run = engine if chosen.form == "engine" else direct
        run(chosen.count, chosen.cpu_s, Path(out), Path(noted))
        print(json.dumps(synthetic.span(Path(noted))))
