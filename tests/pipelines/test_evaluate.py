"""`dataengine evaluate` on a real build of drawn videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from dataengine.records import RunSummary
from dataengine.world.training import CHECKPOINTS
from pipelines.cli import Exit, app


@pytest.mark.slow
def test_a_build_of_the_world_is_judged_by_its_truth(run_build: Callable[..., RunSummary], tmp_path: Path) -> None:
    videos, out = tmp_path / "world", tmp_path / "out"
    made = CliRunner().invoke(app, ["world", "make", "--clips", "3", "--seed", "6", "--output", str(videos)])
    assert made.exit_code == Exit.DONE, made.output
    looser = ("decide.filters.face_min_px=16", "decide.filters.face_min_stills=1", "decide.filters.face_score=0.3")
    pack = str(CHECKPOINTS / "insightface")
    known = ("detector=insightface", f"insightface.weights={pack}", "insightface.side=288", "insightface.device=cpu")
    faces = (f"stages.faces.{one}" for one in known)
    summary = run_build(videos, out, "stages.shots.detector=adaptive", *faces, *looser)
    assert summary.pairs, "or there is nothing to judge"
    judged = CliRunner().invoke(app, ["evaluate", str(out), "--truth", str(videos)])
    assert judged.exit_code == Exit.DONE, judged.output
    found = json.loads((out / "evaluation.json").read_text())
    assert found["samples"] == summary.pairs
    names = {metric["name"] for metric in found["metrics"]}
    assert names >= {"shots", "subjects", "spans", "who wears what", "people over clips", "people known again"}
    with Image.open(out / "evaluation.png") as image:
        assert image.width > 600


def test_a_folder_without_truth_is_refused(short, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(short.out), "--truth", str(tmp_path)])
    assert result.exit_code == Exit.USAGE
    assert "has no *.truth.json" in result.output.replace("\n", " ")


def test_pairs_that_no_build_made_are_judged_by_their_samples(tmp_path: Path) -> None:
    videos, out = tmp_path / "world", tmp_path / "pairs"
    for command, folder, *rest in (("make", videos, "--workers", "1"), ("pairs", out, "--frames", "2")):
        made = CliRunner().invoke(app, ["world", command, "--clips", "1", "--output", str(folder), *rest])
        assert made.exit_code == Exit.DONE, made.output
    judged = CliRunner().invoke(app, ["evaluate", str(out), "--truth", str(videos)])
    assert judged.exit_code == Exit.DONE, judged.output
    found = json.loads((out / "evaluation.json").read_text())
    assert found["samples"] == found["shots"] > found["wrong"] == 0
    assert not {metric["name"] for metric in found["metrics"]} & {"shots", "people over stills", "people over clips"}
