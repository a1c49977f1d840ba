"""`dataengine world`: videos whose truth is known."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import HELP, console, explained

world_app = typer.Typer(help="A procedural world with known truth: who is seen, wearing what, where.", **HELP)  # type: ignore[arg-type]


class Network(StrEnum):
    QWEN = "qwen2_5_vl"
    GROUNDING_DINO = "grounding_dino"
    SAM = "sam"
    CENTERFACE = "centerface"
    INSIGHTFACE = "insightface"


_ON_GPUS = (Network.QWEN, Network.GROUNDING_DINO, Network.SAM)


@world_app.callback()
def _group() -> None:
    """A procedural world with known truth: who is seen, wearing what, where."""


@world_app.command()
def make(
    clips: Annotated[int, typer.Option(min=1, help="Shots to make; a video has one to three.")],
    output: Annotated[Path, typer.Option(help="Folder for NAME.mp4 and NAME.truth.json.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another world with the same people.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core. The bytes are the same.")] = 0,
) -> None:
    """Draw videos of one to three people in varied clothes, and write what is true of every frame.

    **Example**: `dataengine world make --clips 20 --output world/`
    """
    from dataengine.world.make import make_world

    with explained():
        made = make_world(output, clips, seed, workers or os.cpu_count() or 1)
    shots, frames = sum(len(truth.shots) for truth in made), sum(truth.frames for truth in made)
    console.print(f"{len(made)} videos, {shots} shots, {frames} frames in {output}", highlight=False, soft_wrap=True)


@world_app.command()
def train(
    network: Annotated[Network, typer.Argument(help="Which checkpoint to train.")],
    output: Annotated[Path | None, typer.Option(help="Folder to write it to (default: the checkpoint's own).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer steps, to try it (default: all).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and examples.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda for larger steps on a GPU.")] = "cpu",
    minutes: Annotated[float | None, typer.Option(min=0, help="Of wall clock, to end by instead of by steps.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make data; 0: the trainer itself does.")] = 0,
) -> None:
    """Train a small checkpoint of a real architecture on the world, from scratch, on one CPU thread or a GPU.

    **Example**: `dataengine world train sam --output /tmp/sam --steps 100`
    """
    import torch

    from dataengine.world.training import CHECKPOINTS, trainer

    torch.set_num_threads(1)  # the matrices are small: another thread is better used by another training
    folder = output or CHECKPOINTS / network
    how = {"device": device, "minutes": minutes, "workers": workers} if network in _ON_GPUS else {}
    if not how and (device != "cpu" or minutes or workers):
        raise typer.BadParameter(f"{network} trains on one CPU thread alone", param_hint="--device/--minutes/--workers")
    with explained():
        log = trainer(network).train(folder, steps=steps, seed=seed, say=_say, **how)
    _say(f"{folder}: {log.bytes / 1e6:.1f} MB after {log.cpu_minutes:.0f} CPU minutes")
    measure(network, output)


@world_app.command()
def measure(
    network: Annotated[Network, typer.Argument(help="Which checkpoint.")],
    folder: Annotated[Path | None, typer.Option(help="Where it is (default: the checkpoint's own).")] = None,
) -> None:
    """Measure a trained checkpoint on held-out examples, as `train` does at its end, and write it into training.json.

    For what was trained on a machine that lacks something, as vLLM for qwen2_5_vl.

    **Example**: `dataengine world measure sam --folder /tmp/sam`
    """
    from dataengine.world.training import CHECKPOINTS, measured
    from dataengine.world.training.card import write_card

    with explained():
        log = measured(network, folder or CHECKPOINTS / network)
    if folder is None:
        write_card(CHECKPOINTS)
    for figure in log.held_out:
        _say(f"{figure.name}: {figure.value:.3f} (of {figure.of})")


@world_app.command()
def pairs(
    clips: Annotated[int, typer.Option(min=1, help="Shots to make pairs of; a video has one to three.")],
    output: Annotated[Path, typer.Option(help="Folder for shards/ and index.parquet.")],
    seed: Annotated[int, typer.Option(min=0, help="As for `make`: the same seed, the same videos.")] = 0,
    frames: Annotated[int, typer.Option(min=0, help="Of each clip, from the shot's middle; 0: the whole shot.")] = 0,
) -> None:
    """Write training shards straight from the truth: what a build without any mistake would have made of the videos.

    **Example**: `dataengine world pairs --clips 20 --output perfect/`
    """
    from dataengine.store import Store
    from dataengine.world.make import VideoTruth, scripts
    from dataengine.world.pairs import samples, write_samples

    with explained():
        truths = map(VideoTruth.of, scripts(clips, seed))
        made = write_samples(Store.at(output), (s for truth in truths for s in samples(truth, frames=frames or None)))
    console.print(f"{made} samples in {output}", highlight=False, soft_wrap=True)


@world_app.command()
def ablate(
    output: Annotated[Path, typer.Option(help="Folder of the experiment; an earlier one goes on where it stopped.")],
    size: Annotated[str, typer.Option(help="small: an hour of one CPU core; large: a GPU.")] = "small",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    steps: Annotated[int, typer.Option(min=0, help="Of every variant; 0: as the size has it.")] = 0,
) -> None:
    """Train a small DiT with and without each relational part, and measure who wears what in what they generate.

    Writes ablation.json, ablation.webp and everything they were made from into OUTPUT, and prints the table.

    **Example**: `dataengine world ablate --output ablation/`
    """
    from dataclasses import replace

    from dataengine.world.ablation import SIZES
    from pipelines.ablation import Experiment, table

    if size not in SIZES:
        raise typer.BadParameter(f"choose {' or '.join(SIZES)}", param_hint="--size")
    chosen = SIZES[size]
    chosen = replace(chosen, steps=steps or chosen.steps)
    with explained():
        found = Experiment(output, size, chosen, range(seeds), _say).run()
    console.print(table(found))
    for step in found.steps_between:
        change = f"{step.change:+.3f} [{step.low:+.3f}, {step.high:+.3f}]"
        console.print(f"{step.measure}, {step.before} → {step.after}: {change}", highlight=False)
    console.print(
        f"rank correlation with the paper's ArcSim: binding {found.rank_correlation:+.2f}, rise "
        f"{found.rise_rank_correlation:+.2f} · {found.cpu_minutes} CPU minutes · "
        f"{output / 'ablation.json'}, {output / 'ablation.webp'}",
        highlight=False,
        soft_wrap=True,
    )


def _say(told: str) -> None:
    console.print(told, highlight=False, soft_wrap=True)
