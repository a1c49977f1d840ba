"""`dataengine model`: a trained model to where it is used."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.terminal import console, explained

model_app = typer.Typer(no_args_is_help=True, help="Trained models: exports.", rich_markup_mode="markdown")


class To(StrEnum):
    """The targets of `dataengine.lumosx.export`, repeated here because importing torch takes seconds."""

    DIFFUSERS = "diffusers"
    RELEASED = "released"
    LORA_DIFFUSERS = "lora-diffusers"
    LORA_COMFYUI = "lora-comfyui"


class Precision(StrEnum):
    """Of the numbers in the files."""

    FP32 = "fp32"
    BF16 = "bf16"


class Weights(StrEnum):
    """Which of a checkpoint's weights."""

    EMA = "ema"
    LAST = "last"


@model_app.callback()
def _group() -> None:
    """Trained models: exports."""


@model_app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder that `train` wrote.")],
    to: Annotated[To, typer.Option(help="Program or layout that will read the weights.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read it back and compare outputs before it is kept.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="Of the numbers in the files.")] = Precision.FP32,
    weights: Annotated[Weights, typer.Option(help="The running average, or those of the last step.")] = Weights.EMA,
) -> None:
    """Write a run's weights for diffusers, the released scripts, or ComfyUI.

    - `diffusers`: a WanPipeline folder, with what our RelationalPipeline needs for reference images beside it
    - `released`: one safetensors file under Wan2.1's own keys, which the LumosX scripts load
    - `lora-diffusers`, `lora-comfyui`: the adapters of a run that trained LoRA

    **Examples**

    - `dataengine model export runs/first --to diffusers --output exported/ --verify`
    - `dataengine model export runs/lora --to lora-comfyui --output lora/ --precision bf16`
    """
    with explained():
        import torch

        from dataengine.lumosx.export import Target
        from dataengine.lumosx.export import export as write_export
        from dataengine.lumosx.trained import read_trained

        dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
        trained = read_trained(run, average=weights is Weights.EMA)
        made = write_export(trained, Target(to.value), output, dtype=dtype, verify=verify)
    for name in made.files:
        console.print(f"{made.folder}/{name}", highlight=False, markup=False, soft_wrap=True)
    for reader, error in made.checks.items():
        console.print(f"[green]✓[/] read back by {reader}: outputs differ by {error:.1e}", highlight=False)
    for note in made.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    console.print(f"{made.nbytes / 1e6:.1f} MB", highlight=False)
