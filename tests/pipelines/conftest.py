"""One real build of the embedded profile, shared by the tests: the sample video beside every kind of bad file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from dataengine.config import BuildSettings, load
from dataengine.records import RunSummary
from pipelines.build import build

# All of the sample in the training split; small shards, so that there are several.
SETTINGS = ("decide.pairs.val_share=0", "shards.samples=4")


@dataclass(frozen=True)
class Built:
    videos: Path
    out: Path
    summary: RunSummary


@pytest.fixture(scope="session")
def run_build(ray_here: None) -> Callable[..., RunSummary]:
    """`run_build(input, output, *overrides)` under the test settings."""

    def run(videos: Path, out: Path, *overrides: str) -> RunSummary:
        settings = load(BuildSettings, [], [*SETTINGS, *overrides])
        return build([str(videos)], str(out), settings, console=Console(quiet=True))

    return run


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory, sample_video, bad_video_folder, run_build: Callable[..., RunSummary]
) -> Built:
    """Built once from `sample.mp4` and the bad videos. Read-only: tests share it."""
    videos = tmp_path_factory.mktemp("videos")
    (videos / "bad").symlink_to(bad_video_folder.folder, target_is_directory=True)
    shutil.copyfile(sample_video.path, videos / "sample.mp4")
    out = tmp_path_factory.mktemp("built") / "out"
    return Built(videos, out, run_build(videos, out))
