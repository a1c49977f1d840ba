"""Finds the videos of the inputs and names each by its content."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from dataengine.records import Quarantined, SourceVideo
from dataengine.store import REMOTE

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        "mp4",
        "m4v",
        "mov",
        "mkv",
        "webm",
        "avi",
        "mpg",
        "mpeg",
        "ts",
        "mts",
        "m2ts",
        "flv",
        "wmv",
        "3gp",
        "ogv",
    )
)
"""Files with other endings are counted and skipped."""

CHUNK = 1 << 22


class InputError(ValueError):
    """An input that does not exist or holds no video; the message says which."""


@dataclass(frozen=True)
class FoundFile:
    """A file to read: `name` is its path below the input folder, with `/`, and always valid Unicode."""

    uri: str
    name: str


@dataclass(frozen=True)
class Found:
    files: tuple[FoundFile, ...]
    skipped: int


@dataclass(frozen=True)
class Sources:
    """Every readable video once, and the files that could not be read."""

    videos: tuple[SourceVideo, ...]
    unreadable: tuple[Quarantined, ...]
    skipped: int

    @property
    def duplicates(self) -> int:
        return sum(len(video.names) - 1 for video in self.videos)


def find(inputs: Sequence[str]) -> Found:
    """Every video below the inputs (files, folders or URIs), by name. Raises `InputError` when one does not exist.

    Links to folders are followed, each folder once, so a loop of links ends.
    """
    files: list[FoundFile] = []
    skipped = 0
    for place in inputs:
        listing = _remote(place) if place.startswith(REMOTE) else _local(Path(place))
        for file in listing:
            if Path(file.name).suffix.lower() in EXTENSIONS:
                files.append(file)
            else:
                skipped += 1
    return Found(tuple(sorted(set(files), key=lambda f: (f.name, f.uri))), skipped)


def identify(file: FoundFile) -> SourceVideo | Quarantined:
    """Hash a file's bytes. An unreadable file gives a `Quarantined` that says why."""
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in _chunks(file.uri):
            digest.update(chunk)
            size += len(chunk)
    except OSError as error:
        name = hashlib.sha256(f"unreadable:{file.name}".encode()).hexdigest()[:24]
        reason = error.strerror or str(error)
        message = f"{file.name}: cannot be read ({reason}): check that it exists and that this user may read it"
        return Quarantined(
            id=name, stage="read", error=type(error).__name__, message=message, attempts=1, source_names=(file.name,)
        )
    return SourceVideo(source_id=digest.hexdigest()[:24], uri=file.uri, names=(file.name,), size_bytes=size)


def merge(identified: Iterable[SourceVideo | Quarantined], skipped: int) -> Sources:
    """Copies become one source that carries all their names; sorted by id, whatever order the files came in."""
    copies: dict[str, list[SourceVideo]] = defaultdict(list)
    unreadable: list[Quarantined] = []
    for one in identified:
        if isinstance(one, Quarantined):
            unreadable.append(one)
        else:
            copies[one.source_id].append(one)
    videos = []
    for same in copies.values():
        first = min(same, key=lambda video: (video.names, video.uri))
        names = tuple(sorted(name for video in same for name in video.names))
        videos.append(first.model_copy(update={"names": names}))
    videos.sort(key=lambda video: video.source_id)
    return Sources(tuple(videos), tuple(sorted(unreadable, key=lambda q: q.id)), skipped)


def _local(place: Path) -> Iterator[FoundFile]:
    if place.is_file():
        yield FoundFile(str(place.absolute()), _unicode(place.name))
    elif place.is_dir():
        yield from _walk(place.absolute(), place.absolute(), set())
    else:
        raise InputError(f"{place}: no such file or folder")


def _walk(folder: Path, top: Path, seen: set[tuple[int, int]]) -> Iterator[FoundFile]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        if _is_folder(entry):
            yield from _walk(path, top, seen)
        else:
            # Dangling links and links that loop are kept here: reading them fails with a reason instead of silence.
            yield FoundFile(str(path), _unicode(path.relative_to(top).as_posix()))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _remote(uri: str) -> Iterator[FoundFile]:
    filesystem, path = fs.FileSystem.from_uri(uri)
    scheme = uri.split("://", 1)[0]
    info = filesystem.get_file_info(path)
    if info.is_file:
        yield FoundFile(uri, Path(path).name)
        return
    listing = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    files = [i for i in listing if i.is_file]
    if not files:
        raise InputError(f"{uri}: no such object, and no objects below it")
    for info in files:
        yield FoundFile(f"{scheme}://{info.path}", info.path[len(path) :].lstrip("/"))


def _chunks(uri: str) -> Iterator[bytes]:
    if uri.startswith(REMOTE):
        filesystem, path = fs.FileSystem.from_uri(uri)
        with filesystem.open_input_stream(path) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
        return
    # A pipe or device would be waited on for ever.
    if not stat.S_ISREG(Path(uri).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with Path(uri).open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _unicode(name: str) -> str:
    """File names are bytes; those that are not UTF-8 are shown with their odd bytes escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
