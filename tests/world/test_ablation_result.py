"""Shares, intervals, changes and order, from readings that are known."""

from __future__ import annotations

import pytest

from dataengine.world.ablation import ARC_SIM, VARIANTS
from dataengine.world.ablation_reading import Reading
from dataengine.world.ablation_result import Ablation, Readings, summed_up


def reading(subjects: int, bound: int) -> Reading:
    return Reading(
        subjects=subjects,
        bound=bound,
        placed=1,
        shown=bound,
        faces=bound,
        garments=subjects,
        background=0.5,
        rise=0.1 if bound else -0.3,
    )


def runs(bound_of_three: int, seeds: int = 3, pairs: int = 30) -> list[list[Reading]]:
    return [[reading(3, bound_of_three) if i % 2 else reading(2, 1) for i in range(pairs)] for _ in range(seeds)]


def made(bound: list[int]) -> Ablation:
    found = [Readings(v.name, True, runs(b)) for v, b in zip(VARIANTS, bound, strict=True)]
    found.append(Readings("true pictures", False, runs(3, seeds=1)))
    return summed_up(found, size="small", seeds=range(3), base_steps=5, steps=2, cpu_minutes=1.25)


def test_shares_are_of_people_and_by_their_number() -> None:
    row = made([0, 1, 1, 1, 3, 2]).row("+MCAM r=0.5")
    assert row.runs == 3
    assert row.share("binding").value == pytest.approx((15 * 3 + 15) / (15 * 3 + 15 * 2))
    assert (row.share("of two").value, row.share("of three").value) == (0.5, 1.0)
    assert row.share("preferred").value == 1 and row.share("rise").value == pytest.approx(0.1)
    assert row.share("placed").value == pytest.approx(30 / 75)
    assert row.share("garments").value == 1.0 and row.share("background").value == 0.5


def test_what_is_certain_has_no_interval_and_what_is_not_has_one() -> None:
    row = made([0, 1, 1, 1, 3, 2]).row("none")
    two, all_ = row.share("of two"), row.share("binding")
    assert two.low == two.value == two.high
    assert all_.low < all_.value < all_.high


def test_seeds_count_for_the_interval_as_pairs_do() -> None:
    """Runs that differ among each other make it wider than equal ones with the same mean."""

    def interval(per_run: list[int]) -> float:
        found = [Readings(v.name, True, [[reading(3, b)] * 40 for b in per_run]) for v in VARIANTS]
        share = summed_up(found, size="small", seeds=range(3), base_steps=1, steps=1, cpu_minutes=0).rows[0]
        return share.share("binding").high - share.share("binding").low

    assert interval([0, 1, 2]) > 0.3 and interval([1, 1, 1]) == 0


def test_changes_are_within_the_same_pairs() -> None:
    found = made([0, 1, 1, 1, 3, 2])
    change = {(step.before, step.after): step for step in found.steps_between if step.measure == "binding"}
    assert len(found.steps_between) == 2 * len(change)
    assert change["+R2PE", "+CSAM"].change == change["+R2PE", "+CSAM"].low == change["+R2PE", "+CSAM"].high == 0
    gained = change["none", "+MCAM r=0.5"]
    assert gained.low > 0 and gained.change == pytest.approx(45 / 75)


def test_the_papers_order_has_a_rank_correlation_of_one() -> None:
    ranked = [sorted(ARC_SIM).index(value) for value in ARC_SIM]  # equal values get equal places
    assert made([min(place, 3) if place < 4 else 3 for place in ranked]).rank_correlation > 0.8
    assert made([3, 1, 1, 1, 0, 0]).rank_correlation < -0.8
    assert made([1] * 6).rank_correlation == 0


def test_it_comes_back_from_json() -> None:
    found = made([0, 1, 1, 1, 3, 2])
    assert Ablation.from_json(found.to_json()) == found
    assert found.row("true pictures").runs == 0
