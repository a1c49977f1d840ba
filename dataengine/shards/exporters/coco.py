"""COCO's instance annotations: the frame of each still, and in it every reference's box and mask.

A category is a phrase, in lower case; the owner, the kind and the span are under `attributes`, where CVAT and FiftyOne
look for them. Faces have no mask: their segmentation is the rectangle of their box. Frames are read from the clip, at
the time of the still.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from dataengine import masks
from dataengine.records import Reference
from dataengine.shards.exporters.contract import Exported, shards_of, splits_of
from dataengine.shards.exporters.references import mask_of, owner_of
from dataengine.shards.index import SHARDS, Index
from dataengine.shards.losses import LossCount
from dataengine.shards.reader import Sample, iter_samples
from dataengine.store import Store
from dataengine.video import frames_at

ANNOTATIONS = "annotations"
IMAGES = "images"
_FRAGMENTS = ".fragments"
JPEG_QUALITY = 95


@dataclass(frozen=True)
class CocoExport:
    """Implements `Exporter`."""

    format: str = "coco"

    def shard(self, source: Store, shard: str, target: Store) -> Exported:
        losses = LossCount()
        with (
            source.open_input(f"{SHARDS}/{shard}") as stream,
            target.open_output(f"{_FRAGMENTS}/{shard}.jsonl") as fragments,
        ):
            for sample in iter_samples(stream, shard):
                for image in _images(sample, target, losses):
                    fragments.write(json.dumps(image, ensure_ascii=False).encode() + b"\n")
        return Exported(shard, losses)

    def finish(self, index: Index, target: Store) -> None:
        """`annotations/instances_<split>.json`, written as a stream: only the phrases are held in memory."""
        for split in splits_of(index):
            _write_split(target, split, shards_of(index, split))
        target.delete_folder(_FRAGMENTS)


def _images(sample: Sample, target: Store, losses: LossCount) -> Iterator[dict[str, Any]]:
    """The frames of a sample, written; each with its annotations."""
    pair = sample.pair
    by_still: dict[int, list[Reference]] = defaultdict(list)
    for reference in pair.references:
        if reference.origin is not None or not reference.placed:
            losses.add(reference.kind, "cut from another clip, or nobody knows where it stands", pair.key)
        elif reference.kind == "background":
            losses.add("background", "it is a whole picture, and no instance in one", pair.key)
        else:
            by_still[reference.still].append(reference)
            losses.add("reference image", "COCO has frames: cut it out of its frame again", pair.key)
    losses.add("clip", "COCO has pictures only", pair.key)
    losses.add("scores, provenance, relations and quality", "not part of the format", pair.key)
    if not by_still:
        return
    stills = sorted(by_still)
    frames = frames_at(BytesIO(sample.members["mp4"]), [by_still[still][0].time_s for still in stills])
    for still, frame in zip(stills, frames, strict=True):
        name = f"{pair.key}-{still}.jpg"
        buffer = BytesIO()
        Image.fromarray(frame.rgb).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        target.write(f"{IMAGES}/{name}", buffer.getvalue())
        yield {
            "image": {
                "file_name": name,
                "width": pair.width,
                "height": pair.height,
                "key": pair.key,
                "caption": pair.caption,
                "time_s": by_still[still][0].time_s,
            },
            "annotations": [_annotation(sample, reference) for reference in by_still[still]],
        }


def _annotation(sample: Sample, reference: Reference) -> dict[str, Any]:
    box = reference.box
    segmentation: Any = [[box.x0, box.y0, box.x1, box.y0, box.x1, box.y1, box.x0, box.y1]]
    area = box.area
    if reference.mask_member is not None:
        mask = mask_of(sample.members[reference.mask_member])
        segmentation = {"size": [mask.height, mask.width], "counts": mask.counts}
        area = float(masks.area(mask))
    return {
        "category": reference.phrase.text.lower(),
        "bbox": [box.x0, box.y0, box.width, box.height],
        "segmentation": segmentation,
        "area": area,
        "iscrowd": 0,
        "attributes": {
            "entity": reference.entity,
            "kind": reference.kind,
            "owner": owner_of(reference),
            "phrase": reference.phrase.text,
            "span": list(reference.phrase.span or ()),
        },
    }


def _write_split(target: Store, split: str, shards: Sequence[str]) -> None:
    phrases = sorted({a["category"] for line in _lines(target, shards) for a in line["annotations"]})
    ids = {phrase: number for number, phrase in enumerate(phrases, 1)}
    with target.open_output(f"{ANNOTATIONS}/instances_{split}.json") as stream:
        stream.write(b'{"info": {"description": "relational video training pairs"}, "licenses": [],\n"categories": ')
        stream.write(json.dumps([{"id": i, "name": p} for p, i in ids.items()], ensure_ascii=False).encode())
        stream.write(b',\n"images": [')
        _join(stream, ({"id": number, **line["image"]} for number, line in enumerate(_lines(target, shards), 1)))
        stream.write(b'],\n"annotations": [')
        _join(stream, _numbered(_lines(target, shards), ids))
        stream.write(b"]}\n")


def _numbered(lines: Iterator[dict[str, Any]], ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, line in enumerate(lines, 1):
        for annotation in line["annotations"]:
            number += 1
            yield {"id": number, "image_id": image, "category_id": ids[annotation.pop("category")], **annotation}


def _lines(target: Store, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        with target.open_input(f"{_FRAGMENTS}/{shard}.jsonl") as stream:
            rest = b""
            while chunk := stream.read(1 << 20):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in whole)


def _join(stream: Any, items: Iterator[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        stream.write((b",\n" if number else b"\n") + json.dumps(item, ensure_ascii=False).encode())
