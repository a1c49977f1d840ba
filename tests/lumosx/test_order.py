"""Which sample stands where: epochs, shares of the mixture, stages, buckets, and that ranks split it evenly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataengine.lumosx.order import Choices, Curriculum, OrderError, Size, Traits, Walk, buckets
from dataengine.lumosx.settings import DataSettings, MixtureSettings
from dataengine.shards.index import Index
from dataengine.store import Store


def traits(*subjects: int, seconds: float = 5.0, width: int = 832, height: int = 480) -> Traits:
    count = len(subjects)
    return Traits(
        np.array(subjects), np.full(count, seconds), np.full(count, width), np.full(count, height)
    )  # fmt: skip


def mixed(**settings: object) -> DataSettings:
    return DataSettings(mixture=MixtureSettings.model_validate(settings))


def test_every_epoch_has_every_sample_once_in_another_order() -> None:
    walk = Walk(100, (3,))
    epochs = [[walk.at(position)[0] for position in range(start, start + 100)] for start in (0, 100, 200)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [walk.at(position)[1] for position in (0, 99, 100, 250)] == [0, 0, 1, 2]
    assert epochs[1] == [Walk(100, (3,)).at(position)[0] for position in range(100, 200)], "asked for out of order"
    assert epochs[0] != [Walk(100, (4,)).at(position)[0] for position in range(100)]
    with pytest.raises(OrderError, match="no samples"):
        Walk(0, (3,))


def test_places_in_an_epoch_are_even() -> None:
    """Every sample is as likely at every place: 4,000 epochs of 8, 500 expected in each cell (22 = 1 sigma)."""
    walk = Walk(8, (1,))
    seen = np.zeros((8, 8))
    for position in range(8 * 4000):
        seen[position % 8, walk.at(position)[0]] += 1
    assert abs(seen - 500).max() < 5 * 22


def test_choices_keep_their_shares_and_number_each_kind() -> None:
    shares = (0.6, 0.399, 0.001)
    choices = Choices(shares, (5,))
    found = [choices.at(position) for position in range(40_960)]
    counts = Counter(choice for choice, _ in found)
    for choice, share in enumerate(shares):
        assert abs(counts[choice] - 40_960 * share) <= 10, "ten blocks, give or take one each"
        assert [number for kind, number in found if kind == choice] == list(range(counts[choice])), "no gap, no repeat"
    assert Choices(shares, (5,)).at(31_234) == found[31_234], "from any place"
    runs = [sum(choice == 0 for choice, _ in found[k : k + 10]) for k in range(0, 1000, 10)]
    assert len(set(runs)) > 3, "random, not in turn"


def test_one_subject_first_then_the_mixture() -> None:
    order = Curriculum(
        traits(*[1] * 20, *[2] * 10, *[3] * 5), mixed(one_subject_steps=10, weights=[0.5, 0.3, 0.2]), 4, 0
    )
    subjects = [1] * 20 + [2] * 10 + [3] * 5
    places = [order.place(position) for position in range(4 * 2500)]
    first, then = places[:40], places[40:]
    assert {subjects[place.index] for place in first} == {1}
    assert sorted(place.index for place in first[:20]) == list(range(20)), "an epoch"
    counts = Counter(subjects[place.index] for place in then)
    assert [counts[k] / len(then) for k in (1, 2, 3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    for kind in (1, 2, 3):
        of_kind = Counter(place.index for place in then if subjects[place.index] == kind)
        assert max(of_kind.values()) - min(of_kind.values()) <= 1, "within a kind every sample comes as often"
    assert len({(place.index, place.epoch) for place in places}) == len(places), "random choices never repeat"


def test_as_the_dataset_has_them() -> None:
    order = Curriculum(traits(1, 1, 2, 3, 3), DataSettings(), 2, 0)
    for epoch in range(3):
        assert sorted(order.place(5 * epoch + k).index for k in range(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("mixture", "problem"),
    [({"one_subject_steps": 3}, "no sample with one subject"), ({"weights": [0.5, 0.5]}, "no sample with 1 subjects")],
)
def test_a_mixture_that_the_data_cannot_give(mixture: dict[str, object], problem: str) -> None:
    with pytest.raises(OrderError, match=problem):
        Curriculum(traits(2, 2), mixed(**mixture), 2, 0)


def test_a_clip_gets_the_size_that_fits_it() -> None:
    settings = DataSettings(fps=16, buckets=((480, 832, 81), (832, 480, 81), (480, 832, 33), (480, 832, 1)))
    clips = Traits(
        subjects=np.ones(6, dtype=int),
        seconds=np.array([5.0, 9.0, 4.0, 0.5, 5.0, 3.0]),
        width=np.array([1920, 1080, 1920, 1280, 1000, 1080]),
        height=np.array([1080, 1920, 1080, 720, 1000, 1920]),
    )
    # A square is as near to both: the first wins. The last is upright, and too short for the only upright size.
    assert buckets(clips, settings).tolist() == [0, 1, 2, 3, 0, 2]
    short = Traits(*(values[:1] for values in (clips.subjects, np.array([0.1]), clips.width, clips.height)))
    assert buckets(short, DataSettings(frames=17)).tolist() == [0], "refused later, with its reason"


def test_a_step_is_of_one_size_and_nothing_is_lost() -> None:
    settings = DataSettings(buckets=((96, 160, 5), (160, 96, 5)))
    wide = np.arange(30) < 18
    clips = Traits(np.ones(30, dtype=int), np.full(30, 2.0), np.where(wide, 160, 96), np.where(wide, 96, 160))
    order = Curriculum(clips, settings, per_step=6, seed=2)
    steps = [[order.place(6 * step + slot) for slot in range(6)] for step in range(500)]
    assert all(len({place.size for place in step}) == 1 for step in steps)
    assert {step[0].size for step in steps} == {Size(96, 160, 5), Size(160, 96, 5)}
    assert all(wide[place.index] == (place.size.width == 160) for step in steps for place in step)
    seen = Counter(place.index for step in steps for place in step)
    assert set(seen) == set(range(30))
    assert max(seen.values()) / min(seen.values()) < 1.1, "as often as any other, whatever its size"


def test_traits_are_those_of_the_index(dataset: Path) -> None:
    found = Traits.of(Index.read(Store.at(dataset)).where("train"))
    assert sorted(found.subjects) == [1, 1, 2, 2, 3]
    assert set(found.width) == {160}
    assert set(found.height) == {96}
    assert found.seconds == pytest.approx([1.25] * 5)
