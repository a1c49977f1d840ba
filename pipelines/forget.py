"""Takes sources or people out of a dataset for good: another version is written, without them.

The old one stays as it is, for whoever may delete it. Of what was forgotten the new version holds ids and times alone:
no picture, no measurement, no name, no embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from dataengine.config import BuildSettings, ConfigError
from dataengine.decide.block import BlockList, Forgotten, read_embeddings
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.run import connect
from dataengine.engine.sources import FoundFile, KnownSources, Sources
from dataengine.models.insightface_pack import InsightFace
from dataengine.records import Clip, RunSummary, SourceVideo
from dataengine.store import Store
from pipelines.alone import alone
from pipelines.build import bring_up_to_date
from pipelines.cache import last_run, settings_of_run
from pipelines.facts import FactStore, Known, grouped
from pipelines.finish import finish
from pipelines.inventory import read_forgotten, read_inventory, without, write_forgotten
from pipelines.measure import KNOWN
from pipelines.stages import Decisions, compose

LIST = "forgotten.parquet"

_LIST = pa.schema(
    [
        ("what", pa.string()),  # source, clip or sample
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("why", pa.string()),
    ]
)


@dataclass(frozen=True)
class Removed:
    """What a new version lacks."""

    sources: tuple[str, ...]
    clips: tuple[tuple[Clip, str], ...]
    """With the reason of each."""
    samples: tuple[str, ...]
    outcomes: int
    """Stored measurements that were left behind."""
    unknown: int
    """Clips with people whom no embedding describes: nobody can tell whether they show a forgotten face."""
    summary: RunSummary


def forget(
    output: str,
    target: str,
    sources: Sequence[str] = (),
    faces: Sequence[str] = (),
    similarity: float = 0.4,
    address: str | None = None,
) -> Removed:
    """Write to `target` the dataset in `output` without these sources (ids or names) and clips that show these faces.

    `faces`: .npy files of embeddings, or pictures of one face each. Raises `ConfigError` for a source or face that
    cannot be found out, or a target that holds something; `StoreError` as `build` does.
    """
    started = time.perf_counter()
    old, new = Store.at(output), Store.at(target)
    run = last_run(old)
    settings = settings_of_run(run)
    if new.names():
        raise ConfigError(f"{target} is not empty: name a folder that does not exist yet")
    inventory = read_inventory(old, run.skipped)
    gone = _named(inventory.videos, sources, output)
    before = read_forgotten(old)
    decisions = Decisions.of(settings, before)
    pipeline = compose(settings, decisions)
    facts = FactStore(old, pipeline, decisions)
    stored = ledgers(Measurements(old.child("measurements")), pipeline.fingerprints)
    looks = _face_check(settings, faces, similarity)

    keep: set[str] = set()
    clips: list[tuple[Clip, str]] = []
    spans: list[Clip] = []
    unknown = faces_known = 0
    for group in grouped(inventory.videos):
        for known in facts.known(group, stored):
            if known.source.source_id in gone:
                if known.clip is not None:
                    clips.append((known.clip, f"of source {known.source.source_id}"))
                continue
            keep.add(known.source.source_id)
            if known.clip is None:
                continue
            told, compared = looks(known)
            faces_known += compared
            if told:
                clips.append((known.clip, told))
                spans.append(known.clip)
            else:
                keep.add(known.clip.clip_id)
                unknown += bool(faces) and compared < len(known.faces())
    if faces and not faces_known:
        raise ConfigError(f"{output} has no face embeddings to compare with: name the --source instead")
    if not gone and not clips:
        raise ConfigError(f"nobody in {output} is alike by {similarity:g} or more: nothing was written")
    forgotten = Forgotten(sources=(*before.sources, *sorted(gone)), spans=(*before.spans, *spans))

    with alone(new):
        connect(address)
        outcomes = _copy(old, new, pipeline.fingerprints, keep, inventory.videos)
        write_forgotten(new, forgotten)
        left = Sources(without(inventory.videos, forgotten), inventory.unreadable, inventory.skipped)
        fresh = Decisions.of(settings, forgotten)
        pipeline = compose(settings, fresh)
        renewed = FactStore(new, pipeline, fresh.signed(pipeline))
        quiet = Console(quiet=True)
        measured = bring_up_to_date(renewed, left.videos, settings.prices, quiet, measuring=False)
        summary = finish(new, pipeline, settings, left, measured, run.inputs, started)
        samples = tuple(sorted(_keys(old) - _keys(new)))
        removed = Removed(tuple(sorted(gone)), tuple(clips), samples, outcomes, unknown, summary)
        _write_list(new, removed)
    return removed


def _named(videos: Sequence[SourceVideo], wanted: Sequence[str], output: str) -> set[str]:
    found: set[str] = set()
    for name in wanted:
        meant = {video.source_id for video in videos if name in (video.source_id, *video.names)}
        if not meant:
            raise ConfigError(f"{output} has no source {name!r}: give a source id, or a name below the input folder")
        found |= meant
    return found


def _face_check(settings: BuildSettings, faces: Sequence[str], similarity: float) -> Callable[[Known], tuple[str, int]]:
    """Says of a row why it must go (or nothing), and how many of its people could be compared."""
    if not faces:
        return lambda known: ("", 0)
    wanted = BlockList(faces=np.concatenate([_embedding(settings, Path(face)) for face in faces]))

    def look(known: Known) -> tuple[str, int]:
        people = {person: face for person, face in known.faces().items() if face is not None}
        assert wanted.faces is not None
        for face in people.values():
            if len(face) != wanted.faces.shape[1]:
                raise ConfigError(
                    f"the given faces are embeddings of {wanted.faces.shape[1]} numbers, this dataset's of {len(face)}"
                )
        nearest = max((wanted.nearest(face) for face in people.values()), default=-1.0)
        return (f"a face in it is alike by {nearest:.2f}" if nearest >= similarity else "", len(people))

    return look


def _embedding(settings: BuildSettings, face: Path) -> NDArray[np.float32]:
    """(n, d) from a .npy file, or (1, d) of the one face in a picture."""
    if face.suffix == ".npy":
        return read_embeddings(face)
    section = settings.stages.faces
    if section.detector != "insightface":
        raise ConfigError(f"{face}: this dataset's detector, {section.detector}, gives no embeddings of pictures")
    try:
        with Image.open(face, formats=("PNG", "JPEG", "WEBP")) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{face}: neither a .npy file nor a picture: {error}") from error
    detector = InsightFace(section.insightface, section.floor)
    detector.load()
    (found,) = detector.detect([pixels])
    if len(found) != 1:
        raise ConfigError(f"{face}: {len(found)} faces are in it, exactly one is needed: crop it")
    return np.array([found[0].embedding], np.float32)


def _copy(old: Store, new: Store, prints: dict[str, str], keep: set[str], videos: Sequence[SourceVideo]) -> int:
    """What stays, and nothing else: measurements under other settings are not taken along."""
    here, there = Measurements(old.child("measurements")), Measurements(new.child("measurements"))
    left = sum(here.copy(there, stage, print_, keep) for stage, print_ in prints.items())
    known = KnownSources(old.child(KNOWN)).read()
    by_id = {video.source_id: video for video in videos if video.source_id in keep}
    KnownSources(new.child(KNOWN)).add(
        (FoundFile(uri, uri.rsplit("/", 1)[-1], size, mtime_ns), by_id[source_id])
        for (uri, size, mtime_ns), source_id in sorted(known.items())
        if source_id in by_id
    )
    return left


def _keys(store: Store) -> set[str]:
    with store.open_input("index.parquet") as stream:
        return set(pq.read_table(stream, columns=["key"])["key"].to_pylist())


def _write_list(new: Store, removed: Removed) -> None:
    def rows() -> Iterator[dict[str, object]]:
        for source in removed.sources:
            yield {"what": "source", "id": source, "source_id": source, "why": "named"}
        for clip, why in removed.clips:
            named = {"id": clip.clip_id, "source_id": clip.source_id, "start_s": clip.start_s, "end_s": clip.end_s}
            yield {"what": "clip", "why": why, **named}
        for key in removed.samples:
            yield {"what": "sample", "id": key, "why": "its clip is gone"}

    with new.open_output(LIST) as stream:
        pq.write_table(pa.Table.from_pylist(list(rows()), _LIST), stream)
