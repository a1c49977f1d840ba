"""The subset of tar that shards are: USTAR, plain files, fixed headers. Written and read block by block.

Reading with `tarfile` alone would follow extension headers, whose size a hostile file chooses; here they are refused.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE

_NAME = re.compile(r"([0-9a-z_-]{1,64})\.([0-9a-z][0-9a-z.]{0,31})")


@dataclass
class ShardError(ValueError):
    """A shard that cannot be read: which one, which sample if known, what is wrong, what to do."""

    shard: str
    key: str | None
    problem: str
    remedy: str

    def __post_init__(self) -> None:
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"{self.shard}{f', sample {self.key}' if self.key else ''}: {self.problem}; {self.remedy}"

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str | None, str, str]]:
        return type(self), (self.shard, self.key, self.problem, self.remedy)


class Entry(NamedTuple):
    """A file in a tar: `KEY.MEMBER`, and where its data stand."""

    key: str
    member: str
    offset: int
    size: int


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a file's data: no owner, no time, fixed rights, so that equal content is equal bytes.

    Raises `ValueError` for a name that USTAR cannot hold or a file of 8 GiB and more.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size: int) -> bytes:
    """What fills a file's last block."""
    return bytes(-size % BLOCK)


def end(position: int) -> bytes:
    """What ends a tar that is `position` bytes long so far: two empty blocks, filled up to a record."""
    return bytes(2 * BLOCK + -(position + 2 * BLOCK) % RECORD)


def entries(stream: BinaryIO, shard: str, max_bytes: int, start: int = 0) -> Iterator[tuple[Entry, bytes]]:
    """Every file of a tar in order, with its data; the stream is read once, forwards. It begins at byte `start`.

    Raises `ShardError` for anything but plain files named `KEY.MEMBER`, for a file over `max_bytes`, for a damaged
    header, for a tar that is cut short and for data behind its end.
    """
    position = start
    while True:
        block = _read(stream, BLOCK, shard, position)
        if block == bytes(BLOCK):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ShardError(shard, None, f"no tar header at byte {position} ({error})", _DAMAGED) from error
        match = _NAME.fullmatch(info.name)
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or match is None:
            raise ShardError(shard, None, f"{info.name!r} is not a plain file named KEY.MEMBER", _FOREIGN)
        key, member = match.groups()
        if not 0 <= info.size <= max_bytes:
            raise ShardError(shard, key, f"{member} has {info.size} bytes, more than {max_bytes}", _FOREIGN)
        position += BLOCK
        data = _read(stream, info.size, shard, position)
        _read(stream, -info.size % BLOCK, shard, position + info.size)
        yield Entry(key, member, position, info.size), data
        position += info.size + -info.size % BLOCK
    while rest := stream.read(1 << 20):
        if rest.count(0) != len(rest):
            raise ShardError(shard, None, f"there are data behind its end at byte {position}", _DAMAGED)


_DAMAGED = "the file is damaged or cut short: copy it again, or build it again"
_FOREIGN = "shards hold only what `dataengine build` writes: import other tars with `dataengine import`"


def _read(stream: BinaryIO, size: int, shard: str, position: int) -> bytes:
    data = stream.read(size) if size else b""
    if len(data) != size:
        raise ShardError(shard, None, f"it ends at byte {position + len(data)} inside a file", _DAMAGED)
    return data
