"""Videos that come with captions, as a table that `build` reads: from tables and tars of others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dataengine.engine.sources import TABLE
from dataengine.records import GivenVideo, Quarantined
from dataengine.shards.importers.contract import Refusal, safe_name
from dataengine.shards.importers.table import VideoTable
from dataengine.shards.importers.tars import tar_samples, tars
from dataengine.shards.importers.tree import Tree
from dataengine.store import Store
from pipelines.spread import spread

FOLDER = "import"


def table_of_rows(table: VideoTable, output: str) -> str:
    """Write what a table holds as `OUT/import/table.videos.jsonl`; returns where it lies.

    Raises `SourceError` for a file that is no table, `StoreError`.
    """
    return _write(Store.at(output), f"table{TABLE}", (_line(one, "table") for one in table.rows()))


def table_of_tars(source: Tree, output: str, address: str | None = None) -> str:
    """Take the videos out of all tars into `OUT/import/videos/`, and write their table; returns where it lies.

    Raises `SourceError` when there is no tar, `StoreError`.
    """
    out = Store.at(output)
    found = spread(_Unpacker(source, out), tars(source), address)
    return _write(out, f"webdataset{TABLE}", (line for lines in found for line in lines))


@dataclass(frozen=True)
class _Unpacker:
    """Takes the videos out of one tar; sent to Ray's workers. A video's name is a hash of the tar's and its own."""

    source: Tree
    out: Store

    def __call__(self, tar: str) -> list[GivenVideo | Quarantined]:
        def save(key: str, ending: str, chunks: Iterator[bytes]) -> str:
            mark = hashlib.sha256(f"{tar}\0{key}".encode("utf-8", "backslashreplace")).hexdigest()[:24]
            name = f"{FOLDER}/videos/{mark}.{ending}"
            with self.out.open_output(name) as stream:
                for chunk in chunks:
                    stream.write(chunk)
            return name

        lines: list[GivenVideo | Quarantined] = []
        for one in tar_samples(self.source, tar, save):
            if isinstance(one, Refusal):
                lines.append(_line(one, "webdataset"))
            else:
                name = f"{safe_name(tar)}/{safe_name(one.key)}"
                lines.append(GivenVideo(uri=f"{self.out.uri}/{one.saved}", name=name, caption=one.caption))
        return lines


def _line(one: GivenVideo | Refusal, source: str) -> GivenVideo | Quarantined:
    if isinstance(one, GivenVideo):
        return one
    return Quarantined(
        id=hashlib.sha256(f"{source}:{one.name}".encode()).hexdigest()[:24],
        stage="import",
        error="ImportRefused",
        message=f"{one.name}: {one.reason}",
        attempts=1,
        source_names=(one.name,),
    )


def _write(out: Store, name: str, lines: Iterable[GivenVideo | Quarantined]) -> str:
    with out.open_output(f"{FOLDER}/{name}") as stream:
        for line in lines:
            stream.write(line.to_json().encode() + b"\n")
    return f"{out.uri}/{FOLDER}/{name}"
