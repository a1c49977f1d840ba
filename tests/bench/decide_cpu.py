"""Deciding on a hundred thousand measured clips: from measurements, again from facts, and what-if.

All on one core but what-if, which has a process a core (the CPU seconds are those of all).

Beside the bound that reading the same measurements as JSON sets, in the same run. `--clips 10000` is quicker.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path += [str(Path(__file__).parents[1])]

from dataengine.config import BuildSettings
from dataengine.decide.cross_clip import Appearance, find_swaps
from dataengine.decide.duplicates import surplus
from dataengine.engine.measurements import Ledger, Measurements, ledgers
from dataengine.engine.sources import Sources
from dataengine.records import Box, Clip, Probe, RunSummary, ShotScores, SourceVideo
from dataengine.shards.card import RUN
from dataengine.store import Store
from engine.processes import environment
from engine.table import Line, show
from pipelines.decide import decide_group
from pipelines.facts import FactStore, grouped
from pipelines.inventory import read_inventory, write_inventory
from pipelines.stages import Decisions, compose
from pipelines.whatif import what_if

CLIPS_OF_SOURCE = 10
RULES = ("filters.face_min_px=41", "filters.clip_min_motion=0.2", "filters.owner_min_share=0.95")


def make(out: Path, clips: int) -> None:
    """Measurements of so many clips with two people each, as summaries: the shapes of tests/conftest.py, drawn once."""
    import conftest

    from drawn import DrawnClip, records

    settings, store = BuildSettings(), Store.at(out)
    pipeline = compose(settings)
    _, drawn = records(0, conftest.measured(0), DrawnClip())
    seconds = 10.0 * CLIPS_OF_SOURCE
    drawn[Probe] = Probe(
        width=320, height=180, rotation=0, duration_s=seconds, fps=12, frames=120, codec="h264",
        pixel_format="yuv420p", bit_depth=8,
    )  # fmt: skip
    drawn[ShotScores] = ShotScores(
        detector="drawn", floor=0.02, frame_s=1 / 12, duration_s=seconds, scores=(), content=Box(0, 0, 320, 180)
    )
    videos = tuple(
        SourceVideo(source_id=f"{n:024x}", uri=f"/bench/{n}.mp4", names=(f"{n}.mp4",), size_bytes=1)
        for n in range(clips // CLIPS_OF_SOURCE)
    )
    ids = {
        True: [video.source_id for video in videos],
        False: [
            Clip.of(video.source_id, 10.0 * at, 10.0 * at + 10).clip_id
            for video in videos
            for at in range(CLIPS_OF_SOURCE)
        ],
    }
    motion = np.random.default_rng(0).uniform(0.05, 0.6, clips)
    for step in pipeline.steps:
        name = step.stage.name
        of_stage = ids[step in pipeline.source_steps]
        text = drawn[step.stage.writes].pack()[0]
        rows = [text] * len(of_stage)
        if name == "quality":
            rows = [text.replace('"motion":0.2', f'"motion":{value:.4f}') for value in motion]
        folder = f"{name}/{pipeline.fingerprints[name]}"
        part = f"{folder}/part-0000000000000000.parquet"
        store.child("measurements").write(part, b"")
        for start in range(0, len(rows), 20_000):
            held = rows[start : start + 20_000]
            table = pa.table(
                {
                    "id": of_stage[start : start + 20_000],
                    "record": held,
                    "failure": pa.nulls(len(held), pa.string()),
                    "seconds": np.full(len(held), 0.1),
                    "cpu_seconds": np.full(len(held), 0.1),
                    "part": [part] * len(held),
                }
            )
            with store.open_output(f"measurements/{folder}/summary-{start:016x}.parquet") as stream:
                pq.write_table(table, stream, compression="zstd", row_group_size=256)
    write_inventory(store, Sources(videos, (), 0))
    summary = RunSummary(
        sources=len(videos), duplicates=0, skipped=0, clips=clips, pairs=clips, subjects=0, quarantined=0, rejected={},
        stages=(), wall_s=0, measuring_s=0, cost=0, inputs=(), config=settings.model_dump(mode="json"),
    )  # fmt: skip
    store.write(RUN, summary.to_json().encode())


def parsing(out: Path) -> int:
    """The bound: every record of every clip read as JSON into its record, and nothing decided."""
    pipeline, stored = _opened(out)
    measurements = Measurements(Store.at(out).child("measurements"))
    # In the order in which they lie in the files, as deciding reads them.
    order = np.lexsort((stored["caption"].row, stored["caption"].file))
    ids = [i.decode() for i in stored["caption"].ids[order].tolist()]
    for start in range(0, len(ids), 1024):
        for step in pipeline.clip_steps:
            for found in measurements.records(stored[step.stage.name], ids[start : start + 1024]).values():
                found.result(step.stage.writes)
    return len(ids)


def deciding(out: Path) -> int:
    """The pass over all groups that `dataengine decide` makes, without Ray and without packing."""
    settings = BuildSettings()
    decisions = Decisions.of(settings)
    pipeline, stored = _opened(out)
    facts = FactStore(Store.at(out), pipeline, decisions.signed(pipeline))
    groups = grouped(read_inventory(Store.at(out)).videos)
    for group in groups:
        reached = decide_group(facts, stored, group)
        assert not reached.waiting
    return sum(len(group.sources) for group in groups) * CLIPS_OF_SOURCE


def asking(out: Path) -> int:
    found = what_if(str(out), RULES)
    assert found.kept == found.clips and all(change.removed for change in found.changes)
    return found.clips


def duplicates(out: Path) -> int:
    """Near duplicates among random hashes with a tenth planted."""
    rng = np.random.default_rng(0)
    count = json.loads((out / "clips.json").read_text())
    hashes = rng.integers(0, 2**63, (count, 3), dtype=np.uint64)
    hashes[: count // 10] = hashes[-(count // 10) :] ^ np.uint64(0b101)
    found = surplus({f"{i:08}": [f"{h:016x}" for h in row] for i, row in enumerate(hashes.tolist())}, 6)
    assert len(found) >= count // 10
    return count


def partners(out: Path) -> int:
    """Cross-clip partners for everybody, ten clips a person."""
    rng = np.random.default_rng(0)
    count = json.loads((out / "clips.json").read_text())
    faces = rng.standard_normal((count // 10, 1, 512)) / 512**0.5 + 0.6 * rng.standard_normal((1, 10, 512)) / 512**0.5
    faces = (faces / np.linalg.norm(faces, axis=2, keepdims=True)).astype(np.float32).reshape(-1, 512)
    people = [Appearance(f"{i:08}", "", "train", 0, i // 10, face) for i, face in enumerate(faces)]
    rules = BuildSettings().decide.pairs.model_copy(update={"cross_clip_share": 1.0})
    assert len(find_swaps(people, rules, 0)) > 0.9 * len(people)
    return len(people)


PARTS: dict[str, Callable[[Path], int]] = {
    "parsing": parsing,
    "first": deciding,
    "again": deciding,
    "what-if": asking,
    "duplicates": duplicates,
    "partners": partners,
}


def _opened(out: Path) -> tuple:
    pipeline = compose(BuildSettings())
    stored: dict[str, Ledger] = ledgers(Measurements(Store.at(out).child("measurements")), pipeline.fingerprints)
    return pipeline, stored


def _cpu_s() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(
        r.ru_utime + r.ru_stime for r in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _peak_mb() -> float:
    """Of this process; `ru_maxrss` would count what it was before it was told what to run."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _call(part: str, out: Path) -> dict[str, float]:
    """In a process of its own: its memory is then its alone."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(out)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.part:
        started, cpu = time.perf_counter(), _cpu_s()
        clips = PARTS[given.part](given.folder)
        print(
            json.dumps(
                {
                    "clips": clips,
                    "wall": time.perf_counter() - started,
                    "cpu": _cpu_s() - cpu,
                    "peak": _peak_mb(),
                }
            )
        )
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder)
        make(out, given.clips)
        (out / "clips.json").write_text(json.dumps(given.clips))
        told = {part: _call(part, out) for part in PARTS}
        size = sum(file.stat().st_size for file in (out / "measurements" / "facts").rglob("*.parquet"))
    bound = told["parsing"]["cpu"]
    names = {
        "parsing": "reading the measurements as JSON, no decision (the bound)",
        "first": "deciding from measurements: facts are made and stored",
        "again": "deciding again from facts: every pair written",
        "what-if": f"what-if of {len(RULES)} rules, alone and together: {len(RULES) + 2} passes",
        "duplicates": "near duplicates, a tenth planted",
        "partners": "cross-clip partners, ten clips a person",
    }
    show(
        f"deciding on {given.clips:,} clips of two people; facts take {size / given.clips:.0f} bytes a clip",
        [
            Line(
                names[part],
                f"{t['cpu']:.1f} CPU s, {t['wall']:.1f} s, {t['clips'] / t['cpu']:,.0f} clips/s, {t['peak']:.0f} MB",
                f"{bound:.1f} s to read JSON" if part in ("first", "again", "what-if") else "",
                f"{t['cpu'] / bound:.2f}" if part in ("first", "again", "what-if") else "",
            )
            for part, t in told.items()
        ],
    )


if __name__ == "__main__":
    main()
