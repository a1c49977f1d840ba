"""`dataengine validate`, `repair` and `card`: what can be done with a finished dataset, whoever made it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from pipelines.terminal import Exit, Output, console, explained

if TYPE_CHECKING:
    from dataengine.records import Pair
    from dataengine.shards.validate import PhraseCheck, Report

Depth = Annotated[
    Literal["files", "images", "clips"],
    typer.Option(help="files: tars, hashes, records, index; images: also every image; clips: also every frame."),
]
Workers = Annotated[int, typer.Option(min=0, help="Threads, each with a shard; 0: one a core.")]


def validate(
    output: Output,
    depth: Depth = "clips",
    sample: Annotated[int | None, typer.Option(min=1, help="Look at this many samples only, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the sample.")] = 0,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Every phrase must have tokens of it: `minilm`, a folder, or a hub id in the cache."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="That the text encoder takes.")] = 512,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write all findings to this file.")] = None,
    workers: Workers = 0,
) -> None:
    """Check a dataset: tars, hashes, records, spans, masks, clips, index. Each line says what, where, and what to do.

    Exits with 0 when all is good, with 1 when something is wrong or there is nothing.

    **Examples**

    - `dataengine validate shards/`
    - `dataengine validate shards/ --depth files`
    - `dataengine validate s3://bucket/shards --sample 500 --tokenizer google/umt5-xxl --json findings.json`
    """
    from dataengine.shards.validate import Validation
    from dataengine.shards.validate import validate as check
    from dataengine.store import Store

    with explained():
        phrases = None if tokenizer is None else _phrase_check(tokenizer, max_tokens)
        what = Validation(depth, sample, seed, phrases)
        report = check(Store.at(output), what, workers=workers or os.cpu_count() or 1)
    for finding in report.findings:
        console.print(f"[red]✗[/] {escape(str(finding))}", highlight=False, soft_wrap=True)
    if as_json is not None:
        as_json.write_text(json.dumps(_as_json(report), indent=1, ensure_ascii=False) + "\n")
    console.print(_told(report), highlight=False)
    raise typer.Exit(Exit.DONE if report.ok and report.samples else Exit.NOTHING)


def repair(
    output: Output,
    depth: Depth = "clips",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    workers: Workers = 0,
) -> None:
    """Drop damaged samples, keep all others, and make the index say what there is.

    The old bytes of shards that change go to OUT/damaged, the report to OUT/repair.json. Where measurements are kept,
    the same `build` again brings the dropped samples back.

    Exits with 0 when nothing had to be dropped, with 3 when something was.

    **Examples**

    - `dataengine repair shards/ --dry-run`
    - `dataengine repair shards/`
    """
    from contextlib import nullcontext

    from dataengine.shards.repair import repair as mend
    from dataengine.store import Store
    from pipelines.alone import alone
    from pipelines.pack import RECEIPTS

    store = Store.at(output)
    with explained(), nullcontext() if dry_run else alone(store):
        found = mend(store, depth=depth, dry_run=dry_run, workers=workers or os.cpu_count() or 1)
        if not dry_run:
            for shard in found.shards:
                store.delete_folder(f"{RECEIPTS}/{shard}")  # or `build` would take the shard for whole
    for sample in found.dropped:
        where = sample.shard if sample.key is None else f"{sample.shard}, sample {sample.key}"
        console.print(
            f"[red]✗[/] {escape(where)}: {escape('; '.join(sample.problems))}", highlight=False, soft_wrap=True
        )
    would = "would be " if dry_run else ""
    for shard, change in found.shards.items():
        console.print(f"{escape(shard)}: {would}{change}", highlight=False)
    index = f"index {would}made anew" if found.index else "the index is right"
    dropped = sum(sample.key is not None for sample in found.dropped)
    console.print(f"{found.kept} samples kept, {dropped} {would}dropped; {index}", highlight=False)
    raise typer.Exit(Exit.QUARANTINED if found.dropped else Exit.DONE)


def card(output: Output) -> None:
    """Write the dataset card anew: README.md and its picture, from the shards, the last build and the audit.

    **Example**: `dataengine card shards/`
    """
    from dataengine.store import Store
    from pipelines.card import write_dataset_card

    with explained():
        write_dataset_card(Store.at(output))
    console.print(f"{output}/README.md", highlight=False, soft_wrap=True)


def evaluate(
    output: Output,
    truth: Annotated[Path, typer.Option(help="Folder that `world make` wrote; OUT was built from its videos.")],
) -> None:
    """Judge a dataset that was built from the world by the world's truth: shots, people, who wears what, masks …

    Prints each figure with its interval; OUT/evaluation.json and OUT/evaluation.png have them too.

    **Example**: `dataengine evaluate shards/ --truth world/`
    """
    from dataengine.store import Store
    from pipelines.evaluate import evaluate_build, show_evaluation

    with explained():
        found = evaluate_build(Store.at(output), truth)
    show_evaluation(found, console)


def _phrase_check(tokenizer: str, max_tokens: int) -> PhraseCheck:
    from dataengine.lumosx.text import open_tokenizer, phrase_problems

    opened = open_tokenizer(tokenizer)

    def check(pair: Pair) -> Iterator[str]:
        return phrase_problems(pair, opened, max_tokens)

    return check


def _told(report: Report) -> str:
    work = sum(report.spent.values())
    speed = f"{report.bytes / 1e6 / report.seconds:.0f} MB/s"
    share = f", {report.spent[report.bound] / work:.0%} of the work {report.bound}" if work else ""
    verdict = "all good" if report.ok else f"{len(report.findings)} problems"
    looked = f"{report.samples} samples in {report.shards} shards, {report.bytes / 1e6:.1f} MB"
    return f"{looked}, {report.seconds:.1f} s ({speed}{share}): {verdict}"


def _as_json(report: Report) -> dict[str, object]:
    return {
        "ok": report.ok,
        "samples": report.samples,
        "shards": report.shards,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "spent": {kind: round(seconds, 3) for kind, seconds in report.spent.items()},
        "findings": [finding._asdict() for finding in report.findings],
    }
