"""Decisions on the corpus, through the real passes: facts, verdicts, corpus, shards."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataengine.decide.facts import Measured
from dataengine.decide.splits import leaks
from dataengine.records import RunSummary
from dataengine.shards.index import Index
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store
from drawn import DrawnClip, draw, source_of, unit
from pipelines.redecide import redecide

ANNA, BERT, CARL = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)


def like(who: tuple[float, ...], turn: float, axis: int = 3) -> tuple[float, ...]:
    """Somebody in another pose: `turn` 0.7 makes two that turn in opposite ways 0.34 alike, one and the plain 0.82."""
    return unit(*(v + turn * (i == axis) for i, v in enumerate(who)))


CLIPS = (
    DrawnClip((ANNA, BERT)),
    DrawnClip((like(ANNA, 0.7), CARL)),
    DrawnClip((CARL, like(BERT, 0.7))),
    DrawnClip((unit(0.0, 0.0, 0.0, 1.0), unit(-1.0, 0.0, 0.0, 0.0))),  # nobody else's
    DrawnClip((like(ANNA, 0.69), like(CARL, 0.01))),
)
CROSS = (
    "stages.looks.encoder=lab_histogram",
    "decide.pairs.cross_clip_share=1",
    "decide.pairs.attribute_floor=0.9",
    "decide.pairs.attribute_ceiling=1",
    "shards.samples=2",
)


@pytest.fixture(scope="module")
def crossed(
    ray_here: None, measured_clip: Callable[..., Measured], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunSummary]:
    out = tmp_path_factory.mktemp("crossed") / "out"
    return out, draw(out, CLIPS, lambda number: measured_clip(number, media=True), *CROSS)


def test_references_come_from_other_clips_of_the_same_person(crossed) -> None:
    out, summary = crossed
    assert summary.pairs == len(CLIPS)
    assert validate(Store.at(out)).findings == ()
    dataset = PairDataset(Store.at(out))
    samples = {sample.pair.clip.source_id: sample for sample in dataset}
    clip_of = {sample.pair.clip.clip_id: source for source, sample in samples.items()}
    anna = samples[source_of(0).source_id]
    assert anna.pair.pairing == "cross_clip"
    for subject, others in zip(anna.pair.subjects, ({1, 4}, {2}), strict=True):
        origin = subject.face.origin
        assert origin is not None and clip_of[origin.clip.clip_id] in {source_of(n).source_id for n in others}
        assert 0.5 <= origin.similarity < 0.9
    alone = samples[source_of(3).source_id]
    assert alone.pair.pairing == "in_clip" and all(r.origin is None for r in alone.pair.references)
    assert {row.pairing for row in Index.read(Store.at(out))} == {"in_clip", "cross_clip"}


def test_pixels_are_the_other_clips(crossed) -> None:
    out, _ = crossed
    samples = {sample.pair.clip.clip_id: sample for sample in PairDataset(Store.at(out))}
    compared = 0
    for sample in samples.values():
        for subject in sample.pair.subjects:
            face = subject.face
            if face.origin is None or subject.index != int(face.origin.entity[1]):
                continue
            # The background's blue is the number of the source that was drawn.
            pixels = np.asarray(Image.open(io.BytesIO(sample.members[face.member])))
            number = int(samples[face.origin.clip.clip_id].pair.clip.source_id, 16)
            assert abs(int(pixels[0, 0, 2]) - (50 + number)) <= 4
            compared += 1
    assert compared


def test_the_same_whatever_the_grouping(crossed, measured_clip, tmp_path: Path, monkeypatch) -> None:
    out, _ = crossed
    monkeypatch.setattr("pipelines.facts._LEAST_SOURCES", 2)
    draw(tmp_path / "out", CLIPS, lambda number: measured_clip(number, media=True), *CROSS)
    for shard in (out / "shards").iterdir():
        assert (tmp_path / "out" / "shards" / shard.name).read_bytes() == shard.read_bytes()
    assert not list((out / "measurements" / "alone").glob("*"))


def test_deciding_again_in_the_paper_s_way(crossed, tmp_path: Path) -> None:
    """From cross-clip to in-clip pairs and back, without a video: to the same bytes."""
    out, _ = crossed
    before = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    summary, waiting = redecide(str(out), ["decide.pairs.cross_clip_share=0"])
    assert (summary.pairs, waiting) == (len(CLIPS), 0)
    assert {sample.pair.pairing for sample in PairDataset(Store.at(out))} == {"in_clip"}
    redecide(str(out), ["decide.pairs.cross_clip_share=1"])
    assert {path.name: path.read_bytes() for path in (out / "shards").iterdir()} == before


def test_nobody_is_in_two_splits(ray_here, measured_clip, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    everybody = np.eye(32)[:24]
    clips, shown = [], {}
    for number in range(30):
        pair = rng.choice(24, 2, replace=False)
        turns = 0.3 * rng.standard_normal((2, 32))
        clips.append(DrawnClip(tuple(unit(*row) for row in everybody[pair] + turns / 32**0.5)))
        for person in pair.tolist():
            shown.setdefault(person, set()).add(source_of(number).source_id)
    shares = ("decide.pairs.val_share=0.4",)
    draw(tmp_path / "out", clips, lambda number: measured_clip(0, media=True), *shares)

    def splits() -> dict[str, str]:
        return {sample.pair.clip.source_id: sample.pair.split for sample in PairDataset(Store.at(tmp_path / "out"))}

    assert leaks(splits(), shown), "by source alone people are on both sides"
    redecide(str(tmp_path / "out"), ["decide.pairs.split_by=identity"])
    assert leaks(splits(), shown) == [] and len(splits()) == 30
    names = {row.shard for row in Index.read(Store.at(tmp_path / "out"))}
    assert all(name.startswith(("train-2s-", "val-2s-")) for name in names), "a set of shards for every stratum"


def test_of_near_duplicates_one_is_kept(ray_here, measured_clip, tmp_path: Path) -> None:
    same = ("00000000000000ff",) * 3
    clips = [DrawnClip(hashes=same), DrawnClip(hashes=("00000000000000fe",) * 3), DrawnClip()]
    rules = "decide.filters.clip_duplicate_bits=4"
    summary = draw(tmp_path / "out", clips, lambda number: measured_clip(number, media=True), rules)
    assert summary.pairs == 2 and summary.rejected == {"clip_duplicate_bits": 1}
    rows = pq.read_table(tmp_path / "out" / "clips.parquet").to_pylist()
    kept = [row["clip_id"] for row in rows if row["verdict"] == "kept"]
    (refused,) = (row for row in rows if row["verdict"] != "kept")
    assert any(key in refused["detail"] for key in kept)
    run = json.loads((tmp_path / "out" / "measurements" / "run.json").read_text())
    assert run["config"]["decide"]["filters"]["clip_duplicate_bits"] == 4
