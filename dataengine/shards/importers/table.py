"""A table of videos and captions, checked: every row a video below one folder, or the reason why it is not taken.

What comes out enters a build at captioning (`dataengine.engine.sources`): the caption is kept, the rest is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from dataengine.records import GivenVideo
from dataengine.shards.importers.contract import ImportRefused, Refusal, safe_name
from dataengine.shards.importers.rows import Row, read_rows
from dataengine.shards.importers.tree import Tree


@dataclass(frozen=True)
class VideoTable:
    """A table, and the folder that its paths lie in: relative ones from there, absolute ones below it."""

    tree: Tree
    name: str
    videos: Tree
    format: str = "table"

    def rows(self) -> Iterator[GivenVideo | Refusal]:
        """In the order of the table. Raises `SourceError` for a file that is no table of videos and captions."""
        seen: dict[str, Row] = {}
        for row in read_rows(self.tree, self.name):
            if isinstance(row, Refusal):
                yield row
                continue
            where = f"{safe_name(self.name)} row {row.number}"
            try:
                path = self._path(row)
            except ImportRefused as error:
                yield Refusal(name=where, reason=str(error))
                continue
            if path in seen:
                if (seen[path].caption, seen[path].boxes) != (row.caption, row.boxes):
                    yield Refusal(name=where, reason=f"{safe_name(path)} was taken already, with another caption")
                continue
            seen[path] = row
            yield GivenVideo(uri=f"{self.videos.root}/{path}", name=path, caption=row.caption, boxes=row.boxes)

    def _path(self, row: Row) -> str:
        """The row's video below the folder. Raises `ImportRefused`."""
        if not row.path:
            raise ImportRefused("no path")
        if not row.caption:
            raise ImportRefused("no caption: build from videos without captions by `dataengine build`")
        if "://" in row.path:
            raise ImportRefused(f"{safe_name(row.path)}: an address: download the videos first")
        path = PurePosixPath(row.path)
        if path.is_absolute():
            root = PurePosixPath(self.videos.root)
            if not path.is_relative_to(root):
                raise ImportRefused(f"{safe_name(row.path)}: not below the folder of videos: name another by --videos")
            path = path.relative_to(root)
        with self.videos.open(str(path)):  # links, pipes and what leads elsewhere are refused
            return str(path)
