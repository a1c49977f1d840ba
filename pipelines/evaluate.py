"""`dataengine evaluate`: a dataset that was built from the world, against the world's truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dataengine.config import ConfigError
from dataengine.decide.clips import shot_boundaries
from dataengine.decide.identities import cluster
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.records import STILL_POSITIONS, ShotScores
from dataengine.shards.card import RUN
from dataengine.store import Store
from dataengine.world.evaluate import ALL, Evaluation, Metric, evaluate
from dataengine.world.evaluation_picture import draw
from dataengine.world.make import VideoTruth, read_truth
from dataengine.world.recognised import Recognised, whose_face
from pipelines.cache import last_run, settings_of_run
from pipelines.facts import FactStore, grouped
from pipelines.inventory import read_forgotten, read_inventory
from pipelines.stages import Decisions, compose

REPORT, PICTURE = "evaluation.json", "evaluation.png"


def evaluate_build(store: Store, truth: Path) -> Evaluation:
    """Judge a dataset and write `evaluation.json` and `evaluation.png` into it.

    One without a build, as `dataengine world pairs` writes it, is judged by its samples alone.

    Raises `StoreError` when no dataset is there, `ConfigError` when the truth is missing, damaged or of other videos.
    """
    try:
        truths = read_truth(truth)
        if not truths:
            raise ConfigError(f"{truth} has no *.truth.json: make it with `dataengine world make`")
        built = store.exists(RUN)
        found = evaluate(store, truths, _cuts(store, truths) if built else {}, _people(store, truths) if built else ())
    except ValueError as error:
        raise ConfigError(str(error)) from error
    store.write(REPORT, found.model_dump_json(indent=1).encode())
    store.write(PICTURE, draw(found))
    return found


def _cuts(store: Store, truths: Mapping[str, VideoTruth]) -> dict[str, tuple[float, ...]]:
    """Shot changes as the last build's settings cut them, by file name."""
    run = last_run(store)
    settings = settings_of_run(run)
    measurements = Measurements(store.child("measurements"))
    ledger = measurements.ledger("shots", compose(settings).fingerprints["shots"])
    videos = {source.source_id: source for source in read_inventory(store).videos}
    stored = measurements.records(ledger, sorted(videos))
    cuts: dict[str, tuple[float, ...]] = {}
    for source_id, outcome in stored.items():
        if outcome.record is None:
            continue
        found = shot_boundaries(ShotScores.from_json(outcome.record), settings.decide.clips.threshold)
        cuts |= {PurePath(name).name: found for name in videos[source_id].names if PurePath(name).name in truths}
    return cuts


def _people(store: Store, truths: Mapping[str, VideoTruth]) -> list[Recognised]:
    """Everybody whom the last build followed through a clip of these videos, in groups where embeddings tell them."""
    settings = settings_of_run(last_run(store))
    decisions = Decisions.of(settings, read_forgotten(store))
    pipeline = compose(settings, decisions)
    facts = FactStore(store, pipeline, decisions)
    stored = ledgers(Measurements(store.child("measurements")), pipeline.fingerprints)
    found: list[Recognised] = []
    clips: list[str] = []
    embeddings: list[NDArray[np.float32] | None] = []
    for known in (known for group in grouped(read_inventory(store).videos) for known in facts.known(group, stored)):
        name = next((PurePath(n).name for n in known.source.names if PurePath(n).name in truths), None)
        if name is None or known.clip is None or known.pictures is None:
            continue
        times = [known.clip.start_s + share * known.clip.seconds for share in STILL_POSITIONS]
        faces = known.faces()
        for person in known.pictures.people:
            # In a dissolve two shots are seen, and nobody can say whose a face is.
            clear = [face for face in person.faces if truths[name].at(times[face.still]) is not None]
            if not clear:
                continue
            seen = tuple(whose_face(truths[name], times[face.still], face.box) for face in clear)
            found.append(Recognised(name, seen, None))
            clips.append(known.clip.clip_id)
            embeddings.append(faces[person.index])
    known_faces = [values for values in embeddings if values is not None]
    if not known_faces:
        return found
    limits = settings.decide.identities
    of_known = [clip for clip, values in zip(clips, embeddings, strict=True) if values is not None]
    labels = iter(cluster(np.stack(known_faces).astype(np.float16), of_known, limits.threshold, limits.neighbours))
    return [
        one if values is None else one._replace(group=int(next(labels)))
        for one, values in zip(found, embeddings, strict=True)
    ]


def show_evaluation(found: Evaluation, console: Console) -> None:
    """The metrics over everything, then by group."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("metric", "group", "value", "95 % interval", "of"):
        table.add_column(heading, justify="left" if heading in ("metric", "group") else "right")
    for metric in sorted(found.metrics, key=lambda m: (m.group != ALL, m.name, m.group)):
        table.add_row(*_row(metric))
    console.print(table)
    console.print(
        f"{found.samples} samples of {found.videos} videos with {found.shots} shots; {found.wrong} with something wrong"
        + (
            ""
            if found.wrong_among_riskiest is None
            else f", {found.wrong_among_riskiest:.0%} of them in the riskiest tenth"
        ),
        highlight=False,
    )


def _row(metric: Metric) -> tuple[str, ...]:
    interval = f"{metric.low:.3f}–{metric.high:.3f}"
    return metric.name, metric.group, f"{metric.value:.3f}", interval, f"{metric.asked:.0f}"
