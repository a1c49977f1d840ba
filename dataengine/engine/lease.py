"""One run at a time on an output: a lease that its holder renews, and that ends by itself when the holder is gone.

The lease is `measurements/lease.json` in OUT. Who finds one that is neither released nor ended is refused (`Busy`).

**When it has ended.** Once its holder has not renewed it for `EXPIRES_S`; or at once when the holder was a process of
this same machine that lives no more, so that a run killed here can be started again immediately. A process counts as
the same one only if machine (kernel boot and pid namespace), pid and start time all agree. Ages are measured by one
clock alone, the disk's or object store's own time stamps (of the lease, and of a probe written next to it): the clocks
of the hosts may differ by any amount. The stamps of object stores are whole seconds, hence `MARGIN_S`.

**Taking it.** On a local disk, reading and writing it are one step, under `flock` on the folder. Object stores (and
network disks that cannot lock) offer no such step through pyarrow: there, a taker writes its lease, waits `SETTLE_S`,
and has it only if it then still reads its own; of several, the last writer has it and the others are refused. A write
that was under way for longer than `SETTLE_S` can slip past that, and so can a taker on a network disk whose locks hold
on one host only. Then two runs overlap until the one that lost reads the other's lease at its next renewal, and stops:
at most `RENEW_S` plus a request. That costs work, never results, since commits of equal rows are equal files.

**Keeping it.** A thread renews it every `RENEW_S`. It is lost when another's is found in its place, when it could not
be renewed for `EXPIRES_S`, or when that thread failed in any way: then `lost` says why, and `on_lost` is called.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from dataengine.store import Store, StoreError

log = logging.getLogger(__name__)

NAME = "measurements/lease.json"
RENEW_S = 10.0
EXPIRES_S = 60.0
SETTLE_S = 2.0
MARGIN_S = 2.0
LOCK_S = 10.0
"""How long to wait for another's reading and writing of the lease, which takes milliseconds."""


class Busy(RuntimeError):
    """Another run works on this output; the message says which, and when its lease ends if it was killed."""


class LeaseLost(RuntimeError):
    """This run no longer is the only one on its output, and must stop; what it committed stays."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease."""

    token: str
    """Unique to one `hold`."""
    machine: str
    """Boot id and pid namespace: where `pid` means this process."""
    host: str
    pid: int
    started: int
    """The process's start, in clock ticks since the machine's boot."""
    user: str
    command: str
    since: str
    """UTC, by the holder's clock; for people."""

    @classmethod
    def here(cls, command: str) -> Owner:
        return cls(
            token=uuid4().hex,
            machine=_machine(),
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_started(os.getpid()) or 0,
            user=_user(),
            command=command,
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )

    @property
    def is_here(self) -> bool:
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether the process still runs; only meaningful where it `is_here`."""
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"`{self.command}` of {self.user} on {self.host}, pid {self.pid}, since {self.since}"


class Lease:
    """A held lease. `lost` is None, or says why it was lost; safe to look at from any thread."""

    def __init__(self, store: Store, owner: Owner, on_lost: Callable[[str], None]) -> None:
        self.owner = owner
        self.lost: str | None = None
        self._store = store
        self._on_lost = on_lost
        self._ended = threading.Event()
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def check(self) -> None:
        """Raises `LeaseLost` once the lease is lost."""
        if self.lost is not None:
            raise LeaseLost(
                f"{self._store.uri}: stopped, because this run lost its lease: {self.lost}. What it committed is kept."
            )

    def start(self) -> None:
        self._thread.start()

    def release(self) -> None:
        """Stop renewing, and remove the lease if it is still ours."""
        self._ended.set()
        self._thread.join(timeout=LOCK_S)  # it may be waiting for a store that does not answer
        if self.lost is None:
            # It ends by itself if it cannot be removed now.
            with suppress(StoreError), _alone(self._store):
                if _is(_read(self._store), self.owner):
                    self._store.delete(NAME)

    def _keep(self) -> None:
        try:
            while not self._ended.wait(RENEW_S) and self.lost is None:
                self._renew()
        except BaseException as error:
            log.exception("the lease's heartbeat failed")
            self._lose(f"its heartbeat failed ({type(error).__name__}: {error})")

    def _renew(self) -> None:
        try:
            with _alone(self._store):
                found = _read(self._store)
                if _is(found, self.owner):
                    _write(self._store, self.owner)
                    self._renewed = time.monotonic()
                    return
        except StoreError as error:
            silent = time.monotonic() - self._renewed
            log.warning("the lease could not be renewed for %.0f s: %s", silent, error)
            if silent >= EXPIRES_S:
                self._lose(f"it could not be renewed for {silent:.0f} s: {error}")
            return
        self._lose(f"taken over by {found}" if found else f"{NAME} was removed")

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._on_lost(reason)


@contextmanager
def hold(store: Store, command: str, on_lost: Callable[[str], None] = lambda reason: None) -> Iterator[Lease]:
    """Be the only run on an output for the length of the block.

    `command`, shown to whoever is refused, is how this run was started. `on_lost` is called once, in the heartbeat's
    thread, when the lease is lost; call `Lease.check` at points where the run can stop.

    Raises `Busy` when another run holds it, `StoreError` when the output cannot be written, and at the block's end
    `LeaseLost` when it was lost meanwhile.
    """
    owner = Owner.here(command)
    _take(store, owner)
    lease = Lease(store, owner, on_lost)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()
    lease.check()


def _take(store: Store, owner: Owner) -> None:
    with _alone(store) as alone:
        holder = _read(store)
        if holder is not None:
            _refuse_unless_ended(store, holder)
        _write(store, owner)
    if alone:
        return
    time.sleep(SETTLE_S)
    found = _read(store)
    if not _is(found, owner):
        raise Busy(f"{store.uri}: another run took it at the same moment: {found}. Wait for it, or stop it first.")


def _refuse_unless_ended(store: Store, holder: Owner) -> None:
    who = f"{store.uri}: another run works on it: {holder}."
    if holder.is_here:
        if holder.lives:
            raise Busy(f"{who} Wait for it, or stop it first (kill {holder.pid}).")
        log.info("taking over the lease of a run that ended without releasing it: %s", holder)
        return
    age = _age_s(store)
    if age is not None and age <= EXPIRES_S + MARGIN_S:
        left = max(1, round(EXPIRES_S + MARGIN_S - age))
        raise Busy(f"{who} Wait for it, or stop it first; if it was killed, its lease ends in {left} s.")
    log.info("taking over a lease that was not renewed for %.0f s: %s", age or 0.0, holder)


def _age_s(store: Store) -> float | None:
    """Seconds since the lease was written, by the store's own clock; None when it was released just now."""
    probe = f"{NAME}.{uuid4().hex}"
    store.write(probe, b"")
    try:
        now, written = store.modified_ns(probe), store.modified_ns(NAME)
    finally:
        store.delete(probe)
    return None if now is None or written is None else (now - written) / 1e9


def _read(store: Store) -> Owner | None:
    """The lease's owner; None when nobody holds one, or the file is none of ours."""
    if not store.exists(NAME):
        return None
    try:
        return Owner(**json.loads(store.read(NAME)))
    except StoreError:
        if store.exists(NAME):
            raise
        return None  # released in between
    except (ValueError, TypeError):
        log.warning("%s/%s is not a lease: it is replaced", store.uri, NAME)
        return None


def _write(store: Store, owner: Owner) -> None:
    store.write(NAME, json.dumps(asdict(owner), indent=1).encode())


def _is(found: Owner | None, owner: Owner) -> bool:
    return found is not None and found.token == owner.token


@contextmanager
def _alone(store: Store) -> Iterator[bool]:
    """Keep other runs from the lease for a moment, where that is possible; gives whether it is.

    Raises `StoreError` when another keeps us waiting for `LOCK_S`.
    """
    if not store.is_local:
        yield False
        return
    folder = Path(store.path(NAME)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be made or opened: {error}. Check that this user may write there."
        ) from error
    try:
        yield _locked(handle, folder)
    finally:
        os.close(handle)  # which unlocks


def _locked(handle: int, folder: Path) -> bool:
    ends = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > ends:
                raise StoreError(f"{folder}: is locked by another process", transient=True) from error
            time.sleep(0.01)
        except OSError:
            return False  # a network disk without locks for folders
        else:
            return True


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None for one that has ended."""
    try:
        # The name, in parentheses, may hold anything; behind it: state, ..., start time as the 20th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
