"""The timer thread by itself: order, clearing, faults. What contexts make of it is in test_context."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import threading
import time
import weakref

import pytest

import tasker._sync.timer
from tasker._sync.timer import TimerEntry
from tests.support.waiting import PATIENCE, eventually


def timer_threads():
    return sum(thread.name == "tasker-timer" for thread in threading.enumerate())


@contextlib.contextmanager
def nothing_fires(timer):
    """A block in which the thread is not started, however long the block takes."""
    timer._starting = True
    yield
    timer._starting = False
    timer.ensure_running()


def test_entries_fire_in_the_order_of_their_times(timer):
    fired, done = [], threading.Event()
    start = time.monotonic()
    order = list(range(50))
    random.Random(1).shuffle(order)
    with nothing_fires(timer):
        for i in order:
            timer.at(start + i / 1e4, lambda i=i: fired.append(i))
        timer.at(start + 0.01, done.set)
    assert done.wait(PATIENCE)
    assert fired == list(range(50))


def test_entries_of_the_same_time_fire_in_the_order_of_their_making(timer):
    fired, done = [], threading.Event()
    when = time.monotonic()
    with nothing_fires(timer):
        for i in range(50):
            timer.at(when, lambda i=i: fired.append(i))
        timer.at(when, done.set)
    assert done.wait(PATIENCE)
    assert fired == list(range(50))


def test_an_earlier_entry_wakes_the_thread_that_sleeps_for_a_later_one(timer):
    timer.at(time.monotonic() + 3600, lambda: None)
    eventually(lambda: timer._wakes_at > 0)  # asleep, or about to be
    fired = threading.Event()
    timer.at(time.monotonic(), fired.set)
    assert fired.wait(PATIENCE)


def test_a_cancelled_entry_does_not_fire_and_may_be_cancelled_again(timer):
    fired, done = [], threading.Event()
    when = time.monotonic()
    with nothing_fires(timer):
        entry = timer.at(when, lambda: fired.append(1))
        entry.cancel()
        entry.cancel()
        timer.at(when, done.set)
    assert done.wait(PATIENCE)
    assert fired == []


def test_an_entry_fires_once_and_may_be_cancelled_afterwards():
    fired = []
    entry = TimerEntry(lambda: fired.append(1))
    entry.fire()
    entry.fire()
    entry.cancel()
    assert fired == [1]


def test_an_entry_that_raises_is_logged_and_the_next_ones_fire(timer, caplog):
    done = threading.Event()

    def fail():
        raise SystemExit("no")

    with caplog.at_level(logging.ERROR, "tasker"):
        timer.at(0.0, fail)
        timer.at(0.0, done.set)
        assert done.wait(PATIENCE)
        eventually(lambda: "SystemExit" in caplog.text)


def test_cleared_entries_do_not_pile_up_and_no_live_one_is_lost(timer):
    rng = random.Random(2)
    live, most = [], 0
    for i in range(20_000):
        live.append(timer.at(time.monotonic() + 3600 + rng.random(), lambda: None))
        if i % 5 or len(live) > 1000:
            live.pop(rng.randrange(len(live))).cancel()
        if i % 1000 == 0:
            eventually(
                lambda: not timer._incoming or len(timer._incoming) <= tasker._sync.timer._BATCH
            )
            most = max(most, timer.waiting())
    assert most <= 4 * (1000 + tasker._sync.timer._BATCH)
    eventually(lambda: len(timer._cleared) <= tasker._sync.timer._BATCH + timer.waiting())
    looks = []
    timer.at(
        0.0, lambda: looks.append(list(timer._heap))
    )  # in its own thread, which alone changes it
    eventually(lambda: looks)
    [heap] = looks
    assert set(live) <= {entry for *_, entry in heap}
    assert all(heap[(i - 1) // 2] < heap[i] for i in range(1, len(heap)))


def test_later_deadlines_do_not_pile_up_in_front_of_a_sleeping_thread(timer):
    timer.at(time.monotonic() + 3600, lambda: None)
    eventually(lambda: timer._wakes_at > 0)
    for _ in range(tasker._sync.timer._BATCH + 1):
        timer.at(time.monotonic() + 7200, lambda: None)
    eventually(lambda: len(timer._heap) == tasker._sync.timer._BATCH + 2)


def test_a_deadline_set_while_the_thread_falls_asleep_is_not_missed(timer):
    fired, receive = threading.Event(), timer._receive
    late = []

    def interrupted_receive():
        received = receive()
        if timer._wakes_at > 0 and not late:  # after the look that precedes the sleep
            late.append(timer.at(time.monotonic(), fired.set))
        return received

    timer._receive = interrupted_receive
    timer.at(time.monotonic() + 3600, lambda: None)
    assert fired.wait(PATIENCE)


def test_what_has_fired_or_was_cancelled_is_not_kept_until_something_else_happens(timer):
    class Thing:
        def fire(self):
            fired.set()

    fired = threading.Event()
    first, second = Thing(), Thing()
    watches = [weakref.ref(first), weakref.ref(second)]
    entries = [
        timer.at(time.monotonic(), first.fire),
        timer.at(time.monotonic() + 3600, second.fire),
    ]
    assert fired.wait(PATIENCE)
    entries[1].cancel()
    del first, second

    def gone():
        gc.collect()
        return [watch() for watch in watches] == [None, None]

    eventually(gone)


def test_a_thread_that_cannot_start_is_started_later(timer, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    fired = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    timer.at(time.monotonic(), fired.set)
    timer.ensure_running()
    assert not fired.is_set()
    monkeypatch.setattr(threading.Thread, "start", start)
    timer.ensure_running()
    assert fired.wait(PATIENCE)


def test_no_thread_is_started_for_nothing(timer):
    timer.ensure_running()
    assert timer._thread is None


def test_many_threads_that_set_the_first_deadline_start_one_timer_thread(timer):
    before = timer_threads()
    barrier, fired = threading.Barrier(8), threading.Semaphore(0)

    def first():
        barrier.wait(PATIENCE)
        timer.at(time.monotonic() + 0.001, fired.release)

    threads = [threading.Thread(target=first) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert timer_threads() == before + 1
    for _ in range(8):
        assert fired.acquire(timeout=PATIENCE)


def test_a_signal_handler_that_sets_a_deadline_while_the_thread_is_started_starts_no_second(
    timer, monkeypatch
):
    start = threading.Thread.start
    handled, fired = [], threading.Event()

    def interrupted_start(thread):
        if not handled:  # as a handler might be called in here
            handled.append(1)
            timer.at(time.monotonic(), fired.set)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    before = timer_threads()
    timer.at(time.monotonic() + 3600, lambda: None)
    assert timer_threads() == before + 1
    assert fired.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")
def test_signal_handlers_may_set_and_clear_deadlines_at_any_moment(timer):
    handled = []

    def handler(*_):
        timer.at(time.monotonic() + 3600, lambda: None).cancel()
        timer.at(time.monotonic(), lambda: None)
        handled.append(1)

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while len(handled) < 30:
            timer.at(time.monotonic() + 3600, lambda: None).cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    fired = threading.Event()
    timer.at(time.monotonic(), fired.set)
    assert fired.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="needs fork()")
def test_a_forked_child_begins_with_an_empty_timer(monkeypatch):
    before = tasker._sync.timer._timer
    monkeypatch.setattr(tasker._sync.timer, "_timer", before)  # put back at the end
    tasker._sync.timer.start_afresh()
    assert tasker._sync.timer._timer is not before
    assert tasker._sync.timer._timer.waiting() == 0
    assert tasker._sync.timer._timer._thread is None
