"""Waits inside of tasks: which of them can never end.

Announced waits
===============

A thread that runs a task is a worker, or a thread in `run_task`. It announces here each
wait without a limit: for the outcomes of tasks, room in a queue, a turn in `run_task`,
or a manager that is to be ready, to come to rest, or to close. Some waits are not
announced, because they may end by other means: waits of other threads, waits with a
limit, and waits for what is not tasker's.

The rule
========

A wait is *live* if it may end:

- It waits for a task that has finished, has a timeout, or runs on a worker that is not
  stuck.
- It waits for a task in a lane, and a worker that holds a resource and is not stuck may
  take this task. Or there is hope: a worker is still to get a resource, or one will be
  hired. A manager that has hoped for `create_timeout` is `hopeless`.
- It waits for a manager that is being killed: this manager settles all of its tasks.

Take the live waits out. Then the threads that waited there count as free, which may
make other waits live. Repeat until nothing changes. What is left is *stuck*: a
deadlock. (It is the largest set of waits each of which only threads in the set could
end.)

`any_free` leaves hope aside: scaling and closing ask it whether a worker has to be
hired, and their answer is what the hope rests on.

Which wait raises
=================

The wait that closes a circle raises `PoolDeadlockError` at once. Time may close a
circle, too, and so may a change that is no wait. So the tick of each burst thread calls
`look_again`, which wakes one of the stuck waits, and that one raises.

The lock
========

`_lock` guards the announced waits. There is one for all managers. So of several waits
that close a circle together the last one sees it, and a circle that runs through two
managers is seen like any other. It is reentrant: a `__del__` may wait in its turn. No
user code is called under it, no other lock is taken, and no thread is woken.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self

from tasker._sync.locks import new_lock
from tasker._tasks import current
from tasker._tasks.wrapping import users_function
from tasker.errors import PoolDeadlockError, name_of

__all__ = [
    "Closing",
    "EngineForDeadlock",
    "Outcomes",
    "Ready",
    "Rest",
    "Seat",
    "Wait",
    "Waits",
    "any_free",
    "look_again",
]


# -- what this module asks of others ---------------------------------------------------


class Worker(Protocol):
    """A worker, as seen from here."""

    name: str
    task: Any
    holds_resource: bool
    creating: bool
    dismissed: bool


class EngineForDeadlock(Protocol):
    """A manager, as seen from here. None of this takes a lock or runs user code."""

    name: str

    def workers(self) -> Collection[Worker]: ...

    def base(self) -> int:
        """How many workers are always there."""
        ...

    def waiting(self) -> Collection[Future]:
        """The tasks in its lanes."""
        ...

    def has_room(self) -> bool:
        """Whether its queue takes another task now, or refuses all."""
        ...

    def is_closing(self) -> bool: ...

    def is_killed(self) -> bool:
        """Whether all of its tasks are settled, or are being settled."""
        ...

    def may_hire(self) -> bool:
        """Whether it hires a worker when there are tasks and no worker is free."""
        ...

    def is_hopeless(self) -> bool:
        """Whether it has hoped for a free worker with a resource for
        `create_timeout`."""
        ...

    def trouble(self) -> str:
        """Why it is hopeless. Runs user code, so the caller must hold no lock."""
        ...


class Future(Protocol):
    """A task's future, as seen from here."""

    _engine: Any
    _deadline: float | None
    _context: Any
    _exception: BaseException | None
    _fn: Any
    _args: Any

    def done(self) -> bool: ...

    def _waits_for_start(self) -> bool: ...


class Awaited(Protocol):
    """What a wait is for. Its `str` is the text for the error."""

    def may_end(self, stuck: Waits) -> bool:
        """Whether the wait may end although all of these are stuck."""
        ...


# -- what waits are for ----------------------------------------------------------------


class Outcomes:
    """The outcomes of tasks: of all of them, of any, or the first error.

    `until` is one of these, by the constants of `concurrent.futures.wait`. If `kind` is
    given, a future of another type is not tasker's: it may end. The collection may
    change once the wait is over."""

    __slots__ = ("_futures", "_kind", "_until")

    def __init__(
        self, futures: Collection[Any], until: str = ALL_COMPLETED, kind: type[Any] | None = None
    ) -> None:
        self._futures = futures
        self._until = until
        self._kind = kind

    def may_end(self, stuck: Waits) -> bool:
        if self._until == ALL_COMPLETED:
            return all(
                self._is_foreign(future) or stuck.may_settle(future) for future in self._futures
            )
        if self._until == FIRST_COMPLETED:
            return any(
                self._is_foreign(future) or stuck.may_settle(future) for future in self._futures
            )

        over = True
        for future in self._futures:
            if self._is_foreign(future) or future._exception is not None:
                return True
            if not future.done():
                over = False
                if stuck.may_settle(future):
                    return True

        return over

    def _is_foreign(self, future: Any) -> bool:
        # No isinstance(): it may run user code.
        return self._kind is not None and type(future) is not self._kind

    def __str__(self) -> str:
        try:
            futures = tuple(self._futures)
        except RuntimeError:
            # It changed meanwhile, as the wait is over.
            return "tasks"

        names = [_name(future) for future in futures[:3]]
        if len(futures) > 3:
            names.append(f"{len(futures) - 3} more")

        return (" and " if self._until == ALL_COMPLETED else " or ").join(names)


class Seat:
    """A seat in the bounded queue of a manager."""

    __slots__ = ("_pool",)

    def __init__(self, pool: EngineForDeadlock) -> None:
        self._pool = pool

    def may_end(self, stuck: Waits) -> bool:
        pool = self._pool
        return pool.has_room() or stuck.may_serve(pool) or any(map(_expires, pool.waiting()))

    def __str__(self) -> str:
        return f"room in the queue of {self._pool.name}"


class Ready:
    """The base workers of a manager that hold resources."""

    __slots__ = ("_pool",)

    def __init__(self, pool: EngineForDeadlock) -> None:
        self._pool = pool

    def may_end(self, stuck: Waits) -> bool:
        pool, workers = self._pool, self._pool.workers()
        hopeful = sum(worker.holds_resource or worker not in stuck for worker in workers)

        return pool.is_closing() or len(workers) < pool.base() or hopeful >= pool.base()

    def __str__(self) -> str:
        return f"{self._pool.name} to be ready"


class Rest:
    """A manager none of whose tasks waits or runs."""

    __slots__ = ("_pool",)

    def __init__(self, pool: EngineForDeadlock) -> None:
        self._pool = pool

    def may_end(self, stuck: Waits) -> bool:
        pool = self._pool
        if pool.is_killed():
            return True
        if any(worker in stuck and worker.holds_resource for worker in pool.workers()):
            return False

        return stuck.may_serve(pool) or all(map(_expires, pool.waiting()))

    def __str__(self) -> str:
        return f"{self._pool.name} to come to rest"


class Closing:
    """A manager that is closed.

    Then its workers have left, and so have the callers of `run_task`. A worker that
    only tries to make a resource does not hold this up for ever."""

    __slots__ = ("_pool",)

    def __init__(self, pool: EngineForDeadlock) -> None:
        self._pool = pool

    def may_end(self, stuck: Waits) -> bool:
        pool = self._pool
        if pool.is_killed():
            return True
        if any(
            worker in stuck and not worker.creating for worker in pool.workers()
        ) or stuck.borrow_from(pool):
            return False

        return stuck.may_serve(pool) or all(map(_expires, pool.waiting()))

    def __str__(self) -> str:
        return f"{self._pool.name} to close"


# -- waits -----------------------------------------------------------------------------


class Wait:
    """A wait. It is announced for as long as its `with` block lasts.

    It is not announced if it has a `timeout`. Nor is it announced if its thread runs no
    task, unless this thread `holds` what other threads wait for.

    The beginning of the block raises `PoolDeadlockError` if the wait cannot end. The
    end of the block raises it if another thread has found that meanwhile. This other
    thread sets `stuck`, and calls `wake`, perhaps more than once, until the block is
    left.

    After the block it refers to nothing, as an error's traceback leads to it (R4)."""

    __slots__ = (
        "_limited",
        "_loan",
        "_outer",
        "_waiter",
        "awaited",
        "holds",
        "stuck",
        "task",
        "thread",
        "wake",
        "where",
    )

    def __init__(
        self,
        awaited: Awaited,
        wake: Callable[[], object],
        timeout: float | None = None,
        *,
        holds: bool = False,
    ) -> None:
        self.awaited: Awaited | None = awaited
        self.wake: Callable[[], object] = wake
        # The stuck set in which this wait was found.
        self.stuck: Stuck | None = None
        # The task that the waiting worker runs; the name and identifier of its thread.
        self.task: Any = None
        self.where: str = ""
        self.thread: int = 0
        self.holds: bool = holds

        # The worker, or the `Running` of a thread that runs a task itself.
        self._waiter: Any = None
        self._loan: Any = None
        self._limited = timeout is not None
        # The wait during which this one began, in a callback or a `__del__`, say.
        self._outer: Wait | None = None

    def __enter__(self) -> Self:
        running = current.thread_state.running
        worker, loan = running.worker, running.loan
        if self._limited or (worker is None and loan is None and not self.holds):
            return self

        self.thread = threading.get_ident()
        self.where = threading.current_thread().name if worker is None else worker.name
        self.task = None if worker is None else worker.task
        self._waiter, self._loan = worker or running, loan

        try:
            with _lock:
                self._outer = _announced.begin(self._waiter, self)
                self.stuck = None if self.may_end(_announced) else _circle(self._waiter)
            if self.stuck is not None:
                raise self._error(self.stuck)
        except BaseException:
            self._end()
            raise

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._waiter is None:
            return

        try:
            if self.stuck is not None and error is None:
                raise self._error(self.stuck)
        finally:
            self._end()

    def may_end(self, stuck: Waits) -> bool:
        """Whether it may end although all of these are stuck."""
        return self.awaited is None or self.awaited.may_end(stuck)

    def borrows_from(self, pool: EngineForDeadlock) -> bool:
        """Whether its thread is in a `run_task` of this manager."""
        loan = self._loan
        while loan is not None:
            if loan.owner is pool:
                return True
            loan = loan.outer

        return False

    def __str__(self) -> str:
        awaited = self.awaited or "nothing any more"
        runs = "a hook or run_task" if self.task is None else _name(self.task)
        return f"{runs} on {self.where} waits for {awaited}"

    def _end(self) -> None:
        with _lock:
            _announced.end(self._waiter, self, self._outer)
        self.awaited = self.stuck = self.task = self._waiter = self._loan = self._outer = None
        self.wake = bool

    def _error(self, stuck: Stuck) -> PoolDeadlockError:
        return PoolDeadlockError(
            f"{self.where}: this wait would never end: {stuck}. Give the awaited task a "
            "timeout, raise max_worker_count, or do not wait inside of tasks"
        )


class Waits:
    """Waits that go on. The key is the waiting worker or `Running`."""

    def __init__(self, *, hopes: bool = True) -> None:
        self.waits: dict[Any, Wait] = {}
        # Whether workers may still get a resource, or be hired.
        self._hopes = hopes
        # The tasks whose workers wait.
        self._running: set[Any] = set()

    def begin(self, waiter: Any, wait: Wait) -> Wait | None:
        """Add a wait; returns the one around it, whose place it takes."""
        outer = self.waits.get(waiter)
        self.waits[waiter] = wait
        self._running.add(wait.task)
        return outer

    def end(self, waiter: Any, wait: Wait, outer: Wait | None) -> None:
        """Take a wait out; the one around it goes on. Harmless if it is out already."""
        if self.waits.get(waiter) is not wait:
            return

        self._running.discard(wait.task)
        if outer is None:
            del self.waits[waiter]
        else:
            self.begin(waiter, outer)

    def __contains__(self, waiter: object) -> bool:
        return waiter in self.waits

    # -- what may happen although all of these are stuck -------------------------------

    def may_settle(self, future: Future) -> bool:
        """Whether a task may get its outcome."""
        if future.done() or _expires(future):
            return True

        pool: EngineForDeadlock = future._engine
        if future._waits_for_start():
            return self.may_serve(pool)
        return future not in self._running or pool.is_killed()

    def may_serve(self, pool: EngineForDeadlock) -> bool:
        """Whether the tasks in the lanes of a manager may be taken, or settled
        there."""
        hope = False
        for worker in pool.workers():
            if worker not in self.waits and not worker.dismissed:
                if worker.holds_resource:
                    return True
                hope = True

        return pool.is_killed() or (
            self._hopes and not pool.is_hopeless() and (hope or pool.may_hire())
        )

    def borrow_from(self, pool: EngineForDeadlock) -> bool:
        """Whether one of these is in a `run_task` of a manager."""
        return any(wait.borrows_from(pool) for wait in self.waits.values())


class Stuck(Waits):
    """The largest stuck set of some waits. Its `str` lists which thread waits for what.

    A wait that was found stuck before is about to end, so it is not among them."""

    def __init__(self, waits: Waits, *, hopes: bool = True) -> None:
        super().__init__(hopes=hopes)
        # What `may_serve` has found of managers.
        self._serving: dict[EngineForDeadlock, bool] = {}
        for waiter, wait in waits.waits.items():
            if wait.stuck is None:
                self.begin(waiter, wait)

        while live := [(waiter, wait) for waiter, wait in self.waits.items() if wait.may_end(self)]:
            for waiter, wait in live:
                self.end(waiter, wait, None)
            # The fewer waits are stuck, the more may happen: only a `True` still holds.
            self._serving = {pool: True for pool, serves in self._serving.items() if serves}

    def may_serve(self, pool: EngineForDeadlock) -> bool:
        if pool not in self._serving:
            self._serving[pool] = super().may_serve(pool)
        return self._serving[pool]

    def __str__(self) -> str:
        texts = [str(wait) for wait in islice(self.waits.values(), 20)]
        if len(self.waits) > 20:
            texts.append(f"and {len(self.waits) - 20} more wait")

        return "; ".join(
            [*texts, *(pool.trouble() for pool in self._serving if pool.is_hopeless())]
        )


_lock = new_lock()
_announced = Waits()


def any_free(workers: Collection[Worker]) -> bool:
    """Whether one of these is free for a task, or will be, even if none is hired.

    `False` if there are no workers."""
    if any(worker not in _announced for worker in workers):
        return True
    if not workers:
        return False

    with _lock:
        return _comes_back(workers)


def look_again(workers: Iterable[Worker]) -> None:
    """Look for a circle that something else than a wait has closed, and end it.

    Does nothing unless one of these workers waits."""
    if not _announced.waits or not any(worker in _announced for worker in workers):
        return

    with _lock:
        _mark_the_youngest()
        wakes = [wait.wake for wait in _announced.waits.values() if wait.stuck is not None]

    for wake in wakes:
        wake()


# These are called with the lock held. They drop other threads' waits before it is
# released. Once it is, these threads go on, and a service thread must not hold the last
# reference to a task (I7).


def _circle(waiter: Any) -> Stuck | None:
    stuck = Stuck(_announced)
    return stuck if waiter in stuck else None


def _comes_back(workers: Collection[Worker]) -> bool:
    stuck = Stuck(_announced, hopes=False)
    return any(worker not in stuck for worker in workers)


def _mark_the_youngest() -> None:
    stuck = Stuck(_announced)
    if stuck.waits:
        next(reversed(stuck.waits.values())).stuck = stuck


def _expires(future: Future) -> bool:
    if future._deadline is not None:
        return True

    # Where only its runs are limited, it has a deadline while it runs.
    context = None if future._waits_for_start() else future._context
    return context is not None and context._deadline is not None


def _name(task: Any) -> str:
    return name_of(users_function(task._fn, task._args) if hasattr(task, "_fn") else task)


def _start_afresh() -> None:
    """In a forked child (R5). It has no workers, so no waits."""
    global _lock, _announced
    _lock = new_lock()
    _announced = Waits()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
