"""What a person sees at the end of a command: what was made, where it is, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dataengine.audit.report import costs
from dataengine.engine.cache import StoredStage
from dataengine.engine.plan import Plan
from dataengine.engine.progress import clock, money
from dataengine.records import RunSummary
from pipelines.preflight import Preflight
from pipelines.whatif import WhatIf

if TYPE_CHECKING:  # torch, which a build does not need
    from dataengine.lumosx.sampling import SampleResult
    from dataengine.lumosx.trainer import TrainResult
    from pipelines.latents import Encoded


def heading(title: str, subtitle: str, console: Console) -> None:
    console.print(f"\n[bold]{title}[/]  [dim]{subtitle}[/]")


def show_build(summary: RunSummary, output: str, console: Console) -> None:
    """The funnel of a build, what it took, and where its files are."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("model", style="dim", no_wrap=True, overflow="ellipsis", max_width=22)
    for name in ("done", "cached", "spared", "quarantined", "s/row", "CPU s", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    prices = costs(summary)
    for s in summary.stages:
        table.add_row(
            escape(s.stage),
            escape(s.model),
            *(str(n) if n else "·" for n in (s.done, s.cached, s.gated, s.quarantined)),
            f"{s.row_seconds.p50:.2g}" if s.row_seconds else "·",
            f"{s.cpu_seconds:.1f}" if s.cpu_seconds else "·",
            money(prices[s.stage]) if prices.get(s.stage) else "·",
        )
    console.print(table)
    console.print(
        f"{summary.sources} videos → {summary.clips} clips → [bold]{summary.pairs} pairs[/] with "
        f"{summary.subjects} subjects in {summary.wall_s:.0f} s, cost {money(summary.cost)}",
        highlight=False,
    )
    for rule, count in summary.rejected.items():
        console.print(f"  [dim]{count} clips not kept: {escape(rule)}[/]", highlight=False)
    if summary.quarantined:
        console.print(f"  [yellow]{summary.quarantined} quarantined: {escape(output)}/quarantine.parquet says why[/]")
    console.print(f"  {escape(output)}/report.html", highlight=False)


def show_what_if(found: WhatIf, console: Console) -> None:
    """How many samples each change of the rules removes and brings back, and what is left."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("rule", no_wrap=True, overflow="fold")
    for name in ("removes", "brings back", "samples", "subjects", "attributes", "to be measured"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("as it is", "·", "·", *map(str, (found.kept, found.subjects, found.attributes)), "·")
    for change in found.changes:
        counts = (change.removed, change.restored, change.kept, change.subjects, change.attributes, change.waiting)
        table.add_row(escape(change.what), *(str(n) if n else "·" for n in counts))
    console.print(table)
    console.print(f"  [dim]of {found.clips} clips; nothing was written[/]", highlight=False)


def show_preflight(checked: Preflight, console: Console) -> None:
    """What each model needs, and the GPUs there are."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("GPUs", "GiB", "workers"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("weights and code", style="dim", overflow="fold")
    for demand in checked.demands:
        revision = escape(demand.revision) or ("[red]missing[/]" if demand.has_weights else "·")
        gib = f"{demand.gib:.1f}" if demand.gib else "?" if demand.gpus and demand.has_weights else "·"
        share = f"{demand.gpus:g}" if demand.gpus else "·"
        table.add_row(demand.stage, escape(demand.model), share, gib, str(demand.workers), revision)
    console.print(table)
    if checked.gpus:
        console.print(
            "GPUs here: " + ", ".join(f"{gpu.name} {gpu.gib:.1f} GiB" for gpu in checked.gpus), highlight=False
        )


def show_plan(plan: Plan, console: Console) -> None:
    """What a build would measure, and what that would take."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True)
    for name in ("rows", "cached", "to do", "s/row", "time", "GPU h", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in plan.stages:
        about = "" if s.exact else "~"
        table.add_row(
            escape(s.stage),
            "?" if s.todo is None else f"{about}{s.cached + s.todo:.0f}",
            str(s.cached) if s.cached else "·",
            "?" if s.todo is None else f"{about}{s.todo:.0f}" if s.todo else "·",
            f"{s.rate.seconds:.2g}" if s.rate else "?",
            "?" if s.seconds is None else clock(s.seconds) if s.seconds else "·",
            "?" if s.seconds is None else f"{s.seconds * s.gpus / 3600:.2f}" if s.gpus else "·",
            "?" if s.bytes is None else size(s.bytes) if s.bytes else "·",
        )
    console.print(table)
    if plan.idle:
        console.print("nothing to measure: deciding and packing alone would run")
        return
    if any(stage.seconds for stage in plan.stages):
        console.print(
            f"measuring would take about [bold]{clock(plan.wall_s)}[/], {plan.gpu_hours:.2f} GPU hours, "
            f"{size(plan.bytes)} and cost {money(plan.cost)}; starting, deciding and packing come on top",
            highlight=False,
        )
    if plan.unknown:
        names = ", ".join(plan.unknown)
        console.print(f"  [yellow]without {escape(names)}: nothing tells how long that takes; try --sample 20[/]")


def show_cache(stored: Sequence[StoredStage], users: Mapping[tuple[str, str], str], console: Console) -> None:
    """Stored measurements and who uses them."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("stage", "left"), ("fingerprint", "left"), ("rows", "right"), ("failed", "right"),
                          ("size", "right"), ("used by", "left")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for s in stored:
        user = users.get((s.stage, s.fingerprint), "[dim]nothing[/]")
        failed = str(s.failed) if s.failed else "·"
        table.add_row(escape(s.stage), escape(s.fingerprint), str(s.rows), failed, size(s.bytes), user)
    console.print(table)
    console.print(f"{size(sum(s.bytes for s in stored))} in all", highlight=False)


def size(count: float) -> str:
    """Bytes as people say them: 12 kB, 3.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def show_training(result: TrainResult, console: Console) -> None:
    """Loss at held-out noise levels before and after, for each validation set."""
    for name, before in result.before.items():
        after = result.after[name]
        console.print(
            f"loss, {name}: {before:.4f} → [bold]{after:.4f}[/] ({after / before - 1:+.0%})",
            highlight=False,
        )
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s ({result.step_seconds:.2f} s a step); {result.curve}",
        highlight=False,
    )
    if result.skipped:
        console.print(f"  [yellow]{result.skipped} steps skipped: no finite gradient, or no usable sample[/]")
    for key, reason in result.refused.items():
        console.print(f"  [yellow]sample {escape(key)} not used: {escape(reason)}[/]", highlight=False)


def show_encoded(made: Sequence[Encoded], console: Console) -> None:
    """What is stored for a training run, and what could not be encoded."""
    for one in made:
        told = f"{one.made} encoded ({size(one.bytes)}), {one.stored} were stored"
        console.print(f"{escape(one.what)}: {told}", highlight=False)
        for failure in one.failed:
            console.print(f"  [yellow]{escape(failure.message)}[/]", highlight=False)


def show_made(output: str, run: Path, made: SampleResult, key: str, console: Console) -> None:
    """The whole list of what an end-to-end run left behind, and the next commands to try."""
    files = (
        ("contact sheet", f"{output}/contact_sheet.png"),
        ("report", f"{output}/report.html"),
        ("shards", f"{output}/shards/"),
        ("loss curve", f"{run}/loss.png"),
        ("sampled clip", f"{made.video}"),
        ("sample sheet", f"{made.sheet}"),
    )
    commands = (
        f"dataengine audit serve {output}",
        f"dataengine validate {output}",
        "dataengine build --input YOUR_VIDEOS --output shards",
        f"dataengine train --data {output} --run {run.parent / 'longer'} steps=1000",
        f"dataengine sample --run {run} --pair {key} --output again.mp4",
        f"tensorboard --logdir {run}",
    )
    console.print("\n[bold]made[/]")
    for what, where in files:
        console.print(f"  {what:<14} {escape(where)}", highlight=False)
    console.print("\n[bold]try next[/]  [dim](the commands are in .venv/bin)[/]")
    for command in commands:
        console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)
