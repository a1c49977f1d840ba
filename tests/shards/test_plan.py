"""Which sample goes where: depends on the set of names alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.config import ShardSettings
from dataengine.shards.plan import SampleName, ShardPlan, plan_shards


def test_a_set_for_every_split_and_number_of_subjects():
    names = [SampleName("train", 2, key) for key in "edcba"] + [SampleName("val", 2, "f"), SampleName("train", 1, "g")]
    assert plan_shards(names, ShardSettings(samples=2)) == (
        ShardPlan("train-1s-00000.tar", ("g",)),
        ShardPlan("train-2s-00000.tar", ("a", "b")),
        ShardPlan("train-2s-00001.tar", ("c", "d")),
        ShardPlan("train-2s-00002.tar", ("e",)),
        ShardPlan("val-2s-00000.tar", ("f",)),
    )
    assert plan_shards([], ShardSettings()) == ()


def test_a_key_names_one_sample():
    with pytest.raises(ValueError, match="sample a comes twice"):
        plan_shards([SampleName("train", 1, "a"), SampleName("val", 2, "a")], ShardSettings())


@given(
    st.dictionaries(st.text("abc123", min_size=1), st.tuples(st.sampled_from(["train", "val"]), st.integers(1, 3))),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_any_names(kinds: dict[str, tuple[str, int]], samples: int, order: random.Random):
    names = [SampleName(split, subjects, key) for key, (split, subjects) in kinds.items()]
    plans = plan_shards(names, ShardSettings(samples=samples))
    order.shuffle(names)
    assert plan_shards(names, ShardSettings(samples=samples)) == plans
    assert sorted(key for plan in plans for key in plan.keys) == sorted(kinds)
    for plan in plans:
        split, subjects, _ = plan.name.split("-")
        assert {kinds[key] for key in plan.keys} == {(split, int(subjects.removesuffix("s")))}
        assert 1 <= len(plan.keys) <= samples
