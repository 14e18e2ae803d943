"""The one timer thread, which never runs user code.

Every deadline of the process waits in its heap.

The thread is started by the first deadline, and sleeps until the earliest one. The heap
is the thread's own. To set a deadline is to put an entry into a deque, and to wake the
thread if it would sleep too long. So signal handlers and `__del__` may set or clear
deadlines wherever they interrupt. The thread writes down when it will wake, *then*
looks into the deque once more, then sleeps. A thread that sets a deadline appends its
entry, *then* looks when the timer thread will wake (R1).

An entry can be cleared, so a finished task is not kept until the deadline that it no
longer has. The timer thread drops the cleared entries when they are
half of the heap. What fires must be tasker's own and short. It may refer to objects of
the user's, so the thread hands what has fired to `runner`, which drops it on a thread
that may block.

The thread survives what goes wrong in a turn: an entry stays in the deque or in the
heap until it has been dealt with. A thread that is ended all the same is replaced by
its own last act, or by `ensure_running`.

A limit set by `after` bounds how long tasker waits for others. When the thread wakes
much too late (the machine slept, the process was stopped), no other thread could act in
some of that time. So such a limit is put off by all of it, once.

`_lock` guards the starting of the thread, nothing else.

Deadlines are measured by `now()` and set by `at()`, which a test's clock may replace
(`follow`). Both are variables, so that this costs nothing outside of tests: call them
as `timer.now()` and `timer.at()`.

The standard library's timers do not serve. `threading.Timer` takes a thread for each
deadline, and the thread of `sched.scheduler` sleeps on when an earlier one is set.
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

from tasker._sync.callback_runner import STUCK_S, CallbackRunner
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
    "heal_runner_later",
    "later",
    "now",
    "runner",
    "runs",
    "start_afresh",
]

# How often a callback that fails is called, and the pause between two calls. Both are
# guesses: half a second is enough for memory to be freed, say.
MAX_TRIES = 10
RETRY_S = 0.05

# A thread that wakes so much too late could not act in the meantime. A guess: even a
# machine under load wakes a thread sooner.
LATE_S = 1.0

# So many entries may wait in the deque, or stay cleared in the heap, before the thread
# is woken for them. A guess: they take little memory, and a wake-up is shared by many.
_BATCH = 512


class TimerEntry:
    """A place in the timer's heap, which fires once unless it is cancelled first.

    A `patient` one is put off if the timer is late."""

    __slots__ = ("_fire", "patient", "tries")

    def __init__(self, fire: Callable[[], object], *, patient: bool = False) -> None:
        self._fire: Callable[[], object] | None = fire
        self.patient: bool = patient

        # Calls that failed.
        self.tries: int = 0

    def cancel(self) -> None:
        """Forget what was to fire; harmless when it has fired."""
        if self._fire is not None:
            self._fire = None
            _timer.entry_cleared()

    def is_set(self) -> bool:
        """Whether it may still fire."""
        return self._fire is not None

    def fire(self, fired: list[Any] | None = None) -> None:
        """Call what was to fire, unless that was forgotten.

        It is put into `fired`, for the caller to let go of."""
        fire, self._fire = self._fire, None
        if fire is not None:
            try:
                if fired is not None:
                    fired.append(fire)
                fire()
            except BaseException:
                # It may be tried again: what fires may be done twice.
                self._fire = fire
                raise


_Item = tuple[float, int, TimerEntry]


class _Timer:
    def __init__(self) -> None:
        self._incoming: deque[_Item] = deque()

        # The heap is the thread's own.
        self._heap: list[_Item] = []

        # About as many items as there are cleared entries.
        self._cleared: deque[None] = deque()

        # When the thread will wake; in the past while it is awake.
        self._wakes_at = -math.inf

        self._parker = Parker()
        self._was_late = False
        self._order = itertools.count()
        self._lock = new_lock()
        self._starting = False

        # Whether an error ended the last turn.
        self._struck = False

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
            # Starting: the caller is a signal handler that interrupted the lines below.
            if self._starting or (self._thread is not None and self._thread.is_alive()):
                return

            self._starting = True
            try:
                # A new one, of the kind that threads have now: see `new_sleep_lock`.
                self._parker = Parker()
                self._thread = new_thread(self._run, "tasker-timer", service=True)

                # No more threads can be started for now: the next call tries again.
                with contextlib.suppress(RuntimeError, MemoryError):
                    self._thread.start()
            finally:
                self._starting = False

    def stop(self) -> None:
        """End the thread, whatever waits in the heap, and join it."""
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
                except BaseException as error:
                    # No memory, say: the next turn does what is left.
                    self._struck = True
                    _report(error)
        finally:
            # Another thread sent an exception, which ended this one.
            if self._thread is thread:
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

        # Late again and again is how this machine is: then the time counts.
        if overslept and not self._was_late:
            self._put_off(overslept)
        self._was_late = overslept > 0.0

        self._fire_due()
        runner.heal()

    def _sleep(self, left: float) -> float:
        """Sleep for at most `left` seconds.

        Returns how many seconds it has slept if that was much too long, else 0."""
        if runner.waits():
            left = min(left, STUCK_S)

        asleep = monotonic()
        if left <= 0 or self._parker.sleep(left):
            return 0.0

        slept = monotonic() - asleep
        return slept if slept - left > LATE_S else 0.0

    def _put_off(self, seconds: float) -> None:
        """Let the limits that wait for others count on from where they were before.

        No other thread could act in some of these seconds, and it is not known in
        which."""
        heap: list[_Item] = []
        for when, order, entry in self._heap:
            heap.append((when + seconds if entry.patient else when, order, entry))

        heapq.heapify(heap)
        self._heap = heap

    def _receive(self) -> bool:
        """Take the entries out of the deque; `True` if there were any."""
        received = False
        while self._incoming:
            # Taken out last, or lack of memory for the heap would lose a deadline.
            heapq.heappush(self._heap, self._incoming[0])
            self._incoming.popleft()
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
                except BaseException as error:
                    # No memory, say.
                    self._struck = True
                    _report(error)
                    entry.tries += 1
                    if entry.tries < MAX_TRIES:
                        heapq.heapreplace(self._heap, (now + RETRY_S, order, entry))
                        continue

                heapq.heappop(self._heap)
        finally:
            runner.let_go(fired)


def _report(error: BaseException) -> None:
    """Log on another thread: the timer thread must not wait for a logger."""
    with contextlib.suppress(BaseException):
        runner.run(partial(ours.fault, "error", "tasker: the timer met an error", error=error))


# Runs the user's code for the timer: callbacks of contexts whose deadline has passed,
# and destructors of what has fired.
runner: CallbackRunner = CallbackRunner("tasker-context", ours)
_timer = _Timer()


class Clock(Protocol):
    """The clock by which deadlines are measured."""

    def now(self) -> float:
        """Seconds since some moment; never fewer than before."""
        ...

    def at(self, when: float, fire: Callable[[], object]) -> TimerEntry:
        """Call `fire` when `now()` reaches `when`.

        The thread that calls it may be made to wait a little."""
        ...


def after(seconds: float, fire: Callable[[], object]) -> TimerEntry:
    """Call `fire` on the timer thread, in so many seconds of the real clock.

    Seconds in which no other thread could act do not count. Never blocks or raises."""
    return _timer.at(monotonic() + seconds, fire, patient=True)


def later(seconds: float, fire: Callable[[], object]) -> TimerEntry:
    """As `after`, but by a test's clock, where there is one."""
    return after(seconds, fire) if clock is None else at(now() + seconds, fire)


def _on_time(when: float, fire: Callable[[], object]) -> TimerEntry:
    return _timer.at(when, fire)


# A test's clock; `None`: the real one.
clock: Clock | None = None

# The time by which deadlines are measured.
now: Callable[[], float] = monotonic

# Calls a function on the timer thread when `now()` reaches a time. Never blocks or
# raises.
at: Callable[[float, Callable[[], object]], TimerEntry] = _on_time


def follow(other: Clock | None) -> None:
    """Measure the deadlines that are set from now on by another clock.

    `None`: by the real one again."""
    global clock, now, at
    clock = other
    now, at = (monotonic, _on_time) if other is None else (other.now, other.at)


def is_needed_here() -> bool:
    """Whether deadlines may wait for the calling thread: it is the timer thread."""
    return _timer._thread is threading.current_thread()


def own_parts() -> tuple[object, ...]:
    """The objects that have locks.

    A thread that holds the timer's is starting its thread."""
    return _timer, runner


def heal_runner_later() -> None:
    """Have the timer thread heal `runner` a moment later.

    For a thread that gives `runner` jobs in the place of the timer thread, which does
    this by itself when it fires."""
    after(STUCK_S, _nothing)


def _nothing() -> None:
    pass


def ensure_running() -> None:
    """Start the timer thread if deadlines wait and it is not there.

    It may be that it could not be started before."""
    _timer.ensure_running()


def runs(thread: threading.Thread) -> bool:
    """Whether `thread` is the timer thread."""
    return thread is _timer._thread


def end() -> None:
    """End the timer thread, and run here what `runner` has left.

    For the end of an interpreter that waits for all threads. By then no other thread is
    left, and none can be started."""
    _timer.stop()
    runner.run_here()


def start_afresh() -> None:
    """Give the deadlines that are set from now on to another thread (R5).

    In a forked child the thread before does not exist, and its lock may be taken
    without a holder. It is also called where threads have become greenlets: a thread of
    the system could start none."""
    global _timer, runner
    _timer = _Timer()
    runner = CallbackRunner("tasker-context", ours)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=start_afresh)
