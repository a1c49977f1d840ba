"""Predictions: how many rows will come to each stage, and what they take."""

from __future__ import annotations

from pathlib import Path

import pytest

import toy
from dataengine.config import Prices
from dataengine.engine.measurements import Measurements, Outcome
from dataengine.engine.plan import Plan, Rate, Unseen, before_gates, predict, stored_rate
from dataengine.engine.survey import StageStanding
from dataengine.store import Store

PRICES = Prices(cpu_hour=1, gpu_hour=10)
RATES: dict[str, Rate | None] = {
    "length": Rate(10, 10, 0),
    "thumb": Rate(1, 2, 1000),
    "size": Rate(3, 1, 10),
    "count": Rate(1, 1, 10),
}


def todo(plan: Plan) -> dict[str, float | None]:
    return {stage.stage: stage.todo for stage in plan.stages}


def planned(standings: dict[str, StageStanding], unseen: Unseen | None = None, **changes) -> Plan:
    return predict(toy.pipeline(Path()), standings, unseen or Unseen(), {**RATES, **changes}, cores=2, prices=PRICES)


def test_a_new_prompt_counts_the_rows_that_passed_the_gate_and_no_others() -> None:
    plan = planned(
        {
            "length": StageStanding(stored=4),
            "thumb": StageStanding(stored=10),
            "size": StageStanding(waiting=6, spared=4),
            "count": StageStanding(behind=4, stored=2, spared=4),
        }
    )
    assert todo(plan) == {"length": 0, "thumb": 0, "size": 6, "count": 4}
    assert [s.exact for s in plan.stages] == [True, True, True, False]
    assert plan.wall_s == pytest.approx(18 + 6), "the slowest pool, six rows of 3 s, and a batch of it before the next"


def test_new_sources_are_expected_to_be_like_the_others() -> None:
    plan = planned(
        {
            "length": StageStanding(stored=4, waiting=2),
            "thumb": StageStanding(stored=20, behind=2),
            "size": StageStanding(stored=14, failed=1, spared=5, behind=2),
            "count": StageStanding(stored=14, spared=6, behind=2),
        },
        Unseen(sources=2, bytes=500, known_clips=20, known_bytes=1000),
    )
    assert todo(plan) == {"length": 2, "thumb": 10, "size": pytest.approx(7.5), "count": pytest.approx(7.5)}
    cpu = 2 * 10 + 10 * 2 + 7.5 + 7.5
    filling = 2 * 10 + 2 * 1 + 2 * 3
    assert plan.wall_s == pytest.approx(max(cpu / 2, 7.5 * 3) + filling)
    assert plan.cost == pytest.approx(cpu / 3600)
    assert plan.bytes == pytest.approx(10_000 + 75 + 75)


def test_what_cannot_be_told_is_said() -> None:
    nothing = {name: StageStanding(behind=3) for name in ("thumb", "size", "count")}
    plan = planned({"length": StageStanding(waiting=3), **nothing}, Unseen(sources=3, bytes=9))
    assert todo(plan) == {"length": 3, "thumb": None, "size": None, "count": None}
    assert plan.unknown == ("thumb", "size", "count")
    assert not plan.idle
    stored = {name: StageStanding(stored=3) for name in RATES}
    assert planned({**stored, "count": StageStanding(waiting=3)}, count=None).unknown == ("count",)


def test_nothing_to_do_is_idle_and_free() -> None:
    plan = planned({name: StageStanding(stored=3) for name in RATES})
    assert plan.idle
    assert (plan.wall_s, plan.cost, plan.bytes, plan.unknown) == (0, 0, 0, ())


def test_rates_are_means_of_stored_results_without_failures(tmp_path: Path) -> None:
    measurements = Measurements(Store.at(tmp_path))
    assert stored_rate(measurements, "size", [measurements.ledger("size", "f")]) is None
    size = measurements.commit(
        "size", "f", [Outcome(f"{i:024d}", toy.Size(bytes=1), seconds=i, cpu_seconds=2 * i) for i in (1, 3)]
    )
    assert stored_rate(
        measurements, "size", [measurements.ledger("size", "none"), measurements.ledger("size", "f")]
    ) == Rate(seconds=2, cpu_seconds=4, bytes=size / 2)


def test_a_plan_reads_what_gates_and_the_cut_need(tmp_path: Path) -> None:
    assert before_gates(toy.pipeline(tmp_path)) == {"length"}
    assert before_gates(toy.pipeline(tmp_path, gate=True)) == {"length", "thumb"}
