"""The layout that the released LumosX scripts and benchmark read, a folder a sample, with the clip beside.

References are written as they are: the released script letterboxes each on white itself. It takes a phrase from a
file's name, so what a file cannot be called, or what the script would read as something else, is left out and counted.
Folders are called `person<number of subjects>_<key>`: the benchmark's script tells its strata by that word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataengine.records import Pair, Reason, Reference, Span
from dataengine.shards.exporters.contract import Exported, ExportRefused
from dataengine.shards.importers.lumosx import CAPTION, CLIP, FACE, WHOLE_BODY
from dataengine.shards.index import SHARDS, Index
from dataengine.shards.losses import LossCount
from dataengine.shards.reader import Sample, iter_samples
from dataengine.spans import resolve_all
from dataengine.store import Store

SAMPLES = "samples"
"""The folder of the samples: the released script takes every entry of it for one."""
MAX_FILE_NAME = 255


@dataclass(frozen=True)
class LumosXExport:
    """Implements `Exporter`."""

    format: str = "lumosx"

    def shard(self, source: Store, shard: str, target: Store) -> Exported:
        if not target.is_local:
            raise ExportRefused(f"{target.uri}: this layout is folders of small files: export to a local folder")
        losses = LossCount()
        with source.open_input(f"{SHARDS}/{shard}") as stream:
            for sample in iter_samples(stream, shard):
                _write(Path(target.uri) / SAMPLES, sample, losses)
        return Exported(shard, losses)

    def finish(self, index: Index, target: Store) -> None:
        """There is nothing in common."""


def _write(target: Path, sample: Sample, losses: LossCount) -> None:
    pair = sample.pair
    files = {CAPTION: pair.caption.encode(), CLIP: sample.members["mp4"]}
    for folder, name, reference in _placed(pair):
        why = _unspeakable(name, reference)
        path = f"{folder}/{name}.png"
        if why is None and path in files:
            why = "another image of the folder has the same phrase, and so the same name"
        if why is not None:
            losses.add(reference.kind, why, pair.key)
            continue
        files[path] = sample.members[reference.member]
    _count(pair, losses)
    final = target / f"person{len(pair.subjects)}_{pair.key}"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=target) as scratch:
        written = Path(scratch) / final.name
        for path, data in files.items():
            file = written / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        written.rename(final)


def _placed(pair: Pair) -> Iterator[tuple[str, str, Reference]]:
    """Every reference with the folder and the name that say what it is."""
    for subject in pair.subjects:
        folder = f"subjects/{subject.index}"
        yield folder, f"{FACE}{subject.face.phrase.text}", subject.face
        for attribute in subject.attributes:
            yield folder, attribute.phrase.text, attribute
        if subject.body is not None:
            yield folder, f"{WHOLE_BODY}_{subject.body.phrase.text}", subject.body
    for reference in pair.objects:
        yield "objects", reference.phrase.text, reference
    if pair.background is not None:
        yield "background", pair.background.phrase.text, pair.background


def _unspeakable(name: str, reference: Reference) -> str | None:
    """Why the released script could not read a phrase back from a file's name."""
    text = reference.phrase.text
    if "/" in name or not name.isprintable():
        return "its phrase has characters that no file name can have"
    if len(f"{name}.png".encode()) > MAX_FILE_NAME:
        return "its phrase is longer than a file name can be"
    if text != text.strip() or text.startswith("."):
        return "its phrase begins or ends with what a file name would hide"
    if "." in text and reference.kind in ("object", "background"):
        return "its phrase has a dot, at which the released script ends it"
    if reference.kind == "attribute" and "face" in text:
        return 'its phrase has "face" in it: the released script takes such a file for the face'
    return None


def _count(pair: Pair, losses: LossCount) -> None:
    """What every sample loses, and what of this one the released script reads otherwise."""
    key = pair.key
    for what in ("box, time and still of references", "scores and areas", "source, span and names of the clip"):
        losses.add(what, "the layout has images and phrases only", key)
    for what in ("provenance", "relations and quality"):
        losses.add(what, "the layout has no place for it", key)
    masks = sum(reference.mask_member is not None for reference in pair.references)
    if masks:
        losses.add("mask", "the layout has no masks", key, masks)
    if pair.split != "train":
        losses.add("split", "the layout has one", key)
    if pair.licence is not None:
        losses.add("licence", "the layout has no place for it", key)
    if pair.pairing != "in_clip":
        losses.add("pairing and origin", "the layout has no place for it", key)
    tied = [r for r in pair.references if r.kind != "body"]
    for reference, span in zip(tied, _found_again(pair, tied), strict=True):
        if span != reference.phrase.span:
            losses.add("span", "the phrase stands several times in the caption: its place cannot be told", key)
    for reference in tied:
        if pair.caption.count(reference.phrase.text) > 1:
            losses.add("token mask", "the released script marks every place where the phrase stands", key)
    if ";" in pair.caption:
        losses.add("caption", 'the released script cuts prompts at ";"', key)
    numbers = [int(a.entity.rpartition("a")[2]) for s in pair.subjects for a in s.attributes]
    regular = [n for s in pair.subjects for n in range(len(s.attributes))]
    regular_objects = [f"o{n}" for n in range(len(pair.objects))]
    if numbers != regular or [o.entity for o in pair.objects] != regular_objects:
        losses.add("entity numbers", "gaps that refused parts left are closed", key)


def _found_again(pair: Pair, tied: Sequence[Reference]) -> list[Span | Reason]:
    """The spans as an importer will find them."""
    order = [r for s in pair.subjects for r in (s.face, *s.attributes)] + list(pair.objects)
    order += [] if pair.background is None else [pair.background]
    found = dict(zip((r.entity for r in order), resolve_all(pair.caption, [r.phrase.text for r in order]), strict=True))
    return [found[reference.entity] for reference in tied]
