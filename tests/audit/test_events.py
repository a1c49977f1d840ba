"""The log of events: what was confirmed is there, in order, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from dataengine.audit.events import (
    LOG,
    EventLog,
    EventRefused,
    LogUnavailable,
    Undo,
    Verdict,
    stored_events,
)
from dataengine.audit.repairs import MoveAttribute, Relabel
from dataengine.store import Store

ACCEPT = Verdict(verdict="accept")


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    with EventLog(tmp_path / "audit" / "events.sqlite") as log:
        yield log


def test_events_come_back_as_they_were_confirmed(log: EventLog) -> None:
    actions = [
        Verdict(verdict="reject", reasons=("swap", "bad_crop"), note="the hat is the other's\nsee 中文"),
        MoveAttribute(entity="s0.a1", subject=1),
        Relabel(entity="s1.a2", text="grüner Hut"),
        Undo(event=2),
    ]
    confirmed = [log.append("Zoë", "clip-1", action) for action in actions]
    assert [event.id for event in confirmed] == [1, 2, 3, 4]
    assert log.events() == tuple(confirmed)
    with EventLog(log.path) as again:
        assert again.events() == tuple(confirmed)
    assert abs(datetime.now(UTC) - confirmed[0].at) < timedelta(minutes=1)
    assert confirmed[0].at.utcoffset() == timedelta(0)


def test_events_by_place_sample_and_auditor(log: EventLog) -> None:
    for auditor, key in (("a", "x"), ("b", "x"), ("a", "y")):
        log.append(auditor, key, ACCEPT)
    assert [e.id for e in log.events(after=1)] == [2, 3]
    assert [e.id for e in log.events(key="x")] == [1, 2]
    assert [e.id for e in log.events(auditor="a")] == [1, 3]
    assert [e.id for e in log.events(after=1, auditor="a", key="x")] == []


def test_an_undo_takes_back_an_own_event_once(log: EventLog) -> None:
    first = log.append("a", "x", ACCEPT)
    for auditor, key, event, says in (
        ("b", "x", first.id, "has done no event 1"),
        ("a", "y", first.id, "has done no event 1"),
        ("a", "x", 7, "has done no event 7"),
    ):
        with pytest.raises(EventRefused, match=says):
            log.append(auditor, key, Undo(event=event))
    undo = log.append("a", "x", Undo(event=first.id))
    with pytest.raises(EventRefused, match="undone already"):
        log.append("a", "x", Undo(event=first.id))
    with pytest.raises(EventRefused, match="an undo itself"):
        log.append("a", "x", Undo(event=undo.id))
    assert len(log.events()) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "at least 1"),
        ("x" * 65, "at most 64"),
        ("a\x00b", "U\\+0000"),
        ("a\nb", "U\\+000A"),
        ("\u202eanna", "invisible"),
        ("an\u200bna", "invisible"),
        ("e\u0301va", "one spelling"),
        (" anna", "white space"),
        ("a\ud800", "name|utf|unicode|U"),
    ],
)
def test_hostile_names_are_refused_with_a_reason(log: EventLog, name: str, says: str) -> None:
    with pytest.raises(EventRefused, match=says):
        log.append(name, "x", ACCEPT)
    assert log.events() == ()


@pytest.mark.parametrize("note", ["a\x00", "a\x1b[31m", "\u202e", "x" * 2001, "\u2028", "\x85"])
def test_hostile_notes_are_refused(note: str) -> None:
    with pytest.raises(ValidationError):
        Verdict(verdict="accept", note=note)


@pytest.mark.parametrize("key", ["", "../x", "X", "a.b", "a" * 65, "a\x00"])
def test_hostile_keys_are_refused(log: EventLog, key: str) -> None:
    with pytest.raises(EventRefused, match="key"):
        log.append("anna", key, ACCEPT)


def test_text_is_data(log: EventLog) -> None:
    name = "Robert'); DROP TABLE events;--"
    event = log.append(name, "x", Verdict(verdict="unsure", note="<img onerror=alert(1)>"))
    assert log.events(auditor=name) == (event,)


def test_stored_events_never_change(log: EventLog) -> None:
    event = log.append("a", "x", ACCEPT)
    with sqlite3.connect(log.path) as other:
        for statement in ("UPDATE events SET auditor = 'b'", "DELETE FROM events"):
            with pytest.raises(sqlite3.DatabaseError, match="events"):
                other.execute(statement)
    assert log.events() == (event,)


def test_threads_and_processes_write_at_once(log: EventLog) -> None:
    def write(number: int) -> None:
        with EventLog(log.path) if number % 2 else log_of(log) as mine:
            for _ in range(10):
                mine.append(f"auditor {number}", "x", ACCEPT)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    events = log.events()
    assert [event.id for event in events] == list(range(1, 41))
    assert {len(log.events(auditor=f"auditor {n}")) for n in range(4)} == {10}


class log_of:
    """A log that is shared and stays open."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def __enter__(self) -> EventLog:
        return self.log

    def __exit__(self, *exception: object) -> None:
        pass


WRITER = """
import sys
from pathlib import Path
from dataengine.audit.events import EventLog, Verdict
log = EventLog(Path(sys.argv[1]))
number = 0
while True:
    event = log.append("writer", "k" + str(number), Verdict(verdict="accept", note="n" * 1500))
    print(event.id, event.key, flush=True)
    number += 1
"""


@pytest.mark.parametrize("after", [3, 40, 111])
def test_every_confirmed_event_survives_a_kill(tmp_path: Path, after: int) -> None:
    path = tmp_path / "events.sqlite"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(after)]
    time.sleep(0.013)  # somewhere inside the next ones
    os.kill(child.pid, signal.SIGKILL)
    told += child.stdout.readlines()
    child.wait()
    confirmed = [line.split() for line in told if line.endswith("\n")]
    with EventLog(path) as log:
        stored = [(str(event.id), event.key) for event in log.events()]
        # One event may have been committed and not told any more.
        assert stored[: len(confirmed)] == [tuple(words) for words in confirmed]
        assert len(stored) - len(confirmed) <= 1
        assert log.append("after", "x", ACCEPT).id == len(stored) + 1


def test_a_full_disk_refuses_the_next_event_and_keeps_the_others(tmp_path: Path) -> None:
    """A real disk of 512 KiB where this process may mount one, else a limit on the size of the database."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True).returncode
    try:
        log = EventLog(disk / "audit" / "events.sqlite")
        if mounted != 0:
            log._database.execute("PRAGMA max_page_count = 64")
        confirmed = []
        with pytest.raises(LogUnavailable, match="full") as caught:
            for number in range(5000):
                confirmed.append(log.append("a", f"k{number}", Verdict(verdict="accept", note="n" * 2000)))
        assert "confirmed is kept" in str(caught.value)
        assert len(confirmed) > 20
        assert log.events() == tuple(confirmed)
        if mounted != 0:
            log._database.execute("PRAGMA max_page_count = 1000")
        else:
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        more = log.append("a", "room", ACCEPT)
        assert more.id == len(confirmed) + 1
        log.close()
        with EventLog(disk / "audit" / "events.sqlite") as again:
            assert again.events() == (*confirmed, more)
    finally:
        if mounted == 0:
            subprocess.run(["umount", disk], check=True)


def test_a_log_from_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(LogUnavailable, match="no log of events"):
        EventLog(path)
    other = tmp_path / "newer.sqlite"
    with EventLog(other) as log:
        log._database.execute("PRAGMA user_version=9")
    with pytest.raises(LogUnavailable, match="format 9"):
        EventLog(other)


def test_a_locked_log_says_so(log: EventLog) -> None:
    with sqlite3.connect(log.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with EventLog(log.path, busy_s=0.05) as waiting, pytest.raises(LogUnavailable, match="keeps it locked"):
            waiting.append("a", "x", ACCEPT)
        other.execute("ROLLBACK")


def test_reading_makes_no_log(tmp_path: Path) -> None:
    out = Store.at(tmp_path)
    assert stored_events(out) == ()
    assert not (tmp_path / "audit").exists()
    with EventLog.of(out) as log:
        event = log.append("a", "x", ACCEPT)
    assert (tmp_path / LOG).is_file()
    assert stored_events(out) == (event,)
    with pytest.raises(LogUnavailable, match="local"):
        EventLog.of(Store.at("s3://bucket/data"))
