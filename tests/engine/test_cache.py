"""What is stored, what nothing uses, what failed."""

from __future__ import annotations

from pathlib import Path

import pytest

import toy
from dataengine.engine.cache import collect, failures, stored_stages, unused
from dataengine.engine.measurements import Measurements, Outcome
from dataengine.records import Quarantined
from dataengine.store import Store


def row(number: int) -> str:
    return f"{number:024d}"


@pytest.fixture
def measurements(tmp_path: Path) -> Measurements:
    made = Measurements(Store.at(tmp_path))
    for print_ in ("old", "new"):
        made.commit("size", print_, [Outcome(row(i), toy.Size(bytes=i), 1.0) for i in range(3)])
    bad = [
        Quarantined(id=row(n), stage="size", error=error, message="", attempts=1, source_names=("a",))
        for n, error in ((3, "RowTimeout"), (4, "BadInput"))
    ]
    made.commit("size", "new", [Outcome(b.id, b, 1.0) for b in bad])
    made.fold("size", "new")
    made.store.write("run.json", b"{}")
    made.store.write("sources/part-1.parquet", b"no stage")
    return made


def test_everything_is_listed_with_its_size(measurements: Measurements, tmp_path: Path) -> None:
    found = {(s.stage, s.fingerprint): s for s in stored_stages(measurements)}
    assert {key: (s.rows, s.failed) for key, s in found.items()} == {("size", "old"): (3, 0), ("size", "new"): (5, 2)}
    on_disk = sum(path.stat().st_size for path in (tmp_path / "size" / "new").iterdir())
    assert found["size", "new"].bytes == on_disk


def test_only_what_nothing_uses_is_collected(measurements: Measurements) -> None:
    unwanted = unused(stored_stages(measurements), [("size", "new"), ("faces", "x")])
    assert [(s.stage, s.fingerprint) for s in unwanted] == [("size", "old")]
    assert collect(measurements, unwanted) == unwanted[0].bytes
    assert [s.fingerprint for s in stored_stages(measurements)] == ["new"]
    assert measurements.store.exists("run.json")
    assert measurements.store.exists("sources/part-1.parquet")


def test_failures_are_found_by_class(measurements: Measurements) -> None:
    assert failures(measurements, "size", "new") == [row(3), row(4)]
    assert failures(measurements, "size", "new", "RowTimeout") == [row(3)]
    assert failures(measurements, "size", "old") == []
