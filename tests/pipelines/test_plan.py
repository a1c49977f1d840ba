"""`plan`: nothing runs, and what it says is what then happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dataengine.config import BuildSettings, load
from dataengine.engine.plan import Plan
from dataengine.records import RunSummary
from pipelines.plan import plan
from pipelines.show import show_plan
from pipelines.stages import compose


def planned(videos: Path, out: Path, *overrides: str, sample: int = 0) -> Plan:
    console = Console(quiet=True)
    return plan([str(videos)], str(out), load(BuildSettings, [], overrides), sample, console=console)


def todo(made: Plan) -> dict[str, float | None]:
    return {stage.stage: stage.todo for stage in made.stages if stage.todo != 0}


def shown(made: Plan) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        show_plan(made, console)
    return capture.get()


def test_a_finished_build_has_nothing_to_do(built) -> None:
    made = planned(built.videos, built.out)
    assert made.idle
    assert "nothing to measure" in shown(made)


def test_a_decision_has_nothing_to_do_either(built) -> None:
    assert planned(built.videos, built.out, "decide.filters.max_attributes=1").idle


def test_a_changed_stage_is_planned_with_all_that_follow_and_none_before(built) -> None:
    made = planned(built.videos, built.out, "stages.segment.iterations=3")
    segmented = next(s for s in built.summary.stages if s.stage == "segment")
    rows = segmented.done + segmented.cached
    assert todo(made) == {"segment": rows, "background": rows}, "encoding does not look at masks"
    assert not made.unknown, "the older results tell the rate"
    assert made.wall_s > 0
    assert "segment" in shown(made)


def test_a_new_prompt_or_code_version_touches_its_dependants_alone(built, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataengine.measure.caption import CaptionStage
    from dataengine.models.colour_baseline import ColourBaseline

    for owner, attribute, value in (
        (ColourBaseline, "prompt", "Say who wears what."),
        (CaptionStage, "version", CaptionStage.version + 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, value)
            assert set(todo(planned(built.videos, built.out))) == {"caption", "ground", "segment", "background"}


def test_without_results_the_sources_are_known_and_the_rest_is_not(built, tmp_path: Path) -> None:
    made = planned(built.videos, tmp_path / "new")
    assert todo(made)["probe"] == built.summary.sources
    assert todo(made)["caption"] is None
    assert "--sample" in shown(made)


def test_a_sample_gives_rates_and_stays_measured(built, run_build: Callable[..., RunSummary], tmp_path: Path) -> None:
    videos, out, quick = tmp_path / "videos", tmp_path / "out", ("stages.shots.detector=adaptive",)
    videos.mkdir()
    for name in ("phone held upright.mov", "odd size.webm", "variable frame rate.mp4"):
        shutil.copyfile(built.videos / "bad" / name, videos / name)
    made = planned(videos, out, *quick, sample=1)
    assert not made.unknown
    left = todo(made)["probe"]
    assert left == 2
    summary = run_build(videos, out, *quick)
    done = {s.stage: s.done for s in summary.stages}
    assert done["probe"] == 2, "the sampled video is not measured again"
    assert set(compose(BuildSettings()).fingerprints) == set(done)
