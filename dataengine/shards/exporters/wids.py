"""The shards as they are, with the JSON index of wids (webdataset's random access reader): nothing is lost of a sample.

Format: `webdataset`'s wids specification, version 1: `{"wids_version": 1, "shardlist": [{"url", "nsamples", …}]}`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dataengine.shards.exporters.contract import Exported, shards_of, splits_of
from dataengine.shards.index import SHARDS, Index
from dataengine.shards.losses import LossCount
from dataengine.store import Store

INDEX_FILE = "index.json"
KIND = "wids-shard-index-v1"
NAME = "relational video training pairs"
CHUNK = 1 << 22


@dataclass(frozen=True)
class WidsExport:
    """Implements `Exporter`."""

    format: str = "wids"

    def shard(self, source: Store, shard: str, target: Store) -> Exported:
        copy(source, f"{SHARDS}/{shard}", target, f"{SHARDS}/{shard}")
        losses = LossCount()
        losses.add("index.parquet", "wids has an index of its own, without hashes, captions and scores", shard)
        return Exported(shard, losses)

    def finish(self, index: Index, target: Store) -> None:
        """One index a split, and one of all."""
        counts = Counter(index.table["shard"].to_pylist())
        shards = {
            shard: {
                "url": f"{SHARDS}/{shard}",
                "nsamples": counts[shard],
                "filesize": target.size(f"{SHARDS}/{shard}"),
                "md5sum": _md5(target, f"{SHARDS}/{shard}"),
            }
            for shard in shards_of(index)
        }
        for split in (None, *splits_of(index)):
            chosen = [shards[shard] for shard in shards_of(index, split)]
            text = json.dumps({"__kind__": KIND, "wids_version": 1, "name": NAME, "shardlist": chosen}, indent=1)
            target.write(INDEX_FILE if split is None else f"{split}.json", text.encode())


def copy(source: Store, name: str, target: Store, as_name: str) -> None:
    """A file of one store in another: linked where both are on one disk, as shards never change; else copied."""
    if source.is_local and target.is_local:
        final = Path(target.path(as_name))
        final.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            os.link(source.path(name), final)
            return
    with source.open_input(name) as stream, target.open_output(as_name) as out:
        while chunk := stream.read(CHUNK):
            out.write(chunk)


def _md5(store: Store, name: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with store.open_input(name) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
