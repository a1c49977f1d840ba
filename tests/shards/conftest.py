"""A small dataset with real clips and images, as `dataengine build` leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataengine.config import DecideSettings, PairRules, ShardSettings
from dataengine.decide.facts import Measured
from dataengine.decide.pairs import decide_pair
from dataengine.records import Pair, Provenance, RunSummary, StageProvenance
from dataengine.shards.assembly import Member, assemble
from dataengine.shards.card import RUN
from dataengine.shards.index import INDEX, SHARDS, IndexRow, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.writer import write_shard
from dataengine.store import Store

PROVENANCE = Provenance(
    stages=(
        StageProvenance(
            stage="faces", version=1, fingerprint="f1", model="centerface", revision="1.5.0", prompt="", parameters={}
        ),
        StageProvenance(
            stage="caption", version=3, fingerprint="c3", model="colour|baseline", revision="", prompt="", parameters={}
        ),
    ),
    decided_by="test",
)


@dataclass(frozen=True)
class Made:
    """A sample before it is written."""

    pair: Pair
    members: tuple[Member, ...]


@pytest.fixture(scope="session")
def made_samples(measured_clip: Callable[..., Measured]) -> tuple[Made, ...]:
    """Seven samples in both splits: one, two and three subjects."""
    samples = []
    for number, people in enumerate((1, 2, 2, 2, 3, 1, 2)):
        measured = measured_clip(number, people=people, media=True)
        rules = DecideSettings(pairs=PairRules(val_share=0.4))
        pair = decide_pair(measured, PROVENANCE, rules, seed=0).outcome
        assert isinstance(pair, Pair)
        samples.append(
            Made(pair, assemble(pair, measured.stills, measured.segmentation, measured.background, measured.encoded))
        )
    return tuple(samples)


def write_dataset(out: Store, samples: Sequence[Made], size: int = 2) -> None:
    """Shards of `size` samples, index and run summary."""
    by_key = {sample.pair.key: sample for sample in samples}
    rows: list[IndexRow] = []
    for plan in plan_shards((SampleName.of(s.pair) for s in samples), ShardSettings(samples=size)):
        with out.open_output(f"{SHARDS}/{plan.name}") as stream:
            rows += write_shard(stream, plan.name, ((by_key[k].pair, by_key[k].members) for k in plan.keys))
    with out.open_output(INDEX) as stream:
        write_index(stream, rows)
    summary = RunSummary(
        sources=8,
        duplicates=1,
        skipped=2,
        clips=9,
        pairs=len(samples),
        subjects=sum(len(s.pair.subjects) for s in samples),
        quarantined=0,
        rejected={"faces": 2},
        stages=(),
        wall_s=1.0,
        measuring_s=0.5,
        cost=0.0,
        inputs=("videos",),
        config={"seed": 0},
    )
    out.write(RUN, summary.to_json().encode())


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Store]:
    """`make_dataset(samples, name="out", size=2)`: a dataset of these samples in a folder of its own."""

    def make(samples: Sequence[Made], name: str = "out", size: int = 2) -> Store:
        out = Store.at(tmp_path / name)
        write_dataset(out, samples, size)
        return out

    return make


@pytest.fixture(scope="session")
def dataset(made_samples: tuple[Made, ...], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All seven samples in shards of two. Read-only: tests share it."""
    out = Store.at(tmp_path_factory.mktemp("dataset"))
    write_dataset(out, made_samples)
    return out


@pytest.fixture
def spoilt(dataset: Store, tmp_path: Path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(dataset.uri, tmp_path / "spoilt"))
