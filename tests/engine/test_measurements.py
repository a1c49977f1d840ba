"""The store of results: found by id, read by part, unaffected by repeats."""

from __future__ import annotations

from pathlib import Path

import toy
from dataengine.engine.measurements import Measurements, Outcome
from dataengine.records import Quarantined
from dataengine.store import Store


def name(number: int) -> str:
    return f"{number:024d}"


def test_committed_outcomes_are_found_and_read(tmp_path: Path) -> None:
    store = Measurements(Store.at(tmp_path))
    bad = Quarantined(id=name(3), stage="thumb", error="BadInput", message="no", attempts=1, source_names=("a",))
    store.commit("thumb", "f1", [Outcome(name(i), toy.Thumb(image=bytes([i])), 0.1) for i in (5, 1)])
    store.commit("thumb", "f1", [Outcome(name(3), bad, 0.2)])
    ids = store.committed("thumb", "f1")
    places = store.ids_of(map(name, range(7)), ids)
    assert sorted(places) == [name(1), name(3), name(5)]
    stored = store.read(places, blobs=True)
    assert stored[name(5)].blobs == [b"\x05"]
    assert stored[name(3)].record is None
    assert Quarantined.from_json(stored[name(3)].failure or "") == bad
    assert store.read({name(1): places[name(1)]}, blobs=False)[name(1)].blobs is None


def test_other_fingerprints_share_nothing(tmp_path: Path) -> None:
    store = Measurements(Store.at(tmp_path))
    store.commit("thumb", "f1", [Outcome(name(1), toy.Thumb(image=b""), 0)])
    assert len(store.committed("thumb", "f2")) == 0
    assert store.ids_of([name(1)], store.committed("thumb", "f2")) == {}


def test_committing_the_same_rows_twice_leaves_one_part(tmp_path: Path) -> None:
    store = Measurements(Store.at(tmp_path))
    for _ in range(2):
        store.commit("thumb", "f1", [Outcome(name(i), toy.Thumb(image=b"x"), 0) for i in range(3)])
    assert len(store.store.names("thumb")) == 1
    assert len(store.committed("thumb", "f1")) == 3
