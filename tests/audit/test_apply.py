"""A new version: what auditors said is in it, what nobody touched keeps its bytes, and it is a valid dataset."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from audit_samples import sample, write_dataset
from dataengine import masks
from dataengine.audit.apply import APPLIED, FATES, Applied, ApplyError, apply_events
from dataengine.audit.events import Event, EventLog, Undo, Verdict, stored_events
from dataengine.audit.exchange import from_parquet
from dataengine.audit.repairs import ChooseStill, Cut, DeleteEntity, MoveAttribute, Relabel
from dataengine.audit.scene import Scene
from dataengine.records import Box, Pair, RunSummary
from dataengine.shards.index import Index
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store

REJECT, ACCEPT = Verdict(verdict="reject", reasons=("swap",)), Verdict(verdict="accept")


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    """Six samples of two people and three of one, with clips."""
    made = [*(sample(n, 2, clip=True) for n in range(6)), *(sample(n, 1, clip=True) for n in range(6, 9))]
    return {scene.pair.key: scene for scene in made}


@pytest.fixture
def out(tmp_path: Path, scenes: dict[str, Scene]) -> Store:
    """Shards of three: 2s-00000 holds samples 0, 1, 2; 2s-00001 holds 3, 4, 5; 1s-00000 holds 6, 7, 8."""
    store = Store.at(tmp_path / "out")
    write_dataset(store, scenes.values(), per_shard=3)
    store.write("measurements/run.json", summary().to_json().encode())
    return store


def summary() -> RunSummary:
    return RunSummary(
        sources=9, duplicates=0, skipped=0, clips=9, pairs=9, subjects=15, quarantined=0, rejected={"face_min_px": 2},
        stages=(), wall_s=1, measuring_s=1, cost=0, inputs=(), config={},
    )  # fmt: skip


def audited(out: Store, *done: tuple[str, str, object]) -> tuple[Event, ...]:
    with EventLog.of(out) as log:
        for auditor, key, action in done:
            log.append(auditor, key, action)
    return stored_events(out)


def applied(out: Store, tmp_path: Path, *done: tuple[str, str, object], **more: object) -> tuple[Store, Applied]:
    target = Store.at(tmp_path / "out2")
    result = apply_events(out, target, audited(out, *done), **more)
    report = validate(target)
    assert [str(finding) for finding in report.findings] == []
    assert report.samples == result.samples
    return target, result


def digest(store: Store, shard: str) -> str:
    return hashlib.sha256(store.read(f"shards/{shard}")).hexdigest()


def key(number: int) -> str:
    return f"sample-{number:05d}"


def test_nothing_said_is_a_copy(out: Store, tmp_path: Path) -> None:
    target, result = applied(out, tmp_path)
    assert (result.samples, result.shards_kept, result.shards_written, result.fates) == (9, 3, 0, [])
    for name in out.names("shards"):
        assert target.read(name) == out.read(name)
    assert Index.read(target).table.equals(Index.read(out).table)


def test_rejected_samples_go_and_all_others_keep_their_bytes(out: Store, tmp_path: Path) -> None:
    target, result = applied(out, tmp_path, ("a", key(1), REJECT), ("a", key(2), ACCEPT))
    assert (result.samples, result.shards_kept, result.shards_written) == (8, 2, 1)
    assert result.counts == {"kept": 1, "rejected": 1}
    assert digest(target, "train-2s-00001.tar") == digest(out, "train-2s-00001.tar")
    before, after = PairDataset(out), PairDataset(target)
    with pytest.raises(KeyError):
        after.find(key(1))
    for number in (0, 2, 3, 8):
        assert after.find(key(number)).members == before.find(key(number)).members
    rows = {row["clip_id"]: row for row in pq.read_table(target.path("clips.parquet")).to_pylist()}
    gone = rows[before.find(key(1)).pair.clip.clip_id]
    assert (gone["verdict"], gone["detail"]) == ("audit_rejected", "a: reject, swap")
    assert sum(row["verdict"] == "kept" for row in rows.values()) == 8
    run = RunSummary.from_json(target.read("measurements/run.json"))
    assert (run.pairs, run.rejected) == (8, {"audit_rejected": 1, "face_min_px": 2})
    assert "8 samples" in target.read("README.md").decode()


def test_a_swap_is_repaired(out: Store, tmp_path: Path, scenes: dict[str, Scene]) -> None:
    pair = scenes[key(0)].pair
    number = len(pair.subjects[1].attributes)
    done = [
        ("a", key(0), MoveAttribute(entity="s0.a0", subject=1)),
        ("a", key(0), Relabel(entity=f"s1.a{number}", text="long winter coat")),
        ("a", key(0), ACCEPT),
    ]
    target, result = applied(out, tmp_path, *done)
    assert result.counts == {"repaired": 1}
    before, after = PairDataset(out).find(key(0)), PairDataset(target).find(key(0))
    new = f"s1.a{number}"
    moved = after.pair.subjects[1].attributes[-1]
    assert (moved.entity, moved.phrase.text) == (new, "long winter coat")
    assert moved.phrase.span.of(after.pair.caption) == "long winter coat"
    assert after.members[f"{new}.png"] == before.members["s0.a0.png"]
    assert after.members[f"{new}.mask.png"] == before.members["s0.a0.mask.png"]
    assert "s0.a0.png" not in after.members
    assert after.members["mp4"] == before.members["mp4"]
    assert after.pair.provenance.events == (1, 2, 3)
    assert from_parquet(target.read(APPLIED)) == stored_events(out)
    fates = pq.read_table(target.path(FATES)).to_pylist()
    assert [(f["key"], f["fate"], f["events"]) for f in fates] == [(key(0), "repaired", [1, 2, 3])]
    assert Index.read(target)[Index.read(target).find(key(0))].caption == after.pair.caption


def test_a_sample_that_loses_a_subject_changes_its_shard(out: Store, tmp_path: Path) -> None:
    done = [("a", key(4), DeleteEntity(entity="s1")), ("a", key(4), DeleteEntity(entity="bg"))]
    target, result = applied(out, tmp_path, *done)
    index = Index.read(target)
    row = index[index.find(key(4))]
    assert (row.shard, row.subjects, row.background) == ("train-1s-00001.tar", 1, False)
    assert digest(target, "train-1s-00000.tar") == digest(out, "train-1s-00000.tar")
    assert result.shards_written == 2
    assert not any(name.startswith(("s1.", "bg")) for name in PairDataset(target).find(key(4)).members)


def test_auditors_who_disagree_leave_the_sample_out(out: Store, tmp_path: Path) -> None:
    done = [
        ("a", key(0), ACCEPT),
        ("b", key(0), REJECT),
        ("a", key(1), ACCEPT),
        ("b", key(1), REJECT),
        ("c", key(1), ACCEPT),
    ]
    target, result = applied(out, tmp_path, *done)
    assert result.counts == {"disputed": 1, "kept": 1}
    keys = Index.read(target).table["key"].to_pylist()
    assert key(0) not in keys
    assert key(1) in keys


def test_undone_events_have_no_effect(out: Store, tmp_path: Path) -> None:
    _, result = applied(out, tmp_path, ("a", key(0), REJECT), ("a", key(0), Undo(event=1)))
    assert (result.samples, result.shards_kept, result.fates) == (9, 3, [])


def test_a_whole_shard_may_go(out: Store, tmp_path: Path) -> None:
    target, result = applied(out, tmp_path, *(("a", key(number), REJECT) for number in (6, 7, 8)))
    assert target.names("shards") == ["shards/train-2s-00000.tar", "shards/train-2s-00001.tar"]
    assert result.samples == 6


def mask_of_still_2() -> np.ndarray:
    mask = np.zeros((360, 640), bool)
    mask[50:120, 300:420] = True
    mask[80:90, 330:350] = False
    return mask


def test_another_still_is_cut_from_the_clip(out: Store, tmp_path: Path, scenes: dict[str, Scene]) -> None:
    mask = mask_of_still_2()

    def cuts_of(pair: Pair):
        def cut(entity: str, still: int) -> Cut | None:
            if still != 2:
                return None
            face = entity.endswith("face")
            return Cut(
                time_s=0.9,
                box=Box(10, 20, 90, 110) if face else Box(300, 50, 420, 120),
                area_share=0.03,
                score=0.8,
                mask=None if face else masks.encode(mask),
                sharpness=50 if face else None,
            )

        return cut

    number = next(n for n in range(6) if len(scenes[key(n)].pair.subjects[1].attributes) < 3)
    done = [
        ("a", key(number), ChooseStill(entity="s0.a0", still=2)),
        ("a", key(number), ChooseStill(entity="s1.face", still=2)),
        ("a", key(number), MoveAttribute(entity="s0.a0", subject=1)),
    ]
    target, result = applied(out, tmp_path, *done, cuts_of=cuts_of)
    assert result.counts == {"repaired": 1}
    after = PairDataset(target).find(key(number))
    moved = after.pair.subjects[1].attributes[-1]
    assert (moved.still, moved.time_s, after.pair.subjects[1].face.sharpness) == (2, 0.9, 50)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(after.members[moved.mask_member]))), mask)
    frame = scenes[key(number)].stills[2]
    picture = np.asarray(Image.open(io.BytesIO(after.members[moved.member])))
    inside = mask[50:120, 300:420]
    assert (picture[~inside] == 255).all()
    assert np.array_equal(picture[inside], frame[50:120, 300:420][inside])
    face = np.asarray(Image.open(io.BytesIO(after.members["s1.face.png"])))
    assert np.array_equal(face, frame[20:110, 10:90])


def test_without_measurements_the_sample_is_left_out_and_told(out: Store, tmp_path: Path) -> None:
    target, result = applied(out, tmp_path, ("a", key(3), ChooseStill(entity="s0.a0", still=2)), ("a", key(5), ACCEPT))
    assert result.counts == {"kept": 1, "unappliable": 1}
    assert "nothing is stored of how it stands in still 2" in next(f.reason for f in result.fates if f.key == key(3))
    assert len(Index.read(target)) == 8


def test_honeypots_and_strangers_change_nothing(out: Store, tmp_path: Path) -> None:
    _, result = applied(out, tmp_path, ("a", "ffffffffffffffffffffffff", REJECT))
    assert (result.samples, result.unknown) == (9, 1)


def test_a_damaged_sample_that_was_to_be_repaired_is_left_out(out: Store, tmp_path: Path) -> None:
    done = audited(out, ("a", key(0), Relabel(entity="s0.a0", text="tie")), ("a", key(7), ACCEPT))
    row = Index.read(out)[Index.read(out).find(key(0))]
    data = bytearray(out.read(f"shards/{row.shard}"))
    at = row.member("json").offset
    data[at : at + 4] = b"!!!!"
    out.write(f"shards/{row.shard}", bytes(data))
    result = apply_events(out, Store.at(tmp_path / "out2"), done)
    assert result.counts == {"kept": 1, "unappliable": 1}
    assert validate(Store.at(tmp_path / "out2")).ok


def test_a_place_that_is_taken_is_refused(out: Store, tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match="the dataset itself"):
        apply_events(out, out, ())
    applied(out, tmp_path)
    with pytest.raises(ApplyError, match="holds a dataset already"):
        apply_events(out, Store.at(tmp_path / "out2"), ())


def test_what_a_kill_left_is_written_again(out: Store, tmp_path: Path) -> None:
    """Without an index a version is not finished, and the same command finishes it, to the byte."""
    target, _ = applied(out, tmp_path, ("a", key(1), REJECT))
    whole = {name: target.read(name) for name in target.names()}
    target.delete("index.parquet")
    target.write("shards/train-2s-00000.tar", b"half")
    apply_events(out, target, stored_events(out))
    assert {name: target.read(name) for name in target.names()} == whole
