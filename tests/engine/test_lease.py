"""One run at a time: the second is refused, a dead one's lease is taken over, a lost one is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataengine.engine import lease
from dataengine.engine.lease import NAME, Busy, LeaseLost, Owner, hold
from dataengine.store import Store, errors, filesystems
from object_store import BUCKET, Faults, environment, faulty_proxy, s3_server

HOLDER = """if True:
    import sys, time
    from dataengine.engine.lease import hold
    from dataengine.store import Store
    with hold(Store.at(sys.argv[1]), "dataengine build --input videos"):
        print("held", flush=True)
        time.sleep(600)
"""


@contextmanager
def holder(out: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lease until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        yield port


def held(store: Store) -> bool:
    try:
        with hold(store, "a second run"):
            return True
    except Busy:
        return False


def rewrite(store: Store, **changes: object) -> None:
    """Change fields of the lease that is there."""
    store.write(NAME, json.dumps({**json.loads(store.read(NAME)), **changes}).encode())


def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as first, pytest.raises(Busy) as refused, hold(Store.at(tmp_path), "second"):
        pass
    assert f"`dataengine build --input videos` of {lease._user()} on " in str(refused.value)
    assert f"pid {first.pid}, since 20" in str(refused.value)
    assert f"kill {first.pid}" in str(refused.value)


def test_a_run_that_was_killed_here_is_followed_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        os.kill(first.pid, signal.SIGKILL)
        # Not waited for: as a zombie it still has its pid.
        until(lambda: held(Store.at(tmp_path)))
    assert Store.at(tmp_path).names() == []


def test_a_pid_that_was_given_to_another_process_holds_nothing(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with holder(tmp_path):
        pass
    rewrite(store, pid=os.getpid())
    assert held(store)


def test_a_run_elsewhere_is_followed_when_its_lease_has_ended(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with holder(tmp_path):
        pass
    # Its clock is a year behind, which must not matter.
    rewrite(store, machine="another", host="node-7", since="2020-01-01 00:00:00 UTC")
    now = time.time()
    os.utime(tmp_path / NAME, (now - 30, now - 30))
    with pytest.raises(Busy, match=r"on node-7, .*if it was killed, its lease ends in 3\d s"), hold(store, "second"):
        pass
    ended = now - lease.EXPIRES_S - lease.MARGIN_S
    os.utime(tmp_path / NAME, (ended, ended))
    assert held(store)
    assert store.names() == []


def test_it_is_renewed_and_released(tmp_path: Path, quick: None) -> None:
    store = Store.at(tmp_path)
    with hold(store, "first") as mine:
        written = store.modified_ns(NAME)
        until(lambda: store.modified_ns(NAME) != written)
        assert mine.lost is None
        mine.check()
    assert store.names() == []


def test_who_lost_it_notices_and_leaves_the_winner_alone(tmp_path: Path, quick: None) -> None:
    store, reasons = Store.at(tmp_path), []
    with pytest.raises(LeaseLost, match="taken over by `another run`"), hold(store, "first", reasons.append) as mine:
        rewrite(store, token="another", command="another run")
        until(lambda: mine.lost is not None)
        with pytest.raises(LeaseLost):
            mine.check()
    assert len(reasons) == 1
    assert json.loads(store.read(NAME))["token"] == "another"


def test_a_lease_that_was_removed_is_lost(tmp_path: Path, quick: None) -> None:
    store = Store.at(tmp_path)
    with pytest.raises(LeaseLost, match="was removed"), hold(store, "first") as mine:
        store.delete(NAME)
        until(lambda: mine.lost is not None)


def test_a_heartbeat_that_fails_is_not_silent(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(store: Store, owner: Owner) -> None:
        raise ZeroDivisionError

    with (
        pytest.raises(LeaseLost, match="heartbeat failed"),
        hold(Store.at(tmp_path), "first") as mine,
    ):
        monkeypatch.setattr(lease, "_write", broken)
        until(lambda: mine.lost is not None)


def test_an_error_of_the_run_is_not_hidden_by_a_lost_lease(tmp_path: Path, quick: None) -> None:
    with pytest.raises(ZeroDivisionError), hold(Store.at(tmp_path), "first") as mine:
        (tmp_path / NAME).unlink()
        until(lambda: mine.lost is not None)
        raise ZeroDivisionError


def test_a_file_that_is_no_lease_is_replaced(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    store.write(NAME, b'{"half": ')
    assert held(store)


def winners(store: Store, takers: int) -> int:
    """How many of several that try at the same moment get it."""
    start, decided = threading.Barrier(takers), threading.Barrier(takers)
    won = []

    def take(number: int) -> None:
        start.wait()
        try:
            with hold(store, f"run {number}"):
                won.append(number)
                decided.wait()
        except Busy:
            decided.wait()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won)


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    assert [winners(Store.at(tmp_path), 8) for _ in range(10)] == [1] * 10


def test_of_many_at_once_one_gets_it_on_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_locked", lambda handle, folder: False)
    monkeypatch.setattr(lease, "SETTLE_S", 1.0)
    assert [winners(Store.at(tmp_path), 4) for _ in range(3)] == [1] * 3


@pytest.mark.slow
def test_on_an_object_store(s3_port: int, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 3.0)
    monkeypatch.setattr(lease, "EXPIRES_S", 0.5)
    monkeypatch.setattr(filesystems, "CLIENT_ATTEMPTS", 1)
    monkeypatch.setattr(errors, "PAUSE_S", 0.001)
    monkeypatch.setattr(errors, "ATTEMPTS", 8)
    faults = Faults(share=0.0, kinds=("503",))
    with faulty_proxy(s3_port, faults) as port:
        for key, value in environment(port).items():
            monkeypatch.setenv(key, value)
        store = Store.at(f"s3://{BUCKET}/out")
        assert winners(store, 4) == 1
        assert not store.exists(NAME)
        faults.share = 0.2
        with hold(store, "first") as mine:
            requests = faults.requests["PUT"]
            until(lambda: faults.requests["PUT"] > requests + 5)
            assert not held(store)
            assert mine.lost is None
        assert faults.injected["503"] > 0
        with pytest.raises(LeaseLost, match="could not be renewed for"), hold(store, "first") as mine:
            faults.share = 1.0
            until(lambda: mine.lost is not None)
        faults.share = 0.0
        rewrite(store, machine="another", host="node-7")
        until(lambda: held(store))
