"""Nothing of one split is to be seen in the other."""

from __future__ import annotations

from dataengine.audit.checks.corpus import Seen, apart_from_other_split

A, NEAR, FAR = "00000000000000ff", "00000000000000fc", "ffffffff00000000"


def failed(samples: dict[str, Seen]) -> dict[str, str]:
    return {key: f.reason for key, f in apart_from_other_split(samples, 6) if not f.passed}


def test_near_duplicates_count_only_across_splits() -> None:
    samples = {
        "a": Seen("train", "1", (A, A, A)),
        "b": Seen("val", "2", (A, NEAR, A)),
        "c": Seen("train", "3", (A, A, NEAR)),
        "d": Seen("val", "4", (FAR, FAR, FAR)),
    }
    found = failed(samples)
    assert set(found) == {"a", "b", "c"}
    assert "2 bits from b" in found["a"]
    assert set(failed({k: v for k, v in samples.items() if k != "b"})) == set()


def test_all_stills_must_be_near() -> None:
    assert failed({"a": Seen("train", "1", (A, A, A)), "b": Seen("val", "2", (A, A, FAR))}) == {}


def test_one_video_in_both_splits_needs_no_hash() -> None:
    found = failed({"a": Seen("train", "1", ()), "b": Seen("val", "1", ()), "c": Seen("val", "2", ())})
    assert set(found) == {"a", "b"}
    assert "b of the other split is cut from the same video" in found["a"]


def test_other_numbers_of_stills_are_not_compared() -> None:
    assert failed({"a": Seen("train", "1", (A,)), "b": Seen("val", "2", (A, A))}) == {}
