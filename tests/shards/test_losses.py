"""Losses of several workers add up to the same in any order."""

from itertools import permutations

from dataengine.shards.losses import Loss, LossCount, merged


def test_counts_of_workers_add_up_in_any_order() -> None:
    counts = [LossCount(), LossCount(), LossCount()]
    counts[0].add("mask", "no masks", "b", 2)
    counts[1].add("mask", "no masks", "a")
    counts[1].add("mask", "too large", "c")
    reports = {merged(order).report("lumosx", 3).to_json() for order in permutations(counts)}
    assert len(reports) == 1
    report = merged(counts).report("lumosx", 3)
    assert report.losses == (
        Loss(what="mask", why="no masks", count=3, example="a"),
        Loss(what="mask", why="too large", count=1, example="c"),
    )
