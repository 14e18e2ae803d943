"""`Suspicion`: one resource broke, so others may be broken.

A backend that restarts breaks the connections of all workers, and each of them would
find that out by a task of its own. So breakages are numbered. A worker's *proof* is the
last breakage after which its resource was seen to be well. If others came later, its
resource is a *suspect*. A task that is retried keeps the number of the breakage that it
met, and no worker with an older proof takes it (see `queue`). So no task meets two
broken resources for one reason. A suspect takes all other tasks. With an `on_check` it
is checked first.

Breakages come in *waves*. A backend that ends connections ends one after the other, so
one that has just answered may be the next. A wave lasts until no resource has broken
for `WAVE_S`. In a wave only one thing is a proof: the resource is new, and its creation
began after the breakage. A check that is passed in a wave lets the next task through,
and is called again before the one after it. But a retry, which may be the last attempt,
does not rely on it. When the wave is over, a check that is passed from then on is a
proof, and so is a task that is finished from then on. So a slow creation holds up a
retry no longer than that. What an idle resource did *in* the wave is no proof
afterwards: it may have broken since.

Where there is no check, idle resources prove nothing. So the older ones are replaced in
a *plague*: when two resources have broken within `WAVE_S`. Retries do not count. They
run on resources that are well, so their breakages speak against the task. A task
therefore counts once at most, and one that breaks every resource that it meets costs no
others. Several such tasks look like a plague. That may cost the idle resources once,
but not again and again: a plague lasts until none has broken for `WAVE_S`, and idle
resources are replaced only when it begins. The loss of a child process or actor does
not count either: each place knows by itself whether it is gone. A worker replaces its
resource. An idle one of `run_task` is destroyed by its next borrower, because it may be
bound to a thread.

An abort makes a suspect of the one resource on which it was called. If that breaks
before a proof, the abort has done it, and no others become suspects. The exception is a
task that aborts itself and is tried again: its retry keeps to the rule.

A retry must not wait for ever. Each breakage has its worker make a new resource, which
is for all retries so far. It takes those in the end, however many resources break
later, because the numbers of later retries are too high for it. The burst thread's tick
looks whether as many workers are on their way to a resource as retries wait. If not
(one has fallen, or runs an urgent task first) it has idle suspects replaced. If no
worker has got a resource for `create_timeout`, although some hold one (the server may
have reached its limit), it lets the suspects off: another attempt is worth more than
none.

`_lock` guards the fields below it, and that breakages and the ends of waves come one
after the other. Any thread may read the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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

# Two breakages with at most so many seconds between them are no chance. A guess: a
# server ends its connections within some milliseconds, a busy pool meets the second
# dead one at once, and tasks that break their resources by themselves are rarer.
WAVE_S = 1.0


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
        # The last breakage, and the last one whose wave is over. They are numbered from
        # 2 on: a task that has met none has 0, and a resource that was made before
        # has 1.
        self.last: int = 1
        self.past: int = 1
        # When the last breakage was, and the last one that counts, by the clock of
        # deadlines.
        self._broke_at = -math.inf
        self._counted_at = -math.inf
        self._is_plague = False

    def broke(self, owner: Worker[Any] | None, *, counts: bool) -> int:
        """A resource broke: all others are suspects. Returns the number of that.

        `owner`: its worker; `None` for `run_task`. `counts`: whether two of these are a
        plague."""
        engine, now = self._engine, timer.now()
        self._since = monotonic()

        with self._lock:
            begins = counts and self._plague_begins_locked(now)
            self._broke_at = now
            before = self.last
            self.last = breakage = before + 1

        # Where there is a check, each suspect is checked before its next task.
        condemn = begins and not engine.user.checks
        engine.pool.suspect(condemn=condemn)
        if condemn:
            others = [worker for worker in engine.crew.members if worker is not owner]
            if idle := _condemn(others, before):
                engine.news.suspects_replaced(idle)

        return breakage

    def _plague_begins_locked(self, now: float) -> bool:
        last, self._counted_at = self._counted_at, now
        was_plague = self._is_plague
        self._is_plague = now - last <= WAVE_S

        return self._is_plague and not was_plague

    # -- the burst thread --------------------------------------------------------------

    def excuse(self, seconds: float) -> None:
        """Let the wait for a resource count anew: no thread could run for so long."""
        self._since += seconds

    def tick(self, now: float) -> None:
        """See to it that some worker takes the retries that wait.

        Called before the workers are woken. `now` is when the tick began."""
        engine = self._engine
        if self.past != self.last:
            self._end_wave()

        retries = engine.queue.retries()
        if not retries:
            return

        members, last = engine.crew.members, self.last
        if now - max(self._since, engine.backoff.made_at) >= self._create_timeout:
            for worker in members:
                worker.trust(last)

        # Where there is a check, idle suspects prove themselves when they are woken.
        elif not engine.user.checks:
            able = sum(_is_able(worker) for worker in members)
            _condemn(members, last, retries - able)

    def _end_wave(self) -> None:
        """See whether the last wave is over."""
        with self._lock:
            if timer.now() - self._broke_at < WAVE_S:
                return

            # In this order: what a worker has finished in the wave is no proof.
            for worker in self._engine.crew.members:
                worker.doubt(self.last)
            self.past = self.last


def _is_able(worker: Worker[Any]) -> bool:
    """Whether it takes a retry as soon as it has a resource, or is woken."""
    if worker.dismissed:
        return False

    return not worker.holds_resource or (worker.parker.parked and not worker.is_suspect())


def _condemn(workers: Iterable[Worker[Any]], breakage: int, most: float = math.inf) -> int:
    """Have idle resources replaced whose proof is older than this breakage.

    At most so many. Returns how many they are."""
    idle = [
        worker
        for worker in workers
        if worker.holds_resource and worker.task is None and worker.proof() < breakage
    ]
    condemned = [worker for place, worker in enumerate(idle) if place < most]
    for worker in condemned:
        worker.condemn(breakage)

    return len(condemned)
