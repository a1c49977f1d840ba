"""`dataengine build` as a whole: bad input has reasons, results are reused, workers change nothing."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import webdataset
from typer.testing import CliRunner

from dataengine.records import RunSummary
from dataengine.shards.index import Index
from dataengine.shards.validate import validate
from dataengine.store import Store
from pipelines.cli import Exit, app

SCHEMAS = Path(__file__).parents[2] / "schemas"


def fixed_files(out: Path) -> dict[str, bytes]:
    """What must be the same whenever input and settings are."""
    names = [*out.glob("shards/*.tar"), out / "index.parquet", out / "quarantine.parquet", out / "clips.parquet"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in names}


def test_out_holds_what_it_should(built) -> None:
    names = {path.name for path in built.out.iterdir()}
    assert names >= {"shards", "index.parquet", "quarantine.parquet", "clips.parquet", "report.html", "report.json"}
    assert names >= {"README.md", "measurements", "contact_sheet.png"}
    assert not list(built.out.rglob(".tmp-*"))
    assert validate(Store.at(built.out)).findings == ()


def test_every_bad_file_is_processed_right_or_quarantined_with_a_reason(built, bad_video_folder) -> None:
    rows = pq.read_table(built.out / "quarantine.parquet").to_pylist()
    reasons = {name: row["message"] for row in rows for name in row["source_names"]}
    kept = {name: pair["source_names"] for pair in pairs(built.out) for name in pair["source_names"]}
    for file in bad_video_folder.files:
        name = f"bad/{file.name}"
        if file.expected == "quarantined":
            assert file.reason in reasons[name], name
            assert str(built.videos) not in reasons[name]
        elif file.expected == "processed":
            assert name in kept, f"{name}: {reasons.get(name) or 'no pair'}"
        elif file.expected == "duplicate":
            assert {name, f"bad/{file.same_as}"} <= set(kept[name])
        else:
            assert name not in reasons
            assert name not in kept
    assert built.summary.duplicates == len(bad_video_folder.expected("duplicate"))
    assert built.summary.skipped == len(bad_video_folder.expected("skipped"))
    assert built.summary.quarantined == len(bad_video_folder.expected("quarantined")) == len(reasons)


def pairs(out: Path) -> list[dict]:
    found = []
    for shard in sorted(out.glob("shards/*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    data = tar.extractfile(member)
                    assert data is not None
                    found.append(json.load(data))
    return found


def test_every_pair_validates_against_the_committed_schema(built) -> None:
    schema = json.loads((SCHEMAS / "pair.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    found = pairs(built.out)
    assert len(found) == built.summary.pairs
    for pair in found:
        validator.validate(pair)


def test_plain_webdataset_reads_the_shards(built) -> None:
    urls = sorted(str(path) for path in built.out.glob("shards/*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert {s["__key__"] for s in samples} == {p["key"] for p in pairs(built.out)}
    for sample in samples:
        pair = json.loads(sample["json"])
        assert sample["mp4"][4:8] == b"ftyp"
        assert sample[pair["subjects"][0]["face"]["member"]].startswith(b"\x89PNG")


def test_one_pread_gives_any_member(built) -> None:
    for row in Index.read(Store.at(built.out)):
        with (
            tarfile.open(built.out / "shards" / row.shard) as tar,
            (built.out / "shards" / row.shard).open("rb") as raw,
        ):
            for member in row.members:
                raw.seek(member.offset)
                data = tar.extractfile(f"{row.key}.{member.name}")
                assert data is not None
                assert raw.read(member.size) == data.read()


def test_a_second_run_measures_nothing_and_changes_nothing(built, run_build: Callable[..., RunSummary]) -> None:
    before = fixed_files(built.out)
    again = run_build(built.videos, built.out)
    assert sum(stage.done for stage in again.stages) == 0
    assert fixed_files(built.out) == before
    assert (again.pairs, again.quarantined) == (built.summary.pairs, built.summary.quarantined)


def test_output_does_not_depend_on_the_number_of_workers(
    short, run_build: Callable[..., RunSummary], tmp_path: Path
) -> None:
    stages = ("probe", "shots", "frames", "quality", "faces", "caption", "ground", "segment", "background", "encode")
    two = [f"stages.{stage}.resources.workers=2" for stage in stages]
    batches = [f"stages.{stage}.resources.batch=3" for stage in stages]
    run_build(short.videos, tmp_path / "two", *short.settings, *two, *batches)
    assert fixed_files(short.out) == fixed_files(tmp_path / "two")


def test_a_decision_reruns_no_model(built, run_build: Callable[..., RunSummary], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.out, copy)
    strict = run_build(built.videos, copy, "decide.filters.max_attributes=1")
    assert sum(stage.done for stage in strict.stages) == 0
    assert strict.pairs == built.summary.pairs
    assert max(len(s["attributes"]) for p in pairs(copy) for s in p["subjects"]) == 1
    assert validate(Store.at(copy)).ok


@pytest.mark.parametrize("limit", [10_000])
def test_the_report_and_card_name_what_was_made(built, limit: int) -> None:
    report = (built.out / "report.html").read_text()
    assert str(built.summary.pairs) in report
    assert "TransNetV2" in report or "transnetv2" in report
    assert (built.out / "README.md").read_text().startswith("---")
    assert len(report) > limit


def test_a_build_brings_back_what_a_repair_had_to_drop(
    short, run_build: Callable[..., RunSummary], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(short.out, copy)
    shard = next(copy.glob("shards/*.tar"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 3])
    assert CliRunner().invoke(app, ["validate", str(copy)]).exit_code == Exit.NOTHING
    assert CliRunner().invoke(app, ["repair", str(copy)]).exit_code == Exit.QUARANTINED
    assert CliRunner().invoke(app, ["validate", str(copy)]).exit_code == Exit.DONE
    assert len(Index.read(Store.at(copy))) < short.summary.pairs
    run_build(short.videos, copy, *short.settings)
    assert fixed_files(copy) == fixed_files(short.out)
