"""What concerns all managers of the process at once: the interpreter exits, the process forks, a thread is interrupted.
(Of the interpreter, where the process has several: each has its own modules.)

Exit comes in two steps. When the main thread has ended, before the non-daemon threads are joined, the engines that
finish all that they accepted are waited for, as long as it takes: that is when the standard library waits for its
executors. `atexit` comes later, and is when all other managers close: until then they are at everybody's disposal. They
close before whatever was registered with `atexit` until the last of them was made: libraries that their resources need
may close then, too.

A thread that is abandoned then runs no more Python code. Up to CPython 3.13 it ends when it comes back to any, from
3.14 on it hangs. Either way none of its `finally` blocks runs, its resource is not destroyed, and a lock that it holds
stays taken. So nothing here waits for one after that; who waits for a lock there gets a `PythonFinalizationError` from
3.15 on.

An interpreter in which threads cannot be daemons (`concurrent.interpreters`) waits for them all before `atexit`. There
the second step is made by a thread that the first one starts. It waits until the threads of others have ended, then
closes the managers, then waits for tasker's own threads, and ends the timer last: a task that cannot be ended may wait
for a deadline. From then on no thread can be started.

A signal handler, or a destructor, interrupts its thread at any moment and may wait for the end of a manager there. That
would be for ever if the closing, or a task, needed what the interrupted lines have in their hands: `is_needed_here`.

`_registering` is held for two lines.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import Any, Protocol

from tasker import context, deadlock, future, guard, timer
from tasker.clock import monotonic
from tasker.errors import TaskManagerShutdownError
from tasker.lifecycle import Lifecycle
from tasker.locks import have_locks, holds_lock, locks_of, new_lock
from tasker.logger import ours
from tasker.threads import daemons_allowed, is_ours, join_all, new_thread, refuse_threads

__all__ = ["is_needed_here", "new_locks", "watch"]

EXIT_TIMEOUT = 5.0  # seconds that interpreter exit gives all managers to drain
_EXIT_KILL = 0.2  # seconds that it then gives running tasks to notice that they are killed


class Watched(Protocol):
    """What has to be closed in time."""

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
_this_module = sys.modules[__name__]  # where it is no more when the interpreter ends
_registering = new_lock()  # reentrant: a signal handler may make a manager, too
_refuses = False  # whether an interpreter ends that would have to wait for every other manager
_forking = threading.local()  # in a thread that forks: `unfinished`, by engine


def watch(engine: Watched) -> None:
    """Close this one at interpreter exit, and end it in a forked child.

    Raises `TaskManagerShutdownError` when it is too late for that."""
    _watched.add(engine)
    if _refuses:
        raise TaskManagerShutdownError(f"{engine.name} cannot be made any more: the interpreter ends")
    with _registering:  # anew, to be called first
        atexit.unregister(_close_all_at_exit)
        atexit.register(_close_all_at_exit)


def _finish_at_exit() -> None:
    """Wait for the engines that finish what they accepted. Ctrl-C ends that, and the next step gives them what time it
    gives to others."""
    engines = [engine for engine in _all_watched() if engine.finishes_at_exit]
    for engine in engines:
        engine.exiting = True
        engine.lifecycle.request_stop()
    for engine in engines:
        engine.lifecycle.wait(None)
    if not daemons_allowed() and not _refuses:  # 3.15 comes here twice
        new_thread(_end_all_threads, "tasker-exit").start()


def _end_all_threads() -> None:
    """For the end of an interpreter that waits for every thread."""
    global _refuses
    join_all(lambda thread: not is_ours(thread))
    _refuses = True  # then look: a manager that is made meanwhile is closed, or refused
    _close_all_at_exit()
    left = [name for engine in _all_watched() for name in engine.lifecycle.abandoned] + timer.aside.busy()
    if left:
        ours.warning("tasker: the interpreter cannot end before these have: %s", ", ".join(left))
    join_all(lambda thread: not timer.runs(thread))
    refuse_threads()
    timer.end()


def _all_watched() -> list[Watched]:
    while True:
        try:
            return list(_watched)
        except RuntimeError:  # a thread that still runs has added one meanwhile
            continue


def _close_all_at_exit() -> None:
    """Drain all managers for a while, then kill what is left. No thread can be started here any more."""
    engines = _all_watched()
    try:
        for engine in engines:
            engine.exiting = True
            engine.begin_stop()
    finally:  # also after a Ctrl-C in an on_destroy
        for engine in engines:
            engine.lifecycle.request_stop()
    deadline = monotonic() + EXIT_TIMEOUT
    for engine in engines:
        if not engine.lifecycle.wait(max(0.0, deadline - monotonic())):
            engine.lifecycle.request_kill(_EXIT_KILL)
    for engine in engines:
        engine.lifecycle.wait(_EXIT_KILL + 1.0)


def _look_before_fork() -> None:
    """Without the GIL an object that two threads want at the moment of the fork may stay locked in the child (on 3.13),
    and workers, lanes and tasks are such objects. So they are looked at before, and left alone in the child."""
    _forking.unfinished = {engine: engine.unfinished() for engine in _all_watched()}


def _forget_in_parent() -> None:
    vars(_forking).clear()


def _start_afresh_in_child() -> None:
    global _registering
    _registering = new_lock()
    new_locks(ours.faults)
    unfinished = vars(_forking).pop("unfinished", {})  # not there if a Ctrl-C has ended the look
    for engine in _all_watched():
        engine.start_afresh_in_child(unfinished.get(engine, []))
    _watched.clear()


def is_needed_here() -> bool:
    """Whether other threads may have to wait for what the calling thread was interrupted in.

    It holds a lock of tasker's, the one of `threading` that each thread takes when it starts and ends, or those of a
    wait in `concurrent.futures`; it has in its hands what others wait to be told, or a worker that it starts; or it is
    a thread that serves all others."""
    return (
        guard.here.telling
        or holds_lock(*_shared_parts())
        or timer.is_needed_here()
        or future.is_looked_into_here()
        or any(engine.is_held_up_here() for engine in _all_watched() if not engine.lifecycle.has_ended())
    )


def _shared_parts() -> tuple[object, ...]:
    """What has locks and belongs to no manager."""
    return context, deadlock, future, threading, _this_module, ours.faults, *timer.own_parts()


def _all_parts() -> list[object]:
    """What has locks."""
    return [*_shared_parts(), *(part for engine in _all_watched() for part in engine.own_parts())]


def new_locks(*parts: object) -> None:
    """In a forked child: a lock may be held by a thread that does not exist there."""
    for part in parts:
        for name in locks_of(part):
            setattr(part, name, new_lock())  # as good as one that is not reentrant


have_locks.append(_all_parts)
try:
    getattr(threading, "_register_atexit", atexit.register)(_finish_at_exit)
except RuntimeError:  # imported when the interpreter exits already
    if not daemons_allowed():
        refuse_threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_look_before_fork, after_in_parent=_forget_in_parent, after_in_child=_start_afresh_in_child
    )
