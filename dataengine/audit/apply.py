"""A new version of a dataset with the auditors' verdicts and repairs applied. What nobody changed keeps its bytes.

Shards stay immutable: applying events is another decision, and it writes to another place.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataengine import masks, video
from dataengine.audit.events import Event
from dataengine.audit.exchange import events_table
from dataengine.audit.repairs import Cut, Cuts, RepairRefused, apply_repairs, changed, nothing_stored
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.state import Outcome, SampleState, by_sample, fold, settle
from dataengine.records import Pair, Record, Reference, RunSummary
from dataengine.shards import card
from dataengine.shards.assembly import WHITE, Member, png
from dataengine.shards.index import INDEX, SCHEMA, SHARDS, Index, IndexRow, join_indexes
from dataengine.shards.writer import write_shard
from dataengine.store import Store, StoreError

APPLIED, FATES = "audit/applied.parquet", "audit/fates.parquet"
"""The events that made a version, and what they made of each sample that anyone had judged."""

_COPIED = ("quarantine.parquet",)
_CHUNK = 1 << 22
_FATE_SCHEMA = pa.schema(
    [("key", pa.string()), ("fate", pa.string()), ("events", pa.list_(pa.int64())), ("reason", pa.string())]
)

CutsOf = Callable[[Pair], Cuts]
"""What is stored of other stills of a sample."""


class ApplyError(ValueError):
    """A version cannot be written; the message says why and what to do."""


class Fate(Record):
    """What became of one judged sample."""

    key: str
    fate: str
    events: tuple[int, ...]
    reason: str


@dataclass
class Applied:
    """What a new version holds, against the old one."""

    samples: int = 0
    fates: list[Fate] = field(default_factory=list)
    shards_kept: int = 0
    """Copied byte by byte."""
    shards_written: int = 0
    unknown: int = 0
    """Judged keys that the dataset does not have: honeypots, or samples of another version."""

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(fate.fate for fate in self.fates).items()))


def apply_events(
    source: Store, target: Store, events: Sequence[Event], cuts_of: CutsOf = lambda pair: nothing_stored
) -> Applied:
    """Write `target`: the dataset at `source` with what `events` say applied (`state.settle` has the rule).

    Rejected, disputed and unappliable samples are left out; repaired ones are written anew, the ids of the events in
    their provenance; all others keep the bytes of every file, and a shard in which nothing changed is copied whole. A
    sample that lost a subject moves to the shards of its new number of subjects. The index is written last, so that a
    version without one is not finished; running again writes it anew. One sample is held at a time.

    Raises `ApplyError` for a target that is the source or already a dataset, what `Index.read` raises without a
    source, `StoreError`.
    """
    if target.uri == source.uri:
        raise ApplyError(f"{target.uri} is the dataset itself: shards never change, name another folder")
    if target.exists(INDEX):
        raise ApplyError(f"{target.uri} holds a dataset already: name another folder")
    index = Index.read(source)
    judged = by_sample(fold(events))
    applied = Applied(unknown=len(judged.keys() - set(index.table["key"].to_pylist())))
    tables: dict[str, pa.Table] = {}
    movers: list[tuple[IndexRow, Outcome]] = []
    for shard, start, end in _shards(index):
        part = index.table.slice(start, end - start)
        fates = _fates(source, Index(part), judged, cuts_of)
        applied.fates += [fate for fate, _ in fates.values() if fate.fate != "undecided"]
        if all(fate.fate in ("kept", "undecided") for fate, _ in fates.values()):
            _copy(source, target, f"{SHARDS}/{shard}")
            tables[shard] = part
            applied.shards_kept += 1
            continue
        rows = [row for row in Index(part) if row.key not in fates or fates[row.key][0].fate in _STAYING]
        moving = [row for row in rows if row.key in fates and _moves(row, fates[row.key][1])]
        movers += [(row, fates[row.key][1]) for row in moving]
        left = [row for row in rows if row not in moving]
        if left:
            samples = (_sample(source, row, fates[row.key][1] if row.key in fates else None, cuts_of) for row in left)
            tables[shard] = _write(target, shard, samples)
            applied.shards_written += 1
    for shard, group in _new_shards(movers, index.table["shard"].to_pylist()).items():
        tables[shard] = _write(target, shard, (_sample(source, row, outcome, cuts_of) for row, outcome in group))
        applied.shards_written += 1
    applied.samples = sum(map(len, tables.values()))
    _write_rest(source, target, events, applied, index)
    with target.open_output(INDEX) as stream:
        join_indexes(stream, (tables[name] for name in sorted(tables)))
    target.write("README.md", card.card(target).encode())
    return applied


_STAYING = ("kept", "undecided", "repaired")


def _shards(index: Index) -> list[tuple[str, int, int]]:
    names = index.table["shard"].to_pylist()
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    return [(names[a], a, b) for a, b in pairwise([*starts, len(names)])]


def _fates(
    source: Store, part: Index, judged: Mapping[str, Sequence[SampleState]], cuts_of: CutsOf
) -> dict[str, tuple[Fate, Outcome]]:
    """The fates of a shard's judged samples. One whose files cannot be read is left out, and told."""
    found: dict[str, tuple[Fate, Outcome]] = {}
    for row in part:
        if row.key not in judged:
            continue
        states = judged[row.key]
        try:
            pair = Scene.stored(source, row).pair
            outcome = settle(pair, states, cuts_of(pair))
            if outcome.fate == "repaired":
                _sample(source, row, outcome, cuts_of)  # refused here, not in the middle of a shard
        except (UnreadableSample, RepairRefused, StoreError) as error:
            ids = tuple(sorted(event.id for state in states for event in state.events))
            outcome = Outcome("unappliable", None, (), ids, str(error))
        found[row.key] = (Fate(key=row.key, fate=outcome.fate, events=outcome.events, reason=outcome.reason), outcome)
    return found


def _moves(row: IndexRow, outcome: Outcome) -> bool:
    return outcome.fate == "repaired" and outcome.pair is not None and len(outcome.pair.subjects) != row.subjects


def _new_shards(
    movers: Sequence[tuple[IndexRow, Outcome]], shards: Iterable[str]
) -> dict[str, list[tuple[IndexRow, Outcome]]]:
    """Samples by the new shard that they move to: one for each split and number of subjects, behind those there are."""
    numbers: dict[str, int] = {}
    for name in set(shards):
        if match := re.fullmatch(r"(.+)-(\d+)\.tar", name):
            numbers[match[1]] = max(numbers.get(match[1], -1), int(match[2]))
    found: dict[str, list[tuple[IndexRow, Outcome]]] = {}
    for row, outcome in sorted(movers, key=lambda one: one[0].key):
        assert outcome.pair is not None
        prefix = f"{row.split}-{len(outcome.pair.subjects)}s"
        found.setdefault(f"{prefix}-{numbers.get(prefix, -1) + 1:05d}.tar", []).append((row, outcome))
    return found


# --- One sample -------------------------------------------------------------------------------------------------------


def _sample(source: Store, row: IndexRow, outcome: Outcome | None, cuts_of: CutsOf) -> tuple[Pair, tuple[Member, ...]]:
    """A sample's record and files, as they were or repaired."""
    scene = Scene.stored(source, row)
    if outcome is None or outcome.fate != "repaired":
        return scene.pair, tuple(Member(at.name, scene.members[at.name]) for at in row.members)
    return repaired_sample(scene, outcome, cuts_of(scene.pair))


def repaired_sample(scene: Scene, outcome: Outcome, cuts: Cuts) -> tuple[Pair, tuple[Member, ...]]:
    """A sample's record and files after its repairs.

    References keep the bytes of their pictures under their new names, but for those that were to be cut from another
    still: these are cut from the clip's frame, by the mask or box that was measured there. Raises `UnreadableSample`,
    `RepairRefused`.
    """
    done = apply_repairs(scene.pair, outcome.repairs, cuts)
    provenance = changed(done.pair.provenance, events=outcome.events)
    pair = changed(done.pair, provenance=provenance)
    before = {reference.entity: reference for reference in scene.pair.references}
    files = [Member("mp4", scene.members["mp4"]), Member("json", pair.to_json().encode())]
    for reference in in_file_order(pair):
        if reference.entity in done.cuts:
            files += _cut(scene, reference, done.cuts[reference.entity])
            continue
        old = before[done.origins[reference.entity]]
        files.append(Member(reference.member, scene.members[old.member]))
        if reference.mask_member is not None and old.mask_member is not None:
            files.append(Member(reference.mask_member, scene.members[old.mask_member]))
    return pair, tuple(files)


def in_file_order(pair: Pair) -> Iterator[Reference]:
    """A pair's references in the order in which their files stand in a shard."""
    for subject in pair.subjects:
        yield subject.face
        yield from subject.attributes
        if subject.body is not None:
            yield subject.body
    yield from pair.objects
    if pair.background is not None:
        yield pair.background


def _cut(scene: Scene, reference: Reference, cut: Cut) -> list[Member]:
    try:
        (frame,) = video.frames_at(io.BytesIO(scene.members["mp4"]), [cut.time_s])
    except (OSError, ValueError, video.VideoError) as error:
        raise UnreadableSample(f"{scene.pair.key}.mp4: {error}") from error
    still = frame.rgb
    if cut.mask is None or reference.mask_member is None:
        return [Member(reference.member, png(_inside(still, cut)))]
    pixels = masks.decode(cut.mask)
    if pixels.shape != still.shape[:2]:
        raise RepairRefused(f"{reference.entity}: the mask of still {reference.still} has not the clip's size")
    picture = np.where(_inside(pixels, cut)[:, :, None], _inside(still, cut), np.uint8(WHITE))
    return [Member(reference.member, png(picture)), Member(reference.mask_member, png(pixels))]


def _inside(pixels: NDArray, cut: Cut) -> NDArray:
    x0, y0, x1, y1 = (int(value) for value in cut.box)
    return pixels[y0:y1, x0:x1]


# --- Files ------------------------------------------------------------------------------------------------------------


def _write(target: Store, shard: str, samples: Iterable[tuple[Pair, tuple[Member, ...]]]) -> pa.Table:
    with target.open_output(f"{SHARDS}/{shard}") as stream:
        rows = write_shard(stream, shard, samples)
    return pa.Table.from_pylist([row.model_dump() for row in rows], SCHEMA)


def _copy(source: Store, target: Store, name: str) -> None:
    with source.open_input(name) as old, target.open_output(name) as new:
        while chunk := old.read(_CHUNK):
            new.write(chunk)


def _write_rest(source: Store, target: Store, events: Sequence[Event], applied: Applied, index: Index) -> None:
    """The tables beside the shards: what was applied, what became of each clip, what the last build said."""
    for name in _COPIED:
        if source.exists(name):
            _copy(source, target, name)
    with target.open_output(APPLIED) as stream:
        pq.write_table(events_table(events), stream, compression="zstd")
    with target.open_output(FATES) as stream:
        fates = [fate.model_dump() for fate in sorted(applied.fates, key=lambda fate: fate.key)]
        pq.write_table(pa.Table.from_pylist(fates, _FATE_SCHEMA), stream, compression="zstd")
    gone = {fate.key: fate for fate in applied.fates if fate.fate not in _STAYING}
    clips = dict(zip(index.table["key"].to_pylist(), index.table["clip_id"].to_pylist(), strict=True))
    if source.exists("clips.parquet"):
        _write_clips(source, target, {clips[key]: fate for key, fate in gone.items()})
    if source.exists(card.RUN):
        target.write(card.RUN, _summary(source, gone, applied).model_dump_json(indent=1).encode())


def _write_clips(source: Store, target: Store, gone: Mapping[str, Fate]) -> None:
    """`clips.parquet`, in which clips whose samples were left out say so."""
    with source.open_input("clips.parquet") as old, target.open_output("clips.parquet") as new:
        file = pq.ParquetFile(old)
        schema = file.schema_arrow
        with pq.ParquetWriter(new, schema) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                if "clip_id" in schema.names and gone:
                    table = _refused(table, gone)
                writer.write_table(table)


def _refused(table: pa.Table, gone: Mapping[str, Fate]) -> pa.Table:
    if not pc.any(pc.is_in(table["clip_id"], pa.array(list(gone), pa.string()))).as_py():
        return table
    fates = [gone.get(clip) for clip in table["clip_id"].to_pylist()]
    for name, told in (("verdict", lambda fate: f"audit_{fate.fate}"), ("detail", lambda fate: fate.reason)):
        values = table[name].to_pylist()
        told_values = [value if fate is None else told(fate) for value, fate in zip(values, fates, strict=True)]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(told_values, table.schema.field(name).type))
    return table


def _summary(source: Store, gone: Mapping[str, Fate], applied: Applied) -> RunSummary:
    """The last build's summary, with what the audit took from it."""
    run = RunSummary.from_json(source.read(card.RUN))
    refused = Counter(f"audit_{fate.fate}" for fate in gone.values())
    return run.model_copy(
        update={"pairs": applied.samples, "rejected": dict(sorted({**run.rejected, **refused}.items()))}
    )
