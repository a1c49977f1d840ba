"""Splits: by source, in the asked share, and stable."""

from dataengine.decide.splits import split_of


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
