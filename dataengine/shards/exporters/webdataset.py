"""Plain webdataset whose samples all have the same files, as the Hugging Face viewer wants them, and a card.

Two sets: `clips/*.tar` with `KEY.mp4`, `KEY.txt` (the caption) and `KEY.json`; `references/*.tar` with a sample a
reference: `KEY-s0-a0.png` and `KEY-s0-a0.json` (phrase, span, owner, box, mask). Our own shards have other files in
every sample, which the viewer refuses. All JSON of a set has the same fields of the same types, never null, for the
same reason; `record` is the whole `Pair` as text, so nothing of it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dataengine.records import Pair, Reference
from dataengine.shards import tar
from dataengine.shards.exporters.contract import Exported, splits_of
from dataengine.shards.exporters.references import mask_of, owner_of
from dataengine.shards.index import SHARDS, Index
from dataengine.shards.losses import LossCount
from dataengine.shards.reader import Sample, iter_samples
from dataengine.store import Store

_HUB_SPLITS = {"train": "train", "val": "validation"}
CLIPS, REFERENCES = "clips", "references"


@dataclass(frozen=True)
class WebdatasetExport:
    """Implements `Exporter`."""

    format: str = "webdataset"

    def shard(self, source: Store, shard: str, target: Store) -> Exported:
        losses = LossCount()
        with (
            source.open_input(f"{SHARDS}/{shard}") as stream,
            target.open_output(f"{CLIPS}/{shard}") as clips,
            target.open_output(f"{REFERENCES}/{shard}") as references,
        ):
            ends = [0, 0]
            for sample in iter_samples(stream, shard):
                for number, (out, members) in enumerate(
                    ((clips, _clip_files(sample)), (references, _reference_files(sample)))
                ):
                    for name, data in members:
                        for part in (tar.header(name, len(data)), data, tar.padding(len(data))):
                            ends[number] += out.write(part)
                masked = sum(r.mask_member is not None for r in sample.pair.references)
                if masked:
                    losses.add("mask.png", "kept as run lengths in the reference's JSON", sample.pair.key, masked)
            clips.write(tar.end(ends[0]))
            references.write(tar.end(ends[1]))
        return Exported(shard, losses)

    def finish(self, index: Index, target: Store) -> None:
        """`README.md` with the YAML head that tells the viewer which files are which."""
        target.write("README.md", _card(splits_of(index), len(index)).encode())


def _clip_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    pair = sample.pair
    yield f"{pair.key}.mp4", sample.members["mp4"]
    yield f"{pair.key}.txt", pair.caption.encode()
    yield f"{pair.key}.json", _json(_described(pair))


def _described(pair: Pair) -> dict[str, Any]:
    """The pair in fields that are always there and never null; the whole of it as text."""
    return {
        "key": pair.key,
        "split": pair.split,
        "width": pair.width,
        "height": pair.height,
        "fps": float(pair.fps),
        "frames": pair.frames,
        "subjects": [
            {"index": s.index, "noun": s.noun.text, "attributes": [a.phrase.text for a in s.attributes]}
            for s in pair.subjects
        ],
        "objects": [r.phrase.text for r in pair.objects],
        "background": "" if pair.background is None else pair.background.phrase.text,
        "licence": pair.licence or "",
        "record": pair.to_json(),
    }


def _reference_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    pair = sample.pair
    for reference in pair.references:
        name = f"{pair.key}-{reference.entity.replace('.', '-')}"
        yield f"{name}.png", sample.members[reference.member]
        yield f"{name}.json", _json(_tied(pair, reference, sample))


def _tied(pair: Pair, reference: Reference, sample: Sample) -> dict[str, Any]:
    assert reference.phrase.span is not None
    mask = "" if reference.mask_member is None else mask_of(sample.members[reference.mask_member]).counts
    return {
        "key": pair.key,
        "entity": reference.entity,
        "kind": reference.kind,
        "subject": owner_of(reference),
        "phrase": reference.phrase.text,
        "start": reference.phrase.span.start,
        "end": reference.phrase.span.end,
        "caption": pair.caption,
        "time_s": float(reference.time_s),
        "box": [float(v) for v in reference.box],
        "mask_size": [pair.height, pair.width],
        "mask_counts": mask,
        "score": float(reference.score),
    }


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode()


def _card(splits: Sequence[str], samples: int) -> str:
    configs = [
        {
            "config_name": config,
            "data_files": [{"split": _HUB_SPLITS[s], "path": f"{config}/{s}-*.tar"} for s in splits],
            **({"default": True} if config == CLIPS else {}),
        }
        for config in (CLIPS, REFERENCES)
    ]
    head = {
        "license": "other",
        "license_name": "as-the-source-videos",
        "task_categories": ["text-to-video"],
        "tags": ["webdataset", "video", "personalized-generation", "multi-subject"],
        "configs": configs,
    }
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip()}
---

# Relational video training pairs

{samples} samples in plain webdataset, every sample of a set with the same files.

| set | files | what |
| --- | --- | --- |
| `clips` | `mp4`, `txt`, `json` | the clip, its caption, and who has what; `record` is the whole record as text |
| `references` | `png`, `json` | a reference image: its phrase, its place in the caption, its subject, box and mask |

`subject` is -1 for what is nobody's. `mask_counts` are COCO's compressed run lengths over a frame of `mask_size`
(height, width), empty where there is no mask.
"""
