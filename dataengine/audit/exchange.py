"""Events to and from other programs: parquet, which comes back exactly, and COCO's JSON, which FiftyOne and pycocotools
read. Whatever is read is checked as if a stranger had written it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from dataengine import masks
from dataengine.audit.events import ACTION, Event, EventRefused, Undo, Verdict
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.state import SampleState, States, by_sample
from dataengine.records import Mask, Pair, Reference
from dataengine.shards.index import Index
from dataengine.store import Store

MOST_EVENTS = 10_000_000
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("auditor", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),  # of the action: `verdict`, `move_attribute` … `undo`
        pa.field("action", pa.string(), nullable=False),  # as JSON
    ]
)

Format = Literal["parquet", "coco"]


def events_table(events: Iterable[Event]) -> pa.Table:
    """A row an event, its action as JSON."""
    rows = [
        {
            "id": e.id,
            "at": e.at,
            "auditor": e.auditor,
            "key": e.key,
            "type": e.action.type,
            "action": e.action.to_json(),
        }
        for e in events
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


def to_parquet(events: Iterable[Event]) -> bytes:
    """What `from_parquet` reads back, equal in every field."""
    stream = io.BytesIO()
    pq.write_table(events_table(events), stream, compression="zstd")
    return stream.getvalue()


def from_parquet(data: bytes) -> tuple[Event, ...]:
    """Events from a parquet file of `to_parquet`'s columns.

    Raises `EventRefused` naming the row for a file that is not one, for fields that an event cannot have, and for ids
    that do not grow.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        missing = set(_SCHEMA.names) - set(file.schema_arrow.names)
        if missing or file.metadata.num_rows > MOST_EVENTS:
            raise EventRefused(
                f"its columns {', '.join(sorted(missing))} are missing" if missing else "it has too many rows"
            )
        table = file.read(columns=_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        raise EventRefused(f"it is no table of events: {error}") from error
    events: list[Event] = []
    for number, row in enumerate(table.to_pylist()):
        try:
            action = ACTION.validate_json(row["action"])
            event = Event(id=row["id"], at=row["at"], auditor=row["auditor"], key=row["key"], action=action)
        except (ValidationError, TypeError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise EventRefused(f"row {number}: {first}") from error
        if action.type != row["type"]:
            raise EventRefused(f"row {number}: its type says {row['type']!r} and its action {action.type!r}")
        if events and event.id <= events[-1].id:
            raise EventRefused(f"row {number}: event {event.id} comes behind event {events[-1].id}")
        events.append(event)
    return tuple(events)


# --- COCO -------------------------------------------------------------------------------------------------------------

_CATEGORIES = ("face", "attribute", "body", "object", "background")


def to_coco(out: Store, states: States, keys: Iterable[str] | None = None) -> Iterator[str]:
    """Judged samples (or those of `keys`) as COCO's JSON, in pieces: an image a still, an annotation an entity.

    Boxes are `bbox` (x, y, width, height), masks compressed run lengths in `segmentation`; `attributes` of an
    annotation say whose it is and what it is called, those of an image what each auditor said, with reasons, repairs
    and ids of the events. Pictures are named `KEY_STILL.jpg` and are not written here. A sample that cannot be read is
    there without annotations and with what is wrong. One sample is held at a time.
    """
    index = Index.read(out)
    judged = by_sample(states)
    wanted = set(judged) if keys is None else set(keys)
    positions = [i for i, key in enumerate(index.table["key"].to_pylist()) if key in wanted]
    categories = [{"id": i, "name": name, "supercategory": "entity"} for i, name in enumerate(_CATEGORIES, 1)]
    info = {"description": "dataengine audit", "version": "1"}
    yield f'{{"info": {json.dumps(info)}, "licenses": [], "categories": {json.dumps(categories)}, "images": ['
    # Two passes over the records: COCO's lists stand behind each other, and all annotations need not fit in memory.
    first = True
    for number, position in enumerate(positions):
        row = index[position]
        for image in _images(out, row, number, judged.get(row.key, ())):
            yield ("" if first else ", ") + json.dumps(image, ensure_ascii=False)
            first = False
    yield '], "annotations": ['
    first, identity = True, 0
    for number, position in enumerate(positions):
        for annotation in _annotations(out, index[position], number):
            identity += 1
            yield ("" if first else ", ") + json.dumps({"id": identity, **annotation}, ensure_ascii=False)
            first = False
    yield "]}\n"


def _images(out: Store, row: Any, number: int, states: Sequence[SampleState]) -> Iterator[dict[str, Any]]:
    said = {
        state.auditor: {
            "verdict": state.verdict,
            "reasons": list(state.reasons),
            "note": "" if state.last_verdict is None else state.last_verdict.note,
            "repairs": [repair.model_dump(mode="json") for repair in state.repairs],
            "events": [event.id for event in state.events],
        }
        for state in states
    }
    problem = None
    try:
        pair = Scene.stored(out, row).pair
        times: dict[int, float | None] = {r.still: r.time_s for r in pair.references if r.origin is None}
    except UnreadableSample as error:
        times, problem = {0: None}, str(error)
    for still, time_s in sorted(times.items()):
        yield {
            "id": number * 100 + still,
            "file_name": f"{row.key}_{still}.jpg",
            "width": row.width,
            "height": row.height,
            "attributes": {
                "key": row.key,
                "still": still,
                "time_s": time_s,
                "caption": row.caption,
                "verdicts": said,
                "problem": problem,
            },
        }


def _annotations(out: Store, row: Any, number: int) -> Iterator[dict[str, Any]]:
    try:
        scene = Scene.stored(out, row)
        found = scene.masks
    except UnreadableSample:
        return
    owners = _owners(scene.pair)
    for reference in scene.pair.references:
        if not reference.located:
            continue
        box = reference.box
        mask: Mask | None = masks.encode(found[reference.entity]) if reference.entity in found else None
        yield {
            "image_id": number * 100 + reference.still,
            "category_id": _CATEGORIES.index(reference.kind) + 1,
            "bbox": [box.x0, box.y0, box.width, box.height],
            "area": box.area if mask is None else masks.area(mask),
            "segmentation": [] if mask is None else {"size": [mask.height, mask.width], "counts": mask.counts},
            "iscrowd": 0,
            "score": reference.score,
            "attributes": _attributes(reference, owners),
        }


def _attributes(reference: Reference, owners: dict[str, str]) -> dict[str, Any]:
    span = reference.phrase.span
    return {
        "entity": reference.entity,
        "owner": owners.get(reference.entity, ""),
        "phrase": reference.phrase.text,
        "span": None if span is None else [span.start, span.end],
    }


def _owners(pair: Pair) -> dict[str, str]:
    """Whose each entity is: the subject, by name."""
    return {
        reference.entity: f"s{subject.index}"
        for subject in pair.subjects
        for reference in (subject.face, *subject.attributes, *(() if subject.body is None else (subject.body,)))
    }


class Said(NamedTuple):
    """What an auditor did to a sample, before it is an event of a log."""

    auditor: str
    key: str
    action: Any


def from_coco(data: bytes) -> tuple[Said, ...]:
    """The verdicts and repairs in force that stand in the images' `attributes`, as `to_coco` writes them.

    Each sample's auditors in order, each with the repairs and then the verdict. What other programs changed in boxes
    and masks is not read: it is no event. Raises `EventRefused` naming the image.
    """
    try:
        content = json.loads(data)
        images = content["images"]
        if not isinstance(images, list):
            raise TypeError("its images are no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EventRefused(f"it is no COCO file: {error}") from error
    said: dict[tuple[str, str], tuple[Said, ...]] = {}
    for number, image in enumerate(images):
        try:
            for auditor, one in image.get("attributes", {}).get("verdicts", {}).items():
                key = image["attributes"]["key"]
                checked = tuple(_said(auditor, key, one))
                # A sample has an image a still, and each says it all.
                if said.setdefault((key, auditor), checked) != checked:
                    raise EventRefused(f"{auditor!r} says two things of sample {key!r}")
        except EventRefused as error:
            raise EventRefused(f"image {number}: {error}") from error
        except ValidationError as error:
            raise EventRefused(f"image {number}: {error.errors()[0]['msg']}") from error
        except (AttributeError, KeyError, TypeError) as error:
            raise EventRefused(f"image {number}: {type(error).__name__}: {error}") from error
    return tuple(one for all_ in said.values() for one in all_)


def _said(auditor: str, key: str, one: dict[str, Any]) -> Iterator[Said]:
    actions = [ACTION.validate_python(repair) for repair in one.get("repairs", ())]
    if any(isinstance(action, (Undo, Verdict)) for action in actions):
        raise EventRefused("its repairs are no repairs")
    if one.get("verdict") is not None:
        actions.append(Verdict(verdict=one["verdict"], reasons=one.get("reasons", ()), note=one.get("note", "")))
    for action in actions:
        # As an event would be: names and keys are checked here, before anything is written.
        Event(id=1, at=datetime.now(UTC), auditor=auditor, key=key, action=action)
        yield Said(auditor, key, action)
