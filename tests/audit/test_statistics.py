from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.audit.checks import CheckLimits, Finding, check_sample
from dataengine.audit.sampling import evenly
from dataengine.audit.scene import Scene
from dataengine.audit.statistics import Tally, spread, whole


def test_counts_of_a_dataset(scenes: list[Scene]) -> None:
    tally = Tally()
    for scene in scenes:
        tally.add(scene.pair, check_sample(scene, CheckLimits()))
    tally.add_unreadable("x.json: broken")
    numbers = tally.result()
    assert (numbers.samples, numbers.train, numbers.val) == (3, 2, 1)
    assert (numbers.subjects, numbers.attributes, numbers.backgrounds, numbers.objects) == (4, 10, 3, 0)
    assert numbers.clip_seconds == pytest.approx(6.0)
    assert numbers.phrases[0] == ("dark uniform", 2)
    assert numbers.unreadable == ("x.json: broken",)
    assert numbers.failed_samples == 0
    inside = next(tally for tally in numbers.checks if tally.check == "attribute_inside_owner")
    assert (inside.checked, inside.failed) == (10, 0)
    assert inside.question == "An attribute's pixels lie inside its owner's body."


def test_failures_are_counted_and_the_worst_comes_first(scenes: list[Scene]) -> None:
    tally = Tally()
    bad = Finding(check="face_size", entity="s0.face", score=1, passed=False, reason="small")
    good = bad.model_copy(update={"passed": True})
    tally.add(scenes[0].pair, (bad, good))
    tally.add(scenes[1].pair, (bad, bad))
    numbers = tally.result()
    assert [sample.key for sample in numbers.failed] == ["one_person", "two_people"]
    assert numbers.failed[1].findings == (bad,)
    size = next(tally for tally in numbers.checks if tally.check == "face_size")
    assert (size.checked, size.failed) == (4, 3)


@given(st.lists(st.floats(0, 1e5, allow_subnormal=False), min_size=1, max_size=50))
def test_a_histogram_holds_every_value_once(values: list[float]) -> None:
    histogram = spread("t", "px", values)
    assert sum(bin_.values for bin_ in histogram.bins) == histogram.total == len(values)
    assert 1 <= len(histogram.bins) <= 14
    widths = np.array([bin_.end - bin_.start for bin_ in histogram.bins])
    assert np.allclose(widths, widths[0])


def test_bars_have_round_edges() -> None:
    histogram = spread("t", "px", [31.0, 47.0, 64.0, 128.0, 190.0])
    assert histogram.bins[0].start == 20
    assert histogram.bins[-1].end == 200
    assert histogram.median == 64
    assert [tuple(bin_) for bin_ in whole("t", "", [1, 1, 3]).bins] == [(1, 1, 2), (2, 2, 0), (3, 3, 1)]
    assert whole("t", "", []).bins == spread("t", "", []).bins == ()


def test_samples_are_spread_evenly() -> None:
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(10, 2) == [2, 7]
    assert evenly(0, 4) == []
    chosen = evenly(1000, 7)
    assert len(set(chosen)) == 7
    assert set(np.diff(chosen)) <= {142, 143}
    with pytest.raises(ValueError, match="limit"):
        evenly(5, 0)
