"""`Crew`: the set of workers. It hires, retires, replaces and counts them.

A worker is a member from before its thread starts until it has destroyed its last
resource. So workers that create their resource count, and there are never more members
than `most` (I5). A worker whose thread does not start is removed again. No worker is
"base" or "burst": the number that exceeds the base is the burst.

A worker that does not return from a call may be *abandoned* (see `abandonment`). A
moment later it is no member any more, and another one is hired. There are never more
than `most` of these, either.

`_lock` guards the membership and the numbering. `members` is a tuple that is replaced
under it, so a reader takes no lock. Threads are started, and workers dismissed, outside
of the lock. The thread of a removed worker is added to `_gone` before the worker leaves
`members`. The closing reads `members` first and joins `_gone` second, so it never
misses a thread.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from tasker._pool.worker import Worker
from tasker._sync.callback_runner import BackgroundLogger
from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker._sync.parking import ParkingLot

__all__ = ["Crew"]

R = TypeVar("R")

# The burst thread starts threads for so long, then looks at other things. One tick.
_SLICE_S = 0.1


class Returning(Protocol):
    """A call that returns, or is abandoned."""

    may_return: bool
    """The right to either (R3)."""


class Crew(Generic[R]):
    """Between `base` and `most` workers, made by `new_worker(name, leave)`.

    `leaving(worker)` is called when a worker has ended, before it is removed. If it
    fails, it is called again, so that nothing of the worker is lost. `left(worker)` is
    called when the worker is removed."""

    def __init__(
        self,
        name: str,
        base: int,
        most: int,
        new_worker: Callable[[str, Callable[[Worker[R]], None]], Worker[R]],
        leaving: Callable[[Worker[R]], None],
        left: Callable[[Worker[R]], None],
        logger: BackgroundLogger,
    ) -> None:
        self._name = name
        self.base = base
        self.most = most
        self._new_worker = new_worker
        self._leaving = leaving
        self._left = left
        self._logger = logger
        self._lock = new_lock()
        self._numbers = itertools.count(1)
        self.members: tuple[Worker[R], ...] = ()
        # Workers that were members, whose threads were given up.
        self.abandoned: tuple[Worker[R], ...] = ()
        # Threads of removed workers, which are about to end.
        self._gone: list[threading.Thread] = []

    def fill(self, seconds: float = math.inf) -> None:
        """Start workers until the base is there, for at most about `seconds`.

        However many threads do so at once, they start no more than the base."""
        self.hire(self.base, lambda: self.staying() < self.base, seconds)

    def hire(
        self, count: int, wanted: Callable[[], bool] = lambda: True, seconds: float = math.inf
    ) -> int:
        """Start up to `count` workers while they are `wanted`, for about `seconds`.

        Returns how many were started. There are never more than `most`. It does not
        wait for resources. A thread may take a tenth of a second to start where tasks
        compute."""
        until = monotonic() + seconds

        for hired in range(count):
            if hired and monotonic() >= until:
                return hired

            worker = self._enlist(wanted)
            if worker is None:
                return hired

            try:
                worker.start()
            # No more threads for now: the burst thread's tick tries again.
            except (RuntimeError, MemoryError) as error:
                self._roll_back(worker)
                self._logger.fault(
                    "warning", "%s: no thread for another worker", self._name, error=error
                )
                return hired
            except BaseException:
                # Ctrl-C came before there was a thread, or before it was known.
                if not worker.thread.is_alive():
                    self._roll_back(worker)
                raise

        return count

    def _roll_back(self, worker: Worker[R]) -> None:
        """Remove a worker that seems not to have started.

        If its thread comes after all, it ends without doing anything."""
        worker.dismissed = True
        self.leave(worker)

    def retire(self, count: int, idle: ParkingLot) -> int:
        """Dismiss up to `count` idle workers, longest idle first, but none of the base.

        Returns how many were dismissed."""
        for retired in range(count):
            if self.staying() <= self.base or (parker := idle.take_longest()) is None:
                return retired

            for worker in self.members:
                if worker.parker is parker:
                    worker.dismiss()

        return count

    def bury(self) -> None:
        """Remove workers whose threads have ended without calling `leave`."""
        for worker in self.everyone():
            # Parked means alive. To ask all threads costs more than all the rest.
            if worker.parker.parked:
                continue

            # A thread is not "alive" just before it begins either.
            if (worker.began or worker.started) and not worker.thread.is_alive():
                self.leave(worker)

    def heal(self, idle: ParkingLot) -> None:
        """Bring the crew back to its base.

        Also wake workers that sleep because a wake-up was lost."""
        self.bury()
        with self._lock:
            self._gone = [thread for thread in self._gone if thread.is_alive()]
        self.fill(_SLICE_S)

        idle.wake_stranded([worker.parker for worker in self.members])

    def wake_all(self, idle: ParkingLot) -> None:
        """Wake every worker, wherever it sleeps: the queue is closed."""
        idle.wake_all()
        for worker in self.members:
            worker.parker.wake()

    def leave(self, worker: Worker[R]) -> None:
        """Remove a worker that has ended.

        Called by the worker and by `heal()`. Only the first call removes it."""
        self._leaving(worker)
        if self._remove(worker):
            self._left(worker)

    def abandon(self, worker: Worker[R], call: Returning) -> bool:
        """Give up a worker that does not return from a call. Then `strike_off` it.

        `False` if it has returned, or if there are enough of these."""
        with self._lock:
            abandoned = (*self.abandoned, worker)
            if worker not in self.members or len(abandoned) > self.most:
                return False

            try:
                del call.may_return
            except AttributeError:
                return False
            # No call since the right was taken (R2).
            self.abandoned = abandoned
            return True

    def strike_off(self, worker: Worker[R]) -> None:
        """Take out a worker that was abandoned."""
        with self._lock:
            self.members = tuple(member for member in self.members if member is not worker)

    def everyone(self) -> tuple[Worker[R], ...]:
        """The members, and those that were abandoned."""
        # In this order: one that is struck off meanwhile is found twice, not missed.
        return (*self.members, *self.abandoned)

    def join_gone(self, timeout: float) -> None:
        """Wait until the threads of removed workers have ended.

        They are ending now. `timeout` is in seconds, for all of them together."""
        until = monotonic() + timeout
        while self._gone:
            thread = self._gone.pop()
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, until - monotonic()))

    def staying(self) -> int:
        """The number of members that were not dismissed."""
        return sum(not worker.dismissed for worker in self.members)

    def holding(self) -> int:
        """The number of members that have a resource."""
        return sum(worker.holds_resource for worker in self.members)

    def _enlist(self, wanted: Callable[[], bool]) -> Worker[R] | None:
        with self._lock:
            if len(self.members) >= self.most or not wanted():
                return None

            worker = self._new_worker(f"{self._name}-worker-{next(self._numbers)}", self.leave)
            self.members = (*self.members, worker)
            return worker

    def _remove(self, worker: Worker[R]) -> bool:
        with self._lock:
            if worker not in self.everyone():
                return False

            self._gone.append(worker.thread)
            self.members = tuple(member for member in self.members if member is not worker)
            self.abandoned = tuple(other for other in self.abandoned if other is not worker)
            return True
