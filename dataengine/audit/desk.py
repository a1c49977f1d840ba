"""An auditor's desk: the dataset, its pictures and the log of events brought together, for many auditors at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataengine.audit.catalog import Catalog, Decided, Place
from dataengine.audit.checks import Aids
from dataengine.audit.estimate import AuditNumbers, audit_numbers
from dataengine.audit.events import Event, EventLog, Undo, Verdict
from dataengine.audit.media import Media
from dataengine.audit.repairs import Cuts, RepairRefused, apply_repairs, nothing_stored
from dataengine.audit.scene import UnreadableSample
from dataengine.audit.showing import Shown
from dataengine.audit.state import SampleState
from dataengine.audit.tables import CHECKS, RISK
from dataengine.audit.views import SampleView, StateView, bare_view, full_view
from dataengine.config import AuditSettings
from dataengine.records import Pair
from dataengine.shards.index import INDEX
from dataengine.store import Store

CutsOf = Callable[[Pair], Cuts]
"""What is stored of how a sample's entities stand in its other stills."""


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

    def place(self, position: int) -> Place:
        """Raises `NoSuchSample`."""
        try:
            return self.catalog.place(position)
        except IndexError as error:
            raise NoSuchSample(str(error)) from error


@dataclass
class Desk:
    """What the server does. Threads may share it; everything that a client names is a position of `edition`."""

    out: Store
    log: EventLog
    settings: AuditSettings = field(default_factory=AuditSettings)
    aids: Aids = field(default_factory=Aids)
    cuts_of: CutsOf = lambda pair: nothing_stored
    _edition: Edition | None = None
    _states: dict[tuple[str, str], SampleState] = field(default_factory=dict)
    _auditors: dict[str, set[str]] = field(default_factory=dict)
    _last_event: int = 0
    _numbers: tuple[int, AuditNumbers] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def open(cls, out: Store, settings: AuditSettings | None = None, **more: Any) -> Desk:
        """A desk over the dataset at `out`; `more` are `aids` and `cuts_of`.

        Raises `StoreError`, `DatasetUnreadable` without a dataset, `LogUnavailable` where there can be no log.
        """
        desk = cls(out, EventLog.of(out), settings or AuditSettings(), **more)
        desk.edition()
        return desk

    def edition(self) -> Edition:
        """The dataset as it is on the disk, with all events taken in. Read anew when its index or checks changed."""
        with self._lock:
            number = self._number()
            if self._edition is None or self._edition.number != number:
                try:
                    catalog = Catalog.open(self.out, self.settings)
                except ValueError as error:
                    raise DatasetUnreadable(str(error)) from error
                self._edition = Edition(number, catalog, Media(self.out, catalog.index))
                self._states.clear()
                self._auditors.clear()
                self._last_event, self._numbers = 0, None
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

    def numbers(self) -> AuditNumbers:
        """What all events together say: error rate, plan, recall, agreement. Kept until there is another event."""
        with self._lock:
            edition = self.edition()
            if self._numbers is None or self._numbers[0] != self._last_event:
                made = audit_numbers(edition.catalog.drawn(), self._states, self.settings)
                self._numbers = (self._last_event, made)
            return self._numbers[1]

    def shown(self, edition: Edition, position: int, auditor: str) -> Shown:
        """A sample as the auditor left it. Raises `NoSuchSample`, `UnreadableSample`."""
        place = edition.place(position)
        planted = self.settings.seed if place.planted else None
        repairs = self.state(place.key, auditor).repairs
        pair = edition.media.pair(place.row)
        return Shown.of(edition.media, place.row, planted, repairs, self.cuts_of(pair))

    def view(self, position: int, auditor: str) -> SampleView:
        """What the page shows of a sample. Raises `NoSuchSample`; damage is told in the view."""
        edition = self.edition()
        place = edition.place(position)
        own = self.state(place.key, auditor)
        others = [self.state(place.key, name) for name in sorted(self._auditors.get(place.key, set()) - {auditor})]
        row = edition.catalog.index[place.row]
        bare = bare_view(edition.number, position, place, row, StateView.of(own, others))
        try:
            shown = self.shown(edition, position, auditor)
            return full_view(bare, shown, self.settings.limits, self.aids, edition.catalog.findings(row.key))
        except UnreadableSample as error:
            return bare.model_copy(update={"problem": str(error)})

    def thumb(self, edition: Edition, position: int) -> bytes:
        """A small picture of a sample before repairs. Raises `NoSuchSample`, `UnreadableSample`."""
        place = edition.place(position)
        planted = self.settings.seed if place.planted else None
        shown = Shown.of(edition.media, place.row, planted, (), nothing_stored)
        return edition.media.thumb(place.row, shown.before, shown.references)

    def act(self, position: int, generation: int, auditor: str, action: Any) -> tuple[Event, SampleView]:
        """Commit one thing that an auditor did, and show the sample as it is then.

        Asking for the same thing twice is asking once: a client that did not hear the answer may repeat itself.
        Raises `NoSuchSample`, `Rebuilt`, `RepairRefused`, `UnreadableSample`, `EventRefused`, `LogUnavailable`.
        """
        with self._lock:
            edition = self.edition()
            if generation != edition.number:
                raise Rebuilt("the dataset was built or checked anew since this page was loaded")
            place = edition.place(position)
            state = self.state(place.key, auditor)
            event = self._repeated(state, action)
            if event is None:
                self._check(edition, position, state, action)
                event = self.log.append(auditor, place.key, action)
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
        shown = self.shown(edition, position, "")
        cuts = self.cuts_of(shown.stored)
        try:
            apply_repairs(shown.before, repairs, lambda entity, still: cuts(shown.origins[entity], still))
        except RepairRefused as error:
            if isinstance(action, Undo):
                raise RepairRefused(f"a later repair builds on it, undo that first ({error})") from error
            raise
