"""`ParkingLot`: where threads of tasker wait, and `Parker`, what one thread sleeps on there.

A waiter *announces* itself, *looks* for what it wants, and only then sleeps on the raw lock of its parker. Whoever makes
something available makes it first and then looks for an announcement. So either the waiter sees the thing or the maker
sees the waiter: no wake-up is lost, and as long as nobody waits nobody takes a lock.

A wake-up may be spurious (it comes late, or was sent twice): waiters look again, that is all it costs. One that is lost
for another reason (Ctrl-C between taking an announcement and sending the wake-up) is made good by `wake_stranded()`.

Giving way. A thread that is woken while its waker holds the interpreter lock runs into that lock and sleeps again, so
on one processor a task for which a caller waits costs six switches of threads. A thread that lets the others run before
it goes to sleep mostly finds that it need not: the task is done, or the next one is there, and each way is one switch.
See `give_way`.

Free-threaded builds. There a thread calls `sched_yield` 40 times before it sleeps on a lock. So does one that a
`SimpleQueue` wakes, because the thread that woke it still has the queue's lock. Linux lets a thread that yields wait
for the others of its processor. With two busy workers on two processors (3.13, Linux 6.18) the thread that asked for
a result ran 8 ms after it was woken, and one time in ten more than 200 ms. CPython has something that needs no lock,
the event that `Thread.join` sleeps on: with that it is 0.03 and 2 ms, and a hand-over and back, on one processor, takes
12 µs instead of 60.
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

_WORTHWHILE = (
    3e-4  # seconds: what ends later is better slept for. A slice of Linux is 0.7 ms at least
)
_LONGEST_PAUSE = 256.0  # times as long as it took


def gil_enabled() -> bool:
    """Whether one thread at a time runs bytecode (always, before 3.13)."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


_new_handle: Any = getattr(_thread, "_make_thread_handle", None)


class _EventLock:
    """As good as a raw lock that is taken, on free-threaded builds: `acquire` joins a thread that does not exist.

    A handle is done once and for all, so each sleep that was ended leaves a new one behind."""

    __slots__ = ("_handle",)

    def __init__(self) -> None:
        self._handle = _new_handle(0)

    def acquire(self, *, timeout: float = -1.0) -> bool:
        handle = self._handle
        handle.join(None if timeout < 0 else timeout)
        if not handle.is_done():
            return False
        self._handle = _new_handle(
            0
        )  # a release that came meanwhile is part of this one: who is woken looks again
        return True

    def release(self) -> None:
        self._handle._set_done()


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()  # of whatever type it is by now: see new_sleep_lock
    lock.acquire()
    return lock


# what one thread sleeps on: its `acquire` returns when another has said, or says, `release`. Its type is anybody's: a
# lock profiler, or gevent, may replace `threading.Lock` at any time, and who sleeps needs the lock of that time, for a
# greenlet that slept on a lock of the system would stop all others
new_sleep_lock: Callable[[], threading.Lock | _EventLock] = (
    _taken_lock if gil_enabled() or _new_handle is None else _EventLock
)


_yield: Callable[[], object] | None = getattr(os, "sched_yield", None) if gil_enabled() else None
_give_way_from = 0.0  # by `monotonic`
_pause = 1.0  # after the next one that takes too long: so many times as long


def give_way() -> None:
    """Let other threads run, for a thread that is about to sleep: what it waits for may be there afterwards.

    That may take long: another program wants the processor and gets it for a whole slice (Linux makes a thread that
    yields wait for the others), a thread that computes has the interpreter lock, or the tasks are long. Then it is not
    done for as long again, and for longer and longer if that goes on, so that it costs next to nothing in the end."""
    global _give_way_from, _pause
    if _yield is None:
        return
    began = monotonic()
    if began >= _give_way_from:
        _yield()
        took = monotonic() - began
        if took > _WORTHWHILE:
            _give_way_from = began + took * (1.0 + _pause)
            _pause = min(_pause * 2.0, _LONGEST_PAUSE)
        elif _pause > 1.0:
            _pause /= 2.0


def copy_of(line: deque[T]) -> list[T]:
    """What is in a deque of different things whose first ones others take meanwhile, and to which they append.

    Nothing is missing that was there from the beginning to the end of the call."""
    for _ in range(10):
        with contextlib.suppress(RuntimeError):  # it has changed meanwhile
            return list(
                line
            )  # without the GIL 3.13 takes hundreds of times as long for its `copy()`
    items: dict[T, None] = {}
    with contextlib.suppress(IndexError):
        # from its end: what is taken moves nothing there, and for what is appended a thing is only seen twice
        for place in range(1, 2 * len(line) + 1):
            items[line[-place]] = None
    return [*items][::-1]


class Parker:
    """Where one thread sleeps. `wake()` may come from anywhere, signal handlers included, and never blocks."""

    __slots__ = ("_lock", "parked")

    loop: None = None  # it needs none to run

    def __init__(self) -> None:
        self._lock = new_sleep_lock()
        self.parked: bool = (
            False  # whether its thread sleeps in a parking lot, with nothing in its hands
        )

    def sleep(self, timeout: float = -1.0) -> bool:
        """Sleep until woken (`True`) or for `timeout` seconds; a wake-up sent before counts."""
        return self._lock.acquire(timeout=timeout)

    def wake(self) -> None:
        try:  # noqa: SIM105  # suppress() would cost more than the release
            self._lock.release()
        except RuntimeError:  # it is awake already
            pass


class ParkingLot:
    """Threads that wait for something that others make available."""

    __slots__ = ("announced", "watch")

    def __init__(self) -> None:
        self.announced: deque[Parker] = (
            deque()
        )  # last come, first woken: the one whose caches are warm
        self.watch: Callable[[], object] | None = (
            None  # called by every thread that is about to sleep
        )

    def park(self, parker: Parker, look: Callable[[], T | None], timeout: float = -1.0) -> T | None:
        """What `look()` finds, before sleeping or after it; `None` when woken for nothing or timed out."""
        self.announced.append(parker)
        give_way()
        found = look()
        if found is not None:
            if not self.take_back(parker):
                parker.sleep(
                    0.05
                )  # somebody is about to wake us: left unused, that would end our next sleep at once
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
                self.wake_one()  # a wake-up came too late for us: it is somebody else's
        found = look()
        if found is None and woken:
            self.take_back(
                parker
            )  # a late wake-up of before: listed twice, we would be woken while busy, for another
        return found

    def wake_one(self) -> None:
        """Wake the one that came last."""
        try:
            parker = self.announced.pop()
        except IndexError:
            return
        parker.wake()

    def wake_all(self) -> None:
        """Wake all that are announced now; not those that announce themselves meanwhile, or there might be no end."""
        for _ in range(len(self.announced)):
            parker = self.take_longest()
            if parker is None:
                return
            parker.wake()

    def take_longest(self) -> Parker | None:
        """Take the announcement of the one that waits longest, without waking it: it is the caller's now."""
        try:
            return self.announced.popleft()
        except IndexError:
            return None

    def wake_stranded(self, parkers: Iterable[Parker]) -> None:
        """Wake those that sleep although their announcement is gone: whoever took it did not get to waking them."""
        parked = [
            parker for parker in parkers if parker.parked
        ]  # looked at first: they were announced before
        listed = {*copy_of(self.announced)}
        for parker in parked:
            if parker not in listed:
                parker.wake()

    def take_back(self, parker: Parker) -> bool:
        """Take an announcement back; `False` when somebody has taken it in order to wake us."""
        try:
            self.announced.remove(parker)
        except ValueError:
            return False
        return True
