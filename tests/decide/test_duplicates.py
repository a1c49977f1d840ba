"""Near duplicates are found whatever the order, and none is missed by not comparing every pair."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.decide.duplicates import apart, hamming, near_duplicates


def flipped(value: int, bits: int, rng: random.Random) -> int:
    for bit in rng.sample(range(64), bits):
        value ^= 1 << bit
    return value


def test_hamming_by_hand() -> None:
    assert hamming("00000000000000ff", "000000000000000f") == 4
    assert hamming("ffffffffffffffff", "0000000000000000") == 64
    assert apart(["0f", "ff"], ["0f", "f0"]) == 4
    with pytest.raises(ValueError, match="longer"):
        apart(["0f"], ["0f", "f0"])


def test_copies_are_grouped_and_strangers_are_not() -> None:
    rng = random.Random(0)
    clips = {}
    for original in range(40):
        stills = [rng.getrandbits(64) for _ in range(3)]
        clips[f"c{original:02}"] = [f"{s:016x}" for s in stills]
        if original < 10:
            clips[f"d{original:02}"] = [f"{flipped(s, 6, rng):016x}" for s in stills]
    assert near_duplicates(clips, 6) == tuple((f"c{i:02}", f"d{i:02}") for i in range(10))
    assert near_duplicates(clips, 5) == ()
    backwards = dict(reversed(clips.items()))
    assert near_duplicates(backwards, 6) == near_duplicates(clips, 6)


def test_one_still_that_differs_makes_another_clip() -> None:
    same, other = "0" * 16, "f" * 16
    assert near_duplicates({"a": [same, same, same], "b": [same, same, other]}, 8) == ()
    assert near_duplicates({"a": [same] * 3, "b": [same] * 3}, 0) == (("a", "b"),)


@given(st.integers(0, 12), st.randoms(use_true_random=False))
def test_equals_comparing_every_pair(most_bits: int, rng: random.Random) -> None:
    seeds = [rng.getrandbits(64) for _ in range(4)]
    clips = {f"{i:02}": [f"{flipped(rng.choice(seeds), rng.randrange(16), rng):016x}"] for i in range(16)}
    groups = {name: {name} for name in clips}
    for a in clips:
        for b in clips:
            if apart(clips[a], clips[b]) <= most_bits and groups[a] is not groups[b]:
                groups[a] |= groups[b]
                for name in groups[a]:
                    groups[name] = groups[a]
    expected = sorted({tuple(sorted(group)) for group in groups.values() if len(group) > 1})
    assert near_duplicates(clips, most_bits) == tuple(expected)


def test_the_distance_must_be_one_of_bits() -> None:
    with pytest.raises(ValueError, match="most_bits"):
        near_duplicates({}, 64)
