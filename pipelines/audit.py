"""What an audit takes from the rooms that it may not see itself: networks, tokenizers, measurements."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from dataengine import masks
from dataengine.audit.apply import CutsOf
from dataengine.audit.checking import Summary, check_dataset
from dataengine.audit.checks import Aids, Scorer, TokensAt
from dataengine.audit.events import Event, EventLog, Verdict, stored_events
from dataengine.audit.exchange import Format, Said, from_coco, from_parquet, to_coco, to_parquet
from dataengine.audit.repairs import Cut, Cuts, Repair, nothing_stored
from dataengine.audit.state import fold
from dataengine.config import CONF, AuditSettings, ConfigError, load, profile_file
from dataengine.decide.references import whole_pixels
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.models import colour_names
from dataengine.records import (
    EntityId,
    Grounding,
    Pair,
    People,
    Record,
    Segmentation,
    Span,
    Stills,
)
from dataengine.shards.card import RUN
from dataengine.shards.index import Index
from dataengine.store import Store
from pipelines.cache import last_run, settings_of_run
from pipelines.measure import fold as fold_parts
from pipelines.stages import compose

# --- Commands ---------------------------------------------------------------------------------------------------------


def check(output: str, settings: AuditSettings, console: Console) -> Summary:
    """`check_dataset` with everything the settings name, and a line of progress. Raises what it raises."""
    store = Store.at(output)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("checking", total=None)
        return check_dataset(
            store,
            settings,
            aids_of(settings),
            workers=os.cpu_count() or 1,
            tell=lambda done, total: progress.update(task, completed=done, total=total),
        )


def export_events(output: str, file: Path) -> int:
    """Write a dataset's events as parquet, or its judged samples as COCO. Returns the number of events.

    Raises `ConfigError` for another kind of file or one that cannot be written, `LogUnavailable`.
    """
    store = Store.at(output)
    events = stored_events(store)
    parts = [to_parquet(events)] if _kind(file) == "parquet" else map(str.encode, to_coco(store, fold(events)))
    beside = Store.at(file.absolute().parent)
    with beside.open_output(file.name) as stream:
        for part in parts:
            stream.write(part)
    return len(events)


def import_events(output: str, file: Path) -> int:
    """Take events into a dataset's log; returns how many were new. Raises `ConfigError`, `EventRefused`."""
    store = Store.at(output)
    kind = _kind(file)
    Index.read(store)  # a log belongs to a dataset
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    events = from_parquet(data) if kind == "parquet" else ()
    said = from_coco(data) if kind == "coco" else ()
    with EventLog.of(store) as log:
        if kind == "parquet":
            return log.merge(events)
        states = fold(log.events())
        there = {(s.auditor, s.key): (s.repairs, s.last_verdict) for s in states.values()}
        new = [one for one in said if not _has(there.get((one.auditor, one.key)), one)]
        at = datetime.now(UTC)
        return log.merge([Event(id=i, at=at, **one._asdict()) for i, one in enumerate(new, 1)])


def _has(state: tuple[tuple[Repair, ...], Verdict | None] | None, one: Said) -> bool:
    return state is not None and (one.action in state[0] or one.action == state[1])


def _kind(file: Path) -> Format:
    kinds: dict[str, Format] = {".parquet": "parquet", ".json": "coco"}
    if file.suffix not in kinds:
        raise ConfigError(f"{file}: name a .parquet or a .json file")
    return kinds[file.suffix]


# --- Who is asked -----------------------------------------------------------------------------------------------------


def aids_of(settings: AuditSettings) -> Aids:
    """What checks may ask under these settings. Raises `MissingWeightsError`, `ConfigError`."""
    return Aids(scorer=_scorer(settings), tokens=_tokens(settings.tokenizer), frames=settings.frames)


def _scorer(settings: AuditSettings) -> Scorer | None:
    if settings.scorer == "colours":
        return colour_scorer
    if settings.scorer == "clip":
        from dataengine.models.clip import ClipScorer  # torch and transformers

        scorer = ClipScorer(settings.clip)
        scorer.load()
        return scorer
    return None


_TERMS = {**{term: term for term in colour_names.TERMS}, "gray": "grey", "golden": "yellow", "navy": "blue"}
_LEAST_PIXELS = 60


def colour_scorer(pictures: Sequence[Image.Image], phrases: Sequence[str]) -> NDArray[np.float64]:
    """A `Scorer`: the share of a picture's pixels that have the colour which a phrase names.

    White around a cut-out does not count. NaN for a phrase that names no colour, or a picture with next to no pixels.
    """
    scores = np.full((len(pictures), len(phrases)), np.nan)
    words = [re.findall(r"[a-z]+", phrase.casefold()) for phrase in phrases]
    named = [{_TERMS[word] for word in all_ if word in _TERMS} for all_ in words]
    for i, picture in enumerate(pictures):
        rgb = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        rgb = rgb[(rgb != 255).any(axis=1)]
        if len(rgb) < _LEAST_PIXELS:
            continue
        shares = colour_names.surface_shares(rgb)
        for j, terms in enumerate(named):
            if terms:
                scores[i, j] = sum(shares.get(term, 0.0) for term in terms)
    return scores


def _tokens(profile: str) -> TokensAt | None:
    """How many tokens a phrase has for the text encoder of a training profile; None without a profile."""
    if not profile:
        return None
    from dataengine.lumosx.components import open_text  # torch
    from dataengine.lumosx.settings import TrainSettings
    from dataengine.lumosx.text import PhraseError

    train = load(TrainSettings, [(CONF / "train.yaml", None), (profile_file(profile), "train")])
    encoder = open_text(train.text, "cpu")

    def tokens(caption: str, span: Span) -> int:
        try:
            return len(encoder.tokens(caption).positions(span))
        except PhraseError:
            return 0

    return tokens


# --- What is stored of other stills -----------------------------------------------------------------------------------


class StoredCuts:
    """How entities stand in stills that their references were not taken from, from a dataset's measurements."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, pair: Pair) -> Cuts:
        """The `Cuts` of a sample: the boxes, masks and faces that were measured on its clip. Looked up when asked."""
        found: list[_Clip] = []

        def cut(entity: EntityId, still: int) -> Cut | None:
            if self._readers is None:
                return nothing_stored(entity, still)
            if not found:
                found.append(_Clip(pair, self._readers))
            return found[0].cut(entity, still)

        return cut

    @cached_property
    def _readers(self) -> Callable[[type[Record], str], Record | None] | None:
        if not self._store.exists(RUN):
            return None
        settings = settings_of_run(last_run(self._store))
        pipeline = compose(settings)
        measurements = Measurements(self._store.child("measurements"))
        ledgers: dict[str, Ledger] = fold_parts(measurements, pipeline)

        def read(kind: type[Record], clip_id: str) -> Record | None:
            stored = measurements.records(ledgers[pipeline.writers[kind]], [clip_id]).get(clip_id)
            result = None if stored is None else stored.result(kind)
            return result if isinstance(result, kind) else None

        return read


def stored_cuts(store: Store) -> CutsOf:
    """The `CutsOf` of a dataset that still has its measurements; of one without, nothing is stored."""
    return StoredCuts(store).of


class _Clip:
    """What was measured on one clip."""

    def __init__(self, pair: Pair, read: Callable[[type[Record], str], Record | None]) -> None:
        self._pair = pair
        self._stills, self._people, self._segmentation, self._grounding = (
            read(kind, pair.clip.clip_id) for kind in (Stills, People, Segmentation, Grounding)
        )

    def cut(self, entity: EntityId, still: int) -> Cut | None:
        if not isinstance(self._stills, Stills) or not 0 <= still < len(self._stills.stills):
            return None
        if entity.endswith(".face"):
            return self._face(entity, still)
        return self._masked(entity, still)

    def _face(self, entity: EntityId, still: int) -> Cut | None:
        """The face in another still of the person whose face in the reference's still it is."""
        subject = next((s for s in self._pair.subjects if s.face.entity == entity), None)
        if subject is None or not isinstance(self._people, People):
            return None
        size = (self._pair.width, self._pair.height)
        for person in self._people.people:
            there = {sighting.still: sighting for sighting in person.sightings}
            known, wanted = there.get(subject.face.still), there.get(still)
            if known is None or wanted is None or whole_pixels(known.face, *size) != subject.face.box:
                continue
            box = whole_pixels(wanted.face, *size)
            return Cut(
                time_s=self._time_s(still),
                box=box,
                area_share=box.area / (size[0] * size[1]),
                score=wanted.face_score,
                mask=None,
                sharpness=wanted.sharpness,
                frontal=wanted.frontal,
                visible=wanted.visible,
            )
        return None

    def _masked(self, entity: EntityId, still: int) -> Cut | None:
        if not isinstance(self._segmentation, Segmentation):
            return None
        found = next((m for m in self._segmentation.masks if (m.entity, m.still) == (entity, still)), None)
        if found is None or (area := masks.area(found.mask)) == 0:
            return None
        best = self._grounding.best if isinstance(self._grounding, Grounding) else {}
        grounded = best[entity, still].score if (entity, still) in best else 1.0
        return Cut(
            time_s=self._time_s(still),
            box=found.box,
            area_share=area / (found.mask.width * found.mask.height),
            score=min(found.score, grounded),
            mask=found.mask,
        )

    def _time_s(self, still: int) -> float:
        assert isinstance(self._stills, Stills)
        return round(max(0.0, self._stills.stills[still].time_s - self._pair.clip.start_s), 6)
