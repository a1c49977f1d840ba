"""Threads that share a stage: one set-up, whose time it is, and being alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event, Thread
from time import sleep

from dataengine.engine.sharing import Shared


def clock(*seconds: float) -> Iterator[tuple[float, float]]:
    """Wall seconds as given, and processor seconds twice as many."""
    return iter([(s, 2 * s) for s in seconds])


def test_a_second_is_shared_among_those_who_work_in_it() -> None:
    # Made; one enters; two enters; one leaves; two leaves; three enters and leaves.
    ticks = clock(0, 10, 12, 15, 21, 30, 31)
    shared = Shared(2, lambda: next(ticks))
    with ExitStack() as two_leaves, ExitStack() as one_leaves:
        one = one_leaves.enter_context(shared.working(alone=False))
        two = two_leaves.enter_context(shared.working(alone=False))
    with shared.working(alone=False) as three:
        pass
    assert (one.wall, two.wall, three.wall) == (2 + 1.5, 1.5 + 6, 1)
    assert one.cpu == 2 * one.wall
    assert one.wall + two.wall == 21 - 10


def test_time_is_counted_also_where_the_work_fails() -> None:
    ticks = clock(0, 1, 4)
    shared = Shared(1, lambda: next(ticks))
    try:
        with shared.working(alone=True) as spent:
            raise ValueError
    except ValueError:
        pass
    assert spent.wall == 3


def test_a_stage_is_set_up_once_and_again_where_it_failed() -> None:
    shared, calls = Shared(4), []

    def set_up() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise RuntimeError("no weights")

    def try_to() -> bool:
        try:
            shared.once("stage", set_up)
        except RuntimeError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: try_to(), range(4)))
    assert (sorted(done), len(calls)) == ([False, True, True, True], 2)
    shared.once("another stage", set_up)
    assert len(calls) == 3


def test_what_loading_took_is_told_to_the_one_who_did_it() -> None:
    now = [0.0]

    def set_up() -> None:
        now[0] += 7.0

    shared = Shared(2, clock=lambda: (now[0], 0.0))
    assert [shared.once("stage", set_up) for _ in range(2)] == [7.0, 0.0]


def test_who_must_be_alone_waits_for_the_others_and_new_ones_wait_for_it() -> None:
    shared, order = Shared(3), []
    first_may_end, suspect_asks = Event(), Event()

    def first() -> None:
        with shared.working(alone=False):
            suspect_asks.set()
            first_may_end.wait()
            order.append("first")

    def suspect() -> None:
        with shared.working(alone=True):
            order.append("alone")

    def new() -> None:
        with shared.working(alone=False):
            order.append("new")

    threads = [Thread(target=first)]
    threads[0].start()
    suspect_asks.wait()
    threads.append(Thread(target=suspect))
    threads[1].start()
    while not shared._asking:  # until the suspect stands at the door
        sleep(0.001)
    threads.append(Thread(target=new))
    threads[2].start()
    threads[2].join(0.2)
    assert order == []
    first_may_end.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "alone", "new"]
