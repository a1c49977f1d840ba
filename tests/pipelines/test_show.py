from __future__ import annotations

import io

import pytest
from rich.console import Console

from dataengine.records import Quantiles, RunSummary, StageSummary
from pipelines.show import show_build


@pytest.fixture
def summary() -> RunSummary:
    """A run with numbers as wide as they get, of a model with a long and unpleasant name."""
    stage = StageSummary(
        stage="background",
        fingerprint="f",
        model="[red]IDEA-Research/grounding-dino-base",
        done=1_234_567,
        cached=9_876_543,
        gated=123_456,
        quarantined=12_345,
        seconds=3600.0,
        cpu_seconds=123_456.7,
        gpu_seconds=7200.0,
        bytes=10**12,
        row_seconds=Quantiles(p50=0.0123, p90=1, p99=1, max=2),
        errors={"BadInput": 12_345},
    )
    nothing = {"done": 0, "cached": 3, "gated": 0, "quarantined": 0, "cpu_seconds": 0.0, "gpu_seconds": 0.0}
    idle = stage.model_copy(update={"stage": "probe", "model": "av", "row_seconds": None, **nothing})
    return RunSummary(
        sources=12,
        duplicates=0,
        skipped=0,
        clips=300,
        pairs=200,
        subjects=345,
        quarantined=2,
        rejected={"face_min_px": 98},
        stages=(idle, stage),
        wall_s=90.4,
        measuring_s=80,
        cost=7.5,
        inputs=("videos",),
        config={"prices": {"cpu_hour": 0.04, "gpu_hour": 2.5}},
    )


def test_the_table_of_a_build_fits_and_says_what_it_took(summary: RunSummary) -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    show_build(summary, "out", console)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == [
        "stage",
        "model",
        "done",
        "cached",
        "spared",
        "quarantined",
        "s/row",
        "CPU",
        "s",
        "cost",
    ]
    assert lines[1].split() == ["probe", "av", "·", "3", "·", "·", "·", "·", "·"]
    background = lines[2].split()
    assert background[0] == "background"
    assert background[1].startswith("[red]IDEA")  # cut, and no markup
    assert background[2:] == ["1234567", "9876543", "123456", "12345", "0.012", "123456.7", "6.37"]
    assert lines[3] == "12 videos → 300 clips → 200 pairs with 345 subjects in 90 s, cost 7.50"
    assert "98 clips not kept: face_min_px" in lines[4]
    assert lines[5:] == ["  2 quarantined: out/quarantine.parquet says why", "  out/report.html"]
