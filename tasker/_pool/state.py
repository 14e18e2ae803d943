"""`EngineState`: the part of an engine that answers questions, and changes nothing.

Users ask for `stats` and `metrics`. A wait in a task asks what may end it: see
`deadlock`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from tasker._pool.crew import Crew
from tasker._pool.housekeeper import Housekeeper
from tasker._pool.lifecycle import OPEN, STOPPING, Lifecycle
from tasker._pool.metrics import Counters
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.usercode import UserCode
from tasker._pool.worker import Worker
from tasker._tasks import current
from tasker._tasks.future import TaskFuture
from tasker.snapshots import TaskMetrics, TaskStats

__all__ = ["EngineState"]

R = TypeVar("R")


class EngineState(Generic[R]):
    """What `Engine` inherits. The attributes declared here are the engine's."""

    name: str
    queue: TaskQueue
    crew: Crew[R]
    pool: ResourcePool[R]
    user: UserCode[R]
    counters: Counters
    housekeeper: Housekeeper
    lifecycle: Lifecycle

    def stats(self) -> TaskStats:
        members = self.crew.members
        main, priority = self.queue.waiting()
        active = len(members)
        holding = sum(worker.holds_resource for worker in members)
        running = sum(worker.holds_resource and worker.task is not None for worker in members)

        return TaskStats(
            base_workers=min(active, self.crew.base),
            active_workers=active,
            burst_workers=max(0, active - self.crew.base),
            idle_workers=sum(worker.parker.parked and worker.holds_resource for worker in members),
            creating_workers=active - holding,
            queued_tasks=main,
            priority_tasks=priority,
            running_tasks=running,
            available_resources=self.pool.available,
            abandoned_workers=len(self.crew.abandoned),
        )

    def metrics(self) -> TaskMetrics:
        collected = self.user.metrics()
        return self.counters.metrics() if collected is None else collected

    def current_resource(self) -> R:
        """The resource of this engine's innermost task in the calling thread."""
        loan: Any = current.thread_state.running.loan
        while loan is not None:
            if loan.owner is self:
                return loan.resource  # type: ignore[no-any-return]
            loan = loan.outer

        worker: Any = current.thread_state.running.worker
        if worker is None or not worker.serves(self):
            raise RuntimeError(f"{self.name}: current_resource() was called outside of its tasks")

        return worker.resource  # type: ignore[no-any-return]

    def busy(self) -> int:
        """Workers that are not parked."""
        return sum(not worker.parker.parked for worker in self.crew.members)

    def is_stopping(self) -> bool:
        """Whether closing has begun."""
        return self.lifecycle.state != OPEN

    def unfinished(self) -> list[TaskFuture[Any]]:
        """The tasks that wait or run, and the dead entries of the lanes."""
        return [*self.queue.entries(), *self.lifecycle.running()]

    # -- what a wait in a task asks (deadlock.EngineForDeadlock) -----------------------

    def workers(self) -> tuple[Worker[R], ...]:
        return self.crew.members

    def base(self) -> int:
        return self.crew.base

    def waiting(self) -> list[TaskFuture[Any]]:
        return [task for task in self.queue.entries() if task._waits_for_start()]

    def has_room(self) -> bool:
        return self.queue.room.may_enter()

    def is_closing(self) -> bool:
        return self.is_stopping()

    def is_killed(self) -> bool:
        return self.lifecycle.state > STOPPING

    def may_hire(self) -> bool:
        hires = self.housekeeper.scales or self.lifecycle.state == STOPPING
        return self.crew.staying() < (self.crew.most if hires else self.crew.base)

    def is_hopeless(self) -> bool:
        return self.housekeeper.hopeless

    def trouble(self) -> str:
        return self.housekeeper.trouble()
