"""`Watchers`: the threads that wait for a manager to be ready, or to come to rest.

Each sleeps on a parker of its own. It is woken by every change that may be what it
waits for: a worker has got a resource, is parked, or has left. It announces itself,
then looks (R1): either it sees the change, or the thread that makes the change sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from tasker import checks
from tasker._pool.crew import Crew
from tasker._pool.lifecycle import CLOSED, Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.queue import TaskQueue
from tasker._pool.worker import Worker
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.clock import monotonic
from tasker._sync.parking import Parker
from tasker._tasks import deadlock
from tasker.errors import PoolDeadlockError
from tasker.placement.base import Backend

__all__ = ["Watchers"]


class EngineForWatchers(deadlock.EngineForDeadlock, Protocol):
    """An engine, as seen from here."""

    backend: Backend
    queue: TaskQueue
    crew: Crew[Any]
    counters: Counters
    runner: CallbackRunner
    lifecycle: Lifecycle
    settling: set[Any]
    fallen: list[Worker[Any]]

    def runs_this_thread(self) -> bool: ...


class Watchers:
    """The parkers of those threads, and what they wait for."""

    def __init__(self, engine: EngineForWatchers) -> None:
        self._engine = engine
        self._parkers: list[Parker] = []
        # What was wrong at the last tick: tasks that seemed unfinished, and dead
        # entries of the two lanes that were not there.
        self._wrong = 0, 0, 0

    def __len__(self) -> int:
        return len(self._parkers)

    def wake(self) -> None:
        """A worker has a resource now, or is parked, or has left."""
        for parker in self._parkers.copy():
            parker.wake()

    def wait_ready(self, timeout: float | timedelta | None) -> bool:
        """Wait until the base workers hold resources.

        `False` when that took too long, the manager closed, or they never will."""
        engine = self._engine

        def over() -> bool:
            return (
                engine.is_closing()
                or engine.backend.impossible is not None
                or engine.crew.holding() >= engine.crew.base
            )

        self._wait_until(over, timeout, deadlock.Ready(engine))
        return engine.crew.holding() >= engine.crew.base

    def join(self, timeout: float | timedelta | None) -> bool:
        """Wait until no accepted task waits or runs; `False` when it took too long."""
        engine = self._engine
        if engine.runs_this_thread():
            raise PoolDeadlockError(
                f"{engine.name}: join() called from one of its own tasks would wait for itself"
            )
        return self._wait_until(self._at_rest, timeout, deadlock.Rest(engine))

    def correct_counts(self) -> None:
        """Called by each tick.

        A count that is wrong twice while nothing runs or waits was left so by an error
        that struck between two counts. No thread may wait for it."""
        queue = self._engine.queue
        wrong = (self._unfinished(), *queue.surplus())
        if any(wrong) and self._anything_runs():
            # a thread that has an entry or a task in hand may be between its two counts
            wrong = 0, 0, 0

        if any(wrong) and wrong == self._wrong:
            self._engine.counters.correct(wrong[0])
            queue.correct(wrong[1:])
        self._wrong = wrong

    def _wait_until(
        self,
        reached: Callable[[], bool],
        timeout: float | timedelta | None,
        awaited: deadlock.Awaited,
    ) -> bool:
        limit = None if timeout is None else checks.patience("timeout", timeout)
        until = math.inf if limit is None else monotonic() + limit

        engine, parker = self._engine, Parker()
        try:
            self._parkers.append(parker)  # then look (R1)
            engine.queue.idle.watch = self.wake
            engine.queue.stir()
            with deadlock.Wait(awaited, parker.wake, limit) as wait:
                while not reached() and wait.stuck is None:
                    left = until - monotonic()
                    if left <= 0:
                        return False
                    parker.sleep(left if limit is not None else -1.0)
            return True
        finally:
            self._parkers.remove(parker)
            if not self._parkers:
                engine.queue.idle.watch = None
                # another thread has come in between
                if self._parkers:
                    engine.queue.idle.watch = self.wake

    def _at_rest(self) -> bool:
        # A worker is at rest when it is parked, or has no resource and so no task. A
        # worker that was asked first may since then have taken what another put back:
        # the count of unfinished tasks says whether it has.
        engine = self._engine
        return engine.lifecycle.state == CLOSED or (
            not any(engine.queue.waiting())
            and not self._any_worker_runs()
            and engine.counters.unfinished() == 0
        )

    def _unfinished(self) -> int:
        """Tasks that seem unfinished although the lanes are empty. Asked only if a
        thread waits for rest."""
        engine = self._engine
        return engine.counters.unfinished() if self._parkers and engine.queue.is_empty() else 0

    def _anything_runs(self) -> bool:
        engine = self._engine
        if engine.settling or engine.fallen or not engine.runner.idle():
            return True

        return self._any_worker_runs()

    def _any_worker_runs(self) -> bool:
        return any(
            not worker.parker.parked and worker.holds_resource
            for worker in self._engine.crew.members
        )
