"""A stage at work, without Ray: reuse, isolation of bad rows, time limits, gates, what is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import toy
from dataengine.engine import worker as worker_module
from dataengine.engine.cargo import Cargo, from_table, to_table
from dataengine.engine.measurements import Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.worker import Counts, StageWorker
from dataengine.records import Clip, Quarantined, Rejected
from dataengine.stage import Row
from dataengine.store import Store

CLIPS = [Clip.of(toy.source(1).source_id, float(s), float(s + 1)) for s in range(4)]


class Bench:
    """Runs the clip stages of a toy pipeline in order, as one process."""

    def __init__(self, folder: Path, journal: Path) -> None:
        self.measurements = Measurements(Store.at(folder / "measurements"))
        self.journal = journal
        self.counts: dict[str, Counts] = {}

    def run(self, pipeline: Pipeline) -> list[Cargo]:
        committed = {n: self.measurements.committed(n, f) for n, f in pipeline.fingerprints.items()}
        table = to_table([Cargo(Row(toy.source(1), clip)) for clip in CLIPS], pipeline)
        self.counts = {}
        for step in pipeline.clip_steps:
            table = StageWorker(pipeline, step, self.measurements, committed, self.counts.__setitem__)(table)
        return from_table(table, pipeline)

    def calls(self) -> Counter[str]:
        """Rows each stage worked on since the last look."""
        files = list(self.journal.iterdir())
        for file in files:
            file.unlink()
        return Counter(file.name.split("-")[0] for file in files)


@pytest.fixture
def bench(tmp_path: Path, journal: Path) -> Bench:
    return Bench(tmp_path, journal)


def details(cargo: Sequence[Cargo]) -> list[Any]:
    return [c.fate or (c.row[toy.Size].bytes, c.row[toy.Count].doubled) for c in cargo]


def test_rows_are_measured_in_order_and_once(bench: Bench) -> None:
    first = bench.run(toy.pipeline(bench.journal))
    assert details(first) == [(72, 144)] * 4
    assert [c.row.clip for c in first] == CLIPS
    assert bench.calls() == {"thumb": 4, "size": 4, "count": 4}
    again = bench.run(toy.pipeline(bench.journal))
    assert details(again) == details(first)
    assert bench.calls() == {}
    assert bench.counts["size"] == Counts(cached=4)


def test_a_new_prompt_reruns_that_stage_and_what_follows_it(bench: Bench) -> None:
    bench.run(toy.pipeline(bench.journal))
    bench.calls()
    bench.run(toy.pipeline(bench.journal, count_prompt="new"))
    assert bench.calls() == {"count": 4}
    # The size stage reads the stored thumbs' blobs back.
    assert details(bench.run(toy.pipeline(bench.journal, prompt="new"))) == [(72, 144)] * 4
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
    stage, failures = pipeline.clip_steps[1].stage, [ConnectionError("reset"), ConnectionError("reset")]
    process = stage.process

    def flaky(rows: Sequence[Row]) -> Any:
        if failures:
            raise failures.pop()
        return process(rows)

    stage.process = flaky  # type: ignore[method-assign]
    assert details(bench.run(pipeline)) == [(72, 144)] * 4


def test_blobs_travel_only_as_far_as_they_are_read(bench: Bench) -> None:
    pipeline = toy.pipeline(bench.journal)
    committed = {n: bench.measurements.committed(n, f) for n, f in pipeline.fingerprints.items()}
    table = to_table([Cargo(Row(toy.source(1), clip)) for clip in CLIPS], pipeline)
    thumb, size, _ = pipeline.clip_steps
    table = StageWorker(pipeline, thumb, bench.measurements, committed)(table)
    assert table["thumb:blobs"].to_pylist() == [[c.clip_id.encode() * 3] for c in CLIPS]
    table = StageWorker(pipeline, size, bench.measurements, committed)(table)
    assert table["thumb"].null_count == table["thumb:blobs"].null_count == 4
    assert table["size"].null_count == 0
