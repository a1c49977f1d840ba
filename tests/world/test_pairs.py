"""Pairs from truth: evaluation finds nothing wrong with them, and the trainer takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dataengine.lumosx.data import Example, ExampleMaker
from dataengine.lumosx.settings import DataSettings
from dataengine.records import Pair
from dataengine.shards.reader import PairDataset, Sample
from dataengine.shards.validate import validate
from dataengine.store import Store
from dataengine.world import drawing
from dataengine.world.evaluate import evaluate
from dataengine.world.make import VideoTruth, scripts
from dataengine.world.pairs import samples, write_samples

TRUTHS = tuple(VideoTruth.of(made) for made in scripts(6, 5))


@pytest.fixture(scope="module")
def made() -> list[Sample]:
    return [sample for truth in TRUTHS for sample in samples(truth, frames=5)]


@pytest.fixture(scope="module")
def dataset(made: Sequence[Sample], tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = Store.at(tmp_path_factory.mktemp("perfect"))
    assert write_samples(out, made) == len(made)
    return out


def test_every_shot_gives_a_sample_with_everything_that_its_caption_names(made: Sequence[Sample]) -> None:
    shots = [shot for truth in TRUTHS for shot in truth.shots]
    assert len(made) == len(shots) and {len(shot.people) for shot in shots} == {1, 2, 3}
    for sample, shot in zip(made, shots, strict=True):
        pair = sample.pair
        assert pair.caption == shot.caption.text and pair.background is not None and pair.frames == 5
        assert [subject.noun for subject in pair.subjects] == [named.noun for named in shot.caption.people]
        worn = [tuple(a.phrase for a in subject.attributes) for subject in pair.subjects]
        assert worn == [named.attributes for named in shot.caption.people]


def test_evaluation_finds_nothing_wrong(dataset: Store) -> None:
    found = evaluate(dataset, {f"{truth.name}.mp4": truth for truth in TRUTHS}, {})
    values = {metric.name: metric.value for metric in found.metrics if metric.group == "all"}
    assert found.wrong == found.unmatched == 0
    assert [values[name] for name in ("who wears what", "spans", "boxes", "masks", "subjects")] == [1.0] * 5
    assert values["identity"] > 0.95 and values["background"] > 0.95


def test_its_files_are_what_its_index_says(dataset: Store) -> None:
    assert validate(dataset).ok


def test_the_clip_is_the_middle_of_the_shot(made: Sequence[Sample]) -> None:
    truth, sample = TRUTHS[0], made[0]
    shot = truth.shots[0]
    assert sample.pair.clip.start_s + sample.pair.clip.end_s == pytest.approx(shot.start_s + shot.end_s, abs=0.05)
    first = round(sample.pair.clip.start_s * truth.fps)
    for number, frame in enumerate(sample.frames()):
        drawn = drawing.frame(truth.script, first + number)
        assert np.abs(frame.astype(int) - drawn).mean() < 4


def test_the_trainer_takes_it(dataset: Store) -> None:
    data = PairDataset(dataset)
    settings = DataSettings(height=96, width=160, frames=5, body_share=0)
    for index in range(len(data)):
        example = ExampleMaker(data, settings, seed=0).make(index, 0, index)
        assert isinstance(example, Example)
        pair: Pair = data[index].pair
        assert example.groups == len(pair.subjects) and example.video.shape == (5, 96, 160, 3)
