"""How children take part in `multiprocessing`, where the program uses it.

`multiprocessing` gives some things to its own children, and tasker's children get them,
too: the key by which processes know each other, which proxies need; a name, and which
process is the parent; the start method; and the program's *resource tracker*. The
tracker is a process that unlinks shared memory and semaphores when all processes that
could do so are gone. A child that started a tracker of its own would have it unlink
what others still use, when the child ends.

A program that has not imported `multiprocessing` when the child starts pays nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import Any

from tasker.placement.remote.protocol import Inheritance

__all__ = ["inheritance", "take_over", "tracker"]


def inheritance() -> Inheritance | None:
    """What a child takes over from this process.

    `None` if this process does not use `multiprocessing`."""
    process, package, util = map(_imported, ("process", "", "util"))
    if process is None or package is None:
        return None

    current = process.current_process()
    return Inheritance(
        authkey=bytes(current.authkey),
        parent_name=current.name,
        parent=os.getpid(),
        start_method=package.get_start_method(allow_none=True),
        logs=getattr(util, "_logger", None) is not None,
    )


def tracker(python: str) -> int | None:
    """The descriptor through which the program's resource tracker is told.

    `None` if the program makes nothing that is tracked. Starts the tracker if need be,
    but only if `multiprocessing` runs the same Python as the children (`python`).
    Otherwise (in a frozen program) to start it would run the program once more."""
    module, spawn = map(_imported, ("resource_tracker", "spawn"))
    if module is None or spawn is None:
        return None
    runs = module._resource_tracker._fd is not None
    if not runs and os.fsdecode(spawn.get_executable() or "") != python:
        return None

    descriptor: int = module.getfd()
    return descriptor


def take_over(inherited: Inheritance | None, name: str, lifeline: int, tracker: int | None) -> None:
    """In a child called `name`: be a child of `multiprocessing`'s, too."""
    if tracker is not None:
        _share_tracker(tracker)
    if inherited is None:
        return

    import multiprocessing
    import multiprocessing.process

    process: Any = multiprocessing.process
    current = process.current_process()
    current.authkey = inherited.authkey
    current.name = name
    if hasattr(process, "_ParentProcess"):
        # The lifeline says whether the parent is alive.
        process._parent_process = process._ParentProcess(
            inherited.parent_name, inherited.parent, lifeline
        )
    if inherited.start_method is not None:
        multiprocessing.set_start_method(inherited.start_method, force=True)
    if inherited.logs:
        from multiprocessing import util

        # To the handler that sends records to the parent. Its logger has the others.
        util.get_logger().propagate = True


def _share_tracker(descriptor: int) -> None:
    from multiprocessing import resource_tracker

    shared: Any = resource_tracker._resource_tracker
    shared._fd = descriptor
    # Newer versions of the tracker do this themselves.
    if not hasattr(shared, "_after_fork_in_child"):
        os.register_at_fork(after_in_child=partial(_leave_tracker, shared, descriptor))


def _leave_tracker(shared: Any, descriptor: int) -> None:
    """In a process that the user's code forks: close the tracker's descriptor.

    The process may outlive the program. The end of the program waits for the tracker,
    and the tracker waits for all processes that hold the descriptor. Processes that
    `multiprocessing` forks keep it, as the program waits for them anyway."""
    if sys._getframe(1).f_globals.get("__name__") == "multiprocessing.popen_fork":
        return

    shared._fd = None
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _imported(name: str) -> Any:
    return sys.modules.get(f"multiprocessing.{name}".rstrip("."))
