"""`dataengine import` and `dataengine export`: from and to the layouts that others use."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dataengine.config import BuildSettings
from pipelines.terminal import Address, Exit, Kind, Output, Overrides, Profile, console, explained, settings_of

if TYPE_CHECKING:
    from dataengine.shards.importers.contract import Importer
    from dataengine.shards.losses import Losses

import_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Datasets of other layouts, as ours.")

Source = Annotated[Path, typer.Argument(metavar="SRC", help="The folder that holds it.")]
Target = Annotated[str, typer.Option("--output", help="Folder or URI of the dataset to make.")]
Videos = Annotated[Path | None, typer.Option(help="Folder of the videos, where it is not SRC.")]
Licence = Annotated[str | None, typer.Option(help="Licence of the source, carried in every record.")]
ValShare = Annotated[
    float, typer.Option(min=0, max=0.99, help="Share of the sources to hold out. Only where SRC names its sources.")
]


class Split(StrEnum):
    """What becomes of a video with a caption."""

    WHOLE = "whole"
    SHOTS = "shots"


class Format(StrEnum):
    """The formats of `pipelines.exports`, repeated here because importing them takes seconds."""

    LUMOSX = "lumosx"
    WEBDATASET = "webdataset"
    COCO = "coco"
    WIDS = "wids"


@import_app.callback()
def _group() -> None:
    """Datasets of other layouts, as ours. docs/formats.md says what each reads, and what it cannot hold."""


@import_app.command("lumosx")
def import_lumosx(source: Source, output: Target, licence: Licence = None, address: Address = None) -> None:
    """Import the layout of the LumosX benchmark, a folder a sample, with `clip.mp4` beside.

    Samples without a clip, as the benchmark's own are, are refused: `dataengine sample --folder` generates from them.

    **Example**: `dataengine import lumosx theirs/ --output shards`
    """
    from dataengine.shards.importers.lumosx import LumosX
    from dataengine.shards.importers.tree import Tree

    with explained():
        _import(LumosX(Tree.at(source)), source, output, 0.0, licence, address)


@import_app.command("lumosx-train")
def import_lumosx_train(
    source: Source,
    output: Target,
    videos: Videos = None,
    licence: Licence = None,
    address: Address = None,
) -> None:
    """Import what the released LumosX trainer reads: folders with `info.json` and masks, and its table of captions.

    **Example**: `dataengine import lumosx-train theirs/ --videos panda70m/ --output shards`
    """
    from dataengine.shards.importers.lumosx_train import LumosXTrain
    from dataengine.shards.importers.tree import Tree

    with explained():
        importer = LumosXTrain(Tree.at(source), Tree.at(videos or source))
        _import(importer, source, output, 0.0, licence, address)


@import_app.command("opens2v")
def import_opens2v(
    source: Source,
    output: Target,
    videos: Videos = None,
    val_share: ValShare = 0.0,
    licence: Licence = "cc-by-4.0",
    profile: Profile = "embedded",
    address: Address = None,
    overrides: Overrides = None,
) -> None:
    """Import OpenS2V-5M: its labels are flat, so who wears what is found out by pixels, and what is unsure is refused.

    The profile's face detector looks for faces, as the dataset has none; `decide.filters` are those of a build, with
    one still instead of three.

    **Example**: `dataengine import opens2v OpenS2V-5M/ --output shards decide.filters.owner_min_share=0.7`
    """
    from dataengine.shards.importers.opens2v import OpenS2VSource
    from dataengine.shards.importers.tree import Tree
    from pipelines.opens2v import OpenS2V

    with explained():
        settings = settings_of(Kind.BUILD, profile, ["decide.filters.face_min_stills=1", *(overrides or [])])
        assert isinstance(settings, BuildSettings)
        flat = OpenS2VSource(Tree.at(source), Tree.at(videos or source))
        importer = OpenS2V(flat, settings.stages.faces, settings.decide, settings.seed)
        _import(importer, source, output, val_share, licence, address)


@import_app.command("table")
def import_table(
    source: Annotated[Path, typer.Argument(metavar="TABLE", help="A .csv, .tsv, .jsonl or .parquet file.")],
    output: Target,
    videos: Annotated[Path | None, typer.Option(help="Folder that its paths lie in (default: the table's).")] = None,
    split: Annotated[Split, typer.Option(help="A video is one clip, or is cut into its shots.")] = Split.WHOLE,
    profile: Profile = "embedded",
    address: Address = None,
    overrides: Overrides = None,
) -> None:
    """Build from videos with captions: each caption is kept; what it names, and whose that is, is measured.

    Columns are found by name: path (or video, file, …) and caption (or text, prompt, …). All else is as in `build`.

    **Example**: `dataengine import table captions.csv --videos videos/ --output shards`
    """
    from dataengine.shards.importers.table import VideoTable
    from dataengine.shards.importers.tree import Tree
    from pipelines.given import table_of_rows

    with explained():
        folder = Tree.at(source.absolute().parent)
        place = table_of_rows(VideoTable(folder, source.name, Tree.at(videos) if videos else folder), output)
    _build(place, output, split, profile, address, overrides)


@import_app.command("webdataset")
def import_webdataset(
    source: Source,
    output: Target,
    split: Annotated[Split, typer.Option(help="A video is one clip, or is cut into its shots.")] = Split.WHOLE,
    profile: Profile = "embedded",
    address: Address = None,
    overrides: Overrides = None,
) -> None:
    """Build from webdataset tars of videos and captions (`KEY.mp4` with `KEY.txt`, or `KEY.json` with a caption).

    **Example**: `dataengine import webdataset tars/ --output shards --split shots`
    """
    from dataengine.shards.importers.tree import Tree
    from pipelines.given import table_of_tars

    with explained():
        place = table_of_tars(Tree.at(source), output, address)
    _build(place, output, split, profile, address, overrides)


def export(
    format: Annotated[Format, typer.Argument(metavar="FORMAT", help="lumosx, webdataset, coco or wids.")],
    data: Output,
    output: Target,
    address: Address = None,
) -> None:
    """Write a dataset in another layout; what that cannot hold is printed and stands in `losses.json`.

    - `lumosx`: folders that the released LumosX scripts and benchmark read, with the clip beside
    - `webdataset`: tars with the same files in every sample, for the Hugging Face viewer, with a card
    - `coco`: frames with boxes and masks; categories are phrases, owners are attributes
    - `wids`: the shards as they are, with an index for random access

    **Example**: `dataengine export lumosx shards --output for_lumosx`
    """
    from pipelines.exports import export_dataset

    with explained():
        losses = export_dataset(format.value, data, output, address)
    console.print(f"{losses.samples} samples in {escape(output)}", highlight=False)
    show_losses(losses)


def _import(
    importer: Importer, source: Path, output: str, val_share: float, licence: str | None, address: str | None
) -> None:
    from pipelines.imports import ImportOptions, import_samples

    options = ImportOptions(val_share=val_share, licence=licence)
    summary = import_samples(importer, str(source), output, options, address, console)
    console.print(
        f"[bold]{summary.samples} samples[/] with {summary.subjects} subjects and {summary.attributes} attributes in "
        f"{escape(output)}",
        highlight=False,
    )
    for rule, count in summary.dropped.items():
        console.print(f"  [dim]{count} parts left out: {escape(rule)} (clips.parquet says which)[/]", highlight=False)
    if summary.samples:
        show_losses(summary.losses)
    if summary.refused:
        console.print(f"  [yellow]{summary.refused} refused: {escape(output)}/quarantine.parquet says why[/]")
    raise typer.Exit(Exit.NOTHING if not summary.samples else Exit.QUARANTINED if summary.refused else Exit.DONE)


def _build(
    table: str, output: str, split: Split, profile: str, address: str | None, overrides: list[str] | None
) -> None:
    from pipelines.cli import build_from

    whole = [f"decide.clips.whole={str(split is Split.WHOLE).lower()}"]
    with explained():
        settings = settings_of(Kind.BUILD, profile, [*whole, *(overrides or [])])
    assert isinstance(settings, BuildSettings)
    build_from([table], output, settings, address)


def show_losses(losses: Losses) -> None:
    """What did not fit, and how often."""
    if not losses.losses:
        console.print("nothing was lost")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("lost", overflow="fold")
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("why", style="dim", overflow="fold")
    for loss in losses.losses:
        table.add_row(escape(loss.what), str(loss.count), escape(loss.why))
    console.print(table)
