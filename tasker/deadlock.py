"""Tasks that wait for tasks: which of these waits can never end.

A worker whose task waits without a limit for a future announces that here, and looks whether the wait closes a circle.
Both happen under `_lock`, one for all managers of the process, so of several waits that close a circle together the
last one sees it, and a circle that runs through two managers is seen like any other. A wait for a task that has a
timeout is none of these: it ends.

A set of waits is stuck when each is for a task that runs on a worker whose wait is in the set, or that still has to be
taken while all workers that could take it wait in the set and nobody more can be hired. Any other wait may end. The
largest stuck set is what is left when those that may end are taken out, again and again.

`_lock` is reentrant: a `__del__` may wait in its turn. No code of the user's is called under it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from tasker.errors import PoolDeadlockError
from tasker.wrapping import users_function

__all__ = ["all_wait", "begin_wait", "end_wait"]


class Pool(Protocol):
    """A future's manager."""

    def workers(self) -> Collection[Waiter]: ...

    def may_hire(self) -> bool:
        """Whether a backlog can still lead to one more worker."""
        ...


class Awaited(Protocol):
    """A future, as seen from here."""

    _owner: Any
    _deadline: float | None
    _fn: Any
    _args: Any

    def done(self) -> bool: ...

    def _waits_for_start(self) -> bool: ...


class Waiter(Protocol):
    """A worker, as seen from here."""

    name: str
    task: Any


_Waits = dict[Waiter, Awaited]

_lock = threading.RLock()
_waits: _Waits = {}


def begin_wait(worker: Waiter, future: Awaited) -> Awaited | None:
    """Announce a wait without a limit; returns what `end_wait` wants. Raises `PoolDeadlockError` if it cannot end."""
    with _lock:
        outer = _waits.get(worker)
        _waits[worker] = future
        stuck = {} if _may_end(future, _waits) else _stuck()
        if worker in stuck:
            end_wait(worker, outer)
    if worker in stuck:
        raise PoolDeadlockError(_explain(worker, stuck))
    return outer


def end_wait(worker: Waiter, outer: Awaited | None) -> None:
    """The wait is over; `outer` is the one in which it was begun, in a callback or a `__del__` say."""
    with _lock:
        if outer is None:
            _waits.pop(worker, None)
        else:
            _waits[worker] = outer


def all_wait(workers: Iterable[Waiter]) -> bool:
    """Whether all of them wait for other tasks. True of none."""
    return all(worker in _waits for worker in workers)


def _stuck() -> _Waits:
    stuck = dict(_waits)
    while moving := [worker for worker, future in stuck.items() if _may_end(future, stuck)]:
        for worker in moving:
            del stuck[worker]
    return stuck


def _may_end(future: Awaited, stuck: _Waits) -> bool:
    if future.done() or future._deadline is not None:
        return True
    pool: Pool = future._owner
    if future._waits_for_start():
        return pool.may_hire() or any(worker not in stuck for worker in pool.workers())
    return all(worker.task is not future for worker in stuck)


def _explain(closing: Waiter, stuck: _Waits) -> str:
    waits = "; ".join(f"{_name(worker.task)} on {worker.name} waits for {_name(f)}" for worker, f in stuck.items())
    return (
        f"{closing.name}: this wait would never end: {waits}. Give the awaited task a timeout, "
        "raise max_worker_count, or do not wait inside of tasks"
    )


def _name(task: Awaited | None) -> str:
    fn = None if task is None else users_function(task._fn, task._args)
    try:
        return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
    except Exception:  # an attribute of the user's
        return type(fn).__qualname__


def _start_afresh() -> None:
    """In a forked child: no worker is there, and the lock may be held by a thread that is not."""
    global _lock, _waits
    _lock = threading.RLock()
    _waits = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
