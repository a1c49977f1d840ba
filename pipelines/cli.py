"""The command line. Exit codes: 0 done · 1 nothing could be done · 2 wrong usage · 3 done, with quarantined rows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dataengine.config import AuditSettings, BuildSettings, ConfigError, render
from dataengine.lumosx.settings import TrainSettings
from pipelines.model import model_app
from pipelines.terminal import (
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

if TYPE_CHECKING:
    from dataengine.engine.measurements import Measurements
    from dataengine.lumosx.sampling import SampleResult

HELP = {"rich_markup_mode": "markdown", "no_args_is_help": True, "add_completion": False}
app = typer.Typer(help="Raw videos → relational training pairs → a trained LumosX DiT.", **HELP)  # type: ignore[arg-type]
audit_app = typer.Typer(help="Look at who was tied to what, and how sure we are.", **HELP)  # type: ignore[arg-type]
cache_app = typer.Typer(help="Stored measurements: what there is, and removing what nothing uses.", **HELP)  # type: ignore[arg-type]
config_app = typer.Typer(help="See the configuration that a command would use.", **HELP)  # type: ignore[arg-type]
app.add_typer(audit_app, name="audit")
app.add_typer(config_app, name="config")
app.add_typer(cache_app, name="cache")
app.add_typer(model_app, name="model")


@app.command()
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
    _build(places, output, settings, address)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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
    _build(last.inputs, output, settings, address)


@cache_app.command("ls")
def cache_ls(output: Output, profile: Profile = "embedded", overrides: Overrides = None) -> None:
    """List the stored measurements by stage and fingerprint, with sizes, and which settings use them.

    **Example**: `dataengine cache ls shards/`
    """
    from dataengine.engine.cache import stored_stages
    from pipelines.show import show_cache

    with explained():
        measurements, users = _cache(output, profile, overrides)
        show_cache(stored_stages(measurements), users, console)


@cache_app.command("gc")
def cache_gc(
    output: Output,
    profile: Profile = "embedded",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    overrides: Overrides = None,
) -> None:
    """Remove measurements that neither the last build's settings nor the ones given here use.

    **Examples**

    - `dataengine cache gc shards/ --dry-run`
    - `dataengine cache gc shards/ stages.frames.jpeg_quality=90`
    """
    from dataengine.engine.cache import collect, stored_stages, unused
    from dataengine.store import Store
    from pipelines.alone import alone
    from pipelines.show import show_cache

    with explained():
        measurements, users = _cache(output, profile, overrides)
        with nullcontext() if dry_run else alone(Store.at(output)):
            unwanted = unused(stored_stages(measurements), users)
            show_cache(unwanted, users, console)
            freed = 0 if dry_run else collect(measurements, unwanted)
    if not unwanted:
        console.print("nothing to remove")
    else:
        console.print("nothing was removed" if dry_run else f"removed: {freed / 1e6:.1f} MB", highlight=False)


def _cache(
    output: str, profile: str, overrides: Sequence[str] | None
) -> tuple[Measurements, dict[tuple[str, str], str]]:
    """The store, and who uses which (stage, fingerprint): the given settings, the last build's, or both."""
    from dataengine.engine.measurements import Measurements
    from dataengine.store import Store
    from pipelines.cache import last_run, settings_of_run, used

    store = Store.at(output)
    given = settings_of(Kind.BUILD, profile, overrides or [])
    assert isinstance(given, BuildSettings)
    users: dict[tuple[str, str], str] = dict.fromkeys(used(given).items(), "these settings")
    for pair in used(settings_of_run(last_run(store))).items():
        users[pair] = "last build and these settings" if pair in users else "last build"
    return Measurements(store.child("measurements")), users


@app.command()
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


def _build(places: Sequence[str], output: str, settings: BuildSettings, address: str | None) -> None:
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


@app.command()
def validate(output: Output) -> None:
    """Check every shard of a dataset: tars, hashes, records, spans, masks, clips, index.

    Exits with 1 when something is wrong; each line says what, in which shard and sample, and what to do.

    **Example**: `dataengine validate shards/`
    """
    from dataengine.shards.validate import validate as check_shards
    from dataengine.store import Store

    with explained():
        report = check_shards(Store.at(output), workers=os.cpu_count() or 1)
    for finding in report.findings:
        console.print(f"[red]✗[/] {escape(str(finding))}", highlight=False)
    console.print(
        f"{report.samples} samples in {report.shards} shards, {report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s: "
        + ("all good" if report.ok else f"{len(report.findings)} problems")
    )
    raise typer.Exit(Exit.DONE if report.ok and report.samples else Exit.NOTHING)


@audit_app.command("check")
def audit_check(output: Output, profile: Profile = "embedded", overrides: Overrides = None) -> None:
    """Check every sample and write checks.parquet (a row a finding), risk.parquet (a row a sample), matrix.parquet.

    Looks again only at shards that changed since the last time, or whose settings did. A damaged sample is a finding.

    **Examples**

    - `dataengine audit check shards/`
    - `dataengine audit check shards/ limits.face_px=96 scorer=none`
    """
    from pipelines.audit import check

    with explained():
        summary = check(output, _audit_settings(profile, overrides), console)
    for name, (times, failed) in sorted(summary.checks.items(), key=lambda one: -one[1][1]):
        if failed:
            console.print(f"{name}: {failed} of {times} failed", highlight=False)
    console.print(
        f"{summary.samples} samples in {summary.shards} shards ({summary.reused} unchanged): {summary.failed} failed a "
        f"check, {summary.unreadable} could not be read",
        highlight=False,
    )


@audit_app.command("report")
def audit_report(output: Output, profile: Profile = "embedded", overrides: Overrides = None) -> None:
    """Write report.html, report.json and the contact sheet of a dataset anew, after checking what changed.

    With the error rate that auditors found, where anyone has judged a sample.

    **Examples**

    - `dataengine audit report shards/`
    - `dataengine audit report shards/ worst=20`
    """
    from dataengine.audit.contact_sheet import contact_sheet
    from dataengine.audit.report import write_report
    from dataengine.store import Store
    from pipelines.audit import check

    with explained():
        settings = _audit_settings(profile, overrides)
        check(output, settings, console)
        write_report(Store.at(output), settings)
        contact_sheet(Store.at(output))
    console.print(f"{output}/report.html, {output}/report.json, {output}/contact_sheet.png")


@audit_app.command("serve")
def audit_serve(
    output: Output,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8780,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than loopback need the access token.")] = (
        "127.0.0.1"
    ),
    name: Annotated[
        list[str] | None, typer.Option(help="A name the server is called by, where --host is an address.")
    ] = None,
    profile: Profile = "embedded",
    overrides: Overrides = None,
) -> None:
    """Serve the page on which people judge and repair samples.

    Every decision goes into OUT/audit/events.sqlite; the shards stay as they are. On loopback nothing else is needed;
    away from it the address that is printed has an access token (or set DATAENGINE_AUDIT_TOKEN).

    **Examples**

    - `dataengine audit serve shards/`
    - `dataengine audit serve shards/ --host 0.0.0.0 --name audit.example.org --port 8780`
    """
    from dataengine.audit.desk import Desk
    from dataengine.audit.listening import addresses, listen, run
    from dataengine.audit.security import Access
    from dataengine.audit.server import create_app
    from dataengine.store import Store
    from pipelines.audit import aids_of, stored_cuts

    with explained():
        token = os.environ.get("DATAENGINE_AUDIT_TOKEN")
        access = Access.for_host(host, tuple(name or ()), token)
        settings, store = _audit_settings(profile, overrides), Store.at(output)
        # Clips are not decoded for a repair: what that told before stays.
        desk = Desk.open(store, settings, aids=replace(aids_of(settings), frames=False), cuts_of=stored_cuts(store))
        socket = listen(host, port)
        for address in addresses(socket, host, access):
            console.print(f"audit page: {address}", highlight=False, soft_wrap=True)
        run(create_app(desk, access), socket)


@audit_app.command("apply")
def audit_apply(
    source: Output,
    output: Annotated[str, typer.Option(help="Folder or URI of the new version; it must not hold a dataset.")],
) -> None:
    """Write a new version of a dataset with all verdicts and repairs applied. Samples nobody changed keep their bytes.

    Each auditor who judged a sample has one vote: to reject it, or for it as repaired. The most votes win; at a tie the
    sample is left out. `audit/fates.parquet` says what became of each.

    **Example**: `dataengine audit apply shards/ --output shards-audited/`
    """
    from dataengine.audit.apply import apply_events
    from dataengine.audit.events import stored_events
    from dataengine.store import Store
    from pipelines.audit import stored_cuts

    with explained():
        store = Store.at(source)
        events = stored_events(store)
        if not events:
            raise ConfigError(f"{source}: nobody has audited it: there is no event to apply")
        applied = apply_events(store, Store.at(output), events, stored_cuts(store))
    for fate in applied.fates:
        if fate.fate in ("disputed", "unappliable"):
            console.print(f"[yellow]![/] {fate.key}: {fate.fate}, left out: {escape(fate.reason)}", highlight=False)
    told = ", ".join(f"{fate} {count}" for fate, count in applied.counts.items()) or "nothing judged"
    console.print(
        f"{applied.samples} samples in {output}: {told}; shards copied {applied.shards_kept}, written "
        f"{applied.shards_written}"
        + (f"; {applied.unknown} judged keys are no samples of it (honeypots, or gone)" if applied.unknown else ""),
        highlight=False,
    )


@audit_app.command("export")
def audit_export(
    source: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: .parquet or .json (COCO).")],
) -> None:
    """Write a dataset's audit events to a file: .parquet has every event, .json is COCO with boxes, masks and verdicts.

    **Examples**

    - `dataengine audit export shards/ events.parquet`
    - `dataengine audit export shards/ audit.json`
    """
    from pipelines.audit import export_events

    with explained():
        count = export_events(source, file)
    console.print(f"{count} events: {file}", highlight=False)


@audit_app.command("import")
def audit_import(
    source: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote: .parquet or .json (COCO).")],
) -> None:
    """Take events from a file into a dataset's log. What the log has already is not repeated.

    **Example**: `dataengine audit import shards/ events.parquet`
    """
    from pipelines.audit import import_events

    with explained():
        count = import_events(source, file)
    console.print(f"{count} new events in {source}", highlight=False)


def _audit_settings(profile: str, overrides: Sequence[str] | None) -> AuditSettings:
    settings = settings_of(Kind.AUDIT, profile, overrides or [])
    assert isinstance(settings, AuditSettings)
    return settings


@app.command()
def train(
    data: Annotated[str, typer.Option(help="Folder that `build` wrote, or its s3:// or gs:// URI.")],
    run: Annotated[Path, typer.Option(help="Folder of checkpoints and logs. An earlier run goes on.")],
    profile: Profile = "embedded",
    workers: Annotated[
        int, typer.Option(min=0, help="Ray Train workers, each a GPU where there are; 0: this process alone.")
    ] = 0,
    address: Address = None,
    check: Annotated[bool, typer.Option("--check", help="Only look at everything that could stop the run.")] = False,
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
            _check(data, run, settings, workers)
            return
        if workers:
            result = train_on_ray(data, run, settings, workers=workers, address=address)
        else:
            made = train_here(data, run, settings, console)
            if made is None:  # another rank tells
                return
            result = made
    show_training(result, console)


def _check(data: str, run: Path, settings: TrainSettings, workers: int) -> None:
    """Exits with 1 when the run would fail, or would train on less than it seems."""
    from dataengine.lumosx.preflight import Finding, preflight

    def tell(finding: Finding) -> None:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        console.print(f"{mark} {finding.what}: {escape(finding.told)}", highlight=False)

    world = workers or int(os.environ.get("WORLD_SIZE", "1"))
    if not all(finding.ok for finding in preflight(data, run, settings, world, tell)):
        raise typer.Exit(Exit.NOTHING)


@app.command()
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


@app.command("sample-video")
def sample_video(
    folder: Annotated[Path, typer.Argument(help="Where sample.mp4 and sample.truth.json go.")] = Path(),
) -> None:
    """Make a real test video, with its truth, from public-domain portraits that ship in installed packages.

    **Example**: `dataengine sample-video videos/`
    """
    from dataengine.world.sample import make_sample

    truth = make_sample(folder)
    console.print(f"{folder}/sample.mp4: {len(truth.shots)} shots; truth in {folder}/sample.truth.json")


@app.command()
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
