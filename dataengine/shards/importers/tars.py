"""webdataset tars of videos and captions by others: read as a stream, no member's name is ever a path.

A sample is a video (`.mp4`, `.mov`, …) and a caption of the same name before the first dot: a `.txt`, or a `.json` with
a field called caption or text.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any, BinaryIO, cast

from dataengine.shards.importers.contract import ImportRefused, Refusal, SourceError, safe_name
from dataengine.shards.importers.rows import CAPTION_COLUMNS, MAX_CAPTION
from dataengine.shards.importers.tree import Tree

VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi")
MAX_VIDEO_BYTES = 4_000_000_000
MAX_TEXT_BYTES = 1_000_000
MAX_HEADER_BYTES = 1 << 22
CHUNK = 1 << 20


@dataclass(frozen=True)
class TarSample:
    """A video that was taken out of a tar under the name that `save` gave it, and its caption."""

    key: str
    saved: str
    caption: str


Save = Callable[[str, str, Iterator[bytes]], str]
"""Stores a video's bytes, given the sample's key and the video's ending; returns the name that it has."""


def tars(tree: Tree) -> list[str]:
    """The tars of a folder and of the folders in it, sorted. Raises `SourceError` when there is none."""
    found = [name for name, _ in _listed(tree, "")]
    for folder in [entry.name for entry in tree.entries() if entry.is_folder]:
        found += [name for name, _ in _listed(tree, folder)]
    if not found:
        raise SourceError(f"{tree.root}: no .tar in it")
    return sorted(found)


def _listed(tree: Tree, folder: str) -> Iterator[tuple[str, bool]]:
    for entry in tree.entries(folder):
        if entry.is_file and entry.name.lower().endswith(".tar"):
            yield (f"{folder}/{entry.name}" if folder else entry.name), True


def tar_samples(tree: Tree, name: str, save: Save) -> Iterator[TarSample | Refusal]:
    """The samples of one tar in order; what is none is a `Refusal`, and so is the rest of a damaged tar."""
    shown = safe_name(name)
    try:
        with tree.open(name) as stream, tarfile.open(fileobj=cast(IO[bytes], _Bounded(stream)), mode="r:") as tar:
            seen: set[str] = set()
            for key, group in groupby(_members(tar), key=lambda member: _key(member.name)):
                where = f"{shown}/{safe_name(key)}"
                if key in seen:
                    yield Refusal(name=where, reason="its files do not stand together, or the name comes twice")
                    continue
                seen.add(key)
                try:
                    yield _sample(tar, key, list(group), save)
                except ImportRefused as error:
                    yield Refusal(name=where, reason=str(error))
    except (tarfile.TarError, EOFError, OSError, ImportRefused, ValueError) as error:
        if getattr(error, "transient", False):
            raise
        yield Refusal(name=shown, reason=f"damaged or no tar ({error}); what stands before that place was taken")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # or it would remember all of them
        if not member.isdir():
            yield member


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _ending(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _sample(tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo], save: Save) -> TarSample:
    videos, caption = [], ""
    for member in members:
        if not member.isreg() or member.issparse():
            raise ImportRefused(f"{safe_name(member.name)}: a link, a sparse or a special file")
        ending = _ending(member.name)
        if ending in VIDEOS:
            videos.append(member)
        elif ending in ("txt", "json") and not (caption and ending == "json"):
            caption = _caption(_read(tar, member), ending) or caption
    if len(videos) != 1:
        raise ImportRefused(f"{len(videos)} videos ({', '.join(VIDEOS)}), one is expected")
    if not caption:
        raise ImportRefused(f"no caption: no .txt, and no .json with {', '.join(CAPTION_COLUMNS)}")
    if len(caption) > MAX_CAPTION:
        raise ImportRefused(f"a caption of {len(caption)} characters, at most {MAX_CAPTION} are taken")
    (video,) = videos
    if video.size > MAX_VIDEO_BYTES:
        raise ImportRefused(f"a video of {video.size} bytes, at most {MAX_VIDEO_BYTES} are taken")
    return TarSample(key, save(key, _ending(video.name), _chunks(tar, video)), caption)


def _caption(data: bytes, ending: str) -> str:
    try:
        text = data.decode("utf-8-sig")
        if ending == "txt":
            return text.strip()
        told: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"its .{ending} is not readable: {error}") from error
    told = {str(k).lower(): v for k, v in told.items()} if isinstance(told, dict) else {}
    return next((told[c].strip() for c in CAPTION_COLUMNS if isinstance(told.get(c), str)), "")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_TEXT_BYTES:
        raise ImportRefused(f"{safe_name(member.name)}: more than {MAX_TEXT_BYTES} bytes")
    return b"".join(_chunks(tar, member))


def _chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None
    left = member.size
    while left:
        chunk = stream.read(min(CHUNK, left))
        if not chunk:
            raise EOFError("the tar ends inside a file")
        left -= len(chunk)
        yield chunk


class _Bounded:
    """The file of a tar. `tarfile` reads extension headers whole, as large as they say they are."""

    def __init__(self, stream: BinaryIO | IO[bytes]) -> None:
        self._stream = stream
        self.name = ""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
