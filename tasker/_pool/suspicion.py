"""`Suspicion`: one resource broke, so others may be broken.

A backend that restarts breaks the connections of all workers, and each of them would
find that out by a task of its own. So a breakage makes each other resource a *suspect*
until a *proof* that it is well: it has finished a task, or passed a check. A new
resource is none. A suspect takes no retry (see `queue`), so no task meets two broken
resources for one reason. It takes all other tasks, and each that it finishes is a
proof. With an `on_check` it is checked first.

Where there is no check, idle resources prove nothing. So the older ones are replaced in
a *plague*: when two resources have broken within `PLAGUE_S`. Retries do not count. They
run on resources that are well, so their breakages speak against the task. A task
therefore counts once at most, and one that breaks every resource that it meets costs no
others. Several such tasks look like a plague. That may cost the idle resources once,
but not again and again: a plague lasts until none has broken for `PLAGUE_S`, and idle
resources are replaced only when it begins. The loss of a child process or actor does
not count either: each place knows by itself whether it is gone. A worker replaces its
resource. An idle one of `run_task` is destroyed by its next borrower, because it may be
bound to a thread.

An abort makes a suspect of the one resource on which it was called. If that breaks
before a proof, the abort has done it, and no others become suspects. The exception is a
task that aborts itself and is tried again: its retry keeps to the rule.

A retry must not wait for ever. Most often the worker whose resource it broke makes
another, and takes it. The burst thread's tick looks whether as many workers are on
their way to a resource as retries wait. If not (one has fallen, or runs an urgent task
first) it has idle suspects replaced. If no worker has got a resource for
`create_timeout`, although some hold one (the server may have reached its limit), it
lets the suspects off: another attempt is worth more than none.

`_lock` guards the two fields below it, and that the breakages come one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Protocol

from tasker._pool.backoff import Backoff
from tasker._pool.crew import Crew
from tasker._pool.news import News
from tasker._pool.queue import TaskQueue
from tasker._pool.resources import ResourcePool
from tasker._pool.usercode import UserCode
from tasker._pool.worker import Worker
from tasker._sync import timer
from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock

__all__ = ["Suspicion"]

# Two breakages with at most so many seconds between them are no chance. A guess: a busy
# pool meets the second dead connection at once, and tasks that break their resources by
# themselves are rarer than that.
PLAGUE_S = 1.0


class EngineForSuspicion(Protocol):
    """The parts of an engine that have to do with suspects."""

    queue: TaskQueue
    crew: Crew[Any]
    pool: ResourcePool[Any]
    user: UserCode[Any]
    backoff: Backoff
    news: News


class Suspicion:
    """One for each manager."""

    def __init__(self, engine: EngineForSuspicion, create_timeout: float) -> None:
        self._engine = engine
        self._create_timeout = create_timeout
        # When a resource broke last, by the real clock, as `create_timeout` is.
        self._since = monotonic()

        self._lock = new_lock()
        # When the last breakage was that counts, by the clock of deadlines.
        self._counted_at: float | None = None
        self._is_plague = False

    def broke(self, owner: Worker[Any] | None, *, counts: bool) -> None:
        """A resource broke: suspect all others.

        Called before its task is put back. `owner`: its worker; `None` for `run_task`.
        `counts`: whether two of these are a plague."""
        engine, now = self._engine, timer.now()
        self._since = monotonic()

        with self._lock:
            begins = counts and self._plague_begins_locked(now)
            members = [worker for worker in engine.crew.members if worker is not owner]
            older = [worker for worker in members if worker.is_suspect()]
            for worker in members:
                if worker.holds_resource:
                    worker.suspect()

        # Where there is a check, each suspect is checked before its next task.
        condemn = begins and not engine.user.checks
        engine.pool.suspect(condemn=condemn)
        if condemn:
            idle = _condemn(older)
            if idle:
                engine.news.suspects_replaced(idle)

    def _plague_begins_locked(self, now: float) -> bool:
        last, self._counted_at = self._counted_at, now
        was_plague = self._is_plague
        self._is_plague = last is not None and now - last <= PLAGUE_S

        return self._is_plague and not was_plague

    # -- the burst thread --------------------------------------------------------------

    def excuse(self, seconds: float) -> None:
        """Let the wait for a resource count anew: no thread could run for so long."""
        self._since += seconds

    def tick(self, now: float) -> None:
        """See to it that some worker takes the retries that wait.

        Called before the workers are woken. `now` is when the tick began."""
        engine = self._engine
        retries = engine.queue.retries()
        if retries <= 0:
            return

        members = engine.crew.members
        if now - max(self._since, engine.backoff.made_at) >= self._create_timeout:
            for worker in members:
                worker.trust()

        # Where there is a check, idle suspects prove themselves when they are woken.
        elif not engine.user.checks:
            able = sum(_is_able(worker) for worker in members)
            _condemn(members, retries - able)


def _is_able(worker: Worker[Any]) -> bool:
    """Whether it takes a retry as soon as it has a resource, or is woken."""
    if worker.dismissed:
        return False

    return not worker.holds_resource or (worker.parker.parked and not worker.is_suspect())


def _condemn(workers: Collection[Worker[Any]], most: float = math.inf) -> int:
    """Have idle suspects replaced, at most so many. Returns how many they are."""
    idle = [worker for worker in workers if worker.task is None and worker.is_suspect()]
    condemned = [worker for place, worker in enumerate(idle) if place < most]
    for worker in condemned:
        worker.condemn()

    return len(condemned)
