"""What can go wrong with files and object stores: whether it may pass, and what a person can do about it."""

from __future__ import annotations

import errno
import re
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 4
"""How often an operation is tried, each time after the client's own retries."""
PAUSE_S = 1.0
"""Seconds before the second attempt; each later pause is twice as long."""

_PASSING_ERRNOS = frozenset({errno.EAGAIN, errno.EINTR, errno.ESTALE})
_PASSING = re.compile(
    # S3, by the names pyarrow gives. NO_SUCH_UPLOAD: an upload was finished but the answer got lost; send it again.
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT"
    r"|REQUEST_EXPIRED|NO_SUCH_UPLOAD)\b"
    r"|HTTP status (408|429|5\d\d)\b"
    # Google Cloud Storage, by the client's status codes.
    r"|Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|ABORTED|UNKNOWN)\b"
)
_DENIED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN"
    r"|MISSING_AUTHENTICATION_TOKEN)\b|HTTP status 40[13]\b|Status\((PERMISSION_DENIED|UNAUTHENTICATED)\b"
)
_NO_BUCKET = re.compile(r"AWS Error NO_SUCH_BUCKET\b|bucket does not exist")
_RESUME = "then run the same command again: it goes on from what is committed"


class StoreError(OSError):
    """Reading or writing failed; the message names the file and what to do.

    `transient`: it may pass by itself (an overloaded or unreachable store), so trying again later can help.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def persistent(work: Callable[[], T], uri: str, verb: str) -> T:
    """The result of `work`, which is repeated as long as its errors may pass.

    Raises `StoreError`: `uri` cannot be `verb` ("read", "written", ...), after `ATTEMPTS` or at once for an error that
    will not pass.
    """
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except StoreError:
            raise
        except OSError as error:
            problem = explained(error, uri, verb)
            if not problem.transient or attempt + 1 == ATTEMPTS:
                raise problem from error
        time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def explained(error: OSError, uri: str, verb: str) -> StoreError:
    """The error in words: what failed, on which file, and what to do."""
    lost = "; nothing of it was committed" if verb == "written" else ""
    transient = is_transient(error)
    return StoreError(f"{uri}: cannot be {verb}: {error}{lost}. {_advice(error, verb, transient)}", transient)


def is_transient(error: OSError) -> bool:
    """Whether the same operation may work a little later."""
    if isinstance(error, StoreError):
        return error.transient
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return error.errno in _PASSING_ERRNOS if error.errno is not None else bool(_PASSING.search(str(error)))


def spool_full(error: OSError, uri: str) -> StoreError:
    """The error of the local file that collects what will be uploaded."""
    return StoreError(
        f"{uri}: cannot be written: its temporary file in {tempfile.gettempdir()}: {error}; nothing of it was "
        f"committed. Free space there, or set TMPDIR to a larger disk, {_RESUME}."
    )


def _advice(error: OSError, verb: str, transient: bool) -> str:
    text, writing = str(error), verb == "written"
    other = ", or give another output" if writing else ""
    if transient:
        return f"The store did not answer as it should, {ATTEMPTS} times: wait until it does, {_RESUME}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk (or this user's share of it) is full: free space{other}, {_RESUME}."
    if error.errno == errno.EFBIG:
        return f"The file is larger than this disk or this process may hold (ulimit -f): raise that{other}, {_RESUME}."
    if error.errno == errno.EROFS:
        return f"The disk is mounted read-only: mount it for writing{other}, {_RESUME}."
    if error.errno in (errno.EACCES, errno.EPERM) or _DENIED.search(text):
        may = "write there" if writing else "read it"
        return f"Check that this user, with these credentials, may {may}{other}, {_RESUME}."
    if _NO_BUCKET.search(text) or (writing and error.errno == errno.ENOENT):
        return f"Check the bucket's name, or make the bucket{other}."
    if error.errno == errno.ENOENT:
        return "Check that it exists."
    return f"Check that the place exists and can be {verb}."
