"""`leak_check`: what a piece of code leaves behind of the managers that it made.

All engines of the process are known weakly (`exit_and_fork`), and an engine lives as
long as one of its threads. So the engines that a block made are those that are known at
its end and were not at its beginning. Nothing is collected and nothing is waited for
unless something is amiss. A test that leaves nothing behind pays for a look at its own
managers.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

from tasker._pool import exit_and_fork
from tasker._pool.engine import Engine
from tasker._pool.lifecycle import CLOSED, OPEN
from tasker._pool.worker import Worker
from tasker._sync.clock import monotonic
from tasker.errors import shown
from tasker.executor import CallExecutor
from tasker.manager import TaskManager

__all__ = ["leak_check"]

# The time that a closing manager has to close, and its threads to end. A guess: long
# enough for a busy machine. `leak_check` names it.
PATIENCE_S = 5.0

# No more objects than these are looked at. A guess.
_MOST_OBJECTS = 10_000


@contextlib.contextmanager
def leak_check() -> Generator[None, None, None]:
    """A block that raises `AssertionError` if it leaves something of a manager behind.

    The error names each such thing. One is a manager that the block made and that is
    still open. Others are of a closed manager: a thread (a worker that `kill()`
    abandoned, a callback that runs), a resource that `run_task` has not handed back, a
    future without an outcome.

    Managers that are closing and threads that are ending get 5 seconds. A manager that
    was left open is killed, so that it disturbs nothing afterwards. If a part of its
    own config refers to it, and so keeps it from being collected, that is named, too.
    When the block itself raises, nothing is checked."""
    __tracebackhide__ = True

    # A WeakSet would cost several times as much.
    before = set(map(weakref.ref, exit_and_fork._watched))

    yield

    made = [
        cast(Engine[Any], engine)
        for engine in exit_and_fork._watched
        if weakref.ref(engine) not in before
    ]

    left = [] if all(map(_is_gone, made)) else _left_of(made)
    if left:
        raise AssertionError("\n  ".join(["left behind:", *left]))


def _is_gone(engine: Engine[Any]) -> bool:
    return engine.lifecycle.state == CLOSED and not any(_left_when_closed(engine))


def _left_of(engines: list[Engine[Any]]) -> list[str]:
    """The leftovers of engines that had time to end, in words."""
    # A manager that was dropped begins to close when it is collected.
    gc.collect()

    deadline = monotonic() + PATIENCE_S
    left: list[str] = []
    for engine in engines:
        if engine.lifecycle.state != OPEN:
            engine.lifecycle.wait(max(0.0, deadline - monotonic()))
        if engine.lifecycle.state == CLOSED:
            left += _left_at(deadline, engine)
        else:
            left.append(_still_there(engine))

    for engine in engines:
        if engine.lifecycle.state != CLOSED:
            engine.lifecycle.request_kill(0.0)
            engine.lifecycle.wait(PATIENCE_S)

    return left


def _left_at(deadline: float, engine: Engine[Any]) -> list[str]:
    while (left := list(_left_when_closed(engine))) and monotonic() < deadline:
        # Not everything can be waited for. The pause is a guess: it is short for a
        # test.
        time.sleep(0.002)

    return left


def _left_when_closed(engine: Engine[Any]) -> Iterator[str]:
    of = f"of the closed manager {engine.name!r}"
    for worker in engine.crew.members:
        yield f"worker {_described(worker)} {of}"
    if engine.housekeeper.thread.is_alive():
        yield f"thread {engine.housekeeper.thread.name} {of}"
    for name in engine.runner.busy():
        yield f"thread {name}, which runs a callback, {of}"
    if engine.pool.out:
        yield f"{_count(engine.pool.out, 'resource')} that run_task has not handed back, {of}"
    for name in engine.pool.given_up():
        yield f"thread {name}, whose on_check has not returned, {of}"
    if (unfinished := engine.counters.unfinished()) > 0:
        yield f"{_count(unfinished, 'future')} without an outcome, {of}"


def _still_there(engine: Engine[Any]) -> str:
    stats = engine.stats()
    workers = ", ".join(map(_described, engine.crew.members))
    parts = [
        f"{_count(stats.active_workers, 'worker')} ({workers})",
        f"{_count(stats.queued_tasks + stats.priority_tasks, 'task')} waiting",
        f"{_count(stats.running_tasks, 'task')} running",
    ]
    if stats.available_resources + engine.pool.out:
        parts.append(
            f"{_count(stats.available_resources + engine.pool.out, 'resource')} of run_task"
        )

    return (
        f"manager {engine.name!r}, {engine.lifecycle.name()}: {', '.join(parts)}{_kept_by(engine)}"
    )


def _kept_by(engine: Engine[Any]) -> str:
    """The part of a config that refers to the manager made of it, in words."""
    for name, part in vars(engine.config).items():
        if _leads_to(part, engine):
            return (
                f"; it is not stopped when it is forgotten, as its {name}, {shown(part)}, "
                "refers to it: stop it, or leave its `with` block"
            )

    return ""


def _leads_to(start: object, engine: Engine[Any]) -> bool:
    """Whether an object refers to the manager or executor of an engine.

    Only its nearest `_MOST_OBJECTS` objects are looked at."""
    found = [start]
    seen = {id(start)}

    # The list grows meanwhile.
    for thing in found:
        if issubclass(type(thing), (TaskManager, CallExecutor)) and engine in vars(thing).values():
            return True

        if len(found) < _MOST_OBJECTS:
            news = [each for each in _referents(thing) if id(each) not in seen]
            seen.update(map(id, news))
            found += news

    return False


def _referents(thing: object) -> list[Any]:
    """The objects to which an object refers, without those that are there for all.

    Those are modules and their variables, types, code, threads and engines."""
    if isinstance(thing, (ModuleType, type, CodeType, threading.Thread, Engine)):
        return []

    referents = gc.get_referents(thing)
    if isinstance(thing, FunctionType):
        referents = [each for each in referents if each is not thing.__globals__]
    return referents


def _described(worker: Worker[Any]) -> str:
    task = worker.task
    doing = "" if task is None or task.done() else f", which runs {task!r}"
    return worker.name + doing


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
