"""A stage at work, without Ray: reuse, isolation of bad rows, time limits, gates, what is committed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import toy
from dataengine.engine import worker as worker_module
from dataengine.engine.cargo import Cargo, from_table, to_table
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.worker import Counts, StageWorker
from dataengine.records import Clip, Quarantined, Rejected
from dataengine.stage import Outage, Row
from dataengine.store import Store

CLIPS = [Clip.of(toy.source(1).source_id, float(s), float(s + 1)) for s in range(4)]


class Bench:
    """Runs the clip stages of a toy pipeline in order, as one process."""

    def __init__(self, folder: Path, journal: Path) -> None:
        self.measurements = Measurements(Store.at(folder / "measurements"))
        self.journal = journal
        self.counts: dict[str, Counts] = {}

    def run(self, pipeline: Pipeline) -> list[Cargo]:
        stored = ledgers(self.measurements, pipeline.fingerprints)
        table = to_table([Cargo(Row(toy.source(1), clip)) for clip in CLIPS], pipeline)
        self.counts = {}
        for step in pipeline.clip_steps:
            table = StageWorker(pipeline, step, self.measurements, stored, self.counts.__setitem__)(table)
        return from_table(table, pipeline)

    def calls(self) -> Counter[str]:
        """Rows each stage worked on since the last look."""
        calls = _calls(self.journal)
        for file in self.journal.iterdir():
            file.unlink()
        return calls


@pytest.fixture
def bench(tmp_path: Path, journal: Path) -> Bench:
    return Bench(tmp_path, journal)


def details(bench: Bench, pipeline: Pipeline) -> list[Any]:
    """Run it: what stopped each row, or its size and count as they were stored."""
    cargo = bench.run(pipeline)
    stored = ledgers(bench.measurements, pipeline.fingerprints)
    ids = [clip.clip_id for clip in CLIPS]
    sizes, counts = (bench.measurements.records(stored[stage], ids) for stage in ("size", "count"))
    return [
        c.fate or (sizes[i].result(toy.Size).bytes, counts[i].result(toy.Count).doubled)  # type: ignore[union-attr]
        for i, c in zip(ids, cargo, strict=True)
    ]


def test_rows_are_measured_in_order_and_once(bench: Bench) -> None:
    assert details(bench, toy.pipeline(bench.journal)) == [(72, 144)] * 4
    assert bench.calls() == {"thumb": 4, "size": 4, "count": 4}
    again = bench.run(toy.pipeline(bench.journal))
    assert [c.row.clip for c in again] == CLIPS
    assert bench.calls() == {}
    assert bench.counts["size"] == Counts(cached=4)


def test_a_new_prompt_reruns_that_stage_and_what_follows_it(bench: Bench) -> None:
    bench.run(toy.pipeline(bench.journal))
    bench.calls()
    bench.run(toy.pipeline(bench.journal, count_prompt="new"))
    assert bench.calls() == {"count": 4}
    # The size stage reads the stored thumbs' blobs back.
    assert details(bench, toy.pipeline(bench.journal, prompt="new")) == [(72, 144)] * 4
    assert bench.calls() == {"size": 4, "count": 4}


def test_one_bad_row_is_quarantined_alone_and_stays_so(bench: Bench) -> None:
    bad = CLIPS[1].clip_id
    for calls in ({"thumb": 4, "size": 2 + 4 + 2, "count": 3}, {}):
        fates = [c.fate for c in bench.run(toy.pipeline(bench.journal, batch=4, poison=(bad,)))]
        assert [f is None for f in fates] == [True, False, True, True]
        assert isinstance(fates[1], Quarantined)
        assert (fates[1].id, fates[1].stage, fates[1].error) == (bad, "size", "RuntimeError")
        assert "cannot look at this one" in fates[1].message
        assert (fates[1].start_s, fates[1].source_names) == (1.0, ("video1.mp4",))
        # The whole batch of four is tried (two rows until the bad one), then each row alone.
        assert sum(bench.calls().values()) == pytest.approx(sum(calls.values()), abs=2)


def test_a_hanging_row_is_quarantined_alone(bench: Bench) -> None:
    cargo = bench.run(toy.pipeline(bench.journal, hang=(CLIPS[2].clip_id,), row_timeout_s=0.2))
    assert [c.fate is None for c in cargo] == [True, True, False, True]
    fate = cargo[2].fate
    assert isinstance(fate, Quarantined)
    assert fate.error == "RowTimeout"
    assert "row_timeout_s" in fate.message


def test_a_gate_spares_later_stages_and_keeps_the_reason(bench: Bench) -> None:
    cargo = bench.run(toy.pipeline(bench.journal, gate=True))
    assert bench.calls() == {"thumb": 4, "size": 3, "count": 3}
    assert isinstance(cargo[0].fate, Rejected)
    assert cargo[0].fate.rule == "first"
    assert bench.counts["count"].gated == 1


def test_transient_errors_are_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.001)
    pipeline = toy.pipeline(bench.journal)
    stage, failures = pipeline.clip_steps[1].stage, [ConnectionError("reset"), TimeoutError("silent")]
    process = stage.process

    def flaky(rows: Sequence[Row]) -> Any:
        if failures:
            raise failures.pop()
        return process(rows)

    stage.process = flaky  # type: ignore[method-assign]
    assert details(bench, pipeline) == [(72, 144)] * 4


def test_blobs_travel_only_as_far_as_they_are_read(bench: Bench) -> None:
    pipeline = toy.pipeline(bench.journal)
    stored = ledgers(bench.measurements, pipeline.fingerprints)
    table = to_table([Cargo(Row(toy.source(1), clip)) for clip in CLIPS], pipeline)
    thumb, size, count = pipeline.clip_steps
    table = StageWorker(pipeline, thumb, bench.measurements, stored)(table)
    assert table["thumb:blobs"].to_pylist() == [[c.clip_id.encode() * 3] for c in CLIPS]
    table = StageWorker(pipeline, size, bench.measurements, stored)(table)
    assert table["thumb"].null_count == table["thumb:blobs"].null_count == 4
    assert table["size"].null_count == 0
    table = StageWorker(pipeline, count, bench.measurements, stored)(table)
    assert table["size"].null_count == table["count"].null_count == 4, "what nobody looks at stays in the store"


def test_a_batch_that_ray_runs_again_finds_what_it_did(bench: Bench) -> None:
    """A node's death makes Ray repeat a batch whose results were committed after the ledgers were read."""
    pipeline = toy.pipeline(bench.journal)
    nothing = ledgers(bench.measurements, pipeline.fingerprints)
    table = to_table([Cargo(Row(toy.source(1), clip)) for clip in CLIPS], pipeline)
    worker = StageWorker(pipeline, pipeline.clip_steps[0], bench.measurements, nothing)
    assert worker(table) == worker(table)
    assert bench.calls() == {"thumb": 4}


def test_an_error_of_the_system_is_no_rows_fault(bench: Bench) -> None:
    pipeline = toy.pipeline(bench.journal, full_disk=(CLIPS[0].clip_id,))
    with pytest.raises(OSError, match="No space left"):
        bench.run(pipeline)


def test_an_outage_stops_the_run_and_quarantines_nobody(bench: Bench) -> None:
    with pytest.raises(Outage, match="the server is away"):
        bench.run(toy.pipeline(bench.journal, outage=(CLIPS[0].clip_id,)))
    fates = [item.fate for item in bench.run(toy.pipeline(bench.journal))]
    assert not any(isinstance(fate, Quarantined) for fate in fates)


DIES = """
import sys
from pathlib import Path
import toy
from dataengine.engine.cargo import Cargo, to_table
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.witness import Witness
from dataengine.engine.worker import StageWorker
from dataengine.records import Clip
from dataengine.stage import Row
from dataengine.store import Store
folder, how, row = sys.argv[1:]
pipeline = toy.pipeline(Path(folder) / "journal", row_timeout_s=0.2, **{how: (row,)})
clips = [Clip.of(toy.source(1).source_id, float(s), float(s + 1)) for s in range(4)]
measurements = Measurements(Store.at(Path(folder) / "measurements"))
stored = ledgers(measurements, pipeline.fingerprints)
table = to_table([Cargo(Row(toy.source(1), clip)) for clip in clips], pipeline)
for step in pipeline.clip_steps:
    table = StageWorker(pipeline, step, measurements, stored, witness=Witness("run", Path(folder) / "notes"))(table)
"""


@pytest.mark.parametrize(
    ("how", "error", "message", "deaths"),
    [
        ("crash", "ProcessCrashed", "Segmentation fault", 2),
        ("kill", "ProcessKilled", "3 processes were killed", 4),
        ("hang", "RowTimeout", "still running after 0.2 s", 2),
    ],
)
def test_a_row_that_takes_its_process_along_is_quarantined_alone(
    tmp_path: Path, how: str, error: str, message: str, deaths: int
) -> None:
    """Once in its batch, then alone, as often as its guilt needs; the process is started anew as Ray does it."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "notes").mkdir()
    command = [sys.executable, "-c", DIES, str(tmp_path), how, CLIPS[2].clip_id]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    codes = []
    while not codes or codes[-1]:
        assert len(codes) <= deaths, "it is blamed too late"
        codes.append(subprocess.run(command, env=environment, capture_output=True, check=False).returncode)
    assert len(codes) == deaths + 1
    measurements = Measurements(Store.at(tmp_path / "measurements"))
    stored = ledgers(measurements, toy.pipeline(tmp_path).fingerprints)
    assert stored["count"].has([c.clip_id for c in CLIPS]) == {c.clip_id for c in CLIPS if c is not CLIPS[2]}
    fate = measurements.records(stored["size"], [CLIPS[2].clip_id])[CLIPS[2].clip_id].result(toy.Size)
    assert isinstance(fate, Quarantined)
    assert fate.error == error
    assert message in fate.message
    assert not list((tmp_path / "notes").iterdir())
    assert not (set(calls := _calls(tmp_path / "journal")) - {"thumb", "size", "count"})
    assert calls["thumb"] == 4, "what was committed before the crash is not computed again"


def _calls(journal: Path) -> Counter[str]:
    return Counter(file.name.split("-")[0] for file in journal.iterdir())
