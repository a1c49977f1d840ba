"""Two real builds of the embedded profile, shared by the tests.

`built`: the sample video beside every kind of bad file. `short`: a few seconds of work, for tests that build the same
again in another way.
"""

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
from pipelines.cli import Kind, settings_of

# All of the sample in the training split; small shards, so that there are several.
SETTINGS = ("decide.pairs.val_share=0", "shards.samples=4")
# The rules' detector: a second of work where the network takes ten.
SHORT = ("decide.pairs.val_share=0", "shards.samples=2", "stages.shots.detector=adaptive")
SHORT_VIDEOS = (
    "name with spaces.mp4",
    "variable frame rate.mp4",
    "phone held upright.mov",
    "zz copy.mp4",
    "имя 名前 🎬/лицо.mp4",
    "truncated.mp4",
    "text.mp4",
    "empty.mp4",
    "notes.txt",
)


@dataclass(frozen=True)
class Built:
    videos: Path
    out: Path
    summary: RunSummary
    settings: tuple[str, ...]


@pytest.fixture(scope="session")
def run_build(ray_here: None) -> Callable[..., RunSummary]:
    """`run_build(input, output, *overrides)` under the test settings."""

    def run(videos: Path, out: Path, *overrides: str) -> RunSummary:
        settings = load(BuildSettings, [], [*SETTINGS, *overrides])
        return build([str(videos)], str(out), settings, console=Console(quiet=True))

    return run


@pytest.fixture(scope="session")
def build_profile(ray_here: None) -> Callable[..., RunSummary]:
    """`build_profile(name, input, output, *overrides)`: as `dataengine build --profile name`, nothing held out."""

    def run(name: str, videos: Path, out: Path, *overrides: str) -> RunSummary:
        settings = settings_of(Kind.BUILD, name, ["decide.pairs.val_share=0", *overrides])
        assert isinstance(settings, BuildSettings)
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
    return Built(videos, out, run_build(videos, out), SETTINGS)


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory, bad_video_folder, run_build: Callable[..., RunSummary]) -> Built:
    """Built once from four videos of three seconds, a copy and three bad files. Read-only: tests share it."""
    videos = tmp_path_factory.mktemp("short") / "videos"
    for name in SHORT_VIDEOS:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bad_video_folder.folder / name, videos / name)
    out = tmp_path_factory.mktemp("short") / "out"
    summary = run_build(videos, out, *SHORT)
    assert (summary.pairs, summary.quarantined) == (4, 3)
    return Built(videos, out, summary, SHORT)
