"""`dataengine cache`: what is stored, what uses it, and what training would encode again and again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.config import BuildSettings
from dataengine.lumosx.settings import TrainSettings
from pipelines.terminal import (
    HELP,
    Address,
    Exit,
    Kind,
    Output,
    Overrides,
    Profile,
    console,
    explained,
    settings_of,
)

if TYPE_CHECKING:
    from dataengine.engine.measurements import Measurements

cache_app = typer.Typer(help="Stored measurements: what there is, and removing what nothing uses.", **HELP)  # type: ignore[arg-type]


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


@cache_app.command("latents")
def cache_latents(
    data: Annotated[str, typer.Option(help="Folder that `build` wrote, or its s3:// or gs:// URI.")],
    output: Annotated[str, typer.Option(help="Folder or URI for what is encoded; `train` reads it as stored.place.")],
    profile: Profile = "embedded",
    ranks: Annotated[int, typer.Option(min=1, help="Of the run; matters with data.window=random alone.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed before.")] = False,
    address: Address = None,
    overrides: Overrides = None,
) -> None:
    """Encode what a training run will read, once: its clips' latents, and its captions' contexts.

    Takes the settings of the run. Goes on where it was killed; makes only what is not stored for this codec, text
    encoder and size. Training with `stored.place=OUTPUT` has the same random choices and the same losses.

    **Examples**

    - `dataengine cache latents --data shards/ --output latents/`
    - `dataengine train --data shards/ --run runs/first stored.place=latents/`
    - `dataengine cache latents --data shards/ --output latents/ --profile gpu stored.latents.workers=8 --address auto`
    """
    from pipelines.latents import encode
    from pipelines.show import show_encoded

    with explained():
        settings = settings_of(Kind.TRAIN, profile, [*(overrides or []), f"stored.place={output}"])
        assert isinstance(settings, TrainSettings)
        made = encode(data, settings, ranks=ranks, retry=retry, address=address, console=console)
    show_encoded(made, console)
    if any(one.failed for one in made):
        raise typer.Exit(Exit.QUARANTINED)


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
