"""`ParkingLot`: where threads wait for something. `Parker`: what one thread sleeps on.

A thread that waits *announces* itself in the lot, *looks* for what it wants, and only
then sleeps. A thread that makes something available does so first, and then looks for
an announcement (R1). So no wake-up is lost, and as long as no thread waits, no thread
takes a lock.

A wake-up may be spurious: it came late, or was sent twice. The woken thread looks
again, and that is all it costs. Ctrl-C may still lose a wake-up, between taking an
announcement and waking its thread. `wake_stranded()` makes up for that.

Giving way. A thread that is woken while its waker holds the interpreter lock runs into
that lock and sleeps again. So on one processor a task whose caller waits costs six
switches of threads. A thread that lets the others run before it goes to sleep mostly
finds that it need not sleep: the task is done, or the next one is there. Then each way
is one switch. See `give_way`.

Free-threaded builds. There a thread calls `sched_yield` 40 times before it sleeps on a
lock. A thread that a `SimpleQueue` wakes does the same, because its waker still has the
queue's lock. Linux lets a thread that yields wait for the others of its processor. With
two busy workers on two processors (3.13, Linux 6.18) the thread that asked for a result
ran 8 ms after it was woken, and one time in ten more than 200 ms. CPython has something
that needs no lock: the event that `Thread.join` sleeps on. There the two figures are
0.03 and 2 ms, and a hand-over and back, on one processor, takes 12 µs instead of 60.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tasker._sync.clock import monotonic

__all__ = ["Parker", "ParkingLot", "copy_of", "gil_enabled", "give_way", "new_sleep_lock"]

T = TypeVar("T")

# Sleeping is cheaper than giving way for longer than this. It is less than half of the
# shortest time slice of Linux (0.7 ms), so a whole slice lost is always noticed.
_WORTHWHILE_S = 3e-4

# The pause lasts at most so many times as long as the yield before it took. Then giving
# way costs 0.4 % of the time.
_LONGEST_PAUSE_FACTOR = 256.0


def gil_enabled() -> bool:
    """Whether one thread at a time runs bytecode (always, before 3.13)."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


_new_handle: Any = getattr(_thread, "_make_thread_handle", None)


class _EventLock:
    """Serves as a raw lock that is taken, on free-threaded builds.

    `acquire` joins a thread that does not exist. A handle is done once and for all, so
    each sleep that was ended leaves a new one behind."""

    __slots__ = ("_handle",)

    def __init__(self) -> None:
        self._handle = _new_handle(0)

    def acquire(self, *, timeout: float = -1.0) -> bool:
        handle = self._handle
        handle.join(None if timeout < 0 else timeout)
        if not handle.is_done():
            return False

        # A release that came meanwhile is part of this one: the woken thread looks
        # again.
        self._handle = _new_handle(0)
        return True

    def release(self) -> None:
        self._handle._set_done()


def _taken_lock() -> threading.Lock:
    # The type is looked up at each call: see new_sleep_lock.
    lock = threading.Lock()
    lock.acquire()
    return lock


# Makes what one thread sleeps on: its `acquire` returns once another thread has called
# `release`, or calls it now. A lock profiler, or gevent, may replace `threading.Lock`
# at any time. A thread that sleeps needs the lock of that time: a greenlet that slept
# on a lock of the system would stop all others.
new_sleep_lock: Callable[[], threading.Lock | _EventLock] = (
    _taken_lock if gil_enabled() or _new_handle is None else _EventLock
)


_yield: Callable[[], object] | None = getattr(os, "sched_yield", None) if gil_enabled() else None

# No thread gives way before this time, by `monotonic`.
_give_way_from = 0.0

# After the next yield that takes too long, the pause is so many times as long.
_pause = 1.0


def give_way() -> None:
    """Let other threads run before the calling thread sleeps.

    What it waits for may be there afterwards.

    A yield may take long. Another program wants the processor and gets it for a whole
    time slice (Linux makes a thread that yields wait for the others), a thread that
    computes has the interpreter lock, or the tasks are long. Then no thread gives way
    for as long again, and for longer and longer if that goes on. So giving way costs
    next to nothing in the end."""
    global _give_way_from, _pause
    if _yield is None:
        return

    began = monotonic()
    if began >= _give_way_from:
        _yield()
        took = monotonic() - began

        if took > _WORTHWHILE_S:
            _give_way_from = began + took * (1.0 + _pause)
            _pause = min(_pause * 2.0, _LONGEST_PAUSE_FACTOR)
        elif _pause > 1.0:
            _pause /= 2.0


def copy_of(line: deque[T]) -> list[T]:
    """Copy a deque of distinct items.

    Meanwhile other threads may take the first ones, and append. An item that is in the
    deque from the beginning to the end of the call is in the copy."""
    for _ in range(10):
        # RuntimeError: the deque has changed meanwhile.
        with contextlib.suppress(RuntimeError):
            # `line.copy()` takes hundreds of times as long on 3.13 without the GIL.
            return list(line)

    items: dict[T, None] = {}
    with contextlib.suppress(IndexError):
        # It is read from its end: an item taken from the front moves no other, and an
        # item appended only makes us see another one twice.
        for place in range(1, 2 * len(line) + 1):
            items[line[-place]] = None

    return [*items][::-1]


class Parker:
    """Where one thread sleeps.

    Any thread and any signal handler may call `wake()`, which never blocks."""

    __slots__ = ("_lock", "parked")

    # A thread needs no loop in order to come: see `room.Place`.
    loop: None = None

    def __init__(self) -> None:
        self._lock = new_sleep_lock()

        # Whether its thread sleeps in a parking lot, with nothing in its hands.
        self.parked: bool = False

    def sleep(self, timeout: float = -1.0) -> bool:
        """Sleep until woken (`True`) or for `timeout` seconds.

        A wake-up that was sent before counts."""
        return self._lock.acquire(timeout=timeout)

    def wake(self) -> None:
        # suppress() would cost more than the release.
        try:  # noqa: SIM105
            self._lock.release()
        except RuntimeError:  # it is awake already
            pass


class ParkingLot:
    """Threads that wait for something that others make available."""

    __slots__ = ("announced", "watch")

    def __init__(self) -> None:
        # The last one to come is the first to be woken: its caches are warm.
        self.announced: deque[Parker] = deque()

        # Called by every thread that is about to sleep.
        self.watch: Callable[[], object] | None = None

    def park(self, parker: Parker, look: Callable[[], T | None], timeout: float = -1.0) -> T | None:
        """Return what `look()` finds, before sleeping or after it.

        `None` when the wait timed out, or the thread was woken for nothing."""
        self.announced.append(parker)
        give_way()
        found = look()
        if found is not None:
            if not self.take_back(parker):
                # Another thread is about to wake us. Unless we use that wake-up up
                # here, it ends our next sleep at once. The 0.05 s are a guess: an
                # exception may end the other thread before it wakes us.
                parker.sleep(0.05)
            return found

        woken = False
        try:
            parker.parked = True
            watch = self.watch
            if watch is not None:
                watch()
            woken = parker.sleep(timeout)
        finally:
            parker.parked = False
            if not woken and not self.take_back(parker):
                # A wake-up came too late for us: another thread gets it.
                self.wake_one()

        found = look()
        if found is None and woken:
            # A stale wake-up woke us. Our entry goes, or the next park() would list us
            # twice, and a later wake-up could come to us while we are busy.
            self.take_back(parker)
        return found

    def go_to_cold_end(self, parker: Parker) -> None:
        """Let all others be woken before this thread, which is about to look.

        It announces itself anew before that, so no wake-up is lost (R1). If its
        announcement was taken already, it stays so."""
        if self.take_back(parker):
            self.announced.appendleft(parker)

    def wake_one(self) -> None:
        """Wake the thread that came last."""
        try:
            parker = self.announced.pop()
        except IndexError:
            return
        parker.wake()

    def wake_all(self) -> None:
        """Wake all threads that are announced now.

        Those that announce themselves meanwhile are left: there might be no end."""
        for _ in range(len(self.announced)):
            parker = self.take_longest()
            if parker is None:
                return
            parker.wake()

    def take_longest(self) -> Parker | None:
        """Take the announcement of the thread that waits longest, without waking it.

        The parker is the caller's now."""
        try:
            return self.announced.popleft()
        except IndexError:
            return None

    def wake_stranded(self, parkers: Iterable[Parker]) -> None:
        """Wake the threads that sleep although their announcement is gone.

        The thread that took the announcement did not get to waking them."""
        # Read before the list: a thread that sleeps by then was announced before.
        parked = [parker for parker in parkers if parker.parked]
        listed = {*copy_of(self.announced)}

        for parker in parked:
            if parker not in listed:
                parker.wake()

    def take_back(self, parker: Parker) -> bool:
        """Take an announcement back.

        `False`: another thread has taken it in order to wake us."""
        try:
            self.announced.remove(parker)
        except ValueError:
            return False
        return True
