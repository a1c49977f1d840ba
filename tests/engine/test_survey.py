"""What is stored, what waits for which stage, what was spared: without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import toy
from dataengine.engine.cargo import from_table, of_sources, to_table
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.run import cut_table
from dataengine.engine.survey import Census, StageStanding, Standing, survey, total
from dataengine.engine.worker import StageWorker
from dataengine.records import Quarantined, Rejected
from dataengine.store import Store

SOURCES = [toy.source(1), toy.source(2, "broken"), toy.source(3)]


@pytest.fixture
def measurements(tmp_path: Path) -> Measurements:
    return Measurements(Store.at(tmp_path / "measurements"))


def measure(pipeline: Pipeline, measurements: Measurements, stages: Sequence[str], only: Sequence = SOURCES) -> None:
    """Run these stages alone, as one process."""
    stored = ledgers(measurements, pipeline.fingerprints)
    table = of_sources(only, pipeline)
    for step in pipeline.steps:
        if step in pipeline.clip_steps[:1]:
            table = cut_table(table, pipeline)
        if step.stage.name not in stages:
            return
        cargo = StageWorker(pipeline, step, measurements, stored)(table)
        table = to_table(from_table(cargo, pipeline), pipeline)


def standings(pipeline: Pipeline, measurements: Measurements) -> list[Standing]:
    return list(survey(pipeline, measurements, ledgers(measurements, pipeline.fingerprints), SOURCES))


def census(pipeline: Pipeline, found: Sequence[Standing]) -> dict[str, StageStanding]:
    counted = Census(pipeline)
    for standing in found:
        counted.add(standing)
    return counted.stages


def test_without_results_every_source_waits(measurements: Measurements, journal: Path) -> None:
    pipeline = toy.pipeline(journal)
    found = standings(pipeline, measurements)
    assert [(s.cargo.row.id, s.stage, s.waits) for s in found] == [(s.source_id, "length", True) for s in SOURCES]
    assert census(pipeline, found)["length"] == StageStanding(waiting=3)
    assert census(pipeline, found)["size"] == StageStanding(behind=3)


def test_half_done_rows_wait_for_their_next_stage(measurements: Measurements, journal: Path) -> None:
    pipeline = toy.pipeline(journal, gate=True)
    measure(pipeline, measurements, ["length"])
    measure(pipeline, measurements, ["length", "thumb"], SOURCES[:1])
    found = standings(pipeline, measurements)
    assert [s.stage for s in found] == ["size", "size", "size", "length", "thumb", "thumb", "thumb"]
    assert [s.waits for s in found] == [False, True, True, False, True, True, True]
    assert isinstance(found[0].cargo.fate, Rejected)
    assert isinstance(found[3].cargo.fate, Quarantined)
    counted = census(pipeline, found)
    assert counted["length"] == StageStanding(stored=2, failed=1)
    assert counted["thumb"] == StageStanding(stored=3, spared=1, waiting=3)
    assert counted["size"] == StageStanding(spared=2, waiting=2, behind=3)
    assert counted["count"] == StageStanding(spared=2, behind=5)


def test_results_behind_a_missing_one_are_seen(measurements: Measurements, journal: Path) -> None:
    """Here `count` does not look at what is missing, as `encode` does not look at masks."""
    pipeline = toy.pipeline(journal)
    measure(pipeline, measurements, ["length", "thumb", "size", "count"], SOURCES[:1])
    measurements.void("size", pipeline.fingerprints["size"], [toy.cut_at(SOURCES[0], 1).clip_id])
    found = standings(pipeline, measurements)
    assert [(s.stage, s.ahead) for s in found[:3]] == [(None, frozenset()), ("size", {"count"}), (None, frozenset())]
    assert census(pipeline, found)["count"] == StageStanding(stored=3, behind=2)


def test_complete_rows_carry_what_the_decision_reads(measurements: Measurements, journal: Path) -> None:
    pipeline = toy.pipeline(journal)
    measure(pipeline, measurements, ["length", "thumb", "size", "count"])
    for _ in range(2):
        found = standings(pipeline, measurements)
        done = [s.cargo.row for s in found if s.stage is None]
        assert {pipeline.finish(row).detail for row in done} == {"72 144"}
        assert [row.clip for row in done] == [c for s in (SOURCES[0], SOURCES[2]) for c in toy.cut_all(s)]
        assert done[0][toy.Thumb].image == b"", "media are not read"
        for stage, print_ in pipeline.fingerprints.items():
            measurements.fold(stage, print_)


def test_unwanted_records_are_looked_up_and_not_read(measurements: Measurements, journal: Path) -> None:
    pipeline = toy.pipeline(journal, poison=(toy.cut_at(SOURCES[0], 0).clip_id,))
    measure(pipeline, measurements, ["length", "thumb", "size", "count"])
    stored = ledgers(measurements, pipeline.fingerprints)
    found = list(survey(pipeline, measurements, stored, SOURCES, lambda step: step in pipeline.source_steps))
    assert toy.Size not in found[1].cargo.row.records
    assert census(pipeline, found) == census(pipeline, standings(pipeline, measurements))
    assert census(pipeline, found)["size"] == StageStanding(stored=5, failed=1, spared=1)


def test_totals_add_up() -> None:
    one = {"a": StageStanding(stored=1, behind=2)}
    assert total([one, one, {"b": StageStanding(waiting=1)}]) == {
        "a": StageStanding(stored=2, behind=4),
        "b": StageStanding(waiting=1),
    }
