"""Which sources a dataset was built from, kept so that deciding again needs none of the videos."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.decide.block import Forgotten
from dataengine.engine.sources import Sources
from dataengine.records import Quarantined, SourceVideo
from dataengine.store import Store, StoreError

INVENTORY = "measurements/inventory.parquet"
FORGOTTEN = "measurements/forgotten.json"

_SCHEMA = pa.schema([("source", pa.string()), ("unreadable", pa.string())])


def write_inventory(store: Store, sources: Sources) -> None:
    rows = [{"source": video.to_json()} for video in sources.videos]
    rows += [{"unreadable": one.to_json()} for one in sources.unreadable]
    with store.open_output(INVENTORY) as stream:
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), stream, compression="zstd")


def read_inventory(store: Store, skipped: int = 0) -> Sources:
    """What the last build found. Raises `StoreError` when no build of this version left it."""
    if not store.exists(INVENTORY):
        raise StoreError(f"{store.uri}: {INVENTORY} is missing: bring the dataset up to date with `dataengine build`")
    videos: list[SourceVideo] = []
    unreadable: list[Quarantined] = []
    with store.open_input(INVENTORY) as stream:
        for row in pq.read_table(stream, schema=_SCHEMA).to_pylist():
            if row["source"]:
                videos.append(SourceVideo.from_json(row["source"]))
            else:
                unreadable.append(Quarantined.from_json(row["unreadable"]))
    return Sources(tuple(videos), tuple(unreadable), skipped)


def read_forgotten(store: Store) -> Forgotten:
    """What was taken out of a dataset for good."""
    return Forgotten.from_json(store.read(FORGOTTEN)) if store.exists(FORGOTTEN) else Forgotten()


def write_forgotten(store: Store, forgotten: Forgotten) -> None:
    store.write(FORGOTTEN, forgotten.to_json().encode())


def without(videos: Sequence[SourceVideo], forgotten: Forgotten) -> tuple[SourceVideo, ...]:
    gone = set(forgotten.sources)
    return tuple(video for video in videos if video.source_id not in gone)
