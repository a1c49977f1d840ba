"""What a restart costs when everything is there, and what remembering ten million rows costs."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from dataengine.engine.measurements import Ledger, Measurements, Outcome
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.run import connect, each
from dataengine.engine.survey import survey
from dataengine.store import Store
from engine import synthetic
from engine.processes import environment
from engine.synthetic import CLIPS, Double, Length, Picture, Size
from engine.table import Line
from pipelines.facts import Group, grouped
from pipelines.measure import fold

ROWS = 100_000
ROWS_OF_PART = 50
IDS = 10_000_000
ASKED = 100_000

_NAMES = ("length", "picture", "size", "double")


def restart(folder: Path) -> list[Line]:
    """Restart a finished run of `ROWS` clips in three stages: find that nothing is missing, decide on every clip."""
    store = Store.at(folder)
    _finish_run(store)
    _call("once", folder)  # a finished run has summaries; this writes them
    took = _call("again", folder)
    what = f"restart of {ROWS} finished rows, 3 stages, {ROWS // ROWS_OF_PART} parts a stage"
    return [
        Line(what, f"{took['work']:.1f} s", "", "", "≤ 15 s"),
        Line("the same with imports and the start of Ray", f"{took['all']:.1f} s", f"of which {took['cpu']:.1f} s cpu"),
    ]


def _finish_run(store: Store) -> None:
    sources = synthetic.sources(ROWS // CLIPS)
    pipeline = synthetic.pipeline(0.0, Path(), batch=ROWS_OF_PART)
    prints = pipeline.fingerprints
    measurements = Measurements(store.child("measurements"))
    for start in range(0, len(sources), 8):
        outcomes = [Outcome(source.source_id, Length(clips=CLIPS), 0.01, 0.01) for source in sources[start : start + 8]]
        measurements.commit("length", prints["length"], outcomes)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        work = partial(_commit, measurements, prints)
        for _ in pool.map(work, [source.source_id for source in sources], chunksize=8):
            pass


def _commit(measurements: Measurements, prints: dict[str, str], source_id: str) -> None:
    clips = synthetic.clips_of(source_id)
    for start in range(0, CLIPS, ROWS_OF_PART):
        part = clips[start : start + ROWS_OF_PART]
        for name, record in (
            ("picture", Picture(image=b"x" * 1000)),
            ("size", Size(bytes=1)),
            ("double", Double(value=2)),
        ):
            measurements.commit(name, prints[name], [Outcome(clip.clip_id, record, 0.01, 0.01) for clip in part])


def remembering() -> list[Line]:
    """Load the ledger of `IDS` rows from their summaries and look rows up."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        _summaries(Store.at(folder))
        told = _call("ledger", Path(folder))
    return [
        Line(
            f"ledger of {IDS:,} ids",
            f"{told['bytes'] / IDS:.0f} bytes/id, {told['bytes'] / 1e6:.0f} MB",
            "24 bytes/id are the ids themselves",
            f"{told['bytes'] / IDS / 24:.2f}",
        ),
        Line("loading it", f"{told['load']:.0f} s", f"peak {told['peak'] / 1e6:.0f} MB resident"),
        Line("looking rows up, 256 a call", f"{told['rate']:,.0f} ids/s", ""),
    ]


def _summaries(store: Store) -> None:
    """Ten summary files, each of a thousand parts (which are empty: a covered part is not opened)."""
    rng = np.random.default_rng(0)
    Path(store.path("toy/print")).mkdir(parents=True)
    each = IDS // 10
    for file in range(10):
        raw = rng.integers(0, 256, (each, 12), dtype=np.uint8).tobytes().hex()
        names = [f"toy/print/part-{sha256(f'{file} {part}'.encode()).hexdigest()[:16]}.parquet" for part in range(1000)]
        for name in names:
            Path(store.path(name)).touch()
        table = pa.table(
            {
                "id": pa.array([raw[at : at + 24] for at in range(0, len(raw), 24)]),
                "record": pa.array(['{"bytes":100000}'] * each),
                "failure": pa.nulls(each, pa.string()),
                "seconds": np.full(each, 0.01),
                "cpu_seconds": np.full(each, 0.01),
                "part": pa.DictionaryArray.from_arrays(np.repeat(np.arange(1000), each // 1000), names).cast(
                    pa.string()
                ),
            }
        )
        with store.open_output(f"toy/print/summary-{file:016x}.parquet") as stream:
            pq.write_table(table, stream, compression="zstd", row_group_size=256)


def _call(what: str, folder: Path) -> dict[str, float]:
    """One of the parts below in a process of its own: memory and start-up are then its alone."""
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "engine.resume", what, str(folder)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(printed.splitlines()[-1]) | {"all": time.perf_counter() - started, "cpu": cpu}


def _restarted(store: Store) -> dict[str, float]:
    pipeline = synthetic.pipeline(0.0, Path(), batch=ROWS_OF_PART)
    connect(None, pipeline.steps)
    sources = synthetic.sources(ROWS // CLIPS)
    started = time.perf_counter()
    measurements = Measurements(store.child("measurements"))
    look = partial(_decided, pipeline, measurements, (ray.put(fold(measurements, pipeline)),))
    decided = sum(each(look, grouped(sources)))
    seconds = time.perf_counter() - started
    if decided != ROWS:
        raise RuntimeError(f"{decided} of {ROWS} rows were decided on")
    return {"work": seconds}


def _decided(pipeline: Pipeline, measurements: Measurements, ledgers: tuple[ray.ObjectRef, ...], group: Group) -> int:
    standings = survey(pipeline, measurements, ray.get(ledgers[0]), group.sources)
    return sum(not standing.waits and bool(pipeline.finish(standing.cargo.row)) for standing in standings)


def _loaded(store: Store) -> dict[str, float]:
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    ledger = Measurements(store).ledger("toy", "print")
    load = time.perf_counter() - started
    held = sum(getattr(ledger, name).nbytes for name in Ledger.__dataclass_fields__ if name != "files")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    there = [ledger.ids[place].decode() for place in random.Random(0).sample(range(len(ledger)), ASKED // 2)]
    asked = [i for known in there for i in (known, known[::-1])]
    started = time.perf_counter()
    found = sum(len(ledger.has(asked[at : at + 256])) for at in range(0, ASKED, 256))
    rate = ASKED / (time.perf_counter() - started)
    if len(ledger) != IDS or found < ASKED // 2:
        raise RuntimeError(f"{len(ledger)} ids and {found} found")
    return {"bytes": held, "peak": peak, "load": load, "rate": rate}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["once", "again", "ledger"])
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    work = _loaded if chosen.what == "ledger" else _restarted
    print(json.dumps(work(Store.at(chosen.folder))))
