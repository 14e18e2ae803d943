"""`Backoff`: when workers may make resources after failures, and when tasks run again.

A resource *fails* when it cannot be made. It also fails when it breaks or is lost
before it has done a task well: while the server is down, an `on_create` that connects
lazily, or through a proxy, succeeds all the same. Each worker counts its failures in a
row. A resource that has done a task well and then breaks (a connection gone stale) ends
the row and costs no pause. One that an abort has broken, or that was killed to end its
task, says nothing about the backend. It costs no pause either.

How many creations may be under way at once is the state of the pool:

    WELL: any number -> OUTAGE: one -> RECOVERY: two, and more and more -> WELL
                            ^-------------'

WELL. Each worker pauses by itself after its failures, twice as long after each. The
pause has jitter, so that workers that failed together do not all try again together.
Those that have paused take turns, `SPACING_S` apart.

OUTAGE. A creation failed, and no worker held a resource. From then on one worker tries
for the whole pool, with one growing pause. The others wait. So a backend that is down
meets the attempts of a single worker, however many there are. Any worker may be the
next to try: the pause is the pool's. An attempt that takes longer than `create_timeout`
counts no more, and another worker tries (`on_create` hangs, say). The attempts that
were under way when the outage began do not count either.

RECOVERY. A worker has made a resource. The others follow in doubling steps: each
success makes room for two. None sits out a pause after a failed creation. The same
begins where resources were left, but workers pause, when one of these succeeds. When no
worker waits any more, all is well.

A resource that `run_task` makes in an outage makes the pauses short again. No more,
because no worker holds it.

A task's first retry comes at once: a single failure is most often a stale connection.
After that it pauses as a worker does, or longer if it has been tried more often. Its
attempts must outlast an outage, and a task that breaks many resources may itself be the
fault.

Workers ask `may_try`, sleep on their parkers, and ask again. To wake one is never
wrong. The burst thread's tick calls `heal`, which wakes those that may try. So the
others do not depend on the worker whose turn it is: that may leave, be struck, or be
held up by the user's logger.

Pauses go by the real clock, whatever clock deadlines go by. `_lock` guards the fields
below it and the candidates, for a few lines. Threads are woken outside of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable

from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker._sync.parking import Parker

__all__ = ["Backoff", "Candidate"]

# The pause after the first failure, doubled after each. A guess: short for a person,
# and long against what an attempt costs a server.
FIRST_PAUSE_S = 0.2

# A guess: an outage that is over is noticed within seconds.
LONGEST_PAUSE_S = 5.0

# The time from one attempt to the next of workers that have paused by themselves,
# however many they are: their server meets about thirty attempts a second.
SPACING_S = 0.03

# The creations that may be under way at once.
_WELL = sys.maxsize
_OUTAGE = 1


def jitter() -> float:
    """The part of a pause that is slept: half of it at least."""
    # Most programs never get here. At the top it would take half of the time that
    # importing tasker takes.
    import random

    return random.uniform(0.5, 1.0)


class Candidate:
    """A worker as the backoff sees it: it has no resource, or is about to lose it."""

    __slots__ = ("failed", "in_turn", "parker", "until")

    def __init__(self, parker: Parker) -> None:
        self.parker: Parker = parker

        # Whether its last creation failed.
        self.failed: bool = False
        # It pauses by itself until then; 0: it does not.
        self.until: float = 0.0
        # Whether that is its turn among those that have paused.
        self.in_turn: bool = False

    def pause(self, until: float) -> None:
        self.until, self.in_turn = until, False


class Backoff:
    """One for all workers of a manager. `holding`: whether any holds a resource.

    A pause is at most half of `create_timeout`, unless that is very short. Waiting
    tasks fail when no worker has had a resource for `create_timeout`, and a pause must
    not be the reason."""

    def __init__(self, create_timeout: float, holding: Callable[[], bool]) -> None:
        self._create_timeout = create_timeout
        self._holding = holding
        # When a worker last got a resource.
        self.made_at: float = monotonic()

        self._lock = new_lock()
        # How many creations may be under way at once.
        self._width = _WELL
        # Those under way since it is not any number, and since when.
        self._under_way: dict[Candidate, float] = {}
        # The workers that sleep until they may try, in the order in which they came.
        self._waiting: dict[Candidate, None] = {}
        # The failures of the outage in a row, and when the pool tries again.
        self._row = 0
        self._next_try = 0.0
        # When the next of those may try that have paused by themselves.
        self._next_turn = 0.0

    # -- workers -----------------------------------------------------------------------

    def may_try(self, candidate: Candidate) -> float:
        """Seconds to sleep before it asks again. 0: it tries now."""
        with self._lock:
            now = monotonic()
            when = self._when(candidate, now)
            if when > now:
                self._waiting[candidate] = None
                return min(when - now, threading.TIMEOUT_MAX)

            self._waiting.pop(candidate, None)
            if self._width != _WELL:
                self._under_way[candidate] = now
                self._end_recovery(now)
            return 0.0

    def made(self, candidate: Candidate) -> None:
        """It has made a resource.

        The worker can be seen to hold it by now, and `failed` looks under the lock. So
        no outage begins while a worker holds a resource (R1)."""
        with self._lock:
            now = self.made_at = monotonic()
            recovers = candidate.failed or self._width != _WELL
            candidate.failed = False
            candidate.pause(0.0)
            self._under_way.pop(candidate, None)

            if recovers:
                self._width = 2 if self._width == _WELL else self._width + 1
                self._row, self._next_try = 0, 0.0
                for other in self._waiting:
                    if other.failed:
                        other.pause(0.0)
                self._end_recovery(now)
            free = self._to_wake(now)

        _wake(free)

    def failed(self, candidate: Candidate, failures: int) -> None:
        """It could not make a resource: its failures in a row are so many now."""
        part = jitter()

        with self._lock:
            now = monotonic()
            counts = self._under_way.pop(candidate, None) is not None
            candidate.failed = True

            if self._holding():
                candidate.pause(now + part * self._pause(failures))
                self._end_recovery(now)
            else:
                candidate.pause(0.0)
                if self._width != _OUTAGE:
                    self._width, self._row = _OUTAGE, failures - 1
                    self._under_way.clear()
                    counts = True
                if counts:
                    self._row += 1
                    self._next_try = now + part * self._pause(self._row)

            free = self._to_wake(now) if self._width > _OUTAGE else []

        _wake(free)

    def broke(self, candidate: Candidate, failures: int) -> None:
        """Its resource broke before it had done a task well: it pauses by itself."""
        pause = jitter() * self._pause(failures)

        with self._lock:
            candidate.failed = False
            candidate.pause(monotonic() + pause)

    def left(self, candidate: Candidate) -> None:
        """Its worker has left. Another one may try in its place."""
        with self._lock:
            now = monotonic()
            self._under_way.pop(candidate, None)
            self._waiting.pop(candidate, None)
            self._end_recovery(now)
            free = self._to_wake(now)

        _wake(free)

    # -- others ------------------------------------------------------------------------

    def made_elsewhere(self) -> None:
        """A `run_task` has made a resource: an outage may be over."""
        if self._width != _OUTAGE:
            return

        soon = monotonic() + jitter() * self._pause(1)
        with self._lock:
            self._row, self._next_try = 0, min(self._next_try, soon)
            free = self._to_wake(monotonic())

        # So that it does not sleep for as long as it was told before.
        _wake(free)

    def heal(self) -> None:
        """Wake those that may try now. Called by each tick of the burst thread."""
        if not self._waiting:
            return

        with self._lock:
            now = monotonic()
            free = self._to_wake(now) if now >= self._next_try else []

        _wake(free)

    def task_pause(self, failures: int, attempts: int) -> float:
        """Seconds before a task is tried again after so many attempts.

        `failures` are those of its worker in a row."""
        row = max(failures, attempts)
        return self._pause(row) if row > 1 else 0.0

    # -- the pieces, with the lock held ------------------------------------------------

    def _when(self, candidate: Candidate, now: float) -> float:
        """When it may try, or is to ask again."""
        if candidate.until and candidate.until <= now and not candidate.in_turn:
            candidate.until = max(now, self._next_turn)
            candidate.in_turn = True
            self._next_turn = candidate.until + SPACING_S
        if candidate.until > now or self._width == _WELL:
            return candidate.until

        self._forget_hung(now)
        if len(self._under_way) < self._width:
            return self._next_try
        return min(self._under_way.values()) + self._create_timeout

    def _to_wake(self, now: float) -> list[Candidate]:
        """Those that wait for others, as many as there is room for."""
        self._forget_hung(now)
        room = max(0, self._width - len(self._under_way))
        return [candidate for candidate in self._waiting if candidate.until <= now][:room]

    def _forget_hung(self, now: float) -> None:
        """Count the attempts no more that take too long."""
        for candidate, since in [*self._under_way.items()]:
            if now - since >= self._create_timeout:
                del self._under_way[candidate]

    def _end_recovery(self, now: float) -> None:
        """All is well if no worker waits for others."""
        waits = any(candidate.until <= now for candidate in self._waiting)
        if self._width > _OUTAGE and not waits:
            self._width = _WELL
            self._under_way.clear()

    def _pause(self, failures: int) -> float:
        if not failures:
            return 0.0

        longest = min(LONGEST_PAUSE_S, max(self._create_timeout / 2, FIRST_PAUSE_S))
        return min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 100), longest)


def _wake(candidates: Iterable[Candidate]) -> None:
    for candidate in candidates:
        candidate.parker.wake()
