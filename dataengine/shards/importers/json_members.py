"""Where the members of a large JSON object stand in its file: OpenS2V-5M has files of 66 GB, one object each.

The file is scanned once, forwards, in bounded memory; values are not parsed, so a broken one spoils itself alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

CHUNK = 1 << 22
MAX_STRING = 1 << 26
_MARK = re.compile(rb'["{}\[\]]')
_TOP_MARK = re.compile(rb'["{}\[\]:,]')
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class JsonMember(NamedTuple):
    """A member of the object: its key's bytes between the quotes, and where its value stands."""

    key: bytes
    offset: int
    size: int


class JsonError(ValueError):
    """The file is no JSON object, or ends too soon; the members before that place were given."""


def json_members(stream: BinaryIO) -> Iterator[JsonMember]:
    """The members whose values are objects or lists, in order; others are passed over. Raises `JsonError`."""
    buffer, base, at = b"", 0, 0
    depth, key, after_colon, start = 0, b"", False, 0
    while True:
        mark = (_TOP_MARK if depth == 1 else _MARK).search(buffer, at)
        string = _STRING.match(buffer, mark.start()) if mark and mark[0] == b'"' else None
        if mark is None or (mark[0] == b'"' and string is None):
            # Nothing more in what was read, or a string that goes on behind it.
            keep = len(buffer) if mark is None else mark.start()
            buffer, base, at = buffer[keep:], base + keep, 0
            more = stream.read(CHUNK)
            if not more:
                raise JsonError(f"the file ends at byte {base + len(buffer)} inside the object")
            if len(buffer) > MAX_STRING:
                raise JsonError(f"a string of more than {MAX_STRING} bytes at byte {base}")
            buffer += more
            continue
        at = string.end() if string else mark.end()
        sign = mark[0]
        if depth == 0:
            if sign != b"{" or buffer[: mark.start()].strip(b"\xef\xbb\xbf \t\r\n") or base:
                raise JsonError("not a JSON object")
            depth = 1
        elif depth == 1 and sign == b'"':
            if not after_colon:
                key = buffer[mark.start() + 1 : at - 1]
        elif depth == 1 and sign in b":,":
            after_colon = sign == b":"
        elif sign in b"{[":
            if depth == 1:
                start = base + mark.start()
            depth += 1
        elif sign in b"}]":
            depth -= 1
            if depth == 1:
                yield JsonMember(key, start, base + at - start)
            elif depth == 0:
                return
