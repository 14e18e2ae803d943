"""The one timer thread: every deadline of the process waits in its heap, and it never runs user code.

The thread is started by the first deadline and sleeps until the earliest one. `_lock` guards the heap; it is
reentrant because a signal handler or a `__del__` may set a deadline while its own thread is setting another. What
fires runs outside the lock and must be tasker's own, short, and must not raise.

An entry is a slot that can be cleared, so that a finished task is not kept until the deadline it no longer has; the
heap is rebuilt when more than half of it is cleared.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

__all__ = ["TimerEntry", "at", "ensure_running"]

_SMALL = 64  # heaps up to this size are not worth rebuilding


class TimerEntry:
    """A place in the timer's heap: fires once unless cancelled first."""

    __slots__ = ("_fire",)

    def __init__(self, fire: Callable[[], object]) -> None:
        self._fire: Callable[[], object] | None = fire

    def cancel(self) -> None:
        """Forget what was to fire; harmless when it has fired."""
        if self._fire is not None:
            self._fire = None
            _timer.entry_cleared()

    def fire(self) -> None:
        fire, self._fire = self._fire, None
        if fire is not None:
            fire()


class _Timer:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._earlier = threading.Condition(self._lock)  # notified when a new entry is the earliest
        self._heap: list[tuple[float, int, TimerEntry]] = []
        self._order = itertools.count()
        self._cleared = 0  # entries cleared and perhaps still in the heap
        self._thread: threading.Thread | None = None
        self._starting = False

    def at(self, when: float, fire: Callable[[], object]) -> TimerEntry:
        entry = TimerEntry(fire)
        with self._lock:
            heapq.heappush(self._heap, (when, next(self._order), entry))
            if self._heap[0][2] is entry:
                self._earlier.notify()
        self.ensure_running()
        return entry

    def ensure_running(self) -> None:
        if not self._heap or (self._thread is not None and self._thread.is_alive()):
            return
        with self._lock:
            if self._starting or (self._thread is not None and self._thread.is_alive()):
                return  # starting: a signal handler interrupted the lines below, which see its entry too
            self._starting = True
            try:
                self._thread = threading.Thread(target=self._run, name="tasker-timer", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads for now: the next call tries again
                    self._thread.start()
            finally:
                self._starting = False

    def entry_cleared(self) -> None:
        with self._lock:
            self._cleared += 1
            if self._cleared * 2 > len(self._heap) > _SMALL:
                self._heap = [item for item in self._heap if item[2]._fire is not None]
                heapq.heapify(self._heap)
                self._cleared = 0

    def _run(self) -> None:
        while True:
            for entry in self._wait_for_due():
                try:
                    entry.fire()
                except BaseException:
                    logging.getLogger("tasker").exception("tasker: the timer met an error")
            # what fired must not live until the next deadline; it is never without one
            del entry  # pyright: ignore[reportPossiblyUnboundVariable]

    def _wait_for_due(self) -> list[TimerEntry]:
        with self._lock:
            while not self._heap or self._heap[0][0] > time.monotonic():
                left = self._heap[0][0] - time.monotonic() if self._heap else threading.TIMEOUT_MAX
                self._earlier.wait(max(0.0, min(left, threading.TIMEOUT_MAX)))
            due: list[TimerEntry] = []
            now = time.monotonic()
            while self._heap and self._heap[0][0] <= now:
                due.append(heapq.heappop(self._heap)[2])
            return due


_timer = _Timer()


def at(when: float, fire: Callable[[], object]) -> TimerEntry:
    """Have `fire` called on the timer thread at `when`, in seconds of `time.monotonic()`. Never blocks or raises."""
    return _timer.at(when, fire)


def ensure_running() -> None:
    """Start the timer thread if deadlines wait and it is not there (it could not be started before)."""
    _timer.ensure_running()


def _start_afresh() -> None:
    """In a forked child: the timer thread is not there, and its lock may be held by nobody."""
    global _timer
    _timer = _Timer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
