"""What a child has of its parent where the program uses `multiprocessing`: what that gives to children of its own.

The key by which processes know each other, which proxies need; a name, and who the parent is; the start method; and the
program's *resource tracker*. That is a process which unlinks shared memory and semaphores when all are gone that could.
A child that started one of its own would have it unlink, at the child's end, what others still use.

A program that does not use it, by the time that the child starts, pays nothing.
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
    """What a child is to take over from this process, `None` if that does not use `multiprocessing`."""
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
    """A descriptor by which to tell the program's resource tracker; `None` if the program makes nothing that it tracks.

    Started if need be, but only if that runs the same Python as the children: elsewhere it would run the program."""
    module, spawn = map(_imported, ("resource_tracker", "spawn"))
    if module is None or spawn is None:
        return None
    runs = module._resource_tracker._fd is not None
    if not runs and os.fsdecode(spawn.get_executable() or "") != python:
        return None
    descriptor: int = module.getfd()
    return descriptor


def take_over(inherited: Inheritance | None, name: str, lifeline: int, tracker: int | None) -> None:
    """In a child of this `name`: be one of `multiprocessing`'s as well."""
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
        # by the lifeline it finds out whether the parent is alive
        process._parent_process = process._ParentProcess(
            inherited.parent_name, inherited.parent, lifeline
        )
    if inherited.start_method is not None:
        multiprocessing.set_start_method(inherited.start_method, force=True)
    if inherited.logs:
        from multiprocessing import util

        util.get_logger().propagate = (
            True  # to what sends records to the parent, whose logger has the handlers
        )


def _share_tracker(descriptor: int) -> None:
    from multiprocessing import resource_tracker

    shared: Any = resource_tracker._resource_tracker
    shared._fd = descriptor
    if not hasattr(shared, "_after_fork_in_child"):  # newer ones see to that themselves
        os.register_at_fork(after_in_child=partial(_leave_tracker, shared, descriptor))


def _leave_tracker(shared: Any, descriptor: int) -> None:
    """In a process that the user's code forks: it may outlive the program, whose end waits for the tracker, which waits
    for all that hold the descriptor. `multiprocessing` waits for those that it forks."""
    if sys._getframe(1).f_globals.get("__name__") == "multiprocessing.popen_fork":
        return
    shared._fd = None
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _imported(name: str) -> Any:
    return sys.modules.get(f"multiprocessing.{name}".rstrip("."))
