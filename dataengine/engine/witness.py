"""Notes on the node's own disk that tell a new process which rows the one before it died on.

Ray restarts a worker process that dies and gives the new one the same batch, again and again. Before a worker starts on
rows it leaves a note; who finds a note of rows that it is about to start on knows that a process died on them, and how:
a crash in native code writes itself into the note (`faulthandler`), a hang is written there before the process ends
itself, and a note without either was left by a process that was killed from outside.

Where a process works on several batches at once, only one note at a time is open for a crash: the one of the batch that
was begun last, whichever crashed. That a process died on rows holds for all of them, how only for rows that were alone.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_BEGUN = "begun\n"
_HUNG = "hung\n"


@dataclass(frozen=True)
class Deaths:
    """How earlier processes ended on the same rows."""

    times: int = 0
    crash: str | None = None
    """What the last crash in native code said of itself."""
    hung: bool = False


@dataclass(frozen=True)
class Witness:
    """The notes of one run on this node; runs have different names and share nothing."""

    run: str
    folder: Path = Path(tempfile.gettempdir())

    def deaths(self, stage: str, ids: Sequence[str]) -> Deaths:
        """What happened to processes that worked on exactly these rows and did not come back."""
        try:
            text = self._note(stage, ids).read_text("utf-8", "replace")
        except FileNotFoundError:
            return Deaths()
        last = text.rsplit(_BEGUN, 1)[-1]
        return Deaths(text.count(_BEGUN), _crash(last), _HUNG in last)

    @contextmanager
    def watching(self, stage: str, ids: Sequence[str]) -> Iterator[None]:
        """The note lies there while the block runs, and goes when it ends, with or without an exception."""
        note = self._note(stage, ids)
        # The folder is everybody's: neither a link nor somebody else's file is followed or kept.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(note, flags, 0o600), "w") as file:
            file.write(_BEGUN)
            file.flush()
            faulthandler.enable(file, all_threads=False)
            try:
                yield
            finally:
                faulthandler.enable(sys.__stderr__ or 2, all_threads=False)
                note.unlink(missing_ok=True)

    def hung(self, stage: str, ids: Sequence[str]) -> None:
        """Note that these rows took too long; the process ends itself next."""
        with self._note(stage, ids).open("a") as file:
            file.write(_HUNG)

    def forget(self, stage: str, ids: Sequence[str]) -> None:
        self._note(stage, ids).unlink(missing_ok=True)

    def _note(self, stage: str, ids: Sequence[str]) -> Path:
        digest = hashlib.sha256("\n".join((self.run, stage, *ids)).encode()).hexdigest()[:32]
        return self.folder / f"dataengine-{digest}.note"


def _crash(text: str) -> str | None:
    """`Segmentation fault in frames.py, line 51, in _stills`, from what faulthandler wrote."""
    said = re.search(r"Fatal Python error: (.+)", text)
    if said is None:
        return None
    frame = re.search(r'File "(?:.*/)?([^/"]+)", line (\d+) in (\S+)', text)
    where = f" in {frame[1]}, line {frame[2]}, {frame[3]}" if frame else ""
    return said[1].strip() + where
