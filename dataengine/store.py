"""A folder on a local disk or in an object store, with commits that are either whole or invisible."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from pyarrow import fs

REMOTE = ("s3://", "gs://", "gcs://")


class StoreError(OSError):
    """Reading or writing failed; the message names the file and what to do."""


@contextmanager
def open_source(uri: str) -> Iterator[Path | BinaryIO]:
    """A video as a local path, or as a seekable stream when it lies in an object store.

    Raises `StoreError` when it cannot be opened.
    """
    if not uri.startswith(REMOTE):
        yield Path(uri)
        return
    filesystem, path = fs.FileSystem.from_uri(uri)
    try:
        stream = filesystem.open_input_file(path)
    except OSError as error:
        raise StoreError(f"{uri}: cannot be opened: {error}") from error
    with stream:
        yield cast(BinaryIO, stream)


@dataclass(frozen=True)
class Store:
    """A folder named by a path or URI. Names inside it are relative, with `/`; they cannot leave it.

    Cheap to make and to send to other processes: the connection is opened on first use.
    """

    uri: str

    @classmethod
    def at(cls, place: str | Path) -> Store:
        """The store at a local path (made absolute) or at an `s3://`, `gs://` URI."""
        text = str(place)
        return cls(text if text.startswith(REMOTE) else str(Path(text).absolute()))

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        if self.uri.startswith(REMOTE):
            filesystem, root = fs.FileSystem.from_uri(self.uri)
            return filesystem, root.rstrip("/")
        return fs.LocalFileSystem(), self.uri.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    @property
    def is_local(self) -> bool:
        return not self.uri.startswith(REMOTE)

    def child(self, name: str) -> Store:
        """The store of a folder inside this one."""
        return Store(f"{self.uri.rstrip('/')}/{_checked(name)}")

    def path(self, name: str) -> str:
        """Where a file lies in this store's filesystem. Raises `ValueError` for a name that would leave the folder."""
        return f"{self._opened[1]}/{_checked(name)}"

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Every committed file below `folder`, sorted; none when the folder does not exist."""
        base = self.path(folder) if folder else self._opened[1]
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        found = (i.path[len(self._opened[1]) + 1 :] for i in self._opened[0].get_file_info(selector) if i.is_file)
        return sorted(n for n in found if n.endswith(suffix) and not n.rsplit("/", 1)[-1].startswith(".tmp-"))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None when there is none."""
        info = self._opened[0].get_file_info(self.path(name))
        return info.size if info.is_file else None

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def open_input(self, name: str) -> Any:
        """A random-access `pyarrow.NativeFile`. Raises `StoreError` when there is no such file."""
        try:
            return self._opened[0].open_input_file(self.path(name))
        except OSError as error:
            raise StoreError(f"{self.uri}/{name}: cannot be read: {error}") from error

    def read(self, name: str) -> bytes:
        with self.open_input(name) as stream:
            return stream.read()

    @contextmanager
    def open_output(self, name: str) -> Iterator[IO[bytes]]:
        """A file that appears under its name only when the block ends without an error.

        On a local disk by renaming a temporary neighbour; in an object store by one upload of a finished local file,
        because a stream that is closed after an error would commit the half that was written.
        Raises `StoreError` when the disk is full or the place cannot be written to.
        """
        filesystem, target = self._opened[0], self.path(name)
        try:
            if self.is_local:
                final = Path(target)
                final.parent.mkdir(parents=True, exist_ok=True)
                handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=final.parent)
                try:
                    with os.fdopen(handle, "wb") as stream:
                        yield stream
                        stream.flush()
                        os.fsync(stream.fileno())
                    Path(temporary).chmod(0o644)
                    Path(temporary).replace(final)
                except BaseException:
                    Path(temporary).unlink(missing_ok=True)
                    raise
            else:
                with tempfile.NamedTemporaryFile() as spool:
                    yield cast(IO[bytes], spool)
                    spool.flush()
                    fs.copy_files(spool.name, target, fs.LocalFileSystem(), filesystem)
        except OSError as error:
            raise StoreError(f"{self.uri}/{name}: cannot be written: {error}; nothing of it was committed") from error

    def write(self, name: str, data: bytes) -> None:
        """Commit a whole file at once."""
        with self.open_output(name) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        """Remove a file; no error when it is already gone."""
        if self.exists(name):
            self._opened[0].delete_file(self.path(name))


def _checked(name: str) -> str:
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is not a plain relative name")
    return name
