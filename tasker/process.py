"""What happens to all managers of the process at once: the interpreter exits, the process forks."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import Protocol

from tasker.lifecycle import Lifecycle

__all__ = ["new_locks", "watch"]

_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())

EXIT_TIMEOUT = 5.0  # seconds that interpreter exit gives all managers to drain
_EXIT_KILL = 0.2  # seconds that it then gives running tasks to notice that they are killed


class Watched(Protocol):
    """What has to be closed in time."""

    lifecycle: Lifecycle
    exiting: bool

    def start_afresh_in_child(self) -> None: ...


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()


def watch(engine: Watched) -> None:
    """Close this one at interpreter exit, and end it in a forked child."""
    _watched.add(engine)


def _close_all_at_exit() -> None:
    """Drain all managers for a while, then kill what is left. No thread can be started here any more."""
    engines = list(_watched)
    for engine in engines:
        engine.exiting = True
        engine.lifecycle.request_stop()
    deadline = time.monotonic() + EXIT_TIMEOUT
    for engine in engines:
        if not engine.lifecycle.wait(max(0.0, deadline - time.monotonic())):
            engine.lifecycle.request_kill(_EXIT_KILL)
    for engine in engines:
        engine.lifecycle.wait(_EXIT_KILL + 1.0)


def _start_afresh_in_child() -> None:
    for engine in list(_watched):
        engine.start_afresh_in_child()
    _watched.clear()


def new_locks(*parts: object) -> None:
    """In a forked child: a lock may be held by a thread that does not exist there."""
    for part in parts:
        for name, value in tuple(vars(part).items()):
            if isinstance(value, _LOCK):
                setattr(part, name, threading.Lock())
            elif isinstance(value, _RLOCK):
                setattr(part, name, threading.RLock())
            elif isinstance(value, threading.Condition):
                setattr(part, name, threading.Condition())


atexit.register(_close_all_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
