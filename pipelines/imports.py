"""Samples of another layout into a dataset of ours: read in parts, by any number of workers, then packed by key."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pydantic import Field
from rich.console import Console

from dataengine.config import ShardSettings
from dataengine.decide.splits import split_of
from dataengine.engine.worker import StageThread
from dataengine.records import Pair, Quarantined, Record
from dataengine.shards.assembly import Member
from dataengine.shards.importers.contract import Imported, Importer, ImportRefused, Item, Refusal, safe_name
from dataengine.shards.index import INDEX, Index, write_index
from dataengine.shards.losses import LossCount, Losses, merged
from dataengine.shards.writer import write_shard
from dataengine.store import Store, StoreError
from pipelines.alone import alone, stoppable
from pipelines.finish import write_quarantine
from pipelines.import_parts import PARTS, named, pack, write_clips
from pipelines.spread import spread

REPORT = "import.json"
PART_ITEMS = 64
ROW_S = 300.0
"""A sample that takes longer to read is refused: nothing hangs."""


class ImportSummary(Record):
    """`import.json`: what an import made of its source."""

    format: str
    source: str
    samples: int
    subjects: int
    attributes: int
    refused: int = Field(description="rows of quarantine.parquet")
    dropped: dict[str, int] = Field(description="parts that samples go without, by rule")
    losses: Losses


@dataclass(frozen=True)
class ImportOptions:
    """What holds for all samples of an import."""

    val_share: float = 0.0
    licence: str | None = None
    shards: ShardSettings = field(default_factory=ShardSettings)


def import_samples(
    importer: Importer,
    source: str,
    output: str,
    options: ImportOptions,
    address: str | None = None,
    console: Console | None = None,
) -> ImportSummary:
    """Write `shards/`, `index.parquet`, `clips.parquet`, `quarantine.parquet`, `import.json` and the card.

    The bytes depend on the source and the options alone. An import that was killed goes on where it was. Raises
    `SourceError` for a source of another kind, `StoreError` for an output with another dataset.
    """
    # The card is drawn with everything that reads samples; the workers need none of it.
    from dataengine.shards.card import card

    console = console or Console()
    store = Store.at(output)
    _require_own(store, importer.format, safe_name(source))
    found = list(importer.items())
    refused = [refusal(importer, thing.name, thing.reason) for thing in found if isinstance(thing, Refusal)]
    items, twice = _unique([thing for thing in found if isinstance(thing, Item)], importer)
    parts = _parts(importer, options, items)
    console.print(f"{importer.format}: {len(items)} samples to read", highlight=False)
    with alone(store), stoppable():
        receipts = list(spread(_Reader(store, importer, options), parts, address))
        stored, again = named(store, [part.name for part in parts])
        samples = pack(store, stored, options.shards, address)
        write_clips(store, [part.name for part in parts])
        refused += [*twice, *(q for receipt in receipts for q in receipt.refused)]
        refused += [refusal(importer, key, "a sample before it has the same key") for key in again]
        write_quarantine(store, refused)
        table = Index.read(store).table
        summary = ImportSummary(
            format=importer.format,
            source=safe_name(source),
            samples=samples,
            subjects=sum(table["subjects"].to_pylist()),
            attributes=sum(table["attributes"].to_pylist()),
            refused=len(refused),
            dropped=dict(sorted(sum((Counter(r.dropped) for r in receipts), Counter[str]()).items())),
            losses=merged(r.losses for r in receipts).report(importer.format, samples),
        )
        store.write(REPORT, summary.model_dump_json(indent=1).encode())
        store.write("README.md", card(store).encode())
        store.delete_folder(PARTS)
    return summary


def _require_own(store: Store, format: str, source: str) -> None:
    """Raises `StoreError` for a folder with another dataset: its shards would be removed."""
    if store.exists(REPORT):
        last = ImportSummary.from_json(store.read(REPORT))
        if (last.format, last.source) != (format, source):
            raise StoreError(f"{store.uri}: {last.source} was imported there: import into a folder of its own")
    elif store.exists(INDEX):
        raise StoreError(f"{store.uri}: another dataset is there: import into a folder of its own")


def refusal(importer: Importer, name: str, reason: str, error: str = "ImportRefused") -> Quarantined:
    """The row of something that was not imported."""
    name = safe_name(name)
    return Quarantined(
        id=hashlib.sha256(f"{importer.format}:{name}".encode()).hexdigest()[:24],
        stage="import",
        error=error,
        message=f"{name}: {reason}",
        attempts=1,
        source_names=(name,),
    )


def _unique(items: Sequence[Item], importer: Importer) -> tuple[list[Item], list[Quarantined]]:
    """The first item of every name, sorted; the others are refused."""
    kept: dict[str, Item] = {}
    twice = []
    for item in items:
        if kept.setdefault(item.name, item) is not item:
            twice.append(refusal(importer, item.name, "the name comes twice: the first was taken"))
    return [kept[name] for name in sorted(kept)], twice


# --- Reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Items that are read together; the name is a hash of all that decides on what comes of them."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class _Receipt:
    """What a part holds besides its samples."""

    refused: tuple[Quarantined, ...]
    dropped: dict[str, int]
    losses: LossCount


class _Stored(Record):
    """A receipt as it is stored, with what each sample goes without: `entity: rule: detail`."""

    refused: tuple[Quarantined, ...]
    dropped: dict[str, tuple[str, ...]]
    losses: tuple[tuple[str, str, int, str], ...]

    def receipt(self) -> _Receipt:
        rules = Counter(text.split(": ", 2)[1] for texts in self.dropped.values() for text in texts)
        losses = LossCount({(what, why): (count, example) for what, why, count, example in self.losses})
        return _Receipt(self.refused, dict(rules), losses)


def _parts(importer: Importer, options: ImportOptions, items: Sequence[Item]) -> list[_Part]:
    """Items by sixty-four, whatever the number of workers."""
    mark = json.dumps([importer.format, importer.version, importer.options(), options.val_share, options.licence])
    parts = []
    for number, start in enumerate(range(0, len(items), PART_ITEMS)):
        group = tuple(items[start : start + PART_ITEMS])
        content = "\n".join([mark, *(repr(item) for item in group)])
        digest = hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        parts.append(_Part(f"{number:06d}-{digest}", group))
    return parts


@dataclass(frozen=True)
class _Reader:
    """Reads one part; sent to Ray's workers."""

    store: Store
    importer: Importer
    options: ImportOptions

    def __call__(self, part: _Part) -> _Receipt:
        receipt = f"{PARTS}/{part.name}.json"
        if self.store.exists(receipt):  # the last thing that is written of a part
            return _Stored.from_json(self.store.read(receipt)).receipt()
        reading = _Reading(self.importer, self.options)
        with self.store.open_output(f"{PARTS}/{part.name}.tar") as stream:
            rows = write_shard(stream, f"{part.name}.tar", reading.samples(part.items))
        with self.store.open_output(f"{PARTS}/{part.name}.parquet") as stream:
            write_index(stream, rows)
        made = _Stored(
            refused=tuple(reading.refused),
            dropped=reading.dropped,
            losses=tuple((*kind, *seen) for kind, seen in sorted(reading.losses.found.items())),
        )
        self.store.write(receipt, made.to_json().encode())
        return made.receipt()


@dataclass
class _Reading:
    """The samples of one part, and what happened to those that are not among them."""

    importer: Importer
    options: ImportOptions
    refused: list[Quarantined] = field(default_factory=list)
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    losses: LossCount = field(default_factory=LossCount)

    def samples(self, items: Sequence[Item]) -> Iterator[tuple[Pair, tuple[Member, ...]]]:
        """One at a time, each within its time; the key of one that comes twice is kept once."""
        thread = StageThread()
        for item in items:
            try:
                imported, members = thread.run(partial(self._read, item), ROW_S)
                if imported.pair.key in self.dropped:
                    raise ImportRefused(f"its key {imported.pair.key} is also that of a sample before it")
            except StoreError:
                raise
            except Exception as error:  # whatever a strange file makes a library say: a sample is one row
                self.refused.append(refusal(self.importer, item.name, str(error) or repr(error), type(error).__name__))
                continue
            self.dropped[imported.pair.key] = tuple(f"{d.entity}: {d.rule}: {d.detail}" for d in imported.dropped)
            self.losses.merge(imported.losses)
            yield imported.pair, members

    def _read(self, item: Item) -> tuple[Imported, tuple[Member, ...]]:
        imported = self.importer.read(item)
        split = split_of(imported.pair.clip.source_id, self.options.val_share)
        given = {"split": split, "licence": self.options.licence or imported.pair.licence}
        imported = replace(imported, pair=imported.pair.model_copy(update=given))
        return imported, imported.members()
