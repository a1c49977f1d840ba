"""Finds the videos of the inputs and names each by its content.

Naming a file reads all of it, so names are remembered: a file whose URI, size and modification time are those of an
earlier run is taken to be the same file, as make and rsync do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import ValidationError

from dataengine.records import GivenBox, GivenVideo, Quarantined, SourceVideo
from dataengine.store import REMOTE, Store, StoreError, filesystem_of, open_source
from dataengine.store.errors import persistent

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

TABLE = ".videos.jsonl"

CHUNK = 1 << 22

COMMIT_FILES = 4096
COMMIT_S = 30.0
"""New names are committed after so many files or seconds, so that a start that is killed loses little."""
SETTLED_S = 2.0
"""A file younger than this is not remembered: it could change again within the same tick of its clock, unseen."""

T = TypeVar("T")
U = TypeVar("U")


class InputError(ValueError):
    """An input that does not exist or holds no video; the message says which."""


@dataclass(frozen=True)
class FoundFile:
    """A file to read: `name` is its path below the input folder, with `/`, and always valid Unicode."""

    uri: str
    name: str
    size_bytes: int | None = None
    """As listed; None for what cannot be looked at, such as a link to nothing."""
    mtime_ns: int | None = None
    """When it was last written, by its disk's or object store's clock."""
    caption: str | None = None
    """As a table gives it."""
    boxes: tuple[GivenBox, ...] = ()


@dataclass(frozen=True)
class Found:
    files: tuple[FoundFile, ...]
    skipped: int
    refused: tuple[Quarantined, ...] = ()
    """What a table could not take, with the reason."""


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

    Links to folders are followed, each folder once, so a loop of links ends. A file named `*.videos.jsonl` is a table
    of videos with their captions (`records.GivenVideo`), as `dataengine import table` writes it.
    """
    files: list[FoundFile] = []
    refused: list[Quarantined] = []
    skipped = 0
    for place in inputs:
        if place.endswith(TABLE):
            for line in _table(place):
                if isinstance(line, Quarantined):
                    refused.append(line)
                else:
                    files.append(line)
            continue
        listing = _remote(place) if place.startswith(REMOTE) else _local(Path(place))
        for file in listing:
            if Path(file.name).suffix.lower() in EXTENSIONS:
                files.append(file)
            else:
                skipped += 1
    ordered = sorted(set(files), key=lambda f: (f.name, f.uri, f.caption or ""))
    return Found(tuple(ordered), skipped, tuple(refused))


class Each(Protocol):
    """Maps a function over items in order, on as many workers as it likes; `map` is one."""

    def __call__(self, function: Callable[[T], U], items: Sequence[T], /) -> Iterable[U]: ...


@dataclass(frozen=True)
class KnownSources:
    """The names that earlier runs gave to files: `OUT/measurements/sources/part-<hash of its rows>.parquet`."""

    store: Store
    """The folder itself."""

    def read(self) -> dict[tuple[str, int, int], str]:
        """The source id of each file, by URI, size and modification time (ns)."""
        known: dict[tuple[str, int, int], str] = {}
        for name in self.store.names(suffix=".parquet"):
            with self.store.open_input(name) as stream:
                columns = pq.read_table(stream, schema=_KNOWN).to_pydict()
            keys = zip(columns["uri"], columns["size_bytes"], columns["mtime_ns"], strict=True)
            known.update(zip(keys, columns["source_id"], strict=True))
        return known

    def add(self, files: Iterable[tuple[FoundFile, SourceVideo]]) -> None:
        """Remember what these files are, as one part. The same files again replace it by an equal one."""
        rows = [
            {"uri": f.uri, "size_bytes": f.size_bytes, "mtime_ns": f.mtime_ns, "source_id": v.source_id}
            for f, v in files
        ]
        if not rows:
            return
        buffer = BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, _KNOWN), buffer, compression="zstd")
        data = buffer.getvalue()
        self.store.write(f"part-{hashlib.sha256(data).hexdigest()[:16]}.parquet", data)


_KNOWN = pa.schema(
    [("uri", pa.string()), ("size_bytes", pa.int64()), ("mtime_ns", pa.int64()), ("source_id", pa.string())]
)


def identify_all(found: Found, known: KnownSources, each: Each) -> Sources:
    """Every source and its names. Only files that are not known as they are now are read, and then remembered.

    What could not be read is never remembered: it is looked at again by the next run. A file with a caption is named by
    both, and a file that came with two captions is taken with the first. Raises `StoreError`.
    """
    ids = known.read()
    remembered = {file: ids.get((file.uri, file.size_bytes or 0, file.mtime_ns or -1)) for file in found.files}
    unknown = [file for file, source_id in remembered.items() if source_id is None]
    identified: dict[FoundFile, SourceVideo | Quarantined] = {
        file: SourceVideo(source_id=source_id, uri=file.uri, names=(file.name,), size_bytes=file.size_bytes or 0)
        for file, source_id in remembered.items()
        if source_id is not None
    }
    new: list[tuple[FoundFile, SourceVideo]] = []
    committed = time.monotonic()
    try:
        for file, result in zip(unknown, each(identify, unknown), strict=True):
            identified[file] = result
            if isinstance(result, SourceVideo) and _is_settled(file):
                new.append((file, result))
            if len(new) >= COMMIT_FILES or time.monotonic() - committed > COMMIT_S:
                known.add(new)
                new, committed = [], time.monotonic()
    finally:
        known.add(new)
    given = _given([(file, identified[file]) for file in found.files])
    return merge([*given, *found.refused], found.skipped)


def _given(files: Iterable[tuple[FoundFile, SourceVideo | Quarantined]]) -> Iterator[SourceVideo | Quarantined]:
    """Files with their captions. One video under two captions would be two sources, and might end up in two splits."""
    captions: dict[str, FoundFile] = {}
    for file, source in files:
        if isinstance(source, Quarantined):
            yield source
            continue
        first = captions.setdefault(source.source_id, file)
        if (file.caption, file.boxes) != (first.caption, first.boxes):
            yield Quarantined(
                id=hashlib.sha256(f"caption:{file.name}:{file.caption}".encode()).hexdigest()[:24],
                stage="read",
                error="InputError",
                message=f"{file.name}: the same video as {first.name}, with other words or boxes: the first is taken",
                attempts=1,
                source_names=(file.name,),
            )
        elif file.caption is None:
            yield source
        else:
            mark = "\n".join([f"{source.source_id}:{file.caption}", *(box.to_json() for box in file.boxes)])
            named = hashlib.sha256(mark.encode()).hexdigest()[:24]
            yield source.model_copy(update={"source_id": named, "caption": file.caption, "boxes": file.boxes})


def _is_settled(file: FoundFile) -> bool:
    return file.mtime_ns is not None and time.time() - file.mtime_ns / 1e9 > SETTLED_S


def identify(file: FoundFile) -> SourceVideo | Quarantined:
    """Hash a file's bytes. A file that cannot be read, or is being written, gives a `Quarantined` that says why.

    Raises `StoreError` when an object store does not answer: that is not the file's fault, and may pass.
    """
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in _chunks(file.uri):
            digest.update(chunk)
            size += len(chunk)
        if file.size_bytes is not None and (size, _mtime_ns(file)) != (file.size_bytes, file.mtime_ns):
            raise OSError(errno.EBUSY, "it changed since it was listed: run again when it is complete")
    except OSError as error:
        if isinstance(error, StoreError) and error.transient:
            raise
        name = hashlib.sha256(f"unreadable:{file.name}".encode()).hexdigest()[:24]
        reason = (error.strerror or str(error)).replace(file.uri, file.name)
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
        yield _file(place.absolute(), place.name)
    elif place.is_dir():
        yield from _walk(place.absolute(), place.absolute(), set())
    else:
        raise InputError(f"{place}: no such file or folder")


def _table(place: str) -> Iterator[FoundFile | Quarantined]:
    """The lines of a table: videos with their captions, and what its writer refused."""
    try:
        with open_source(place) as source, source.open("rb") if isinstance(source, Path) else source as stream:
            for number, line in enumerate(stream, 1):
                try:
                    if b'"stage":' in line[:64]:
                        yield Quarantined.from_json(line)
                        continue
                    given = GivenVideo.from_json(line)
                except ValidationError as error:
                    wrong = error.errors()[0]
                    raise InputError(
                        f"{place} line {number}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}; other tables are "
                        "read by `dataengine import table`"
                    ) from error
                yield _given_file(place, given)
    except OSError as error:
        raise InputError(f"{place}: {error.strerror or error}") from error


def _given_file(table: str, given: GivenVideo) -> FoundFile:
    if given.uri.startswith(REMOTE):
        file = next(_remote(given.uri))
    else:
        file = _file(Path(table).absolute().parent / given.uri, given.name)
    return replace(file, name=given.name, caption=given.caption, boxes=given.boxes)


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
            yield _file(path, path.relative_to(top).as_posix())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _file(path: Path, name: str) -> FoundFile:
    try:
        status = path.stat()
    except OSError:
        return FoundFile(str(path), _unicode(name))
    return FoundFile(str(path), _unicode(name), status.st_size, status.st_mtime_ns)


def _remote(uri: str) -> Iterator[FoundFile]:
    filesystem, path = filesystem_of(uri)
    path = path.rstrip("/")
    scheme = uri.split("://", 1)[0]
    info = persistent(lambda: filesystem.get_file_info(path), uri, "read")
    if info.is_file:
        yield FoundFile(uri, path.rsplit("/", 1)[-1], info.size, info.mtime_ns)
        return
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    files = [i for i in persistent(lambda: filesystem.get_file_info(selector), uri, "listed") if i.is_file]
    if not files:
        raise InputError(f"{uri}: no such object, and no objects below it")
    for info in files:
        yield FoundFile(f"{scheme}://{info.path}", info.path[len(path) :].lstrip("/"), info.size, info.mtime_ns)


def _chunks(uri: str) -> Iterator[bytes]:
    # A pipe or device would be waited on for ever.
    if not uri.startswith(REMOTE) and not stat.S_ISREG(Path(uri).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with open_source(uri) as source, source.open("rb") if isinstance(source, Path) else source as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _mtime_ns(file: FoundFile) -> int | None:
    """When a local file was last written, now. Objects do not change while they are read: their size is enough."""
    return file.mtime_ns if file.uri.startswith(REMOTE) else Path(file.uri).stat().st_mtime_ns


def _unicode(name: str) -> str:
    """File names are bytes; those that are not UTF-8 are shown with their odd bytes escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
