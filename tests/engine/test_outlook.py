from __future__ import annotations

import pytest

from dataengine.config import Prices
from dataengine.engine.outlook import WINDOW_S, Pace, Watch, cost, eta, handled, seen, total
from dataengine.engine.worker import Counts


def test_cost_counts_processors_and_gpus() -> None:
    counts = {"a": Counts(seconds=3600, cpu_seconds=7200), "b": Counts(seconds=1800, cpu_seconds=0)}
    assert cost(counts, Prices(cpu_hour=0.5, gpu_hour=4), {"b": 0.25}) == pytest.approx(2 * 0.5 + 0.5 * 0.25 * 4)
    assert cost({}, Prices(), {}) == 0


def test_stored_rows_are_seen_but_not_handled() -> None:
    counts = Counts(done=5, cached=100, gated=2, quarantined=1)
    assert handled(counts) == 8
    assert seen(counts) == 108


@pytest.mark.parametrize(
    ("counts", "coming", "expected", "said"),
    [
        (Counts(), None, None, None),  # the first stage
        (Counts(done=2), 5, 40, 40),
        (Counts(done=41), 45, 40, 41),  # more came than was foreseen
        (Counts(done=2, cached=3), 10, None, 7),
        (Counts(done=9), 2, None, None),  # behind the cut: a source is many rows
    ],
)
def test_total(counts: Counts, coming: int | None, expected: int | None, said: int | None) -> None:
    assert total(counts, coming, expected) == said


def test_rows_come_through_stages_that_have_not_begun() -> None:
    watch = Watch({"probe": 3, "frames": None, "faces": None, "caption": None}, Prices(), {}, started_s=0)
    counts = {"probe": Counts(done=2), "frames": Counts(done=20, cached=5), "faces": Counts(cached=5)}
    assert [s.total for s in watch.look(counts, now_s=1).standings] == [3, None, 20, 25]


@pytest.mark.parametrize(
    ("done", "of", "rate", "seconds"),
    [
        (0, 10, 2.0, 5.0),
        (10, 10, None, 0.0),
        (0, 0, None, 0.0),
        (3, 10, None, None),
        (3, 10, 0.0, None),
        (3, None, 2.0, None),
    ],
)
def test_eta(done: int, of: int | None, rate: float | None, seconds: float | None) -> None:
    assert eta(done, of, rate) == seconds


def paced(*changes: tuple[float, int]) -> Pace:
    pace = Pace()
    for now_s, rows in changes:
        pace.note(now_s, rows)
    return pace


def test_a_rate_leaves_the_first_batch_out() -> None:
    """When its rows came, their stage may have been at them for long."""
    assert paced((100, 0)).rate(100) is None
    assert paced((100, 0), (130, 8)).rate(140) is None
    assert paced((100, 0), (130, 8), (134, 16)).rate(134) == 2
    assert paced((100, 0), (130, 8), (134, 16)).rate(138) == 1  # it has been waiting since


def test_a_rate_is_recent() -> None:
    pace = paced(*((s, s) for s in range(1, 200)), *((s, 199 + 10 * (s - 199)) for s in range(200, 400)))
    assert pace.rate(399) == 10  # not the slow start


def test_slow_rows_are_measured_over_longer_than_the_window() -> None:
    pace = paced(*((WINDOW_S * n, n) for n in range(1, 100)))
    assert pace.rate(WINDOW_S * 99) == pytest.approx(1 / WINDOW_S)


def test_an_outlook_is_that_of_the_slowest_stage() -> None:
    watch = Watch({"fast": 100, "slow": 100}, Prices(cpu_hour=36, gpu_hour=0), {}, started_s=1000)
    watch.look({"fast": Counts(done=10), "slow": Counts(done=1)}, now_s=1010)
    now = {"fast": Counts(done=30, quarantined=1), "slow": Counts(done=10, quarantined=1, cpu_seconds=100)}
    outlook = watch.look(now, now_s=1020)
    assert [s.rate for s in outlook.standings] == pytest.approx([2.1, 1.0])
    assert outlook.eta_s == pytest.approx(89)
    assert not outlook.eta_is_bound
    assert (outlook.elapsed_s, outlook.quarantined, outlook.cost) == (20, 2, pytest.approx(1))


def test_an_eta_is_a_bound_while_a_stage_is_not_known() -> None:
    def outlook(**expected: int | None) -> tuple[float | None, bool]:
        watch = Watch(expected, Prices(), {}, started_s=0)
        watch.look({"probe": Counts(done=1)}, now_s=1)
        seen = watch.look({"probe": Counts(done=2)}, now_s=2)
        return seen.eta_s, seen.eta_is_bound

    assert outlook(probe=10) == (8, False)
    assert outlook(probe=10, shots=10) == (8, True)  # its pace is not known
    assert outlook(probe=10, shots=0) == (8, False)
    assert outlook(probe=10, frames=None) == (8, True)
    assert outlook(frames=None) == (None, True)


def test_a_finished_run_has_nothing_left() -> None:
    watch = Watch({"probe": 10, "frames": None}, Prices(), {}, started_s=0)
    counts = {"probe": Counts(done=6), "frames": Counts(done=30)}
    outlook = watch.look(counts, now_s=1, finished=True)
    assert [(s.handled, s.total, s.eta_s) for s in outlook.standings] == [(6, 6, 0), (30, 30, 0)]
    assert (outlook.eta_s, outlook.eta_is_bound) == (0, False)
