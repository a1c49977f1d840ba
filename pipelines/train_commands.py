"""`dataengine train` and `sample`: a model from shards, and clips from a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dataengine.config import ConfigError
from dataengine.lumosx.settings import TrainSettings
from pipelines.terminal import (
    Address,
    Exit,
    Kind,
    Overrides,
    Profile,
    console,
    errors,
    explained,
    settings_of,
)

if TYPE_CHECKING:
    from dataengine.lumosx.sampling import SampleResult


def train(
    data: Annotated[str, typer.Option(help="Folder that `build` wrote, or its s3:// or gs:// URI.")],
    run: Annotated[Path, typer.Option(help="Folder of checkpoints and logs. An earlier run goes on.")],
    profile: Profile = "embedded",
    workers: Annotated[
        int, typer.Option(min=0, help="Ray Train workers, each a GPU where there are; 0: this process alone.")
    ] = 0,
    address: Address = None,
    check: Annotated[bool, typer.Option("--check", help="Only look at everything that could stop the run.")] = False,
    every_clip: Annotated[bool, typer.Option("--every-clip", help="With --check: decode all samples.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train a LumosX DiT from shards.

    Resumes exactly from the last checkpoint in RUN. Writes tensorboard logs, checkpoints and loss.png, and prints the
    loss on held-out noise levels before and after.

    **Examples**

    - `dataengine train --data shards/ --run runs/first steps=500`
    - `dataengine train --data shards/ --run runs/first steps=500 --check`
    - `dataengine train --data s3://bucket/shards --run /shared/run --workers 16 --address auto --profile gpu`
    - `torchrun --nproc-per-node 8 -m -- pipelines.cli train --data shards/ --run runs/first`
    """
    from pipelines.show import show_training
    from pipelines.train import train_here, train_on_ray

    with explained():
        settings = settings_of(Kind.TRAIN, profile, overrides or [])
        assert isinstance(settings, TrainSettings)
        if check:
            _check(data, run, settings, workers, every_clip)
            return
        if workers:
            result = train_on_ray(data, run, settings, workers=workers, address=address)
        else:
            made = train_here(data, run, settings, console)
            if made is None:  # another rank tells
                return
            result = made
    show_training(result, console)


def _check(data: str, run: Path, settings: TrainSettings, workers: int, every_clip: bool) -> None:
    """Exits with 1 when the run would fail, or would train on less than it seems."""
    from dataengine.lumosx.preflight import Finding, preflight

    def tell(finding: Finding) -> None:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        console.print(f"{mark} {finding.what}: {escape(finding.told)}", highlight=False)

    world = workers or int(os.environ.get("WORLD_SIZE", "1"))
    found = preflight(data, run, settings, world, tell, every_clip=every_clip)
    if not all(finding.ok for finding in found):
        raise typer.Exit(Exit.NOTHING)


def sample(
    run: Annotated[Path, typer.Option(help="Folder that `train` wrote, or `model export --to diffusers`.")],
    output: Annotated[Path, typer.Option(help="The .mp4 to write; a contact sheet .png goes beside it.")],
    pair: Annotated[str | None, typer.Option(help="Key of the sample whose caption and references to use.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Instead of a pair: caption.txt, subjects/0/face_man.png, objects/dog.png …")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset of the pair (default: the run's own).")] = None,
) -> None:
    """Generate a video for a caption and references with a trained model.

    They come from a pair of a dataset, or from a folder in the layout of the LumosX benchmark: an image's name is its
    phrase in the caption.

    **Examples**

    - `dataengine sample --run runs/first --pair 3f2a… --output sample.mp4`
    - `dataengine sample --run exported/ --folder request/ --output sample.mp4`
    """
    if (pair is None) == (folder is None):
        errors.print("[bold red]error[/] name a --pair or a --folder: dataengine sample --help")
        raise typer.Exit(Exit.USAGE)
    with explained():
        if folder is not None:
            from dataengine.lumosx.pipeline import sample_request

            made = sample_request(run, folder, output)
        else:
            made = _sample_pair(run, data, pair or "", output)
    console.print(f"{made.video}\n{made.sheet}")


def _sample_pair(run: Path, data: Path | None, pair: str, output: Path) -> SampleResult:
    from dataengine.lumosx.sampling import sample_pair
    from dataengine.lumosx.trainer import load_run_data

    try:
        return sample_pair(run, data or load_run_data(run), pair, output)
    except KeyError as error:
        raise ConfigError(error.args[0]) from error
