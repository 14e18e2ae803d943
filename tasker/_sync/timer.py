"""The one timer thread: every deadline of the process waits in its heap, and it never runs user code.

The thread is started by the first deadline and sleeps until the earliest one. The heap is its own: whoever sets a
deadline puts an entry into a deque and wakes the thread if it would sleep too long, so signal handlers and `__del__`
may set or clear deadlines wherever they interrupt. The thread says when it will wake, *then* looks into the deque once
more, then sleeps; who sets a deadline appends it, *then* looks when the thread will wake.

An entry is a slot that can be cleared, so that a finished task is not kept until the deadline it no longer has; the
thread drops the cleared ones when they are half of the heap. What fires must be tasker's own and short. What it refers
to may be the user's, so the thread hands what has fired to `runner`, which lets go of it on a thread that may block.

The thread survives what goes wrong in a turn: an entry stays in the deque or in the heap until it has been dealt with.
A thread that is ended all the same is replaced by its own last act, or by `ensure_running`.

Limits set by `after` are tasker's patience with others. When the thread wakes much too late (the machine slept, the
process was stopped), nobody could act in some of that time: such a limit is put off by all of it, once.
`_lock` guards the starting of the thread, nothing else.

Deadlines are measured by `now()` and set by `at()`, which a test's clock may replace (`follow`). They are variables, so
that it costs nobody else anything: call them as `timer.now()` and `timer.at()`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tasker._sync.callback_runner import STUCK, CallbackRunner
from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import ours
from tasker._sync.locks import new_lock, release_locks
from tasker._sync.parking import Parker
from tasker._sync.threads import new_thread

__all__ = [
    "Clock",
    "TimerEntry",
    "after",
    "at",
    "end",
    "ensure_running",
    "follow",
    "look_after_aside",
    "now",
    "runner",
    "runs",
    "start_afresh",
]

TRIES = 10  # of what fires and fails
AGAIN = 0.05  # seconds from one to the next
LATE = 1.0  # seconds: a thread that wakes so much too late could not act

_BATCH = 512  # entries that may wait in the deque, or stay cleared in the heap, before the thread is woken for it


class TimerEntry:
    """A place in the timer's heap: fires once unless cancelled first. `patient`: put off if the timer is late."""

    __slots__ = ("_fire", "patient", "tries")

    def __init__(self, fire: Callable[[], object], *, patient: bool = False) -> None:
        self._fire: Callable[[], object] | None = fire
        self.patient: bool = patient
        self.tries: int = 0  # that failed

    def cancel(self) -> None:
        """Forget what was to fire; harmless when it has fired."""
        if self._fire is not None:
            self._fire = None
            _timer.entry_cleared()

    def is_set(self) -> bool:
        """Whether it may still fire."""
        return self._fire is not None

    def fire(self, fired: list[Any] | None = None) -> None:
        """Call what was to fire, unless that was forgotten; puts it into `fired`, for the caller to let go of."""
        fire, self._fire = self._fire, None
        if fire is not None:
            try:
                if fired is not None:
                    fired.append(fire)
                fire()
            except BaseException:
                self._fire = fire  # it may be tried again: what fires may be done twice
                raise


_Item = tuple[float, int, TimerEntry]


class _Timer:
    def __init__(self) -> None:
        self._incoming: deque[_Item] = deque()
        self._heap: list[_Item] = []  # the thread's own
        self._cleared: deque[None] = deque()  # as long as there are cleared entries, more or less
        self._wakes_at = -math.inf  # when the thread will wake; in the past while it is awake
        self._parker = Parker()
        self._was_late = False
        self._order = itertools.count()
        self._lock = new_lock()
        self._starting = False
        self._struck = False  # whether the last turn was ended by an error
        self._thread: threading.Thread | None = None

    def at(self, when: float, fire: Callable[[], object], *, patient: bool = False) -> TimerEntry:
        entry = TimerEntry(fire, patient=patient)
        self._incoming.append((when, next(self._order), entry))
        if when < self._wakes_at or len(self._incoming) > _BATCH:
            self._parker.wake()
        self.ensure_running()
        return entry

    def entry_cleared(self) -> None:
        self._cleared.append(None)
        if self._many_cleared():
            self._parker.wake()

    def waiting(self) -> int:
        """Entries kept, cleared ones included."""
        return len(self._heap) + len(self._incoming)

    def ensure_running(self) -> None:
        if not self.waiting() or (self._thread is not None and self._thread.is_alive()):
            return
        with self._lock:
            if self._starting or (self._thread is not None and self._thread.is_alive()):
                return  # starting: a signal handler interrupted the lines below
            self._starting = True
            try:
                self._parker = (
                    Parker()
                )  # of the kind that threads have now: see `parking.new_sleep_lock`
                self._thread = new_thread(self._run, "tasker-timer")
                with contextlib.suppress(
                    RuntimeError, MemoryError
                ):  # no more threads for now: tried again next time
                    self._thread.start()
            finally:
                self._starting = False

    def stop(self) -> None:
        """Have the thread end, whatever waits, and wait for that."""
        thread, self._thread = self._thread, None
        self._parker.wake()
        if thread is not None and thread.is_alive():
            thread.join()

    def _run(self) -> None:
        thread = threading.current_thread()
        try:
            while self._thread is thread:
                try:
                    if self._struck:
                        release_locks()
                        self._struck = False
                    self._turn()
                except BaseException as error:  # no memory: the next turn does what is left
                    self._struck = True
                    _report(error)
        finally:
            if self._thread is thread:  # an exception that another thread sent
                self._thread = None
                self.ensure_running()

    def _turn(self) -> None:
        """Sleep until something is due, and fire it."""
        self._receive()
        self._wakes_at = self._heap[0][0] if self._heap else math.inf
        overslept = 0.0
        if not self._receive():
            overslept = self._sleep(min(self._wakes_at - monotonic(), threading.TIMEOUT_MAX))
        self._wakes_at = -math.inf

        if overslept and not self._was_late:  # late again and again: that is how things are
            self._put_off(overslept)
        self._was_late = overslept > 0.0
        self._fire_due()
        runner.heal()

    def _sleep(self, left: float) -> float:
        """Sleep for so many seconds at most; returns how many it has slept if that was much too long, else 0."""
        if runner.waits():
            left = min(left, STUCK)
        asleep = monotonic()
        if left <= 0 or self._parker.sleep(left):
            return 0.0
        slept = monotonic() - asleep
        return slept if slept - left > LATE else 0.0

    def _put_off(self, seconds: float) -> None:
        """Nobody could act in some of that time, it is not known when: the limits of those who wait for others begin to
        count anew where they were before it."""
        heap: list[_Item] = []
        for when, order, entry in self._heap:
            heap.append((when + seconds if entry.patient else when, order, entry))
        heapq.heapify(heap)
        self._heap = heap

    def _receive(self) -> bool:
        """Take what was put into the deque; whether there was anything."""
        received = False
        while self._incoming:
            heapq.heappush(self._heap, self._incoming[0])
            self._incoming.popleft()  # not before, or no memory for the heap would lose a deadline
            received = True
        if self._many_cleared():
            self._cleared.clear()
            self._heap = [item for item in self._heap if item[2].is_set()]
            heapq.heapify(self._heap)
        return received

    def _many_cleared(self) -> bool:
        return len(self._cleared) > _BATCH and len(self._cleared) * 2 > len(self._heap)

    def _fire_due(self) -> None:
        now = monotonic()
        fired: list[Any] = []
        try:
            while self._heap and self._heap[0][0] <= now:
                _, order, entry = self._heap[0]
                try:
                    entry.fire(fired)
                except BaseException as error:  # no memory, say
                    self._struck = True
                    _report(error)
                    entry.tries += 1
                    if entry.tries < TRIES:
                        heapq.heapreplace(self._heap, (now + AGAIN, order, entry))
                        continue
                heapq.heappop(self._heap)
        finally:
            runner.let_go(fired)


def _report(error: BaseException) -> None:
    """On the timer thread, which must not wait for a logger."""
    with contextlib.suppress(BaseException):
        runner.run(partial(ours.fault, "error", "tasker: the timer met an error", error=error))


# runs the user's code for the timer: callbacks of contexts whose deadline has passed, destructors of what has fired
runner: CallbackRunner = CallbackRunner("tasker-context", ours)
_timer = _Timer()


class Clock(Protocol):
    """What deadlines go by."""

    def now(self) -> float:
        """Seconds since whenever; never fewer than before."""
        ...

    def at(self, when: float, fire: Callable[[], object]) -> TimerEntry:
        """Have `fire` called, by a thread that may be made to wait a little, when `now()` reaches `when`."""
        ...


def after(seconds: float, fire: Callable[[], object]) -> TimerEntry:
    """Have `fire` called on the timer thread in so many seconds of the real clock, during which others could act.

    Never blocks or raises."""
    return _timer.at(monotonic() + seconds, fire, patient=True)


def _on_time(when: float, fire: Callable[[], object]) -> TimerEntry:
    return _timer.at(when, fire)


clock: Clock | None = None  # a test's; `None`: the real one
# what time it is for deadlines
now: Callable[[], float] = monotonic
# have something called, on the timer thread, when `now()` reaches a time; never blocks or raises
at: Callable[[float, Callable[[], object]], TimerEntry] = _on_time


def follow(other: Clock | None) -> None:
    """Have the deadlines set from now on go by another clock; `None`: by the real one again."""
    global clock, now, at
    clock = other
    now, at = (monotonic, _on_time) if other is None else (other.now, other.at)


def is_needed_here() -> bool:
    """Whether deadlines may have to wait for the calling thread: it is the timer thread."""
    return _timer._thread is threading.current_thread()


def own_parts() -> tuple[object, ...]:
    """What has locks. Who holds the timer's is starting its thread."""
    return _timer, runner


def look_after_aside() -> None:
    """Have the timer thread heal `runner`, which it does by itself when it fires: for who gives it jobs in its place."""
    after(STUCK, _nothing)


def _nothing() -> None:
    pass


def ensure_running() -> None:
    """Start the timer thread if deadlines wait and it is not there (it could not be started before)."""
    _timer.ensure_running()


def runs(thread: threading.Thread) -> bool:
    """Whether it is the timer thread."""
    return thread is _timer._thread


def end() -> None:
    """For the end of an interpreter that waits for all threads, when no other is left and none can be started."""
    _timer.stop()
    runner.run_here()


def start_afresh() -> None:
    """Have another thread see to the deadlines that are set from now on.

    In a forked child the one before is not there, and its lock may be held by nobody. Where threads are greenlets by
    now, a thread of the system could start none."""
    global _timer, runner
    _timer = _Timer()
    runner = CallbackRunner("tasker-context", ours)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=start_afresh)
