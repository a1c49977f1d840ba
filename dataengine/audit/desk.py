"""An auditor's desk: the dataset, its pictures and the log of events brought together, for many auditors at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dataengine.audit.catalog import Catalog, Decided
from dataengine.audit.checks import CheckLimits, check_sample
from dataengine.audit.events import Event, EventLog, Undo, Verdict
from dataengine.audit.media import Media, still_frames
from dataengine.audit.repairs import Repaired, RepairRefused, apply_repairs
from dataengine.audit.scene import UnreadableSample
from dataengine.audit.state import SampleState
from dataengine.audit.tables import CHECKS, RISK
from dataengine.audit.views import (
    MAX_CAPTION,
    FindingView,
    SampleView,
    StateView,
    entities_of,
    masks_now,
    matrix_of,
    subjects_of,
)
from dataengine.records import Pair
from dataengine.shards.index import INDEX, IndexRow
from dataengine.store import Store


class NoSuchSample(LookupError):
    """A position that the dataset does not have."""


class DatasetUnreadable(Exception):
    """The dataset's tables cannot be read; the message says which and what to do."""


class Rebuilt(Exception):
    """The dataset is not the one that the client has seen: its positions name other samples."""


@dataclass(frozen=True)
class Edition:
    """A dataset as it stood at one moment. `number` differs between editions, so that positions cannot be mixed up."""

    number: int
    catalog: Catalog
    media: Media

    def row(self, position: int) -> IndexRow:
        """Raises `NoSuchSample`."""
        if not 0 <= position < len(self.catalog):
            raise NoSuchSample(f"there is no sample {position} among {len(self.catalog)}")
        return self.catalog.index[position]


@dataclass
class Desk:
    """What the server does. Threads may share it; everything that a client names is a position of `edition`."""

    out: Store
    log: EventLog
    limits: CheckLimits = field(default_factory=CheckLimits)
    _edition: Edition | None = None
    _states: dict[tuple[str, str], SampleState] = field(default_factory=dict)
    _auditors: dict[str, set[str]] = field(default_factory=dict)
    _last_event: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def open(cls, out: Store) -> Desk:
        """Raises `StoreError`, `DatasetUnreadable` without a dataset, `LogUnavailable` where there can be no log."""
        desk = cls(out, EventLog.of(out))
        desk.edition()
        return desk

    def edition(self) -> Edition:
        """The dataset as it is on the disk, with all events taken in. Read anew when its index or checks changed."""
        with self._lock:
            number = self._number()
            if self._edition is None or self._edition.number != number:
                try:
                    catalog = Catalog.open(self.out)
                except ValueError as error:
                    raise DatasetUnreadable(str(error)) from error
                self._edition = Edition(number, catalog, Media(self.out, catalog.index))
                self._states.clear()
                self._auditors.clear()
                self._last_event = 0
            self._take_in(self._edition, self.log.events(after=self._last_event))
            return self._edition

    def _number(self) -> int:
        """Small enough for JavaScript, different after every rebuild."""
        times = [self.out.modified_ns(name) or 0 for name in (INDEX, RISK, CHECKS)]
        return hash(tuple(times)) & 0x7FFFFFFF

    def _take_in(self, edition: Edition, events: Sequence[Event]) -> None:
        if not events:
            return
        touched = {}
        for event in events:
            place = (event.key, event.auditor)
            before = self._states.get(place) or SampleState(key=event.key, auditor=event.auditor)
            touched[place] = self._states[place] = before.after(event)
            self._auditors.setdefault(event.key, set()).add(event.auditor)
        self._last_event = events[-1].id
        positions = edition.catalog.positions({key for key, _ in touched})
        decided, withdrawn = [], []
        for (key, auditor), state in touched.items():
            if key not in positions:
                continue
            if state.verdict is None:
                withdrawn.append((positions[key], auditor))
            else:
                decided.append(Decided(positions[key], auditor, state.verdict))
        edition.catalog.set_decided(decided, withdrawn)

    def auditors(self) -> list[str]:
        """Everyone who has an event in the log."""
        with self._lock:
            return sorted({auditor for names in self._auditors.values() for auditor in names})

    def state(self, key: str, auditor: str) -> SampleState:
        return self._states.get((key, auditor)) or SampleState(key=key, auditor=auditor)

    def view(self, position: int, auditor: str) -> SampleView:
        """A sample as the auditor left it. Raises `NoSuchSample`; damage is told in the view."""
        edition = self.edition()
        row = edition.row(position)
        own = self.state(row.key, auditor)
        others = [self.state(row.key, name) for name in sorted(self._auditors.get(row.key, set()) - {auditor})]
        bare = _bare(edition.number, position, row).model_copy(
            update={"risk": edition.catalog.risk(position), "state": StateView.of(own, others)}
        )
        try:
            pair = edition.media.pair(position)
            now, stale = self._repaired(pair, own)
            return self._shown(bare, edition, pair, now, stale)
        except UnreadableSample as error:
            return bare.model_copy(update={"problem": str(error)})

    def _repaired(self, pair: Pair, state: SampleState) -> tuple[Repaired, str | None]:
        try:
            return apply_repairs(pair, state.repairs), None
        except RepairRefused as error:
            return apply_repairs(pair, ()), str(error)

    def _shown(self, bare: SampleView, edition: Edition, pair: Pair, now: Repaired, stale: str | None) -> SampleView:
        """The view of a sample whose record could be read; pictures may still be damaged."""
        problem = None
        try:
            stored = edition.media.masks(bare.position, pair)
        except UnreadableSample as error:
            stored, problem = {}, str(error)
        pixels = masks_now(stored, now)
        fixed = now.pair
        return bare.model_copy(
            update={
                "problem": problem,
                "stale": stale,
                "source_names": pair.source_names[:20],
                "start_s": pair.clip.start_s,
                "pairing": pair.pairing,
                "licence": pair.licence,
                "fps": pair.fps,
                "frames": pair.frames,
                "stills": still_frames(pair),
                "caption": fixed.caption[:MAX_CAPTION],
                "caption_length": len(fixed.caption),
                "subjects": subjects_of(fixed),
                "entities": entities_of(pair, now, pixels),
                "matrix": matrix_of(fixed, pixels),
                "findings": self._findings(edition, pair, now, pixels) if problem is None else (),
                "provenance": pair.provenance.stages,
                "decided_by": pair.provenance.decided_by,
            }
        )

    def _findings(self, edition: Edition, pair: Pair, now: Repaired, pixels: dict) -> tuple[FindingView, ...]:
        """What the checks say of the sample as it is now, and what was stored of checks that look at the whole set."""
        live = check_sample(now.pair, pixels, self.limits)
        ran = {finding.check for finding in live}
        stored = [f for f in edition.catalog.findings(pair.key) if f.check not in ran]
        told = [FindingView(**dict(finding)) for finding in live]
        told += [FindingView(**finding._asdict()) for finding in stored]
        return tuple(sorted(told, key=lambda finding: finding.passed))

    def act(self, position: int, generation: int, auditor: str, action: Any) -> tuple[Event, SampleView]:
        """Commit one thing that an auditor did, and show the sample as it is then.

        Asking for the same thing twice is asking once: a client that did not hear the answer may repeat itself.
        Raises `NoSuchSample`, `Rebuilt`, `RepairRefused`, `UnreadableSample`, `EventRefused`, `LogUnavailable`.
        """
        with self._lock:
            edition = self.edition()
            if generation != edition.number:
                raise Rebuilt("the dataset was built or checked anew since this page was loaded")
            row = edition.row(position)
            state = self.state(row.key, auditor)
            event = self._repeated(state, action)
            if event is None:
                self._check(edition, position, state, action)
                event = self.log.append(auditor, row.key, action)
        return event, self.view(position, auditor)

    def _repeated(self, state: SampleState, action: Any) -> Event | None:
        """The event that did this very thing last, if it is still in force; for an undo, the undo itself."""
        if isinstance(action, Undo):
            done = self.log.events(key=state.key, auditor=state.auditor)
            return next((event for event in done if event.action == action), None)
        return state.events[-1] if state.events and state.events[-1].action == action else None

    def _check(self, edition: Edition, position: int, state: SampleState, action: Any) -> None:
        """Refuse what would leave repairs in force that do not apply."""
        if isinstance(action, Verdict):
            return
        if isinstance(action, Undo):
            kept = [event.action for event in state.events if event.id != action.event]
            repairs = [a for a in kept if not isinstance(a, (Verdict, Undo))]
            if repairs == list(state.repairs) or not repairs:
                return
        else:
            repairs = [*state.repairs, action]
        pair = edition.media.pair(position)
        try:
            apply_repairs(pair, repairs)
        except RepairRefused as error:
            if isinstance(action, Undo):
                raise RepairRefused(f"a later repair builds on it, undo that first ({error})") from error
            raise


def _bare(generation: int, position: int, row: IndexRow) -> SampleView:
    """What the index alone knows."""
    return SampleView(
        generation=generation,
        position=position,
        key=row.key,
        split=row.split,
        source=row.source_id,
        width=row.width,
        height=row.height,
        fps=0.0,
        frames=0,
        caption=row.caption[:MAX_CAPTION],
        caption_length=len(row.caption),
    )
