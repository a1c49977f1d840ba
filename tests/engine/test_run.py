"""The whole stream on a real Ray: everything is measured once, whatever dies, and stored for the survey to find."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy
from dataengine.config import Resources
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.run import ClusterTooSmall, connect, each, measure, source_batches, uninterrupted
from dataengine.engine.survey import survey
from dataengine.engine.tally import Tally
from dataengine.records import Quarantined
from dataengine.store import Store, StoreError

SOURCES = [toy.source(1), toy.source(2, "broken"), toy.source(3)]

Run = Callable[..., list[Any]]


@pytest.fixture
def run(tmp_path: Path, journal: Path, ray_here: None) -> Run:
    """`run("name", workers=1, …)`: measure all sources, then what each clip came to: a fate, or size and count."""

    def measured(name: str, **behaviour: Any) -> list[Any]:
        pipeline = toy.pipeline(journal, **behaviour)
        measurements = Measurements(Store.at(tmp_path / name))
        stored = ledgers(measurements, pipeline.fingerprints)
        measure(pipeline, SOURCES, measurements, stored, Tally(), run=name)
        return verdicts(pipeline, measurements)

    return measured


def verdicts(pipeline: Pipeline, measurements: Measurements) -> list[Any]:
    standings = list(survey(pipeline, measurements, ledgers(measurements, pipeline.fingerprints), SOURCES))
    assert not any(standing.waits for standing in standings)
    return [s.cargo.fate or (s.cargo.row.clip, pipeline.finish(s.cargo.row)) for s in standings]


def test_all_rows_are_measured_once_whatever_the_workers(run: Run, journal: Path) -> None:
    first = run("one")
    assert [v.id if isinstance(v, Quarantined) else v[0].source_id for v in first] == (
        [SOURCES[0].source_id] * 3 + [SOURCES[1].source_id] + [SOURCES[2].source_id] * 3
    )
    assert isinstance(first[3], Quarantined)
    assert first[3].message == "broken2.mp4: no video stream"
    assert {v[1].detail for v in first if v is not first[3]} == {"72 144"}
    worked = len(list(journal.iterdir()))
    assert run("one", workers=2) == first
    assert len(list(journal.iterdir())) == worked, "a committed row was computed again"
    assert run("two", workers=2, batch=3) == first


def test_a_row_that_kills_its_worker_is_quarantined_alone(run: Run) -> None:
    clip = toy.cut_at(SOURCES[0], 1)
    found = run("crash", crash=(clip.clip_id,))
    fates = [v for v in found if isinstance(v, Quarantined)]
    assert [(f.id, f.error) for f in fates] == [(clip.clip_id, "ProcessCrashed"), (SOURCES[1].source_id, "BadInput")]
    assert len(found) == 7


def test_batches_in_flight_overlap_in_one_process_and_give_the_same(run: Run, journal: Path) -> None:
    alone = run("alone", batch=1)
    assert run("three", batch=1, in_flight=3, together=3) == alone
    assert len(list(journal.glob("setup-*"))) == 1


def test_workers_that_were_given_no_gpu_see_none(run: Run, journal: Path) -> None:
    run("hidden", together=1)
    assert {file.read_text() for file in journal.glob("setup-*")} == {""}


def test_who_is_worked_on_beside_a_row_that_kills_the_process_is_not_blamed(run: Run) -> None:
    clip = toy.cut_at(SOURCES[0], 0)  # it comes first, so that the crash writes itself into the note of another
    found = run("beside", batch=1, in_flight=3, together=3, crash=(clip.clip_id,))
    fates = [v for v in found if isinstance(v, Quarantined)]
    assert [(f.id, f.error) for f in fates] == [(clip.clip_id, "ProcessCrashed"), (SOURCES[1].source_id, "BadInput")]
    assert len(found) == 7


def test_a_pool_grows_to_its_most_workers(run: Run) -> None:
    assert len(run("grown", max_workers=3)) == 7


def test_results_that_cannot_be_stored_stop_the_run_with_the_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "length").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        run("full")


def test_small_sources_share_a_batch_and_a_film_has_its_own() -> None:
    small, film = toy.source(1), toy.source(2).model_copy(update={"size_bytes": 10**9})
    sizes = [len(batch) for batch in source_batches([small, small, film, small, small, small, small], 3)]
    assert sizes == [2, 1, 3, 1]
    assert list(source_batches([], 3)) == []


@pytest.mark.usefixtures("ray_here")
def test_each_keeps_order_and_tells_what_went_wrong() -> None:
    assert list(each(lambda n: n * n, range(9))) == [n * n for n in range(9)]
    assert list(each(lambda n: n, [])) == []

    def fail(item: int) -> None:
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        list(each(fail, [1, 2]))


@pytest.mark.usefixtures("ray_here")
def test_stages_that_cannot_fit_are_refused_instead_of_hanging(journal: Path) -> None:
    step = toy.pipeline(journal).clip_steps[0]
    with pytest.raises(ClusterTooSmall, match="resources"):
        connect(steps=[Step(step.stage, Resources(workers=1, cpus=0.1, gpus=1))])


def test_ctrl_c_waits_for_the_end_of_what_must_not_be_cut_off() -> None:
    ended = []
    # What a shell starts in the background ignores Ctrl-C, and these tests may be that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            ended.append(True)
        assert ended
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
