"""Whole imports: round trips, the same bytes however they are made, bad samples beside good ones."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_dataset import write

from dataengine.config import ShardSettings
from dataengine.records import Pair, PairQuality
from dataengine.shards.importers.lumosx import LumosX
from dataengine.shards.importers.tree import Tree
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store, StoreError
from pipelines import imports, spread
from pipelines.exports import export_dataset
from pipelines.imports import ImportOptions, ImportSummary, import_samples


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, measured_clip: Callable) -> tuple[Store, Path]:
    """A dataset of ours, and the same in the LumosX layout. Read-only: tests share it."""
    folder = tmp_path_factory.mktemp("exported")
    ours = Store.at(folder / "ours")
    write(ours, measured_clip)
    export_dataset("lumosx", ours.uri, str(folder / "lumosx"))
    return ours, folder / "lumosx/samples"


def import_(source: Path, output: Path, **options: object) -> ImportSummary:
    small = ShardSettings(samples=2)
    return import_samples(LumosX(Tree.at(source)), str(source), str(output), ImportOptions(shards=small, **options))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kept(pair: Pair) -> Pair:
    """A pair without what the LumosX layout cannot hold."""

    def bare(reference):
        if reference is None:
            return None
        lost = {"mask_member": None, "still": 0, "time_s": 0.0, "box": None, "area_share": 0.0, "score": 1.0}
        lost |= {"sharpness": None, "frontal": None, "visible": None, "placed": True}
        return reference.model_copy(update=lost)

    subjects = tuple(
        s.model_copy(
            update={
                "face": bare(s.face),
                "attributes": tuple(map(bare, s.attributes)),
                "body": bare(s.body),
                "owner_share": 1.0,
                "likeness": None,
            }
        )
        for s in pair.subjects
    )
    lost = {"split": "train", "clip": None, "source_names": (), "provenance": None, "relations": ()}
    parts = {"subjects": subjects, "objects": tuple(map(bare, pair.objects)), "background": bare(pair.background)}
    return pair.model_copy(update=lost | parts | {"quality": PairQuality(), "licence": None})


def test_ours_to_lumosx_and_back_is_equal_where_the_layout_can_hold_it(exported, tmp_path: Path) -> None:
    ours, lumosx = exported
    summary = import_(lumosx, tmp_path / "back", licence="cc-by-4.0")
    assert (summary.samples, summary.refused, summary.dropped, summary.losses.losses) == (4, 0, {}, ())
    back = PairDataset(Store.at(tmp_path / "back"))
    assert validate(back.out).ok
    for sample in PairDataset(ours):
        other = back.find(sample.pair.key)
        assert kept(other.pair) == kept(sample.pair)
        assert other.pair.licence == "cc-by-4.0"
        masks = {name for name in sample.members if name.endswith(".mask.png")}
        assert masks
        same = {name: data for name, data in sample.members.items() if name not in {"json", *masks}}
        assert {name: data for name, data in other.members.items() if name != "json"} == same
        assert other.pair.provenance.stages[0].model == "imported"
    assert not (tmp_path / "back/measurements/import").exists()
    assert "imported" in (tmp_path / "back/README.md").read_text()


def test_the_same_bytes_however_it_is_read(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lumosx = exported
    import_(lumosx, tmp_path / "one")
    monkeypatch.setattr(imports, "PART_ITEMS", 1)
    import_(lumosx, tmp_path / "many parts")
    assert files(tmp_path / "one") == files(tmp_path / "many parts")


@pytest.mark.ray
def test_the_same_bytes_on_rays_workers(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_here) -> None:
    _, lumosx = exported
    import_(lumosx, tmp_path / "here")
    monkeypatch.setattr(imports, "PART_ITEMS", 1)
    monkeypatch.setattr(spread, "FEW", 1)
    import_(lumosx, tmp_path / "workers")
    assert files(tmp_path / "here") == files(tmp_path / "workers")


def test_a_killed_import_goes_on_where_it_was(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lumosx = exported
    monkeypatch.setattr(imports, "PART_ITEMS", 1)
    import_(lumosx, tmp_path / "whole")
    read: list[str] = []
    real = LumosX.read

    def counted(self, item):
        read.append(item.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return real(self, item)

    monkeypatch.setattr(LumosX, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        import_(lumosx, tmp_path / "killed")
    again = read[2]
    import_(lumosx, tmp_path / "killed")
    assert read == [*read[:2], again, again, read[4]]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_bad_samples_do_not_touch_good_ones(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lumosx = exported
    source = tmp_path / "source"
    shutil.copytree(lumosx, source)
    good = sorted(p.name for p in source.iterdir())
    shutil.copytree(source / good[0], source / f"copy_{good[0].partition('_')[2]}")  # the same key twice
    shutil.copytree(source / good[1], source / "broken")
    (source / "broken/clip.mp4").write_bytes(b"no video")
    shutil.copytree(source / good[1], source / "hangs")
    (source / "link").symlink_to("/etc")
    (source / "empty").mkdir()
    monkeypatch.setattr(imports, "ROW_S", 2.0)
    real = LumosX.read

    def slow(self, item):
        if item.name == "hangs":
            import time

            time.sleep(30)
        if item.name == "empty":
            raise ZeroDivisionError("what a library says of a strange file")
        return real(self, item)

    monkeypatch.setattr(LumosX, "read", slow)
    summary = import_(source, tmp_path / "out")
    assert (summary.samples, summary.refused) == (4, 5)
    rows = pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()
    reasons = {row["source_names"][0]: (row["error"], row["message"]) for row in rows}
    assert {name: error for name, (error, _) in reasons.items()} == {
        good[0]: "ImportRefused",
        "broken": "ImportRefused",
        "hangs": "RowTimeout",
        "link": "ImportRefused",
        "empty": "ZeroDivisionError",
    }
    assert "is also that of a sample before it" in reasons[good[0]][1]
    assert validate(Store.at(tmp_path / "out")).ok
    assert len(pq.read_table(tmp_path / "out/clips.parquet")) == 4


def test_keys_in_different_parts_are_kept_once(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lumosx = exported
    source = tmp_path / "source"
    shutil.copytree(lumosx, source)
    first = min(p.name for p in source.iterdir())
    shutil.copytree(source / first, source / f"zz_{first.partition('_')[2]}")
    monkeypatch.setattr(imports, "PART_ITEMS", 1)
    summary = import_(source, tmp_path / "out")
    assert (summary.samples, summary.refused) == (4, 1)


def test_another_dataset_is_not_overwritten(exported, tmp_path: Path) -> None:
    ours, lumosx = exported
    shutil.copytree(ours.uri, tmp_path / "built")
    with pytest.raises(StoreError, match="import into a folder of its own"):
        import_(lumosx, tmp_path / "built")
    import_(lumosx, tmp_path / "out")
    before = files(tmp_path / "out")
    shutil.copytree(lumosx, tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="was imported there"):
        import_(tmp_path / "elsewhere", tmp_path / "out")
    import_(lumosx, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_sources_are_held_out_whole(exported, tmp_path: Path) -> None:
    _, lumosx = exported
    import_(lumosx, tmp_path / "out", val_share=0.5)
    splits = {s.pair.split for s in PairDataset(Store.at(tmp_path / "out"))}
    assert splits <= {"train", "val"} and len(splits) == 2
