"""Identities: planted people are found again, chains do not merge them, and the order of rows decides nothing."""

import numpy as np
import pytest

from dataengine.decide import identities
from dataengine.decide.identities import cluster, completeness, purity


def planted(people: int, each: int, noise: float, width: int = 64, seed: int = 0):
    """Unit vectors around `people` random directions, and whose each is."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    truth = np.repeat(np.arange(people), each)
    rows = centres[truth] + noise * rng.standard_normal((len(truth), width)) / width**0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = rng.permutation(len(truth))
    return rows[order].astype(np.float16), truth[order]


def clips(count: int) -> list[str]:
    return [f"clip{i}" for i in range(count)]


def test_planted_people_are_found_again():
    rows, truth = planted(60, 8, 0.6)
    labels = cluster(rows, clips(len(rows)), 0.5)
    assert purity(labels, truth) == 1.0
    assert completeness(labels, truth) > 0.98
    assert all(label <= row for row, label in enumerate(labels)), "a group is named by its first row"


def test_the_index_finds_nearly_what_comparing_all_does(monkeypatch):
    rows, truth = planted(300, 5, 0.5)
    exact = cluster(rows, clips(len(rows)), 0.5)
    monkeypatch.setattr(identities, "EXACT", 100)
    found = cluster(rows, clips(len(rows)), 0.5)
    assert purity(found, truth) > 0.995 and completeness(found, truth) > 0.97
    assert completeness(exact, truth) > 0.99
    assert (found == cluster(rows, clips(len(rows)), 0.5)).all(), "and the same each time"


def test_a_picture_between_two_people_does_not_chain_them():
    a, b = np.zeros(8), np.zeros(8)
    a[0], b[1] = 1, 1
    between = (a + b) / 2**0.5  # 0.71 to either, who are 0 to each other
    near_a = np.array([0.95, 0, 0.312, 0, 0, 0, 0, 0])
    near_b = np.array([0, 0.95, 0, 0.312, 0, 0, 0, 0])
    rows = np.stack([a, near_a, between, b, near_b]).astype(np.float16)
    labels = cluster(rows, clips(5), 0.5)
    assert labels[0] == labels[1] and labels[3] == labels[4]
    assert labels[0] != labels[3]


def test_people_of_one_clip_are_never_one_person():
    twins = np.tile(np.eye(4)[0], (4, 1)).astype(np.float16)
    labels = cluster(twins, ["one", "one", "two", "two"], 0.5)
    assert labels[0] != labels[1] and labels[2] != labels[3]
    assert len(set(labels.tolist())) == 2, "of two clips with the same two people"


def test_small_and_wrong_input():
    assert cluster(np.empty((0, 4), np.float16), [], 0.5).tolist() == []
    assert cluster(np.eye(4, dtype=np.float16)[:1], ["a"], 0.5).tolist() == [0]
    with pytest.raises(ValueError, match="2 clips"):
        cluster(np.eye(4, dtype=np.float16)[:1], ["a", "b"], 0.5)


def test_purity_and_completeness_by_hand():
    assert purity([0, 0, 1, 1], [5, 5, 5, 6]) == 0.75
    assert completeness([0, 0, 1, 1], [5, 5, 5, 6]) == 0.75
    assert purity([0, 1, 2], [5, 5, 5]) == 1.0 and completeness([0, 1, 2], [5, 5, 5]) == pytest.approx(1 / 3)
