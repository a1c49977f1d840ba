"""Validation: nothing in a sound dataset, and every planted fault in a spoilt one."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataengine.records import Box, Pair
from dataengine.shards import tar
from dataengine.shards.assembly import Member, png
from dataengine.shards.index import Index
from dataengine.shards.validate import Report, Validation, validate
from dataengine.store import Store
from dataengine.video import encode_clip


def found(report: Report) -> set[tuple[str, str | None]]:
    return {(finding.check, finding.key) for finding in report.findings}


def test_a_sound_dataset_has_no_findings(dataset, made_samples):
    report = validate(dataset)
    assert report.findings == () and report.ok
    assert (report.shards, report.samples) == (len(dataset.names("shards")), 7)
    assert report.bytes == sum(len(data) for sample in made_samples for _, data in sample.members)
    assert validate(dataset, workers=3).findings == ()


# --- Faults inside a sample: the shard and the index agree, the content does not --------------------------------------


@pytest.fixture
def check_sample(made_samples, make_dataset) -> Callable[..., set[str]]:
    """`check_sample(pair={…}, **members)`: the problems of a sample with these fields of its record and files changed;
    a file that is None is left out.
    """

    def check(pair: dict[str, object] | None = None, **members: bytes | None) -> set[str]:
        made = next(s for s in made_samples if len(s.pair.subjects) == 2)
        changed = {name.replace("_", "."): data for name, data in members.items()}
        if pair is not None:
            record = {**json.loads(dict(made.members)["json"]), **pair}
            changed["json"] = json.dumps(record).encode()
        names = [*dict(made.members), *(name for name in changed if name not in dict(made.members))]
        files = {name: changed.get(name, dict(made.members).get(name)) for name in names}
        kept = tuple(Member(name, data) for name, data in files.items() if data is not None)
        out = make_dataset([type(made)(_indexable(files["json"]) or made.pair, kept)], "changed")
        return {f"{f.check}: {f.problem}" for f in validate(out).findings}

    return check


def _indexable(record: bytes | None) -> Pair | None:
    """The index is made from the record that is written, where one can be: only the content is to be wrong."""
    try:
        pair = Pair.from_json(record or b"")
    except ValueError:
        return None
    return pair if pair.subjects else None


def frames(number: int, width: int = 320, height: int = 180) -> list[np.ndarray]:
    return [np.full((height, width, 3), 10 * i, np.uint8) for i in range(number)]


def box_of(pair: Pair, entity: str) -> Box:
    return next(r.box for r in pair.references if r.entity == entity)


def test_files_that_are_missing_or_too_many(check_sample):
    assert check_sample() == set()
    assert check_sample(s1_face_png=None) == {"members: s1.face.png is missing"}
    assert check_sample(s0_a0_mask_png=None) == {"members: s0.a0.mask.png is missing"}
    assert check_sample(mp4=None) == {"members: mp4 is missing"}
    assert check_sample(s7_a0_png=png(np.zeros((4, 4, 3), np.uint8))) == {"members: s7.a0.png is not in its record"}


def test_records_that_are_wrong(check_sample, made_samples):
    assert any(p.startswith("pair: json: record: Invalid JSON") for p in check_sample(json=b"{"))
    (problem,) = check_sample({"caption": "too short"})
    assert problem.startswith("pair: json: record") and "outside the caption" in problem
    assert any("Extra inputs" in problem for problem in check_sample({"weather": "fine"}))
    (problem,) = check_sample({"subjects": []})
    assert problem == "pair: json: 0 subjects at 12.0 frames a second"


def test_clips_that_are_wrong(check_sample):
    assert any(p.startswith("clip: mp4: ") for p in check_sample(mp4=b"no video"))
    assert check_sample(mp4=encode_clip(frames(11), 12)) == {"clip: mp4: 11 frames, the record says 12"}
    assert check_sample(mp4=encode_clip(frames(12), 24)) == {
        "clip: mp4: 24.000 frames a second, the record says 12.000"
    }
    assert check_sample(mp4=encode_clip(frames(12, width=160), 12)) == {"clip: mp4: 160x180, the record says 320x180"}
    whole = encode_clip(frames(12), 12)
    assert any(p.startswith("clip") for p in check_sample(mp4=whole[: len(whole) * 2 // 3]))


def test_images_that_are_wrong(check_sample):
    assert check_sample(s0_a0_mask_png=png(np.ones((90, 160), bool))) == {
        "image: s0.a0.mask.png: 160x90 pixels instead of 320x180"
    }
    assert check_sample(bg_png=png(np.zeros((180, 318, 3), np.uint8))) == {
        "image: bg.png: 318x180 pixels instead of 320x180"
    }
    (problem,) = check_sample(s0_a0_mask_png=png(np.ones((180, 320), bool)))
    assert problem == "image: s0.a0.mask.png: its pixels lie in (0, 0, 320, 180), the record says (24, 80, 95, 150)"
    assert check_sample(s0_a0_mask_png=png(np.full((180, 320, 3), 9, np.uint8))) == {
        "image: s0.a0.mask.png: it is not black and white"
    }
    assert check_sample(s0_a0_mask_png=png(np.zeros((180, 320), bool))) == {
        "image: s0.a0.mask.png: its pixels lie in None, the record says (24, 80, 95, 150)"
    }
    face = png(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    for broken in (face[: len(face) // 2], face[:60] + b"0000" + face[64:], b"GIF89a", b""):
        (problem,) = check_sample(s0_face_png=broken)
        assert problem.startswith("image: s0.face.png: it cannot be decoded as PNG")


def test_a_huge_image_is_not_decoded(check_sample):
    small = png(np.zeros((40, 40, 3), np.uint8))
    claims = small[12:16] + struct.pack(">II", 60_000, 60_000) + small[24:29]
    bomb = small[:12] + claims + struct.pack(">I", zlib.crc32(claims)) + small[33:]
    (problem,) = check_sample(s0_face_png=bomb)
    assert problem.startswith("image: s0.face.png") and ("60000" in problem or "bomb" in problem)


def test_boxes_outside_the_frame(check_sample, made_samples):
    made = next(s for s in made_samples if len(s.pair.subjects) == 2)
    record = json.loads(made.pair.to_json())
    record["subjects"][0]["face"]["box"] = [300, 32, 340, 72]
    assert check_sample({"subjects": record["subjects"]}) == {
        "image: s0.face: its box (300.0, 32.0, 340.0, 72.0) is not inside the frame"
    }


# --- Faults of files: the content was good when it was written --------------------------------------------------------


def a_row(folder: Path):
    return Index.read(Store.at(folder))[2]


def rewrite(shard: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(shard.read_bytes())
    change(data)
    shard.write_bytes(data)


def test_a_flipped_bit(spoilt):
    row = a_row(spoilt)
    at = row.member("mp4")
    rewrite(spoilt / "shards" / row.shard, lambda data: data.__setitem__(at.offset + at.size - 9, 0xA5))
    report = validate(Store.at(spoilt), Validation("images"))
    assert [(f.check, f.shard, f.key) for f in report.findings] == [("hash", row.shard, row.key)]
    assert "mp4: its bytes are not those that were written" in str(report.findings[0])


def test_a_shard_cut_short(spoilt):
    row = a_row(spoilt)
    shard = spoilt / "shards" / row.shard
    shard.write_bytes(shard.read_bytes()[: row.members[2].offset + 10])
    report = validate(Store.at(spoilt))
    assert ("tar", None) in found(report)
    assert any(f.shard == row.shard and "cut short" in f.remedy for f in report.findings)


def test_a_damaged_header(spoilt):
    row = a_row(spoilt)
    rewrite(spoilt / "shards" / row.shard, lambda data: data.__setitem__(slice(0, 4), b"\xff\xff\xff\xff"))
    assert ("tar", None) in found(validate(Store.at(spoilt)))


def test_a_shard_that_is_gone(spoilt):
    row = a_row(spoilt)
    (spoilt / "shards" / row.shard).unlink()
    (finding,) = validate(Store.at(spoilt)).findings
    assert (finding.check, finding.shard) == ("index", row.shard) and "is gone" in finding.problem


def test_a_shard_that_nobody_knows(spoilt):
    row = a_row(spoilt)
    stranger = spoilt / "shards" / "train-9s-00000.tar"
    stranger.write_bytes((spoilt / "shards" / row.shard).read_bytes())
    report = validate(Store.at(spoilt))
    assert {("index", row.key), ("key", row.key)} <= found(report), "not indexed, and its keys are taken"
    assert {f.shard for f in report.findings} <= {stranger.name, row.shard}


def test_an_index_that_is_missing_or_damaged(spoilt):
    index = spoilt / "index.parquet"
    index.write_bytes(index.read_bytes()[:-20])
    report = validate(Store.at(spoilt))
    assert ("index", None) in found(report) and report.samples == 7
    index.unlink()
    assert ("index", None) in found(validate(Store.at(spoilt)))


def edit_index(folder: Path, change: Callable[[list[dict]], None]) -> None:
    table = pq.read_table(folder / "index.parquet")
    rows = table.to_pylist()
    change(rows)
    pq.write_table(type(table).from_pylist(rows, table.schema), folder / "index.parquet")


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("caption", "another", "the index says otherwise of its caption"),
        ("split", "test", "the index says otherwise of its split"),
        ("face_score", 0.1, "the index says otherwise of its face_score"),
        ("clip_id", "0", "the index says otherwise of its clip_id"),
    ],
)
def test_an_index_that_says_otherwise(spoilt, column, value, problem):
    key = a_row(spoilt).key
    edit_index(spoilt, lambda rows: rows[2].update({column: value}))
    assert [(f.key, f.problem) for f in validate(Store.at(spoilt), Validation("images")).findings] == [(key, problem)]


def test_an_index_with_wrong_places(spoilt):
    key = a_row(spoilt).key
    edit_index(spoilt, lambda rows: rows[2]["members"][3].update(offset=1))
    assert found(validate(Store.at(spoilt), Validation("images"))) == {("index", key)}
    edit_index(spoilt, lambda rows: rows[2]["members"].pop())
    assert any("lists other files" in f.problem for f in validate(Store.at(spoilt), Validation("images")).findings)


def test_an_index_with_a_row_too_few_or_twice_or_out_of_order(spoilt):
    key = a_row(spoilt).key
    edit_index(spoilt, lambda rows: rows.insert(3, rows[2]))
    assert ("key", key) in found(validate(Store.at(spoilt), Validation("images")))
    edit_index(spoilt, lambda rows: rows.pop(3))
    assert validate(Store.at(spoilt), Validation("images")).ok
    edit_index(spoilt, lambda rows: rows.insert(0, rows.pop()))
    assert "index" in {f.check for f in validate(Store.at(spoilt), Validation("images")).findings}
    edit_index(spoilt, lambda rows: rows.append(rows.pop(0)))
    edit_index(spoilt, lambda rows: rows.pop(2))
    assert found(validate(Store.at(spoilt), Validation("images"))) == {("index", key)}


def test_a_sample_that_only_the_index_has(spoilt):
    row = a_row(spoilt)
    shard = spoilt / "shards" / row.shard
    shard.write_bytes(tar.end(0))
    report = validate(Store.at(spoilt))
    lost = {("index", r.key) for r in Index.read(Store.at(spoilt)) if r.shard == row.shard}
    assert found(report) == lost and ("index", row.key) in lost


def test_findings_say_what_to_do(spoilt):
    row = a_row(spoilt)
    (spoilt / "shards" / row.shard).unlink()
    for finding in validate(Store.at(spoilt)).findings:
        assert finding.remedy and str(finding).startswith(f"{finding.check}: {finding.shard}")
