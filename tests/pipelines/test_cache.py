"""`cache ls|gc`, `retry` and `trace` on a real dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataengine.engine.cache import stored_stages
from dataengine.engine.measurements import Measurements
from dataengine.records import RunSummary
from dataengine.shards.index import Index
from dataengine.store import Store
from pipelines.cache import last_run, settings_of_run, void_failures
from pipelines.cli import Exit, app

runner = CliRunner()


def said(*words: str) -> str:
    result = runner.invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == Exit.DONE, result.output
    return result.output


@pytest.fixture
def copy(built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.out, tmp_path / "copy"))


def fingerprints(out: Path, stage: str) -> set[str]:
    stored = stored_stages(Measurements(Store.at(out).child("measurements")))
    return {s.fingerprint for s in stored if s.stage == stage}


def test_gc_removes_what_neither_these_settings_nor_the_last_build_use(
    built, copy: Path, run_build: Callable[..., RunSummary]
) -> None:
    (first,) = fingerprints(copy, "background")
    run_build(built.videos, copy, "stages.background.dilate_px=5")
    assert len(fingerprints(copy, "background")) == 2
    assert "nothing" not in said("cache", "ls", str(copy)).replace("nothing to", "")
    assert "nothing to remove" in said("cache", "gc", str(copy)), "the profile's own settings use the older one"
    other = ("stages.background.dilate_px=7",)
    assert first in said("cache", "gc", str(copy), "--dry-run", *other)
    assert len(fingerprints(copy, "background")) == 2
    assert "removed" in said("cache", "gc", str(copy), *other)
    assert len(fingerprints(copy, "background")) == 1
    assert first not in fingerprints(copy, "background")
    again = run_build(built.videos, copy, "stages.background.dilate_px=5")
    assert sum(s.done for s in again.stages) == 0


def test_a_build_remembers_what_it_was_made_from(built) -> None:
    last = last_run(Store.at(built.out))
    assert last.inputs == (str(built.videos),)
    assert settings_of_run(last).shards.samples == 4


def test_voided_failures_are_measured_again_and_nothing_else(
    built, copy: Path, run_build: Callable[..., RunSummary]
) -> None:
    before = pq.read_table(copy / "quarantine.parquet")
    failed = [row for row in before.to_pylist() if row["stage"] != "read"]
    store = Store.at(copy)
    settings = settings_of_run(last_run(store))
    assert void_failures(store, settings, "NoSuchError") == 0
    assert void_failures(store, settings, failed[0]["error"]) == sum(r["error"] == failed[0]["error"] for r in failed)
    void_failures(store, settings)
    again = run_build(built.videos, copy)
    assert sum(s.done for s in again.stages) == 0, "what can never be processed fails again"
    assert pq.read_table(copy / "quarantine.parquet").equals(before)
    assert (copy / "index.parquet").read_bytes() == (built.out / "index.parquet").read_bytes()


def test_a_sample_is_traced_to_its_source_and_a_failure_to_its_reason(built) -> None:
    row = Index.read(Store.at(built.out))[0]
    text = said("trace", str(built.out), row.key)
    for word in ("probe", "encode", row.source_id, row.clip_id, row.shard, "kept"):
        assert word in text
    assert row.key in said("trace", str(built.out), row.source_id)
    bad = next(r for r in pq.read_table(built.out / "quarantine.parquet").to_pylist() if r["stage"] == "probe")
    assert bad["error"] in said("trace", str(built.out), bad["id"])


def test_an_unknown_id_is_refused(built) -> None:
    result = runner.invoke(app, ["trace", str(built.out), "nobody"])
    assert result.exit_code == Exit.USAGE
    assert "nobody" in result.output


def test_there_is_nothing_to_retry_where_nothing_was_built(tmp_path: Path) -> None:
    result = runner.invoke(app, ["retry", str(tmp_path)])
    assert result.exit_code == Exit.NOTHING
    assert "dataengine build" in result.output
