"""`dataengine audit`: check, look, judge, and make a new version of what people said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dataengine.config import AuditSettings, ConfigError
from pipelines.terminal import (
    HELP,
    Kind,
    Output,
    Overrides,
    Profile,
    console,
    explained,
    settings_of,
)

audit_app = typer.Typer(help="Look at who was tied to what, and how sure we are.", **HELP)  # type: ignore[arg-type]


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
