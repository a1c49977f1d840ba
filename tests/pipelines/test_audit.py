"""The audit's commands on whole datasets, and what an audit takes from other rooms."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from audit_samples import sample, write_dataset
from dataengine import masks
from dataengine.audit.events import EventLog, Verdict, stored_events
from dataengine.audit.repairs import ChooseStill, Relabel
from dataengine.config import AuditSettings
from dataengine.records import Span
from dataengine.shards.index import Index
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store
from pipelines.audit import aids_of, colour_scorer, stored_cuts
from pipelines.cli import Exit, app

runner = CliRunner()


@pytest.fixture
def out(tmp_path: Path) -> Store:
    store = Store.at(tmp_path / "data")
    write_dataset(store, [sample(n, 2, clip=True) for n in range(3)], per_shard=2)
    return store


def run(*words: object, code: Exit = Exit.DONE) -> str:
    result = runner.invoke(app, ["audit", *map(str, words)])
    text = " ".join(result.output.split())
    assert result.exit_code == code, text
    return text


def test_check_then_report(out: Store) -> None:
    assert "3 samples in 2 shards (0 unchanged)" in run("check", out.uri)
    assert "(2 unchanged)" in run("check", out.uri)
    told = run("check", out.uri, "limits.face_px=500", "scorer=none", "frames=false")
    assert "face_size: 6 of 6 failed" in told
    matches = pq.read_table(out.path("matrix.parquet"))["match"]
    assert matches.null_count == len(matches)
    run("report", out.uri, "worst=1")
    assert out.exists("report.html")
    assert out.exists("contact_sheet.png")
    # The report checked with its own settings: colours are scored.
    assert pq.read_table(out.path("matrix.parquet"))["match"].null_count < len(matches)


def test_audits_travel_and_are_applied(out: Store, tmp_path: Path) -> None:
    assert "nobody has audited it" in run("apply", out.uri, "--output", tmp_path / "v2", code=Exit.USAGE)
    with EventLog.of(out) as log:
        log.append("anna", "sample-00000", Relabel(entity="s0.a0", text="tie"))
        log.append("anna", "sample-00001", Verdict(verdict="reject"))
        log.append("anna", "sample-00002", Verdict(verdict="accept"))
        log.append("ben", "sample-00002", Verdict(verdict="reject"))
    for name in ("events.parquet", "audit.json"):
        assert "4 events" in run("export", out.uri, tmp_path / name)
        copy = Store.at(tmp_path / f"copy of {name}")
        shutil.copytree(out.uri, copy.uri, ignore=shutil.ignore_patterns("events.sqlite*"))
        assert "4 new events" in run("import", copy.uri, tmp_path / name)
        assert "0 new events" in run("import", copy.uri, tmp_path / name)
        told = run("apply", copy.uri, "--output", tmp_path / f"v2 of {name}")
        assert "1 samples" in told
        assert "disputed 1, rejected 1, repaired 1" in told
        assert "sample-00002: disputed, left out" in told
        version = Store.at(tmp_path / f"v2 of {name}")
        assert validate(version).ok
        assert "tie" in PairDataset(version)[0].pair.caption
    assert stored_events(Store.at(tmp_path / "copy of events.parquet")) == stored_events(out)
    assert "the dataset itself" in run("apply", out.uri, "--output", out.uri, code=Exit.USAGE)
    assert "holds a dataset already" in run(
        "apply", out.uri, "--output", tmp_path / "v2 of audit.json", code=Exit.USAGE
    )


def test_wrong_files_are_refused_with_a_reason(out: Store, tmp_path: Path) -> None:
    assert ".parquet or a .json" in run("export", out.uri, tmp_path / "events.csv", code=Exit.USAGE)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    assert "no table of events" in run("import", out.uri, tmp_path / "bad.parquet", code=Exit.NOTHING)
    assert "cannot be read" in run("import", out.uri, tmp_path / "gone.json", code=Exit.USAGE)
    assert "index.parquet" in run("import", tmp_path / "nothing", tmp_path / "bad.parquet", code=Exit.NOTHING)
    assert not out.exists("audit/events.sqlite")
    assert "did you mean limits.face_px?" in run("check", out.uri, "limits.face_pix=3", code=Exit.USAGE)


# --- Who is asked -----------------------------------------------------------------------------------------------------


def cut_out(colour: tuple[int, int, int]) -> Image.Image:
    picture = np.full((40, 40, 3), 255, np.uint8)
    picture[5:30, 5:30] = colour
    return Image.fromarray(picture)


def test_colours_are_read_off_the_pixels_that_are_shown() -> None:
    pictures = [cut_out((200, 30, 35)), cut_out((35, 70, 190)), Image.new("RGB", (40, 40), "white")]
    scores = colour_scorer(pictures, ["red hat", "navy blue coat", "a hat", "Red and blue scarf"])
    assert scores[0, 0] > 0.9 > 0.1 > scores[0, 1]
    assert scores[1, 1] > 0.9 > 0.1 > scores[1, 0]
    assert min(scores[0, 3], scores[1, 3]) > 0.9
    assert np.isnan(scores[:, 2]).all()
    assert np.isnan(scores[2]).all()


def test_the_trainers_tokenizer_is_asked_where_a_profile_is_named() -> None:
    assert aids_of(AuditSettings()).tokens is None
    tokens = aids_of(AuditSettings(tokenizer="embedded", scorer="none")).tokens
    assert tokens is not None
    caption = "A man in a red hat. " + "He walks on and on. " * 200
    assert tokens(caption, Span(11, 18)) == 2
    assert tokens(caption, Span(len(caption) - 8, len(caption) - 2)) == 0  # behind the longest text it takes


# --- What is stored of other stills -----------------------------------------------------------------------------------


def test_measurements_give_every_other_still(short, tmp_path: Path) -> None:
    out = Store.at(short.out)
    cuts_of = stored_cuts(out)
    dataset = PairDataset(out)
    chosen = None
    for position in range(len(dataset)):
        pair = dataset[position].pair
        cuts = cuts_of(pair)
        for reference in pair.references:
            if reference.kind == "background":
                continue
            same = cuts(reference.entity, reference.still)
            assert same is not None
            assert (same.time_s, same.box) == (reference.time_s, reference.box)
            assert same.area_share == pytest.approx(reference.area_share)
            assert (same.mask is None) == (reference.mask_member is None)
            assert same.score == pytest.approx(reference.score)
            others = [still for still in range(3) if still != reference.still and cuts(reference.entity, still)]
            if reference.kind == "attribute" and others:
                chosen = (pair.key, reference.entity, others[0])
        assert cuts("s9.a0", 0) is None
        assert cuts("s0.face", 7) is None
    assert chosen is not None
    key, entity, still = chosen
    copy = Store.at(tmp_path / "copy")
    shutil.copytree(out.uri, copy.uri)
    with EventLog.of(copy) as log:
        log.append("anna", key, ChooseStill(entity=entity, still=still))
        log.append("anna", key, ChooseStill(entity="s0.face", still=still))
    told = run("apply", copy.uri, "--output", tmp_path / "v2")
    assert "repaired 1" in told
    version = Store.at(tmp_path / "v2")
    assert validate(version).ok
    after = PairDataset(version).find(key)
    cut = next(r for r in after.pair.references if r.entity == entity)
    expected = stored_cuts(copy)(dataset.find(key).pair)(entity, still)
    assert expected is not None
    assert (cut.still, cut.box, cut.area_share) == (still, expected.box, expected.area_share)
    assert masks.decode(expected.mask).mean() == pytest.approx(cut.area_share)


def test_a_dataset_without_measurements_stores_nothing(out: Store) -> None:
    pair = PairDataset(out)[0].pair
    assert stored_cuts(out)(pair)("s0.a0", 0) is None


def test_a_build_leaves_checks_and_risks(short) -> None:
    out = Store.at(short.out)
    keys = Index.read(out).table["key"].to_pylist()
    assert pq.read_table(out.path("risk.parquet"))["key"].to_pylist() == keys
    checks = pq.read_table(out.path("checks.parquet")).to_pylist()
    assert {row["key"] for row in checks} == set(keys)
    ran = {row["check"] for row in checks}
    assert {"reference_from_clip", "phrase_at_span", "background_empty"} <= ran
    wrong = [row for row in checks if not row["passed"] and row["check"] in ("reference_from_clip", "swap_alarm")]
    assert wrong == []
