"""The store of results: found by id, read by part or summary, unaffected by repeats, rows taken out on request."""

from __future__ import annotations

from pathlib import Path

import pytest

import toy
from dataengine.engine.measurements import Ledger, Measurements, Outcome
from dataengine.records import Quarantined
from dataengine.store import Store


def name(number: int) -> str:
    return f"{number:024d}"


def commit(store: Measurements, *numbers: int, size: int = 1) -> int:
    return store.commit("thumb", "f1", [Outcome(name(i), toy.Thumb(image=bytes([i]) * size), i / 10) for i in numbers])


def failed(store: Measurements, number: int) -> Quarantined:
    bad = Quarantined(
        id=name(number), stage="thumb", error="BadInput", message="no", attempts=1, source_names=("a",)
    )  # fmt: skip
    store.commit("thumb", "f1", [Outcome(name(number), bad, 0.2)])
    return bad


def held(ledger: Ledger) -> list[int]:
    return [int(i) for i in ledger.ids]


@pytest.fixture
def store(tmp_path: Path) -> Measurements:
    return Measurements(Store.at(tmp_path))


@pytest.mark.parametrize("fold", [False, True])
def test_committed_outcomes_are_found_and_read(store: Measurements, fold: bool) -> None:
    commit(store, 5, 1)
    bad = failed(store, 3)
    if fold:
        store.fold("thumb", "f1")
        commit(store, 6)
    ledger = store.ledger("thumb", "f1")
    assert held(ledger) == [1, 3, 5] + [6] * fold
    assert ledger.has([name(i) for i in range(7)]) == {name(i) for i in held(ledger)}
    assert [bool(f) for f in ledger.failed[:3]] == [False, True, False]
    assert ledger.seconds[:3].tolist() == pytest.approx([0.1, 0.2, 0.5])
    media = store.media(ledger, [name(i) for i in (5, 3, 4)])
    assert media[name(5)].result(toy.Thumb) == toy.Thumb(image=b"\x05")
    assert media[name(3)].result(toy.Thumb) == bad
    records = store.records(ledger, [name(i) for i in (1, 3)])
    assert records[name(1)].blobs is None
    assert records[name(1)].result(toy.Thumb) == toy.Thumb(image=b"")
    assert records[name(3)].result(toy.Thumb) == bad


def test_summaries_are_written_once_and_hold_no_media(store: Measurements, tmp_path: Path) -> None:
    parts = commit(store, *range(40), size=10_000)
    store.fold("thumb", "f1")
    store.fold("thumb", "f1")
    (summary,) = tmp_path.glob("thumb/f1/summary-*")
    assert summary.stat().st_size < parts / 2
    commit(store, 41)
    store.fold("thumb", "f1")
    assert len(list(tmp_path.glob("thumb/f1/summary-*"))) == 2
    assert held(store.ledger("thumb", "f1")) == [*range(40), 41]


def test_rows_of_many_groups_come_back_right(store: Measurements) -> None:
    for start in range(0, 900, 90):
        store.commit("size", "f", [Outcome(name(i), toy.Size(bytes=i), 0) for i in range(start, start + 90)])
    store.fold("size", "f")
    wanted = [name(i) for i in (0, 255, 256, 511, 899)]
    read = store.records(store.ledger("size", "f"), wanted)
    assert [read[i].result(toy.Size) for i in wanted] == [toy.Size(bytes=int(i)) for i in wanted]


def test_other_fingerprints_share_nothing(store: Measurements) -> None:
    commit(store, 1)
    assert len(store.ledger("thumb", "f2")) == 0
    assert store.ledger("thumb", "f2").has([name(1)]) == set()


def test_committing_the_same_rows_twice_leaves_one_part(store: Measurements) -> None:
    for _ in range(2):
        commit(store, 1, 2, 3)
    assert len(store.store.names("thumb")) == 1
    assert held(store.ledger("thumb", "f1")) == [1, 2, 3]


def test_a_batch_finds_its_own_part_only(store: Measurements) -> None:
    commit(store, 1, 2)
    again = store.committed("thumb", "f1", [name(1), name(2)])
    assert again is not None
    assert again[name(2)].result(toy.Thumb) == toy.Thumb(image=b"\x02")
    assert store.committed("thumb", "f1", [name(1)]) is None


@pytest.mark.parametrize("fold", [False, True])
def test_voided_rows_are_gone_and_the_rest_stays(store: Measurements, fold: bool) -> None:
    commit(store, 1, 2, 3)
    failed(store, 4)
    if fold:
        store.fold("thumb", "f1")
    assert store.void("thumb", "f1", [name(2), name(4), name(9)]) == 2
    ledger = store.ledger("thumb", "f1")
    assert held(ledger) == [1, 3]
    assert store.media(ledger, [name(3)])[name(3)].result(toy.Thumb) == toy.Thumb(image=b"\x03")
    commit(store, 4)
    store.fold("thumb", "f1")
    assert held(store.ledger("thumb", "f1")) == [1, 3, 4]
    assert not store.ledger("thumb", "f1").failed.any()


def test_a_row_in_two_parts_counts_once_a_success_before_a_failure(store: Measurements) -> None:
    failed(store, 1)
    commit(store, 1, 2)
    ledger = store.ledger("thumb", "f1")
    assert held(ledger) == [1, 2]
    assert not ledger.failed.any()
