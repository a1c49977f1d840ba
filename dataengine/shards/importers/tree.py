"""Reading a folder that may come from anybody: nothing is followed out of it, waited for, or read without a limit."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dataengine.shards.importers.contract import ImportRefused, SourceError, safe_name

MAX_DEPTH = 32
MAX_PART = 255
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """Something in a folder. Links and whatever else is neither have neither mark."""

    name: str
    is_file: bool
    is_folder: bool


@dataclass(frozen=True)
class Tree:
    """A local folder. Paths below it are relative, with `/`; each of their parts is opened without following a link,
    so that nothing outside can be reached, whatever changes meanwhile.
    """

    root: str

    @classmethod
    def at(cls, place: str | Path) -> Tree:
        """Raises `SourceError` when there is no such folder."""
        path = Path(place).absolute()
        if not path.is_dir():
            raise SourceError(f"{place}: no such folder")
        return cls(str(path.resolve()))

    def entries(self, folder: str = "", limit: int | None = None) -> list[Entry]:
        """What is in a folder, by name; names that begin with a dot are passed over.

        Raises `ImportRefused` for a folder that cannot be read, or holds more than `limit`.
        """
        found: list[Entry] = []
        with self._folder(_parts(folder)) as handle, os.scandir(handle) as scan:
            for entry in scan:
                if entry.name.startswith("."):
                    continue
                if limit is not None and len(found) == limit:
                    raise ImportRefused(f"{safe_name(folder)}: more than {limit} entries")
                found.append(
                    Entry(entry.name, entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False))
                )
        return sorted(found, key=lambda e: os.fsencode(e.name))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A plain file below the folder. Raises `ImportRefused` for a link, a pipe, or a path that leads elsewhere."""
        *folders, last = _parts(name) or ("",)
        with self._folder(folders) as handle:
            try:
                file = os.open(last, _FILE, dir_fd=handle)
            except (OSError, ValueError) as error:
                raise ImportRefused(f"{safe_name(name)}: {_reason(error)}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise ImportRefused(f"{safe_name(name)}: not a plain file")
        with os.fdopen(file, "rb") as stream:
            yield stream

    def read(self, name: str, limit: int) -> bytes:
        """All of a file. Raises `ImportRefused`, also for one of more than `limit` bytes."""
        with self.open(name) as stream:
            try:
                data = stream.read(limit + 1)
            except OSError as error:
                raise ImportRefused(f"{safe_name(name)}: {_reason(error)}") from error
        if len(data) > limit:
            raise ImportRefused(f"{safe_name(name)}: more than {limit} bytes")
        return data

    def text(self, name: str, limit: int) -> str:
        """A UTF-8 file without the white space around it. Raises `ImportRefused`, also for an empty one."""
        try:
            text = self.read(name, limit).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ImportRefused(f"{safe_name(name)}: not UTF-8 text ({error})") from error
        if not text:
            raise ImportRefused(f"{safe_name(name)}: empty")
        return text

    def has(self, name: str) -> bool:
        """Whether a plain file of that name can be opened."""
        try:
            with self.open(name):
                return True
        except ImportRefused:
            return False

    def by_tail(self, path: str, under: str = "") -> str | None:
        """The file below `under` that the longest tail of somebody else's path names: of `/mnt/a/b/c.mp4` that is
        `mnt/a/b/c.mp4`, else `a/b/c.mp4`, `b/c.mp4` or `c.mp4`. None when there is none of them.
        """
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")][-MAX_DEPTH // 2 :]
        prefix = f"{under}/" if under else ""
        names = (prefix + "/".join(parts[start:]) for start in range(len(parts)))
        return next((name for name in names if self.has(name)), None)

    def stamp(self, name: str) -> str:
        """Size and time of writing of a file or folder, which is not followed; empty when there is none."""
        try:
            *folders, last = _parts(name) or (".",)
            with self._folder(folders) as handle:
                status = os.stat(last, dir_fd=handle, follow_symlinks=False)
        except (ImportRefused, OSError, ValueError):
            return ""
        return f"{status.st_size}:{status.st_mtime_ns}"

    def walk(self, name: str, depth: int = MAX_DEPTH) -> Iterator[str]:
        """Every plain file of that name below the folder, in order; links are not followed."""
        stack = [""]
        while stack:
            folder = stack.pop()
            entries = self.entries(folder)
            prefix = f"{folder}/" if folder else ""
            if any(entry.is_file and entry.name == name for entry in entries):
                yield prefix + name
            if prefix.count("/") < depth:
                stack += [prefix + entry.name for entry in reversed(entries) if entry.is_folder]

    @contextmanager
    def _folder(self, parts: list[str] | tuple[str, ...]) -> Iterator[int]:
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                try:
                    deeper = os.open(part, _FOLDER, dir_fd=handle)
                except (OSError, ValueError) as error:
                    raise ImportRefused(f"{safe_name('/'.join(parts))}: {_reason(error)}") from error
                os.close(handle)
                handle = deeper
            yield handle
        finally:
            os.close(handle)


def _parts(name: str) -> list[str]:
    """The parts of a path below a folder. Raises `ImportRefused` for one that could lead out of it."""
    if "\0" in name or "\\" in name:
        raise ImportRefused(f"{safe_name(name)}: a path with a backslash or a null character")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ImportRefused(f"{safe_name(name)}: a path that leads out of the source")
    if len(path.parts) > MAX_DEPTH or any(len(os.fsencode(part)) > MAX_PART for part in path.parts):
        raise ImportRefused(f"{safe_name(name)}: a path that is too long")
    return list(path.parts)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (40, 20):  # ELOOP, ENOTDIR: what O_NOFOLLOW says of links
        return "a link, or not the kind of file it should be: links are not followed"
    return getattr(error, "strerror", None) or str(error)
