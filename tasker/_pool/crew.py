"""`Crew`: the set of workers. Hires, retires, replaces and counts them.

A worker is a member from before its thread starts until it has destroyed its last resource, so creating workers count
and the most is never exceeded; a thread that does not start is rolled back. `members` is a tuple replaced under
`_lock`: who reads it takes no lock. A worker is neither base nor burst: what exceeds the base is burst.

`_lock` guards the membership and the numbering. Who is struck off is among `_gone` by then: whoever closes looks at the
members, then joins those, and misses nobody. Threads are started and workers told outside of it.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from tasker._pool.worker import Worker
from tasker._sync.callback_runner import BackgroundLogger
from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker._sync.parking import ParkingLot

__all__ = ["Crew"]

R = TypeVar("R")

_SLICE_S = 0.1  # seconds of starting threads, after which it is time to look up


class Crew(Generic[R]):
    """Between `base` and `most` workers, made by `new_worker(name, leave)`.

    `leaving(worker)` is called when one has ended, before it is struck off, so that nothing of it is lost if that
    fails: perhaps twice. `left(worker)` is called when it is struck off."""

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
        self._gone: list[threading.Thread] = []  # threads that have left, and are about to end

    def fill(self, seconds: float = math.inf) -> None:
        """Start workers until the base is there, however many threads do so at once, or so many seconds have passed."""
        self.hire(self.base, lambda: self.staying() < self.base, seconds)

    def hire(
        self, count: int, wanted: Callable[[], bool] = lambda: True, seconds: float = math.inf
    ) -> int:
        """Start up to `count` workers for about so many seconds, if they are `wanted`, never exceeding the most.

        Returns how many. Does not wait for resources. Where tasks compute, a thread may take a tenth of a second to
        start."""
        until = monotonic() + seconds
        for hired in range(count):
            if hired and monotonic() >= until:
                return hired
            worker = self._enlist(wanted)
            if worker is None:
                return hired
            try:
                worker.start()
            except (
                RuntimeError,
                MemoryError,
            ) as error:  # no more threads for now: the burst thread's tick tries again
                self._give_up(worker)
                self._logger.fault(
                    "warning", "%s: no thread for another worker", self._name, error=error
                )
                return hired
            except BaseException:
                if (
                    not worker.thread.is_alive()
                ):  # Ctrl-C before there was a thread, or before it was known to be there
                    self._give_up(worker)
                raise
        return count

    def _give_up(self, worker: Worker[R]) -> None:
        """A worker did not start, for all we know; if its thread comes after all, it ends without doing anything."""
        worker.dismissed = True
        self.leave(worker)

    def retire(self, count: int, idle: ParkingLot) -> int:
        """Dismiss up to `count` of the workers that are idle, longest idle first, and never below the base."""
        for retired in range(count):
            if self.staying() <= self.base or (parker := idle.take_longest()) is None:
                return retired
            for worker in self.members:
                if worker.parker is parker:
                    worker.dismiss()
        return count

    def bury(self) -> None:
        """Strike off workers whose threads have ended without a word."""
        for worker in self.members:
            if (
                worker.parker.parked
            ):  # then it is alive; to ask all threads costs more than all the rest
                continue
            # a thread is not "alive" either just before it begins
            if (worker.began or worker.started) and not worker.thread.is_alive():
                self.leave(worker)

    def heal(self, idle: ParkingLot) -> None:
        """Bring the crew back to its base, and wake workers that sleep because their wake-up got lost."""
        self.bury()
        with self._lock:
            self._gone = [thread for thread in self._gone if thread.is_alive()]
        self.fill(_SLICE_S)
        idle.wake_stranded([worker.parker for worker in self.members])

    def wake_all(self, idle: ParkingLot) -> None:
        """Wake every worker, wherever it sleeps: the queue closed."""
        idle.wake_all()
        for worker in self.members:
            worker.parker.wake()

    def leave(self, worker: Worker[R]) -> None:
        """A worker has ended: it counts no longer. Said by the worker, or by `heal()`; once counts."""
        self._leaving(worker)
        if self._strike_off(worker):
            self._left(worker)

    def join_gone(self, timeout: float) -> None:
        """Wait until the threads of those that left have ended, `timeout` seconds for all; they are ending now."""
        until = monotonic() + timeout
        while self._gone:
            thread = self._gone.pop()
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, until - monotonic()))

    def staying(self) -> int:
        """Members that were not told to leave."""
        return sum(not worker.dismissed for worker in self.members)

    def holding(self) -> int:
        """Members that have a resource."""
        return sum(worker.holds_resource for worker in self.members)

    def _enlist(self, wanted: Callable[[], bool]) -> Worker[R] | None:
        with self._lock:
            if len(self.members) >= self.most or not wanted():
                return None
            worker = self._new_worker(f"{self._name}-worker-{next(self._numbers)}", self.leave)
            self.members = (*self.members, worker)
            return worker

    def _strike_off(self, worker: Worker[R]) -> bool:
        with self._lock:
            if worker not in self.members:
                return False
            self._gone.append(worker.thread)
            self.members = tuple(member for member in self.members if member is not worker)
            return True
