"""A dataset of ours in another layout: shard by shard, by any number of workers."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from dataengine.shards.exporters.coco import CocoExport
from dataengine.shards.exporters.contract import Exported, Exporter, ExportRefused, shards_of
from dataengine.shards.exporters.lumosx import LumosXExport
from dataengine.shards.exporters.webdataset import WebdatasetExport
from dataengine.shards.exporters.wids import WidsExport
from dataengine.shards.index import Index
from dataengine.shards.losses import Losses, merged
from dataengine.store import Store
from pipelines.spread import spread

REPORT = "losses.json"
EXPORTERS: dict[str, Exporter] = {e.format: e for e in (LumosXExport(), WebdatasetExport(), CocoExport(), WidsExport())}


def export_dataset(
    name: str, data: str, output: str, address: str | None = None, console: Console | None = None
) -> Losses:
    """Write a dataset in the format of that name into a new folder; what the format cannot hold is in `losses.json`.

    Raises `ExportRefused` for a folder that is not empty or a dataset without samples, `StoreError`, `ShardError`.
    """
    source, target = Store.at(data), Store.at(output)
    index = Index.read(source)
    shards = shards_of(index)
    if not shards:
        raise ExportRefused(f"{data}: the dataset has no samples")
    if target.names():
        raise ExportRefused(f"{output}: not empty: export into a new folder")
    work = _Work(EXPORTERS[name], source, target)
    done = list(spread(work, shards, address))
    work.exporter.finish(index, target)
    losses = merged(exported.losses for exported in done).report(name, len(index))
    target.write(REPORT, losses.model_dump_json(indent=1).encode())
    return losses


@dataclass(frozen=True)
class _Work:
    """Exports one shard; sent to Ray's workers."""

    exporter: Exporter
    source: Store
    target: Store

    def __call__(self, shard: str) -> Exported:
        return self.exporter.shard(self.source, shard, self.target)
