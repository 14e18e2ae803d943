"""`EngineClosing`: how an engine ends, and what is left of it in a forked child.

`stop` and `kill` ask the lifecycle for the end and wait for it. They do not wait where
that would be to wait for the calling thread itself: see `reentrancy`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from tasker import checks
from tasker._pool import reentrancy
from tasker._pool.backoff import Backoff
from tasker._pool.checking import Checks
from tasker._pool.crew import Crew
from tasker._pool.exit_and_fork import new_locks
from tasker._pool.housekeeper import Housekeeper
from tasker._pool.keepalive import Keepalive
from tasker._pool.lifecycle import Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.outliers import Outliers
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import Loan, ResourcePool
from tasker._pool.slots import Slots
from tasker._pool.suspicion import Suspicion
from tasker._pool.turns import Turns
from tasker._pool.usercode import UserCode
from tasker._pool.watchers import Watchers
from tasker._sync.callback_runner import CallbackRunner
from tasker._sync.guarded_logger import GuardedLogger
from tasker._tasks.context import Callback
from tasker._tasks.future import TaskFuture
from tasker.errors import TaskManagerShutdownError
from tasker.placement.base import Backend
from tasker.snapshots import StopReport

__all__ = ["KILL_TIMEOUT_S", "EngineClosing", "weakly"]

R = TypeVar("R")

# Seconds that a kill gives running tasks to notice. A guess: long enough for a request
# that is under way, short enough for a user who waits.
KILL_TIMEOUT_S = 5.0


class EngineClosing(Generic[R]):
    """What `Engine` inherits. The attributes declared here are the engine's."""

    name: str
    logger: GuardedLogger
    backend: Backend
    user: UserCode[R]
    queue: TaskQueue
    counters: Counters
    crew: Crew[R]
    pool: ResourcePool[R]
    slots: Slots
    turns: Turns
    runner: CallbackRunner
    backoff: Backoff
    checks: Checks[R]
    keepalive: Keepalive[R]
    suspicion: Suspicion
    outliers: Outliers
    watchers: Watchers
    lifecycle: Lifecycle
    housekeeper: Housekeeper
    orphaned: BaseException | None
    _inherited: list[Any]
    _forget_stop: Callable[[], bool]

    def _new_queue(self) -> TaskQueue:
        raise NotImplementedError

    def stop(self, timeout: float | timedelta | None) -> StopReport:
        limit = None if timeout is None else checks.patience("timeout", timeout)
        self.begin_stop()

        if not self.closing_needs_this_thread() and not self.lifecycle.wait(limit):
            return self.kill(KILL_TIMEOUT_S)
        return self.lifecycle.report()

    def begin_stop(self) -> None:
        """Begin to stop. First destroy here what this thread keeps for `run_task`."""
        try:
            self.pool.clear_own()
        finally:
            self.lifecycle.request_stop()

    def end_elsewhere(self, loan: Loan[R]) -> None:
        """Destroy an idle resource of `run_task`, in another thread than its own."""
        self.user.destroy_elsewhere(loan.resource, loan.slot)
        self.slots.free(loan)

    def kill(self, timeout: float | timedelta) -> StopReport:
        self.lifecycle.request_kill(checks.seconds("timeout", timeout))
        if not self.closing_needs_this_thread():
            self.lifecycle.wait(None)
        return self.lifecycle.report()

    def runs_this_thread(self) -> bool:
        """Whether the calling thread is one of this engine's."""
        return reentrancy.is_own_thread(self)

    def closing_needs_this_thread(self) -> bool:
        """Whether a wait for the end would be one for the calling thread itself."""
        return reentrancy.is_inside(self) or self.tasks_need_this_thread()

    def tasks_need_this_thread(self) -> bool:
        """Whether tasks may wait for what the calling thread was interrupted in."""
        return reentrancy.is_needed()

    def is_held_up_here(self) -> bool:
        """Whether threads of this engine may wait for that."""
        return reentrancy.is_held_up(self)

    def own_parts(self) -> tuple[object, ...]:
        """The parts that have locks."""
        parts = (
            self.queue,
            self.crew,
            self.counters,
            self.runner,
            self.pool,
            self.slots,
            self.user,
            self.backoff,
            self.checks,
            self.keepalive.runner,
            self.suspicion,
            self.outliers,
        )
        return (self, *parts, self.queue.room, self.turns.room, self.logger.faults)

    def stop_without(self, owner: object) -> None:
        """Stop when `owner` is collected.

        That may be any time, as threads hold the engine. They alone do so. What is
        closed may lead to its owner, by a hook say. It would never be collected if
        something else held it."""
        weakref.finalize(owner, weakly(self.lifecycle.request_stop)).atexit = False

    def closed(self) -> None:
        """The lifecycle has ended. Let go of what outlives the manager."""
        self._forget_stop()
        self.keepalive.stop()
        self.backend.closed()
        self.watchers.wake()

    # -- in a forked child -------------------------------------------------------------

    def start_afresh_in_child(self, unfinished: list[TaskFuture[Any]]) -> None:
        """In a forked child none of the threads exist (R5). Refuse everything.

        Lanes and tasks are left alone, because other threads may have been changing
        them: see `exit_and_fork`. A task that can never end counts as failed."""
        error = TaskManagerShutdownError(
            f"{self.name} belongs to the process that forked this one: make a new one here"
        )
        self.user.leave_to_parent()

        # the parent's: neither used nor freed here
        self._inherited = [self.queue, *unfinished]
        self.queue = self._new_queue()
        self.queue.close(error)
        self.counters._waiting = self.queue.waiting_new
        self.turns.leave_to_parent()
        new_locks(*self.own_parts())

        self._inherited += self.pool.close()
        self.orphaned = error
        self.lifecycle.end_after_fork()

        forked_by = [
            worker for worker in self.crew.everyone() if worker.thread is threading.current_thread()
        ]
        self.crew.members = self.crew.abandoned = ()
        for worker in forked_by:
            if worker.task is not None:
                # or the worker would settle it, coming back from the task
                worker.task._take_settle()


def weakly(method: Callable[[], None]) -> Callback:
    """A call of the method that does not keep its object."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call
