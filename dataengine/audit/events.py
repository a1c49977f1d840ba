"""What auditors decided, as an append-only log: what was confirmed is never lost, and undoing is another event.

SQLite in WAL mode with `synchronous=FULL`: a commit is on the disk before `append` returns, so a `kill -9` at any
moment keeps every confirmed event, and a disk that is full refuses the next one and keeps the others. The log must lie
on a local disk: WAL needs memory that all its processes share.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, ValidationError

from dataengine.audit.repairs import ChooseStill, DeleteEntity, MoveAttribute, Relabel, Respan, plain
from dataengine.records import Record
from dataengine.store import Store

LOG = "audit/events.sqlite"
"""Where a dataset's log lies in its folder."""

ReasonCode = Literal[
    "swap", "wrong_mask", "phrase_absent", "wrong_identity", "missing_attribute", "bad_crop", "bad_caption"
]
"""Why a sample is wrong: a garment with the wrong person, a mask of something else, words for what is not there, a face
of somebody else, a garment that the caption names and nobody has, a useless cut, a caption that is no good."""


def _name(text: str) -> str:
    if text != text.strip():
        raise ValueError("a name neither begins nor ends with white space")
    if unicodedata.normalize("NFC", text) != text or any(unicodedata.category(c) == "Cf" for c in text):
        raise ValueError("a name has one spelling: no invisible characters, accents composed (NFC)")
    return plain(text)


def _note(text: str) -> str:
    return plain(text, lines=True)


Auditor = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_name)]
SampleKey = Annotated[str, Field(pattern=r"^[0-9a-z_-]{1,64}$")]


class Verdict(Record):
    """What an auditor says of a sample. The last one in force counts."""

    type: Literal["verdict"] = "verdict"
    verdict: Literal["accept", "reject", "unsure"]
    reasons: tuple[ReasonCode, ...] = Field((), max_length=7)
    note: Annotated[str, Field(max_length=2000), AfterValidator(_note)] = ""


class Undo(Record):
    """Takes an earlier event of the same auditor and sample back. An undo cannot be undone: do the thing again."""

    type: Literal["undo"] = "undo"
    event: int = Field(ge=1, le=2**63 - 1)


Action = Annotated[
    Verdict | MoveAttribute | Respan | Relabel | DeleteEntity | ChooseStill | Undo, Field(discriminator="type")
]
ACTION: TypeAdapter[Any] = TypeAdapter(Action)
"""Reads an `Action` from JSON or plain values."""


class Event(Record):
    """One thing that one auditor did to one sample."""

    id: int = Field(ge=1, description="events are counted through; the order of ids is that of the commits")
    at: AwareDatetime = Field(description="when it was committed, UTC, by the clock of who wrote it")
    auditor: Auditor
    key: SampleKey
    action: Action


class EventError(Exception):
    """An event that is not in the log; the message says why."""


class EventRefused(EventError):
    """What was asked for cannot be done: a name or note that is not allowed, an undo of something that is not there."""


class LogUnavailable(EventError):
    """The log cannot be read or written: a full disk, a lock that is not given up, a damaged file.

    What was confirmed before stays in the log.
    """


_FORMAT = 1
_TABLES = (
    """CREATE TABLE events (
      id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, auditor TEXT NOT NULL, key TEXT NOT NULL,
      type TEXT NOT NULL, action TEXT NOT NULL, undoes INTEGER
    ) STRICT""",
    "CREATE INDEX events_of_sample ON events (key, auditor, id)",
    "CREATE UNIQUE INDEX undone_once ON events (undoes) WHERE undoes IS NOT NULL",
    "CREATE TRIGGER no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events never change'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are kept'); END",
)
_COLUMNS = "id, at, auditor, key, action"


class EventLog:
    """The log of one dataset. Threads may share it, and other processes may have it open at the same time."""

    def __init__(self, path: Path, busy_s: float = 10.0) -> None:
        """Opens the log and makes it where there is none; `busy_s` bounds how long another writer is waited for.

        Raises `LogUnavailable`.
        """
        self.path = path
        self._lock = RLock()
        with self._explained("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def _prepare(self) -> None:
        mode = self._database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise LogUnavailable(f"{self.path}: its disk allows no write-ahead log ({mode}); put it on a local disk")
        self._database.execute("PRAGMA synchronous=FULL")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _FORMAT):
            raise LogUnavailable(f"{self.path}: its format {version} is not this version's ({_FORMAT})")
        if version == 0:
            with self._transaction():
                # Another process may have made them while this one waited for the lock.
                if self._database.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _TABLES:
                        self._database.execute(statement)
                    self._database.execute(f"PRAGMA user_version={_FORMAT}")

    @classmethod
    def of(cls, out: Store) -> EventLog:
        """The log of the dataset at `out`. Raises `LogUnavailable` for one in an object store."""
        if not out.is_local:
            raise LogUnavailable(f"{out.uri}: a log of events lies on a local disk; audit a local copy")
        return cls(Path(out.path(LOG)))

    def append(self, auditor: str, key: str, action: Any) -> Event:
        """Commit one event and return it: from then on nothing short of a broken disk loses it.

        Raises `EventRefused`, `LogUnavailable`; the log is then as it was before.
        """
        try:
            event = Event(id=1, at=datetime.now(UTC), auditor=auditor, key=key, action=action)
        except ValidationError as error:
            raise EventRefused(_first(error)) from error
        with self._lock, self._explained("written"), self._transaction():
            number = self._insert(event, None)
        return event.model_copy(update={"id": number})

    def merge(self, events: Sequence[Event]) -> int:
        """Take over events of another log, all or none; returns how many were new.

        Into an empty log they come as they are. Else they get ids behind those there are, undos following what they
        undo, and what the log has already (same auditor, sample, time and action) is not repeated.
        Raises `EventRefused` for events that are no log, `LogUnavailable`.
        """
        with self._lock, self._explained("written"), self._transaction():
            empty = self._database.execute("SELECT 1 FROM events LIMIT 1").fetchone() is None
            numbers: dict[int, int] = {}
            added = last = 0
            for event in events:
                if event.id <= last:
                    raise EventRefused(f"event {event.id} comes behind event {last}")
                last = event.id
                if isinstance(event.action, Undo):
                    if event.action.event not in numbers:
                        raise EventRefused(f"event {event.id} undoes {event.action.event}, which is not among them")
                    event = event.model_copy(update={"action": Undo(event=numbers[event.action.event])})
                there = None if empty else self._find(event)
                added += there is None
                numbers[last] = self._insert(event, last if empty else None) if there is None else there
        return added

    def _find(self, event: Event) -> int | None:
        found = self._database.execute(
            "SELECT id FROM events WHERE key = ? AND auditor = ? AND at = ? AND action = ?",
            (event.key, event.auditor, _time(event), event.action.to_json()),
        ).fetchone()
        return None if found is None else int(found[0])

    def _insert(self, event: Event, number: int | None) -> int:
        undoes = None
        if isinstance(event.action, Undo):
            undoes = event.action.event
            self._check_undo(event, undoes)
        row = self._database.execute(
            "INSERT INTO events (id, at, auditor, key, type, action, undoes) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                number,
                _time(event),
                event.auditor,
                event.key,
                event.action.type,
                event.action.to_json(),
                undoes,
            ),
        )
        assert row.lastrowid is not None
        return row.lastrowid

    def _check_undo(self, event: Event, undone: int) -> None:
        found = self._database.execute("SELECT auditor, key, type FROM events WHERE id = ?", (undone,)).fetchone()
        if found is None or found[:2] != (event.auditor, event.key):
            raise EventRefused(f"{event.auditor} has done no event {undone} on sample {event.key}")
        if found[2] == "undo":
            raise EventRefused(f"event {undone} is an undo itself: do the thing again instead")
        if self._database.execute("SELECT 1 FROM events WHERE undoes = ?", (undone,)).fetchone():
            raise EventRefused(f"event {undone} is undone already")

    def events(self, after: int = 0, key: str | None = None, auditor: str | None = None) -> tuple[Event, ...]:
        """All events behind id `after`, in order, or those on one sample or by one auditor. Raises `LogUnavailable`."""
        wanted, values = ["id > ?"], [after]  # type: tuple[list[str], list[int | str]]
        for column, value in (("key", key), ("auditor", auditor)):
            if value is not None:
                wanted.append(f"{column} = ?")
                values.append(value)
        query = f"SELECT {_COLUMNS} FROM events WHERE {' AND '.join(wanted)} ORDER BY id"  # noqa: S608 — names from here
        with self._lock, self._explained("read"):
            rows = self._database.execute(query, values).fetchall()
        return tuple(self._event(row) for row in rows)

    def _event(self, row: tuple[int, str, str, str, str]) -> Event:
        number, at, auditor, key, action = row
        try:
            return Event(id=number, at=at, auditor=auditor, key=key, action=ACTION.validate_json(action))
        except ValidationError as error:
            raise LogUnavailable(f"{self.path}: event {number} cannot be read: {_first(error)}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # A full disk has rolled back already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorname", "") or ""
            cause = next((told for name, told in _CAUSES.items() if code.startswith(name)), "")
            raise LogUnavailable(
                f"{self.path} cannot be {verb}: {error}{f': {cause}' if cause else ''}. What was confirmed is kept"
            ) from error

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_CAUSES = {
    "SQLITE_FULL": "the disk is full; make room and repeat the last step",
    "SQLITE_IOERR": "the disk refuses, it may be full; make room and repeat the last step",
    "SQLITE_BUSY": "another process keeps it locked; stop it or wait",
    "SQLITE_READONLY": "it may not be written to; look at the rights of the file and its folder",
    "SQLITE_CANTOPEN": "look at the rights of its folder, and whether the disk is full",
    "SQLITE_CORRUPT": "the file is damaged; restore it from an export (`dataengine audit import`)",
    "SQLITE_NOTADB": "this is no log of events",
}


def stored_events(out: Store) -> tuple[Event, ...]:
    """The events of a dataset; none where nobody has audited it, and nothing is made. Raises `LogUnavailable`."""
    if not out.is_local or not Path(out.path(LOG)).is_file():
        return ()
    with closing(EventLog.of(out)) as log:
        return log.events()


def _time(event: Event) -> str:
    return event.at.astimezone(UTC).isoformat(timespec="microseconds")


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, without repeating a hostile text at length."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
