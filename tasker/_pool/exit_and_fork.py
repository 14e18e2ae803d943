"""What concerns all managers at once: the interpreter exits, or the process forks.

(A process may have several interpreters. Each has its own modules, and so managers.)

Exit comes in two steps. First, when the main thread has ended and before the non-daemon
threads are joined, the standard library waits for its executors. Then the engines that
finish all that they accepted are waited for, too, as long as it takes. All other
managers work until `atexit`, and close there. `atexit` calls first what was registered
last, and each new manager registers the closing anew. So managers close before the
libraries whose connections their resources still use.

After that an abandoned thread runs no more Python code. When it comes back to Python it
ends (up to CPython 3.13) or hangs (from 3.14 on). Either way its `finally` blocks do
not run, its resource is not destroyed, and a lock that it holds stays taken. So nothing
here waits for a lock after that. From 3.15 on a thread that waits for one there gets a
`PythonFinalizationError`.

An interpreter in which threads cannot be daemons (`concurrent.interpreters`) waits for
all threads before `atexit`. There the first step starts a thread that makes the second
one. It waits until the threads of others have ended, closes the managers, waits for
tasker's own threads, and ends the timer last: a task that cannot be ended may wait for
a deadline. From then on no thread can be started.

After a fork only one thread exists in the child: R5.

`_registering` guards the two lines that register the closing anew.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import Any, Protocol

from tasker._pool.lifecycle import Lifecycle
from tasker._sync import timer
from tasker._sync.clock import monotonic
from tasker._sync.guarded_logger import ours
from tasker._sync.locks import have_locks, locks_of, new_lock
from tasker._sync.threads import daemons_allowed, is_ours, join_all, new_thread, refuse_threads
from tasker._tasks import context, deadlock, future
from tasker.errors import TaskManagerShutdownError

__all__ = ["all_watched", "new_locks", "shared_parts", "watch"]

# Seconds that interpreter exit gives all managers to drain. A guess: a user who ends a
# program waits no longer without asking what it does.
EXIT_TIMEOUT_S = 5.0
# Seconds that it then gives running tasks to notice that they are killed. A guess:
# enough for a task that looks at its context, and hardly seen by the user.
_EXIT_KILL_S = 0.2
# Seconds more for the housekeeper to do what a kill has to do at its end.
_EXIT_SLACK_S = 1.0


class Watched(Protocol):
    """An engine, as seen from here."""

    name: str
    lifecycle: Lifecycle
    exiting: bool
    finishes_at_exit: bool

    def begin_stop(self) -> None: ...

    def unfinished(self) -> list[Any]: ...

    def start_afresh_in_child(self, unfinished: list[Any]) -> None: ...

    def is_held_up_here(self) -> bool: ...

    def own_parts(self) -> tuple[object, ...]: ...


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
# kept, because `sys.modules` has it no more when the interpreter ends
_this_module = sys.modules[__name__]
# reentrant: a signal handler may make a manager, too
_registering = new_lock()
# whether an interpreter ends that would have to wait for every other manager
_refuses = False
# in a thread that forks: `unfinished`, by engine
_forking = threading.local()


def watch(engine: Watched) -> None:
    """Close this one at interpreter exit, and end it in a forked child.

    Raises `TaskManagerShutdownError` when it is too late for that."""
    _watched.add(engine)
    if _refuses:
        raise TaskManagerShutdownError(
            f"{engine.name} cannot be made any more: the interpreter ends"
        )

    with _registering:  # anew, to be called first
        atexit.unregister(_close_all_at_exit)
        atexit.register(_close_all_at_exit)


def _finish_at_exit() -> None:
    """Wait for the engines that finish what they accepted.

    Ctrl-C ends that. The next step then gives them the same time as the others."""
    engines = [engine for engine in all_watched() if engine.finishes_at_exit]
    for engine in engines:
        engine.exiting = True
        engine.lifecycle.request_stop()
    for engine in engines:
        engine.lifecycle.wait(None)

    if not daemons_allowed() and not _refuses:  # 3.15 comes here twice
        new_thread(_end_all_threads, "tasker-exit").start()


def _end_all_threads() -> None:
    """Close the managers of an interpreter that waits for every thread."""
    global _refuses
    join_all(lambda thread: not is_ours(thread))
    # then look (R1): a manager that is made meanwhile is closed, or refused
    _refuses = True
    _close_all_at_exit()

    left = [
        name for engine in all_watched() for name in engine.lifecycle.abandoned
    ] + timer.runner.busy()
    if left:
        ours.warning("tasker: the interpreter cannot end before these have: %s", ", ".join(left))

    join_all(lambda thread: not timer.runs(thread))
    refuse_threads()
    timer.end()


def all_watched() -> list[Watched]:
    while True:
        try:
            return list(_watched)
        except RuntimeError:
            # a thread that still runs has added one meanwhile
            continue


def _close_all_at_exit() -> None:
    """Drain all managers for a while, then kill what is left.

    No thread can be started here any more."""
    engines = all_watched()
    try:
        for engine in engines:
            engine.exiting = True
            engine.begin_stop()
    finally:  # also after a Ctrl-C in an on_destroy
        for engine in engines:
            engine.lifecycle.request_stop()

    deadline = monotonic() + EXIT_TIMEOUT_S
    for engine in engines:
        if not engine.lifecycle.wait(max(0.0, deadline - monotonic())):
            engine.lifecycle.request_kill(_EXIT_KILL_S)
    for engine in engines:
        engine.lifecycle.wait(_EXIT_KILL_S + _EXIT_SLACK_S)


def _look_before_fork() -> None:
    """Note what is unfinished, because the child must not look.

    Without the GIL an object that two threads want at the moment of the fork may stay
    locked in the child (on 3.13). Workers, lanes and tasks are such objects, so the
    child leaves them alone. A task that is submitted between this look and the fork
    fails when it is waited for."""
    _forking.unfinished = {engine: engine.unfinished() for engine in all_watched()}


def _forget_in_parent() -> None:
    vars(_forking).clear()


def _start_afresh_in_child() -> None:
    global _registering
    _registering = new_lock()
    new_locks(ours.faults)
    # not there if a Ctrl-C has ended the look
    unfinished = vars(_forking).pop("unfinished", {})
    for engine in all_watched():
        engine.start_afresh_in_child(unfinished.get(engine, []))
    _watched.clear()


def shared_parts() -> tuple[object, ...]:
    """The parts that have locks and belong to no manager."""
    return context, deadlock, future, threading, _this_module, ours.faults, *timer.own_parts()


def _all_parts() -> list[object]:
    """All parts that have locks."""
    return [*shared_parts(), *(part for engine in all_watched() for part in engine.own_parts())]


def new_locks(*parts: object) -> None:
    """In a forked child: a lock may be held by a thread that does not exist there."""
    for part in parts:
        for name in locks_of(part):
            # even in the place of a lock that is not reentrant
            setattr(part, name, new_lock())


have_locks.append(_all_parts)
try:
    getattr(threading, "_register_atexit", atexit.register)(_finish_at_exit)
except RuntimeError:
    # imported when the interpreter exits already
    if not daemons_allowed():
        refuse_threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_look_before_fork,
        after_in_parent=_forget_in_parent,
        after_in_child=_start_afresh_in_child,
    )
