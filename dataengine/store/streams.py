"""An object of an object store as a seekable file: few requests, bounded memory, repeated when they fail."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from dataengine.store.errors import persistent

FIRST = 1 << 20
"""Bytes fetched at a place that was not read up to: a header, an index, the keyframe of a seek."""
MOST = 1 << 23
"""Bytes fetched at once, at most: each fetch that continues the one before is twice as large.

Measured on 47 MB of mp4: 10 requests to decode it all (186 without), 8 for 18 stills in 6 places (16 without).
"""
KEPT = 3
"""Pieces kept. A decoder goes back and forth between a file's index, its sound and its pictures."""


class RemoteFile(io.RawIOBase):
    """A read-only file over ranged reads. Holds `KEPT` pieces of at most `MOST` bytes.

    `name` is the URI, as error messages show it; `open_file` gives pyarrow's file, and is called again when the store
    broke it. Opening and reading raise `StoreError`: no such object, or the store does not answer.
    """

    def __init__(self, name: str, open_file: Callable[[], Any]) -> None:
        super().__init__()
        self.name = name
        self._open_file = open_file
        self._opened: Any = None
        self._pieces: OrderedDict[int, bytes] = OrderedDict()  # by offset, least recently used first
        self._size: int = persistent(lambda: self._file().size(), name, "read")
        self._position = 0
        self._next = 0
        """Where a fetch would continue the last one."""
        self._length = FIRST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"{self.name}: seek to {base + offset}, before the file's beginning")
        self._position = base + offset
        return self._position

    def size(self) -> int:
        return self._size

    def readinto(self, buffer: Any) -> int:
        """Fills the whole buffer, but for the file's end."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and self._position < self._size:
            offset, piece = self._piece(self._position)
            found = piece[self._position - offset : self._position - offset + len(target) - done]
            target[done : done + len(found)] = found
            done += len(found)
            self._position += len(found)
        return done

    def read_at(self, size: int, offset: int) -> bytes:
        """Exactly this range (shorter at the file's end) in one request, leaving the position as it is."""
        return self._fetch(offset, min(size, self._size - offset))

    def close(self) -> None:
        if not self.closed and self._opened is not None:
            self._pieces.clear()
            self._opened.close()
        super().close()

    def _piece(self, position: int) -> tuple[int, bytes]:
        """The piece that holds a position of the file, and the piece's own offset."""
        for offset, piece in self._pieces.items():
            if offset <= position < offset + len(piece):
                self._pieces.move_to_end(offset)
                return offset, piece
        self._length = min(2 * self._length, MOST) if position == self._next else FIRST
        while len(self._pieces) >= KEPT:
            self._pieces.popitem(last=False)
        piece = self._fetch(position, min(self._length, self._size - position))
        self._pieces[position] = piece
        self._next = position + len(piece)
        return position, piece

    def _fetch(self, offset: int, size: int) -> bytes:
        def work() -> bytes:
            data = self._file().read_at(size, offset)
            if len(data) < size:
                raise ConnectionError(f"only {len(data)} of {size} bytes came")
            return data

        return persistent(work, self.name, "read")

    def _file(self) -> Any:
        # Google's client keeps a connection open per file, and closes the file when that breaks.
        if self._opened is None or self._opened.closed:
            self._opened = self._open_file()
            if self._opened.closed:
                raise ConnectionError("the connection broke while it was opened")
        return self._opened
