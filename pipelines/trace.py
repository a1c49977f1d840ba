"""One row's way through a dataset: ids are traces, as every result, failure, log line and sample carries them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dataengine.engine.measurements import Measurements
from dataengine.records import Quarantined
from dataengine.shards.index import Index
from dataengine.store import Store
from pipelines.cache import last_run, settings_of_run
from pipelines.stages import compose


def trace_row(store: Store, wanted: str, console: Console) -> None:
    """Print what every stage of the last build has stored of a source, clip or sample, and what was decided on it.

    Raises `KeyError` naming the id when the dataset does not know it, `StoreError` when there is no dataset.
    """
    clips = _clips(store, wanted)
    ids = {clips[0]["source_id"], clips[0]["clip_id"]} if len(clips) == 1 else {wanted}
    measurements = Measurements(store.child("measurements"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "row", "outcome", "seconds", "part"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    found = False
    for stage, print_ in compose(settings_of_run(last_run(store))).fingerprints.items():
        ledger = measurements.ledger(stage, print_)
        for row_id, stored in measurements.records(ledger, sorted(ids)).items():
            found = True
            place = int(ledger.find([row_id])[0])
            failure = Quarantined.from_json(stored.failure) if stored.failure else None
            outcome = f"[red]{escape(failure.error)}: {escape(failure.message)}[/]" if failure else "stored"
            seconds = f"{float(ledger.seconds[place]):.2f}"
            table.add_row(stage, row_id, outcome, seconds, escape(ledger.files[ledger.part[place]]))
    if not found and not clips:
        raise KeyError(f"{store.uri} knows no source, clip or sample {wanted!r}")
    console.print(table)
    for clip in clips:
        console.print(
            f"clip {clip['clip_id']} of {clip['source_id']}, {clip['start_s']:.2f}–{clip['end_s']:.2f} s: "
            f"{escape(clip['verdict'])}: {escape(clip['detail'])}",
            highlight=False,
            soft_wrap=True,
        )
        for row in _samples(store, clip["clip_id"]):
            console.print(f"  sample {row['key']} in shards/{row['shard']}", highlight=False)


def _clips(store: Store, wanted: str) -> list[dict[str, Any]]:
    """The clips that an id means: itself, those of a source, or a sample's."""
    index = Index.read(store).table
    of_key = index.filter(pc.equal(index["key"], wanted))["clip_id"].to_pylist()
    with store.open_input("clips.parquet") as stream:
        clips = pq.read_table(stream)
    ids = [*of_key, wanted]
    mine = [pc.is_in(clips[name], pa.array(ids)) for name in ("clip_id", "source_id")]
    return clips.filter(pc.or_(*mine)).to_pylist()


def _samples(store: Store, clip_id: str) -> list[dict[str, Any]]:
    table = Index.read(store).table.select(["key", "shard", "clip_id"])
    return table.filter(pc.equal(table["clip_id"], clip_id)).to_pylist()
