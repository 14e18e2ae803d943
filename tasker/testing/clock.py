"""`ManualClock`: deadlines that pass when a test moves the clock.

While its `with` block is active it takes the places of `timer.now` and `timer.at`. Code
that sets a deadline then sets it here, in a heap. `advance()` fires what is due in the
calling thread. As on the timer thread, what fires is tasker's own and short, and hands
the user's callbacks to threads of their own. At the end of the block the deadlines that
are left go to the timer thread.

`_changed` guards all fields. It is held for a few lines, and nothing fires under it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

from tasker import checks
from tasker._sync import timer
from tasker._sync.clock import monotonic
from tasker._sync.timer import TimerEntry

__all__ = ["ManualClock"]

# How long to wait for deadlines to be set. A guess: long enough for a busy machine.
PATIENCE_S = 20.0

# A deadline as near as this is reached. Without it ten tenths of a second might not
# make one.
REACHED_S = 1e-6


class ManualClock:
    """Time for deadlines that stands still until `advance()` is called.

    Use it as `with ManualClock() as clock:`. Inside of the block these go by it: the
    `timeout` and `run_timeout` of a task, `with_timeout()`, `with_deadline()` (in
    seconds of `clock.now()`, which begins at the last whole second of
    `time.monotonic()`), and of every context `remaining()` and `wait(seconds)`; of
    checks `check_after`, `keepalive` and `check_timeout`; `abandon_after`; the one
    second in which older resources take no retry, and two breakages are no chance; the
    30 seconds of `eject_after`.

    Everything else goes on in real time: `time.sleep()` and `time.monotonic()`; waiting
    for an outcome or a state (`future.result(timeout)`, `join`, `wait_ready`, `stop`,
    `kill`); `queue_timeout` and `create_timeout`; the burst thread; pauses between
    attempts to create a resource; timestamps and metrics. Deadlines that were set
    before the block still pass by the real clock. Those that outlive the block pass by
    it, after the seconds that they had left.

    A task that sleeps in `ctx.wait(seconds)` sleeps until the clock is advanced, and
    `stop()` waits for it. So let the clock's block end before the manager's. There is
    one clock for the whole process: a second one at the same time raises
    `RuntimeError`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

        # A whole number, so that whole seconds are added without rounding.
        self._now = float(math.floor(monotonic()))

        self._heap: list[tuple[float, int, TimerEntry]] = []
        self._order = itertools.count()

        # `True` from the beginning of the block to its end.
        self._followed = False

    def now(self) -> float:
        """The time by which deadlines are measured, in seconds."""
        return self._now

    @property
    def deadlines(self) -> int:
        """How many deadlines are set and neither passed nor cancelled.

        Those are of the timeouts of tasks, of contexts, of `ctx.wait()`, of the checks
        of resources, and of `abandon_after`. A context whose deadline is its parent's
        has none of its own, but a task has."""
        with self._changed:
            return sum(entry.is_set() for _, _, entry in self._heap)

    def advance(self, seconds: float | timedelta) -> None:
        """Let so many seconds (or a `timedelta`) pass.

        Returns when all deadlines that are due have passed, earliest first. Then their
        contexts are done and their futures finished. The callbacks run on threads of
        their own, perhaps later. A task that sleeps in `ctx.wait()` wakes, and its next
        wait counts from then on. Raises `ConfigError` for a negative or infinite
        time."""
        until = self._now + checks.seconds("seconds", seconds)
        while (entry := self._next_due(until)) is not None:
            entry.fire()

    def wait_for_deadlines(self, count: int = 1, timeout: float | timedelta = PATIENCE_S) -> None:
        """Wait until at least `count` deadlines are set.

        So a test waits until a task sleeps in `ctx.wait()`, say. Blocks for at most
        `timeout` real seconds, then raises `AssertionError`. Raises `ConfigError` for a
        wrong count or time."""
        least = checks.whole_number("count", count, least=0)
        limit = checks.seconds("timeout", timeout)

        with self._changed:
            if not self._changed.wait_for(lambda: self.deadlines >= least, limit):
                raise AssertionError(
                    f"{self.deadlines} deadlines were set within {limit:g} s, not {least}"
                )

    def at(self, when: float, fire: Callable[[], object]) -> TimerEntry:
        """Called by tasker to set a deadline."""
        with self._changed:
            if self._followed and when > self._now:
                entry = TimerEntry(fire)
                heapq.heappush(self._heap, (when, next(self._order), entry))
                self._changed.notify_all()
                return entry

        # It is due already, or the block has just ended.
        return timer.after(max(0.0, when - self._now), fire)

    def __enter__(self) -> Self:
        if timer.clock is not None:
            raise RuntimeError(
                "a ManualClock is active already: there is one for the whole process"
            )

        self._followed = True
        timer.follow(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        timer.follow(None)
        with self._changed:
            self._followed = False
            left, self._heap = self._heap, []

        for when, _, entry in left:
            if entry.is_set():
                timer.after(max(0.0, when - self._now), entry.fire)

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:.3f} s, {self.deadlines} deadlines>"

    def _next_due(self, until: float) -> TimerEntry | None:
        """Go on to the next deadline that is not after `until`, or to `until`."""
        with self._changed:
            if self._heap and self._heap[0][0] <= until + REACHED_S:
                when, _, entry = heapq.heappop(self._heap)
                self._now = max(self._now, when)
                return entry

            self._now = max(self._now, until)
            return None
