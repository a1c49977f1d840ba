"""The whole stream on a real Ray: order, quarantine, resume, and the same verdicts with more workers."""

from __future__ import annotations

from pathlib import Path

import pytest

import toy
from dataengine.config import Resources
from dataengine.engine.measurements import Measurements
from dataengine.engine.pipeline import Step
from dataengine.engine.progress import Tally
from dataengine.engine.run import ClusterTooSmall, connect, each, run
from dataengine.records import Quarantined, Record, Rejected
from dataengine.store import Store

SOURCES = [toy.source(1), toy.source(2, "broken"), toy.source(3)]


def verdicts(folder: Path, journal: Path, workers: int) -> tuple[list[Record], Tally]:
    tally = Tally()
    pipeline = toy.pipeline(journal, workers=workers)
    return list(run(pipeline, SOURCES, Measurements(Store.at(folder)), tally)), tally


@pytest.mark.usefixtures("ray_here")
def test_stream_resumes_and_does_not_depend_on_workers(tmp_path: Path, journal: Path) -> None:
    first, tally = verdicts(tmp_path / "one", journal, workers=1)
    assert [v.clip.source_id if isinstance(v, Rejected) else v.id for v in first] == (
        [SOURCES[0].source_id] * 3 + [SOURCES[1].source_id] + [SOURCES[2].source_id] * 3
    )
    assert isinstance(first[3], Quarantined)
    assert first[3].message == "broken2.mp4: no video stream"
    assert all(isinstance(v, Rejected) and v.detail == "72 144" for v in first if v is not first[3])
    assert tally.snapshot()["size"].done == 6
    worked = len(list(journal.iterdir()))

    again, tally = verdicts(tmp_path / "one", journal, workers=2)
    assert again == first
    assert len(list(journal.iterdir())) == worked, "a committed row was computed again"
    assert tally.snapshot()["size"].cached == 6

    assert verdicts(tmp_path / "two", journal, workers=2)[0] == first


@pytest.mark.usefixtures("ray_here")
def test_each_keeps_order() -> None:
    assert list(each(lambda n: n * n, range(9))) == [n * n for n in range(9)]
    assert list(each(lambda n: n, [])) == []


@pytest.mark.usefixtures("ray_here")
def test_stages_that_cannot_fit_are_refused_instead_of_hanging(journal: Path) -> None:
    step = toy.pipeline(journal).clip_steps[0]
    with pytest.raises(ClusterTooSmall, match="resources"):
        connect(steps=[Step(step.stage, Resources(workers=1, cpus=0.1, gpus=1))])
