"""Planted faults: always the same, never in a shard, and not to be told from others by their key or their matrix."""

from __future__ import annotations

import re

import pytest

from audit_samples import sample
from dataengine.audit.honeypots import honeypot_key, honeypots, plant
from dataengine.records import Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return sample(3, 2).pair


def test_two_attributes_change_owners_with_all_that_the_witnesses_say(pair: Pair) -> None:
    planted = plant(pair, 7)
    assert planted is not None
    assert Pair.from_json(planted.pair.to_json()) == planted.pair
    assert planted == plant(pair, 7)
    moved = {entity: origin for entity, origin in planted.origins.items() if entity != origin}
    assert len(moved) == 2
    (one, other) = moved
    assert moved == {one: other, other: one}
    assert one.split(".")[0] != other.split(".")[0]
    before = {r.entity: r for r in pair.references}
    after = {r.entity: r for r in planted.pair.references}
    for entity, origin in moved.items():
        assert after[entity].phrase == before[origin].phrase
        assert after[entity].box == before[origin].box
        assert after[entity].member == f"{entity}.png"
    # The matrix still ties every attribute to the subject that it is shown with.
    cells = {(r.attribute, r.subject): r.votes for r in planted.pair.relations}
    assert len(cells) == len(pair.relations)
    for subject in planted.pair.subjects:
        for attribute in subject.attributes:
            votes = {s.index: cells[attribute.entity, s.index] for s in planted.pair.subjects}
            assert max(votes, key=lambda index: votes[index]) == subject.index
    assert planted.pair.key == honeypot_key(7, pair.key)


def test_one_person_gets_the_words_exchanged() -> None:
    pair = next(p for p in (sample(n, 1).pair for n in range(40)) if len(p.subjects[0].attributes) == 2)
    planted = plant(pair, 7)
    assert planted is not None
    assert all(a == b for a, b in planted.origins.items())
    before, after = (p.subjects[0].attributes for p in (pair, planted.pair))
    assert [a.phrase for a in after] == [before[1].phrase, before[0].phrase]
    assert [a.box for a in after] == [a.box for a in before]


def test_where_there_is_nothing_to_exchange_nothing_is_planted() -> None:
    pair = next(p for p in (sample(n, 1).pair for n in range(40)) if len(p.subjects[0].attributes) == 1)
    assert plant(pair, 7) is None


def test_the_share_is_kept_and_the_choice_is_the_seeds() -> None:
    keys = [f"{n:024x}" for n in range(4000)]
    chosen = honeypots(keys, 1, 0.05)
    assert 150 < len(chosen) < 250
    assert chosen == honeypots(keys, 1, 0.05)
    assert {h.of for h in chosen} != {h.of for h in honeypots(keys, 2, 0.05)}
    assert {h.of for h in honeypots(keys[:100], 1, 0.05)} <= {h.of for h in chosen}
    assert honeypots(keys, 1, 0) == ()
    assert all(re.fullmatch("[0-9a-f]{24}", h.key) and h.key not in keys for h in chosen)
