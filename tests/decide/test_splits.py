"""Splits: by source, in the asked share, and stable."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dataengine.decide.splits import components, leaks, split_of


def test_the_share_is_met_and_moves_one_way():
    sources = [f"source{i}" for i in range(5000)]
    small = {s for s in sources if split_of(s, 0.1) == "val"}
    large = {s for s in sources if split_of(s, 0.2) == "val"}
    assert 0.08 < len(small) / 5000 < 0.12
    assert 0.17 < len(large) / 5000 < 0.23
    assert small < large, "a larger share takes no source out of val"
    assert not any(split_of(s, 0.0) == "val" for s in sources)


def test_a_source_never_changes_sides():
    """Fixed values: a change of the hash would leak training sources into val when data is added."""
    assert [i for i in range(30) if split_of(f"source{i}", 0.2) == "val"] == [3, 13, 18, 19, 22, 24]


def by_identity(sources: set[str], identities: dict[int, set[str]], share: float = 0.3) -> dict[str, str]:
    return {source: split_of(first, share) for source, first in components(sources, identities).items()}


def test_components_by_hand():
    shown = {1: {"b", "c"}, 2: {"c", "d"}, 3: {"e"}}
    assert components(["a", "b", "c", "d", "e"], shown) == {"a": "a", "b": "b", "c": "b", "d": "b", "e": "e"}
    assert leaks({"b": "train", "c": "val"}, {1: {"b", "c"}, 2: {"c"}}) == [1]


corpora = st.dictionaries(st.integers(0, 40), st.sets(st.integers(0, 60), min_size=1, max_size=4), max_size=40)


@given(corpora)
def test_nobody_is_on_both_sides(shown: dict[int, set[int]]):
    identities = {person: {f"s{i}" for i in where} for person, where in shown.items()}
    sources = {f"s{i}" for i in range(61)}
    splits = by_identity(sources, identities)
    assert leaks(splits, identities) == []
    # By connected components of a graph that is walked another way: each is on one side.
    left = set(sources)
    while left:
        reached, todo = set(), [left.pop()]
        while todo:
            source = todo.pop()
            reached.add(source)
            near = set().union(*(where for where in identities.values() if source in where)) - reached
            todo += near
        left -= reached
        assert len({splits[source] for source in reached}) == 1
    alone = sources - {source for where in identities.values() if len(where) > 1 for source in where}
    assert all(splits[source] == split_of(source, 0.3) for source in alone), "as without identities"


@given(corpora, st.sets(st.integers(0, 60), min_size=1, max_size=3))
def test_what_is_stable_when_a_source_is_added(shown: dict[int, set[int]], joined: set[int]):
    identities = {person: {f"s{i:02}" for i in where} for person, where in shown.items()}
    sources = {f"s{i:02}" for i in range(61)}
    before, heads = by_identity(sources, identities), components(sources, identities)
    # The new source shows a person of each of `joined`: it joins their components.
    identities[99] = {f"s{i:02}" for i in joined} | {"s99"}
    after = by_identity(sources | {"s99"}, identities)
    touched = {heads[f"s{i:02}"] for i in joined}
    for source in sources:
        if heads[source] not in touched or heads[source] == min(touched):
            assert after[source] == before[source], "not joined, or of the smallest id"
    assert {after[s] for s in sources if heads[s] in touched} == {before[min(touched)]}


def test_large_components_are_held_out_as_often_as_small_ones():
    rng = random.Random(0)
    names = [f"{rng.getrandbits(64):016x}" for _ in range(6000)]
    groups = {n: set(names[3 * n : 3 * n + 3]) for n in range(2000)}
    splits = by_identity(set(names), groups, 0.2)
    share = sum(splits[min(group)] == "val" for group in groups.values()) / len(groups)
    assert 0.17 < share < 0.23
