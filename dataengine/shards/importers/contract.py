"""What an importer is: it lists the samples of a source, and reads one of them into a pair with its files.

Listing is cheap and happens once, in one process; reading happens anywhere, in any order, and depends on the item
alone: the result is the same whatever the number of workers. A sample that cannot be taken raises `ImportRefused`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dataengine.records import Dropped, Pair, Provenance, Record, StageProvenance
from dataengine.shards import integrity
from dataengine.shards.assembly import Member
from dataengine.shards.losses import LossCount

KEY = re.compile(r"[0-9a-f]{24}")
"""A key as our own builds give it; a folder with such a name keeps it."""

MAX_NAME = 200


class SourceError(ValueError):
    """The source as a whole is not what was said; the message names what was expected."""


class ImportRefused(ValueError):
    """This sample cannot be imported; the message says why and names the file."""


class Item(Record):
    """A sample of a source, not yet read."""

    name: str
    """What tables and messages call it: unique in the source, its path below it or its key."""
    place: str
    """The file or folder to read, below the source."""
    offset: int = 0
    size: int = 0
    """Where in a file it stands, in bytes; 0 for one that has a file or folder of its own."""
    stamp: str = ""
    """Changes when its file does: parts that were read of the same items are not read again."""
    text: str = ""
    """What a table of the source says of it: its caption."""


@dataclass(frozen=True)
class Imported:
    """A sample as it was read: the pair, its media by member name, and what was left behind."""

    pair: Pair
    media: Mapping[str, bytes]
    dropped: tuple[Dropped, ...] = ()
    losses: LossCount = field(default_factory=LossCount)

    def members(self) -> tuple[Member, ...]:
        """The files in the order of `shards.assembly.assemble`: clip, record, subjects, objects, background.

        Raises `ImportRefused` if `dataengine validate` would find fault with them.
        """
        pair = self.pair
        members = [Member("mp4", self.media["mp4"]), Member("json", pair.to_json().encode())]
        subjects = (r for s in pair.subjects for r in (s.face, *s.attributes, s.body) if r is not None)
        background = () if pair.background is None else (pair.background,)
        for reference in (*subjects, *pair.objects, *background):
            names = (reference.member, reference.mask_member)
            members += [Member(name, self.media[name]) for name in names if name is not None]
        files = dict(members)
        read = integrity.read_pair(pair.key, files)
        problems = [
            *([] if isinstance(read, Pair) else read),
            *integrity.check_files(pair, files),
            *integrity.check_images(pair, files),
            *integrity.check_clip(pair, files["mp4"]),
        ]
        if problems:
            raise ImportRefused("; ".join(problem.text for problem in problems[:3]))
        return tuple(members)


class Importer(Protocol):
    """One format. Frozen and small: it travels to the workers."""

    @property
    def format(self) -> str: ...

    @property
    def version(self) -> int:
        """Raised when the same sample is read into another pair."""

    def options(self) -> dict[str, Any]:
        """Everything that changes what is read, as plain JSON values."""

    def items(self) -> Iterator[Item | Refusal]:
        """All samples, in the order of their names. Raises `SourceError` when there is nothing of this format."""

    def read(self, item: Item) -> Imported:
        """Raises `ImportRefused`."""


class Refusal(Record):
    """Something in a source that is no sample, and why."""

    name: str
    reason: str


def provenance(importer: Importer, file: str, **facts: Any) -> Provenance:
    """Where an imported sample comes from: the model is "imported", the revision the format."""
    options = importer.options()
    mark = f"{importer.format}:{importer.version}:{sorted(options.items())}"
    stage = StageProvenance(
        stage="import",
        version=importer.version,
        fingerprint=hashlib.sha256(mark.encode()).hexdigest()[:16],
        model="imported",
        revision=importer.format,
        prompt="",
        parameters={"file": file, **options, **facts},
    )
    return Provenance(stages=(stage,), decided_by="imported")


def key_of(name: str, content: bytes) -> str:
    """The key in a name of ours (`person2_<24 hex digits>`), else a hash of the sample's name and clip."""
    own = name.rpartition("/")[2].rpartition("_")[2]
    if KEY.fullmatch(own):
        return own
    return hashlib.sha256(name.encode() + b"\0" + hashlib.sha256(content).digest()).hexdigest()[:24]


def safe_name(name: str) -> str:
    """A name as tables show it: odd bytes and control characters spelt out, not longer than a line."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"
