"""Checking a whole dataset: tables beside the shards, only what changed is looked at again, damage is a finding."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audit_samples import sample, write_dataset
from dataengine.audit import checking
from dataengine.audit.checking import are_checked, check_dataset, stored_findings
from dataengine.audit.checks import QUESTIONS, READABLE, Aids, check_sample
from dataengine.audit.repairs import changed
from dataengine.audit.risk import risk_of
from dataengine.audit.scene import Scene
from dataengine.audit.tables import CHECKS_SCHEMA, MATRIX_SCHEMA, RISK_SCHEMA
from dataengine.config import AuditSettings, CheckLimits, RiskWeights
from dataengine.shards.index import Index
from dataengine.store import Store, StoreError

SETTINGS = AuditSettings(frames=False)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample(n, 1 + n % 3) for n in range(7)]


@pytest.fixture
def out(tmp_path: Path, scenes: list[Scene]) -> Store:
    store = Store.at(tmp_path / "out")
    write_dataset(store, scenes, per_shard=2)
    return store


def rows(out: Store, name: str) -> list[dict]:
    return pq.read_table(out.path(name)).to_pylist()


def test_the_tables_hold_what_the_checks_say(out: Store, scenes: list[Scene]) -> None:
    summary = check_dataset(out, SETTINGS)
    assert (summary.samples, summary.unreadable, summary.shards, summary.reused) == (7, 0, 4, 0)
    for name, schema in (("checks", CHECKS_SCHEMA), ("risk", RISK_SCHEMA), ("matrix", MATRIX_SCHEMA)):
        assert pq.read_schema(out.path(f"{name}.parquet")).equals(schema)
    index = Index.read(out)
    keys = index.table["key"].to_pylist()
    assert [row["key"] for row in rows(out, "risk.parquet")] == keys
    by_key = {scene.pair.key: scene for scene in scenes}
    for key, findings in stored_findings(out):
        own = [f for f in findings if f.check not in (READABLE, "apart_from_other_split")]
        assert own == list(check_sample(by_key[key], SETTINGS.limits, Aids()))
    assert {row["check"] for row in rows(out, "checks.parquet")} <= QUESTIONS.keys()
    ranks = [row["random_rank"] for row in rows(out, "risk.parquet")]
    assert sorted(ranks) == list(range(7))
    cells = {(r["key"], r["attribute"], r["subject"]): r for r in rows(out, "matrix.parquet")}
    for scene in scenes:
        for relation in scene.pair.relations:
            cell = cells[scene.pair.key, relation.attribute, relation.subject]
            assert cell["votes"] == relation.votes
            assert cell["match"] is None
    assert len(cells) == sum(len(scene.pair.relations) for scene in scenes)
    assert are_checked(out)


def test_only_shards_that_changed_are_checked_again(out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    def watched(scene: Scene, limits: CheckLimits, aids: Aids) -> tuple:
        looked_at.append(scene.pair.key)
        return check_sample(scene, limits, aids)

    monkeypatch.setattr(checking, "check_sample", watched)
    first = check_dataset(out, SETTINGS)
    tables = {name: out.read(name) for name in ("checks.parquet", "risk.parquet", "matrix.parquet")}
    assert len(looked_at) == 7
    looked_at.clear()
    assert check_dataset(out, SETTINGS).reused == 4
    assert looked_at == []
    assert {name: out.read(name) for name in tables} == tables
    # Weights and the sampling change no finding.
    check_dataset(out, SETTINGS.model_copy(update={"risk": RiskWeights(face_size=0.9), "seed": 5}))
    assert looked_at == []
    # A limit changes all; the bytes of one shard change its samples.
    check_dataset(out, SETTINGS.model_copy(update={"limits": CheckLimits(face_px=500)}))
    assert len(looked_at) == 7
    check_dataset(out, SETTINGS)
    looked_at.clear()
    shard = Path(out.path("shards/train-2s-00000.tar"))
    os.utime(shard, (1, 1))
    again = check_dataset(out, SETTINGS)
    assert (again.reused, len(looked_at), again.checks) == (3, 2, first.checks)


def test_the_same_with_several_threads(out: Store) -> None:
    check_dataset(out, SETTINGS)
    tables = {name: out.read(name) for name in ("checks.parquet", "risk.parquet", "matrix.parquet")}
    out.delete_folder("audit/checked")
    told: list[tuple[int, int]] = []
    check_dataset(out, SETTINGS, workers=3, tell=lambda done, total: told.append((done, total)))
    assert {name: out.read(name) for name in tables} == tables
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("damage", ["flip", "whole picture", "cut", "gone", "json"])
def test_a_damaged_sample_is_a_finding_and_the_rest_goes_on(out: Store, damage: str) -> None:
    index = Index.read(out)
    row = next(row for row in index if row.shard == "train-2s-00000.tar")
    name = f"shards/{row.shard}"
    data = bytearray(out.read(name))
    if damage == "flip":
        data[row.member("s0.face.png").offset + 40] ^= 1
    elif damage == "whole picture":  # it can be decoded, and is not what was written: only the hash tells
        name_, other = row.member("s0.face.png"), row.member("s1.face.png")
        copy = min((name_, other), key=lambda at: at.size)
        place = max((name_, other), key=lambda at: at.size)
        data[place.offset : place.offset + copy.size] = data[copy.offset : copy.offset + copy.size]
    elif damage == "json":
        at = row.member("json")
        data[at.offset : at.offset + 5] = b"nulls"
    out.write(name, bytes(data[: row.member("s0.face.png").offset + 10] if damage == "cut" else data))
    if damage == "gone":
        out.delete(name)
    summary = check_dataset(out, SETTINGS)
    lost = [r for r in rows(out, "risk.parquet") if not r["readable"]]
    assert summary.unreadable == len(lost) == (1 if damage in ("flip", "whole picture", "json") else 2)
    assert summary.samples == 7
    first = lost[0]
    assert (first["key"], first["risk"], first["failed"]) == (row.key, 1.0, [READABLE])
    findings = [r for r in rows(out, "checks.parquet") if r["key"] == row.key and r["check"] == READABLE]
    assert len(findings) == 1
    assert row.shard in findings[0]["reason"] or row.key in findings[0]["reason"]


def test_what_a_decoder_does_not_expect_is_a_finding(out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(scene: Scene, limits: CheckLimits, aids: Aids) -> tuple:
        raise OverflowError("what a hostile file does")

    monkeypatch.setattr(checking, "check_sample", breaks)
    assert check_dataset(out, SETTINGS).unreadable == 7
    assert "OverflowError" in rows(out, "checks.parquet")[0]["reason"]


def test_near_duplicates_of_the_other_split(tmp_path: Path) -> None:
    one, other, far = (sample(n, 2) for n in (1, 2, 3))
    near = f"{int(one.pair.quality.hashes[0], 16) ^ 0b101:016x}"
    quality = changed(other.pair.quality, hashes=(near,) * 3)
    twin = Scene(changed(other.pair, split="val", quality=quality), other.members)
    same_video = Scene(changed(far.pair, split="val", clip=changed(far.pair.clip, source_id="shared")), far.members)
    fourth = sample(4, 2)
    shared = Scene(changed(fourth.pair, clip=changed(fourth.pair.clip, source_id="shared")), fourth.members)
    out = Store.at(tmp_path)
    write_dataset(out, [one, twin, same_video, shared, sample(5, 2)])
    summary = check_dataset(out, SETTINGS)
    found = {r["key"]: r for r in rows(out, "checks.parquet") if r["check"] == "apart_from_other_split"}
    assert {key for key, row in found.items() if not row["passed"]} == {
        s.pair.key for s in (one, twin, same_video, shared)
    }
    assert "2 bits from sample-00002" in found["sample-00001"]["reason"]
    assert "same video" in found["sample-00003"]["reason"]
    assert summary.checks["apart_from_other_split"] == (5, 4)


def test_risk_ranks_and_names_what_weighs_most(scenes: list[Scene]) -> None:
    weights = RiskWeights()
    clean = check_sample(scenes[1], SETTINGS.limits)
    assert risk_of(clean, weights) == (0.0, ())
    light = check_sample(scenes[1], CheckLimits(face_px=500))
    once = [f for f in light if f.entity in ("s0.face", "s0.a0")]
    risk = risk_of(once, weights)
    assert risk == (weights.face_size, ("face_size",))
    both = risk_of([*once, once[0].model_copy(update={"check": "swap_alarm", "passed": False})], weights)
    assert both.failed == ("swap_alarm", "face_size")
    assert both.risk == pytest.approx(1 - (1 - weights.swap_alarm) * (1 - weights.face_size))
    assert risk_of(light, weights).risk > risk.risk  # two faces are too small
    unknown = once[0].model_copy(update={"check": "somebody_elses", "passed": False})
    assert risk_of([unknown], weights).risk == weights.other


def test_every_check_has_a_weight() -> None:
    assert QUESTIONS.keys() - {READABLE} == RiskWeights.model_fields.keys() - {"other"}


def test_no_dataset_and_an_empty_one(tmp_path: Path) -> None:
    out = Store.at(tmp_path)
    with pytest.raises(StoreError, match=r"index\.parquet"):
        check_dataset(out, SETTINGS)
    write_dataset(out, [])
    assert check_dataset(out, SETTINGS).samples == 0
    assert list(stored_findings(out)) == []
