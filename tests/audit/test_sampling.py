"""Which samples people look at."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.audit.sampling import evenly, random_ranks


def test_evenly() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(10, 2) == [2, 7]
    with pytest.raises(ValueError, match="at least 1"):
        evenly(3, 0)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), max_size=80), st.integers(0, 5))
def test_every_sample_has_one_place(sources: list[int], seed: int) -> None:
    keys = [f"k{i}" for i in range(len(sources))]
    ranks = random_ranks(keys, [str(s) for s in sources], seed)
    assert sorted(ranks) == list(range(len(keys)))
    # The order in which samples are given does not matter.
    back = random_ranks(keys[::-1], [str(s) for s in sources][::-1], seed)
    assert list(back[::-1]) == list(ranks)


def test_no_sample_is_likelier_than_another() -> None:
    """One large source and many small ones; whoever is first, second, … tenth, over many seeds."""
    sources = ["large"] * 20 + [f"small{i}" for i in range(20)]
    keys = [f"k{i}" for i in range(40)]
    among = np.zeros(40)
    for seed in range(1000):
        among += random_ranks(keys, sources, seed) < 10
    expected = 1000 * 10 / 40
    assert abs(among - expected).max() < 5 * np.sqrt(expected)
    assert abs(among[:20].sum() - among[20:].sum()) < 0.06 * among.sum()


@pytest.mark.parametrize("looked_at", [8, 13, 32])
def test_sources_are_spread(looked_at: int) -> None:
    """As long as there are sources enough, none gives two; a large one gives its share."""
    sources = [f"s{i // 4}" for i in range(400)]
    keys = [f"k{i}" for i in range(400)]
    for seed in range(20):
        ranks = random_ranks(keys, sources, seed)
        taken = Counter(source for source, rank in zip(sources, ranks, strict=True) if rank < looked_at)
        assert max(taken.values()) == 1
    half = ["large"] * 200 + [f"s{i}" for i in range(200)]
    for seed in range(20):
        ranks = random_ranks(keys, half, seed)
        large = sum(rank < looked_at and source == "large" for source, rank in zip(half, ranks, strict=True))
        assert abs(large - looked_at / 2) <= 2
