"""A folder on a local disk or in an object store, with commits that are either whole or invisible."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import pyarrow as pa
from pyarrow import fs

from dataengine.store.errors import StoreError, explained, persistent, spool_full
from dataengine.store.filesystems import REMOTE, filesystem_of
from dataengine.store.streams import RemoteFile

T = TypeVar("T")

UNFINISHED = ".tmp-"
"""How the names of files that are still being written begin, on a local disk."""


@contextmanager
def open_source(uri: str) -> Iterator[Path | BinaryIO]:
    """A video as a local path, or as a seekable stream when it lies in an object store.

    The stream holds a few megabytes, however long the video. Raises `StoreError` when it cannot be opened or read.
    """
    if not uri.startswith(REMOTE):
        yield Path(uri)
        return
    filesystem, path = filesystem_of(uri)
    with RemoteFile(uri, lambda: filesystem.open_input_file(path)) as stream:
        yield cast(BinaryIO, stream)


@dataclass(frozen=True)
class Store:
    """A folder named by a path or URI. Names inside it are relative, with `/`; they cannot leave it.

    Cheap to make and to send to other processes: the connection is opened on first use. Every operation raises
    `StoreError`; what may pass is tried again first, so such an error has lasted.
    """

    uri: str

    @classmethod
    def at(cls, place: str | Path) -> Store:
        """The store at a local path (made absolute) or at an `s3://`, `gs://` URI."""
        text = str(place)
        return cls(text if text.startswith(REMOTE) else str(Path(text).absolute()))

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        filesystem, root = filesystem_of(self.uri)
        return filesystem, root.rstrip("/")

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
        return [name for name in self.sizes(folder) if name.endswith(suffix)]

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of every committed file below `folder`, by name, sorted: one listing, a thousand objects a request."""
        return {name: size for name, size in self._listed(folder) if not _is_unfinished(name)}

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None when there is none."""
        info = self._try(lambda: self._opened[0].get_file_info(self.path(name)), name, "read")
        return info.size if info.is_file else None

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def modified_ns(self, name: str) -> int | None:
        """When a file was last written, in nanoseconds by the clock of the disk or object store; None without one."""
        info = self._try(lambda: self._opened[0].get_file_info(self.path(name)), name, "read")
        return info.mtime_ns if info.is_file else None

    def open_input(self, name: str) -> Any:
        """A binary file with `read`, `seek` and `read_at(size, offset)`."""
        target = self.path(name)
        if self.is_local:
            return self._try(lambda: self._opened[0].open_input_file(target), name, "read")
        return RemoteFile(f"{self.uri}/{name}", lambda: self._opened[0].open_input_file(target))

    def read(self, name: str) -> bytes:
        with self.open_input(name) as stream:
            return stream.read()

    @contextmanager
    def open_output(self, name: str) -> Iterator[IO[bytes]]:
        """A file that appears under its name only when the block ends without an error.

        On a local disk by renaming a temporary neighbour; in an object store by one upload of a finished local file,
        because a stream that is closed after an error would commit the half that was written.
        """
        target = self.path(name)
        with self._local_output(target, name) if self.is_local else self._upload(target, name) as stream:
            yield stream

    def write(self, name: str, data: bytes) -> None:
        """Commit a whole file at once."""
        with self.open_output(name) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        """Remove a file; no error when it is already gone."""

        def work() -> None:
            if self._opened[0].get_file_info(self.path(name)).is_file:
                self._opened[0].delete_file(self.path(name))

        self._try(work, name, "deleted")

    def delete_folder(self, name: str) -> None:
        """Remove a folder and all that is in it; no error when it is already gone."""

        def work() -> None:
            if self._opened[0].get_file_info(self.path(name)).type == fs.FileType.Directory:
                with suppress(FileNotFoundError):
                    self._opened[0].delete_dir(self.path(name))

        self._try(work, name, "deleted")

    def sweep(self) -> int:
        """Remove what killed writers left unfinished; returns how many files that were.

        Only for who alone writes here: it would also remove what another is writing. Object stores keep nothing
        unfinished under a name, so there is nothing to do.
        """
        if not self.is_local:
            return 0
        left = [name for name, _ in self._listed("") if _is_unfinished(name)]
        for name in left:
            self._try(partial(Path(self.path(name)).unlink, missing_ok=True), name, "deleted")
        return len(left)

    def _listed(self, folder: str) -> list[tuple[str, int]]:
        filesystem, root = self._opened
        selector = fs.FileSelector(self.path(folder) if folder else root, recursive=True, allow_not_found=True)
        infos = self._try(lambda: filesystem.get_file_info(selector), folder, "listed")
        return sorted((info.path[len(root) + 1 :], info.size) for info in infos if info.is_file)

    def _try(self, work: Callable[[], T], name: str, verb: str) -> T:
        return persistent(work, f"{self.uri}/{name}" if name else self.uri, verb)

    @contextmanager
    def _local_output(self, target: str, name: str) -> Iterator[IO[bytes]]:
        final = Path(target)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=UNFINISHED, dir=final.parent)
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
        except StoreError:
            raise
        except OSError as error:
            raise explained(error, f"{self.uri}/{name}", "written") from error

    @contextmanager
    def _upload(self, target: str, name: str) -> Iterator[IO[bytes]]:
        try:
            with tempfile.NamedTemporaryFile() as spool:
                yield cast(IO[bytes], spool)
                spool.flush()
                self._try(lambda: _send(spool.name, self._opened[0], target), name, "written")
        except StoreError:
            raise
        except OSError as error:
            raise spool_full(error, f"{self.uri}/{name}") from error


def _send(spool: str, filesystem: Any, target: str) -> None:
    """Upload a finished local file. Raises pyarrow's error unless the object is there, whole.

    All of it in one call: a stream that is closed, or just forgotten, between two would commit the first of them.
    (`fs.copy_files` is no way: it leaves closing to the destructor, which prints a failed upload and goes on.)
    """
    with pa.memory_map(spool) as mapped, filesystem.open_output_stream(target) as out:
        out.write(mapped.read_buffer())


def _is_unfinished(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith(UNFINISHED)


def _checked(name: str) -> str:
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is not a plain relative name")
    return name
