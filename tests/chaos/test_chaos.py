"""A build that is killed again and again: the short version of `make chaos`, and that its judge sees what is wrong."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from harness import SETTINGS, Ledger, Target, campaign, compare, plan, show


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_build_survives_kills_of_its_driver_workers_and_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = campaign(
        tmp_path,
        # Far enough apart that each kill is seen to be survived: the driver, then a worker, then a node.
        seed=2,
        kills=3,
        sources=3,
        targets=("driver", "worker", "node"),
        # The rules' detector: a second of work where the network takes ten.
        settings=(*SETTINGS, "stages.shots.detector=adaptive"),
        patience_s=300,
    )
    with capsys.disabled():
        print()
        show(result, Console(width=180))
    assert result.findings == []
    assert result.recomputed == 0
    assert result.counts() == {"driver": 1, "worker": 1, "node": 1}


def test_a_plan_has_every_target_and_can_be_carried_out_in_its_order() -> None:
    targets: tuple[Target, ...] = get_args(Target)
    for seed in range(50):
        plans = plan(random.Random(seed), 8, targets)
        assert {one.target for one in plans} == set(targets)
        assert [one.phase for one in plans] == sorted(
            (one.phase for one in plans), key=["start", "measure", "pack"].index
        )
        measuring = [one.at for one in plans if one.phase == "measure"]
        assert measuring == sorted(measuring)
        assert plans == plan(random.Random(seed), 8, targets)


# --- The judge --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Ledger, Ledger]:
    """A reference and an equal build, as far as the judge looks."""
    for name in ("reference", "build"):
        out = tmp_path / name
        (out / "shards").mkdir(parents=True)
        (out / "shards" / "00000.tar").write_bytes(b"tar")
        for table in ("index", "quarantine", "clips"):
            (out / f"{table}.parquet").write_bytes(table.encode())
        write_part(out, "part-1.parquet", ["a", "b"])
        write_part(out, "part-2.parquet", ["c"])
    made = Ledger(tmp_path / "reference"), Ledger(tmp_path / "build")
    for ledger in made:
        assert ledger.observe() == 2
    return made


def write_part(out: Path, name: str, ids: list[str]) -> None:
    folder = out / "measurements" / "probe" / "f00d"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids}), folder / name)


def test_an_equal_build_passes(pair: tuple[Ledger, Ledger]) -> None:
    reference, build = pair
    assert build.observe() == 0
    assert compare(reference, build) == []
    assert (build.rows(), build.recomputed()) == (3, 0)


def _other_bytes(out: Path) -> None:
    (out / "shards" / "00000.tar").write_bytes(b"rat")


def _no_shard(out: Path) -> None:
    (out / "shards" / "00000.tar").unlink()


def _one_shard_more(out: Path) -> None:
    (out / "shards" / "00001.tar").write_bytes(b"tar")


def _half_written(out: Path) -> None:
    (out / "shards" / ".tmp-x").touch()


def _measured_again(out: Path) -> None:
    path = out / "measurements" / "probe" / "f00d" / "part-1.parquet"
    shutil.copyfile(path, path.with_name(".copy"))
    path.with_name(".copy").replace(path)


def _stored_twice(out: Path) -> None:
    write_part(out, "part-3.parquet", ["b"])


def _unknown(out: Path) -> None:
    write_part(out, "part-3.parquet", ["d"])


def _part_gone(out: Path) -> None:
    (out / "measurements" / "probe" / "f00d" / "part-2.parquet").unlink()


@pytest.mark.parametrize(
    ("spoil", "finding", "recomputed"),
    [
        (_other_bytes, "other bytes", 0),
        (_no_shard, "missing", 0),
        (_one_shard_more, "not in the reference", 0),
        (_half_written, "temporary file", 0),
        (_measured_again, "rewritten, 2 rows", 2),
        (_stored_twice, "1 ids stored twice", 1),
        (_unknown, "1 unknown ids", 0),
        (_part_gone, "rewritten, 1 rows", 1),
    ],
)
def test_the_judge_sees_it(
    pair: tuple[Ledger, Ledger], spoil: Callable[[Path], None], finding: str, recomputed: int
) -> None:
    reference, build = pair
    spoil(build.out)
    build.observe()
    assert any(finding in one for one in compare(reference, build))
    assert build.recomputed() == recomputed


def test_a_row_that_was_never_measured_is_missed(pair: tuple[Ledger, Ledger]) -> None:
    reference, build = pair
    write_part(reference.out, "part-3.parquet", ["d"])
    reference.observe()
    assert any("1 ids missing" in one for one in compare(reference, build))
