"""The command line. Exit codes: 0 done · 1 nothing could be done · 2 wrong usage · 3 done, with quarantined rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dataengine.config import BuildSettings, ConfigError, render
from pipelines import dataset, train_commands
from pipelines.audit_commands import audit_app
from pipelines.cache_commands import cache_app
from pipelines.formats import export, import_app
from pipelines.model import model_app
from pipelines.terminal import (
    HELP,
    OVERRIDE,
    SETTINGS,
    Address,
    Exit,
    Inputs,
    Kind,
    Output,
    Overrides,
    Profile,
    Words,
    console,
    errors,
    explained,
    settings_of,
)
from pipelines.world import world_app

if TYPE_CHECKING:
    pass

BUILD, CHECK, TRAIN, TRY = "Build", "Look and check", "Train", "Try and configure"

app = typer.Typer(help="Raw videos → relational training pairs → a trained LumosX DiT.", **HELP)  # type: ignore[arg-type]
config_app = typer.Typer(help="See the configuration that a command would use.", **HELP)  # type: ignore[arg-type]
app.add_typer(audit_app, name="audit", rich_help_panel=CHECK)
app.add_typer(config_app, name="config", rich_help_panel=TRY)
app.add_typer(cache_app, name="cache", rich_help_panel=BUILD)
app.add_typer(model_app, name="model", rich_help_panel=TRAIN)
app.add_typer(world_app, name="world", rich_help_panel=TRY)
app.add_typer(import_app, name="import", rich_help_panel=BUILD)


@app.command(rich_help_panel=BUILD)
def build(
    words: Words = None,
    source: Inputs = None,
    output: Annotated[str, typer.Option(help="Folder or URI to write. An earlier build is brought up to date.")] = "",
    profile: Profile = "embedded",
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run: as `dataengine plan`.")] = False,
    licence: Annotated[str, typer.Option(help="Of the videos; it stands in every sample.")] = "",
    licences: Annotated[str, typer.Option(help="A CSV file source,licence for those that have their own.")] = "",
) -> None:
    """Build relational training shards from raw videos.

    Finds the videos, measures them (shots, faces, captions, boxes, masks, backgrounds), decides which subject owns
    what, and packs webdataset shards into OUTPUT, with an index, a quarantine table, a report and a dataset card.
    A bad video never stops the run. A build that was killed goes on where it was; a changed setting re-runs only what
    depends on it.

    **Examples**

    - `dataengine build --input videos/ --output shards/`
    - `dataengine build --input a.mp4 b.mp4 --output shards/ decide.clips.min_s=2`
    - `dataengine build --input videos/ --output shards/ --address auto`
    """
    given = {"licence": licence, "licences": str(Path(licences).absolute()) if licences else ""}
    words = [*(words or []), *(f"decide.{key}={json.dumps(value)}" for key, value in given.items() if value)]
    places, settings = _asked(words, source, output, profile)
    if dry_run:
        _plan(places, output, settings, 0, address)
        return
    build_from(places, output, settings, address)


@app.command(rich_help_panel=BUILD)
def decide(
    output: Output,
    overrides: Overrides = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only say what this rule would change. Repeat it for more rules."),
    ] = None,
    address: Address = None,
) -> None:
    """Decide again on what is stored: other filters, pairs or splits, in seconds. No model runs, no video is read.

    Settings are those of the last build; whatever is changed here stays changed. With --what-if nothing is written:
    it prints how many samples each rule would remove or bring back, alone and all together.

    **Examples**

    - `dataengine decide shards/ decide.filters.face_min_px=64`
    - `dataengine decide shards/ --what-if filters.face_min_px=96 --what-if filters.clip_min_motion=0.02`
    """
    with explained():
        if what_if:
            from pipelines.show import show_what_if
            from pipelines.whatif import what_if as look

            if overrides:
                raise ConfigError("--what-if changes nothing: give every rule as a --what-if, or none")
            show_what_if(look(output, what_if), console)
            return
        from pipelines.redecide import redecide
        from pipelines.show import show_build

        summary, waiting = redecide(output, overrides or [], address, console)
        show_build(summary, output, console)
    if waiting:
        console.print(f"  [yellow]{waiting} clips now wait for stages that never saw them: run `build`[/]")
    raise typer.Exit(_exit_code(summary.pairs, summary.quarantined))


@app.command(rich_help_panel=BUILD)
def forget(
    output: Output,
    target: Annotated[str, typer.Option("--output", help="Where the version without them goes; nothing is there yet.")],
    source: Annotated[list[str] | None, typer.Option(help="A source id, or a name below the input folder.")] = None,
    face: Annotated[list[str] | None, typer.Option(help="A .npy file of embeddings, or a picture of one face.")] = None,
    similarity: Annotated[float, typer.Option(help="Cosine from which a face is taken for one of these.")] = 0.4,
    address: Address = None,
) -> None:
    """Write a version of a dataset without some sources or people, from its measurements up, and list what is gone.

    Clips that show a forgotten face are left out whole. The new version remembers ids and times, so that a later build
    of it does not bring them back. The old one is not touched: delete it yourself.

    **Examples**

    - `dataengine forget shards/ --source holiday/beach.mp4 --output shards2/`
    - `dataengine forget shards/ --face somebody.npy --output shards2/`
    """
    from pipelines.forget import LIST
    from pipelines.forget import forget as write_without

    if not source and not face:
        errors.print("[bold red]error[/] name a --source or a --face: dataengine forget --help")
        raise typer.Exit(Exit.USAGE)
    with explained():
        removed = write_without(output, target, source or [], face or [], similarity, address)
    console.print(
        f"{len(removed.sources)} sources, {len(removed.clips)} clips, {len(removed.samples)} samples and "
        f"{removed.outcomes} stored measurements are gone; {removed.summary.pairs} samples are left in "
        f"{escape(target)}",
        highlight=False,
    )
    if removed.unknown:
        console.print(f"  [yellow]{removed.unknown} clips show people whom no embedding describes: look at them[/]")
    console.print(f"  {escape(target)}/{LIST} lists them", highlight=False)


@app.command(rich_help_panel=BUILD)
def plan(
    words: Words = None,
    source: Inputs = None,
    output: Annotated[str, typer.Option(help="Folder or URI that `build` would write.")] = "",
    profile: Profile = "embedded",
    address: Address = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Measure so many sources first, for their rates. They stay measured.")
    ] = 0,
) -> None:
    """Say what `build` would do before it does: rows to measure by stage, time, GPU hours, bytes, cost.

    Rates are those of results that OUTPUT holds; a stage that never ran there has none, and needs `--sample`.

    **Examples**

    - `dataengine plan --input videos/ --output shards/`
    - `dataengine plan --input videos/ --output shards/ --sample 20 decide.clips.max_s=5`
    """
    places, settings = _asked(words, source, output, profile)
    _plan(places, output, settings, sample, address)


@app.command(rich_help_panel=BUILD)
def preflight(profile: Profile = "embedded", address: Address = None, overrides: Overrides = None) -> None:
    """Say what would stop a build before anything runs: weights, packages, settings that do not go together, memory.

    Prints what each model needs and which commit of its weights is here, and all problems at once. `build` looks by
    itself. With --address, GPUs and weights are those of the cluster's nodes.

    **Examples**

    - `dataengine preflight --profile gpu`
    - `dataengine preflight --profile gpu stages.background.inpainter=lama`
    """
    from dataengine.engine.run import connect
    from pipelines.preflight import preflight as look
    from pipelines.preflight import preflight_nodes
    from pipelines.show import show_preflight
    from pipelines.stages import steps

    with explained():
        settings = settings_of(Kind.BUILD, profile, overrides or [])
        assert isinstance(settings, BuildSettings)
        found = look(settings, cluster=address is not None)
        show_preflight(found, console)
        found.require()
        if address:
            connect(address, steps(settings))
            preflight_nodes(settings)
    console.print("all good")


@app.command(rich_help_panel=BUILD)
def retry(
    output: Output,
    error: Annotated[
        str | None, typer.Option(help="Only rows with this class of error, as quarantine.parquet has it.")
    ] = None,
    address: Address = None,
) -> None:
    """Measure quarantined rows again, with the inputs and settings of the last build.

    Whatever failed for good fails again and is quarantined again; whatever was not the row's fault is mended.

    **Examples**

    - `dataengine retry shards/`
    - `dataengine retry shards/ --error RowTimeout`
    """
    from dataengine.store import Store
    from pipelines.alone import alone
    from pipelines.cache import last_run, settings_of_run, void_failures

    with explained():
        store = Store.at(output)
        last = last_run(store)
        settings = settings_of_run(last)
        with alone(store):
            count = void_failures(store, settings, error)
    console.print(f"rows to measure again: {count}", highlight=False)
    build_from(last.inputs, output, settings, address)


@app.command(rich_help_panel=BUILD)
def trace(
    output: Output, row: Annotated[str, typer.Argument(metavar="ID", help="A source id, clip id or sample key.")]
) -> None:
    """Follow a source, clip or sample through all stages: what each did, when it was spared or failed, where it is now.

    **Example**: `dataengine trace shards/ 3f2a…`
    """
    from dataengine.store import Store
    from pipelines.trace import trace_row

    with explained():
        try:
            trace_row(Store.at(output), row, console)
        except KeyError as error:
            raise ConfigError(error.args[0]) from error


def _asked(
    words: Sequence[str] | None, source: Sequence[str] | None, output: str, profile: str
) -> tuple[list[str], BuildSettings]:
    """Inputs and settings of a command line that mixes them."""
    overrides = [word for word in words or [] if OVERRIDE.match(word)]
    places = [*(source or []), *(word for word in words or [] if not OVERRIDE.match(word))]
    if not places or not output:
        errors.print("[bold red]error[/] both --input and --output are needed: dataengine build --help")
        raise typer.Exit(Exit.USAGE)
    with explained():
        settings = settings_of(Kind.BUILD, profile, overrides)
    assert isinstance(settings, BuildSettings)
    return places, settings


def build_from(places: Sequence[str], output: str, settings: BuildSettings, address: str | None) -> None:
    """Build, show what came of it, and exit as `build` does."""
    from pipelines.build import build as run_build
    from pipelines.show import show_build

    with explained():
        summary = run_build(places, output, settings, address, console)
    show_build(summary, output, console)
    raise typer.Exit(_exit_code(summary.pairs, summary.quarantined))


def _plan(places: Sequence[str], output: str, settings: BuildSettings, sample: int, address: str | None) -> None:
    from pipelines.plan import plan as make_plan
    from pipelines.show import show_plan

    with explained():
        show_plan(make_plan(places, output, settings, sample, address, console), console)


def _exit_code(pairs: int, quarantined: int) -> Exit:
    if not pairs:
        return Exit.NOTHING
    return Exit.QUARANTINED if quarantined else Exit.DONE


app.command(rich_help_panel=BUILD)(export)
app.command(rich_help_panel=CHECK)(dataset.validate)
app.command(rich_help_panel=CHECK)(dataset.repair)
app.command(rich_help_panel=CHECK)(dataset.card)
app.command(rich_help_panel=CHECK)(dataset.evaluate)
app.command(rich_help_panel=TRAIN)(train_commands.train)
app.command(rich_help_panel=TRAIN)(train_commands.sample)


@app.command("sample-video", rich_help_panel=TRY)
def sample_video(
    folder: Annotated[Path, typer.Argument(help="Where sample.mp4 and sample.truth.json go.")] = Path(),
) -> None:
    """Make a real test video, with its truth, from public-domain portraits that ship in installed packages.

    **Example**: `dataengine sample-video videos/`
    """
    from dataengine.world.sample import make_sample

    truth = make_sample(folder)
    console.print(f"{folder}/sample.mp4: {len(truth.shots)} shots; truth in {folder}/sample.truth.json")


@app.command(rich_help_panel=TRY)
def run(
    file: Annotated[Path, typer.Argument(help="For instance conf/end_to_end.yaml.")],
    source: Annotated[list[str] | None, typer.Option("--input", help="Videos instead of the file's.")] = None,
) -> None:
    """Run everything a file describes: build, report, train, sample.

    **Example**: `dataengine run conf/end_to_end.yaml --input my_videos/`
    """
    from pipelines.end_to_end import end_to_end

    with explained():
        summary = end_to_end(file, console, source or ())
    raise typer.Exit(_exit_code(summary.pairs, summary.quarantined))


@config_app.command("render")
def config_render(
    kind: Annotated[Kind, typer.Option(help="Which command's settings.")] = Kind.BUILD,
    profile: Profile = "embedded",
    defaults: Annotated[bool, typer.Option("--defaults", help="The defaults alone, without any profile.")] = False,
    overrides: Overrides = None,
) -> None:
    """Print all settings a command would use, as YAML.

    **Example**: `dataengine config render --kind train steps=500`
    """
    with explained():
        settings = SETTINGS[kind]() if defaults else settings_of(kind, profile, overrides or [])
    sys.stdout.write(render(settings))


@config_app.command("schema")
def config_schema(kind: Annotated[Kind, typer.Option(help="Which command's settings.")] = Kind.BUILD) -> None:
    """Print the JSON Schema of a command's settings: every key, its type, range and meaning.

    **Example**: `dataengine config schema --kind train`
    """
    sys.stdout.write(json.dumps(SETTINGS[kind].model_json_schema(), indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. `--input a b c` is read as three inputs."""
    app(args=None if arguments is None else [*arguments, *sys.argv[1:]], prog_name="dataengine")


if __name__ == "__main__":
    main()
