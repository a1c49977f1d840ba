"""Repair: all that is whole stays, all that is not goes with its reason, and the result validates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dataengine.shards import tar
from dataengine.shards.index import Index, IndexRow, read_member
from dataengine.shards.repair import Repair, repair
from dataengine.shards.validate import validate
from dataengine.store import Store


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every file of every sample that the index knows."""
    out = Store.at(folder)
    return {row.key: {at.name: read_member(out, row, at.name) for at in row.members} for row in Index.read(out)}


def dropped(found: Repair) -> dict[str | None, str]:
    return {sample.key: "; ".join(sample.problems) for sample in found.dropped}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_row(folder: Path, number: int = 2) -> IndexRow:
    """The first of two samples in its shard."""
    return Index.read(Store.at(folder))[number]


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


@pytest.fixture
def mended(spoilt: Path) -> Callable[[], Repair]:
    """Repairs the spoilt dataset and checks what must hold of every repair."""
    before = contents(spoilt)

    def work() -> Repair:
        planned = snapshot(spoilt)
        would = repair(Store.at(spoilt), dry_run=True)
        assert snapshot(spoilt) == planned, "a dry run writes nothing"
        done = repair(Store.at(spoilt))
        assert done == would, "and says what will be done"
        assert validate(Store.at(spoilt)).findings == ()
        kept = contents(spoilt)
        assert kept == {key: before[key] for key in kept}, "what is kept has the bytes that were written"
        assert kept.keys() | {sample.key for sample in done.dropped} >= before.keys(), "nothing goes unnamed"
        assert json.loads((spoilt / "repair.json").read_text())["kept"] == done.kept == len(kept)
        again = repair(Store.at(spoilt))
        assert (again.dropped, again.shards, again.index) == ((), {}, False)
        return done

    return work


def test_a_sound_dataset_is_left_alone(spoilt, mended):
    shards = snapshot(spoilt / "shards")
    found = mended()
    assert (found.kept, found.dropped, found.shards, found.index) == (7, (), {}, False)
    assert snapshot(spoilt / "shards") == shards and not (spoilt / "damaged").exists()


def test_a_lost_index_is_made_anew(spoilt, mended):
    index = (spoilt / "index.parquet").read_bytes()
    (spoilt / "index.parquet").unlink()
    found = mended()
    assert (found.kept, found.index, found.shards) == (7, True, {})
    assert (spoilt / "index.parquet").read_bytes() == index


@pytest.mark.parametrize("index", [True, False])
def test_a_shard_cut_short_keeps_its_whole_samples(spoilt, mended, index):
    row = a_row(spoilt, 3)
    shard = spoilt / "shards" / row.shard
    shard.write_bytes(shard.read_bytes()[: row.members[2].offset + 10])
    if not index:
        (spoilt / "index.parquet").unlink()
    found = mended()
    assert found.kept == 6 and found.shards == {row.shard: "rewritten"} and row.key in dropped(found)
    assert (spoilt / "damaged" / row.shard).exists()


@pytest.mark.parametrize("index", [True, False])
def test_a_damaged_header_costs_its_sample_alone(spoilt, mended, index):
    row = a_row(spoilt)
    edit(spoilt / "shards" / row.shard, lambda data: data.__setitem__(slice(0, 4), b"\xff\xff\xff\xff"))
    if not index:
        (spoilt / "index.parquet").unlink()
    found = mended()
    assert found.kept == 6
    assert "members: mp4 is missing" in dropped(found)[row.key]
    assert dropped(found)[None].startswith("bytes 0…")


def test_a_flipped_bit_is_told_by_the_hash(spoilt, mended):
    row = a_row(spoilt)
    at = row.member("mp4")
    edit(spoilt / "shards" / row.shard, lambda data: data.__setitem__(at.offset + at.size - 9, 0xA5))
    assert "hash: mp4" in dropped(mended())[row.key]


def test_a_shard_without_any_whole_sample_is_removed(spoilt, mended):
    row = a_row(spoilt)
    (spoilt / "shards" / row.shard).write_bytes(b"\x01" * 5000)
    found = mended()
    assert found.shards == {row.shard: "removed"} and found.kept == 5
    assert not (spoilt / "shards" / row.shard).exists()


def test_a_shard_that_is_gone_leaves_the_index(spoilt, mended):
    row = a_row(spoilt)
    (spoilt / "shards" / row.shard).unlink()
    found = mended()
    assert found.kept == 5 and found.index and dropped(found)[row.key] == "its shard is gone"


def test_a_copied_shard_gives_no_sample_twice(spoilt, mended):
    row = a_row(spoilt)
    (spoilt / "shards" / "zzz.tar").write_bytes((spoilt / "shards" / row.shard).read_bytes())
    found = mended()
    assert found.kept == 7 and found.shards == {"zzz.tar": "removed"}
    assert dropped(found)[row.key] == f"key: {row.shard} has it too"


def test_a_sample_that_stands_twice_in_a_shard_stays_once(spoilt, mended):
    shard = spoilt / "shards" / a_row(spoilt).shard
    rows = [row for row in Index.read(Store.at(spoilt)) if row.shard == shard.name]
    first, end = rows[0].span
    again = shard.read_bytes()[first - tar.BLOCK : end + -end % tar.BLOCK]
    body = shard.read_bytes()[: rows[-1].span[1] + -rows[-1].span[1] % tar.BLOCK]
    shard.write_bytes(body + again + tar.end(len(body) + len(again)))
    found = mended()
    assert found.kept == 7 and "the shard has had files of it before" in dropped(found)[rows[0].key]


def test_an_index_that_says_otherwise_costs_no_sample(spoilt, mended, made_samples, make_dataset):
    other = make_dataset(made_samples, "other", 1)  # the same samples in other shards
    (spoilt / "index.parquet").write_bytes(Path(other.uri, "index.parquet").read_bytes())
    found = mended()
    assert found.kept == 7 and found.index and found.shards == {}


def test_only_what_is_looked_at_can_be_dropped(spoilt):
    row = a_row(spoilt)
    (spoilt / "index.parquet").unlink()
    at = row.member("mp4")
    edit(spoilt / "shards" / row.shard, lambda data: data.__setitem__(slice(at.offset, at.offset + 64), bytes(64)))
    assert repair(Store.at(spoilt), depth="files", dry_run=True).dropped == ()
    assert [sample.key for sample in repair(Store.at(spoilt), dry_run=True).dropped] == [row.key]
