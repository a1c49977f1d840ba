"""Raw video to trained model in one go, as a file like `conf/end_to_end.yaml` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from dataengine.config import CONF, BuildSettings, Settings, load, profile_file
from dataengine.lumosx.sampling import sample_pair
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.trainer import train
from dataengine.records import RunSummary
from dataengine.shards.index import Index
from dataengine.store import Store
from pipelines.build import build
from pipelines.show import heading, show_build, show_made, show_training


class EndToEndSettings(Settings):
    """A whole run: paths are relative to the working directory."""

    input: tuple[str, ...] = Field(description="videos, folders or URIs")
    output: str = Field(description="folder or URI of the dataset")
    run: Path = Field(description="folder of the training run")
    profile: str = "embedded"
    build: dict[str, Any] = Field({}, description="what differs from the profile's build settings")
    train: dict[str, Any] = Field({}, description="what differs from the profile's training settings")


def end_to_end(file: Path, console: Console, places: Sequence[str] = ()) -> RunSummary:
    """Build, report, train and sample; `places` stand in for the file's inputs.

    Raises what those raise, and `ConfigError` for a wrong file.
    """
    settings = load(EndToEndSettings, [(file, None)])
    profile = profile_file(settings.profile)
    # Both are checked before anything runs: a misspelt training key must not cost a build first.
    build_settings = load(BuildSettings, [(CONF / "build.yaml", None), (profile, "build"), (file, "build")])
    train_settings = load(TrainSettings, [(CONF / "train.yaml", None), (profile, "train"), (file, "train")])

    heading("1/3 build", "raw videos to shards", console)
    summary = build(places or settings.input, settings.output, build_settings, console=console)
    show_build(summary, settings.output, console)
    if not summary.pairs:
        return summary

    heading("2/3 train", "shards to a model", console)
    data = Path(settings.output)
    result = train(data, settings.run, train_settings, console=console)
    assert result is not None, "this process is the only rank"
    show_training(result, console)

    heading("3/3 sample", "a pair's caption and references to a video", console)
    key = Index.read(Store.at(data))[0].key
    made = sample_pair(settings.run, data, key, settings.run / "sample.mp4")
    show_made(settings.output, settings.run, made, key, console)
    return summary
