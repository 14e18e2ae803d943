"""The messages between a manager and its children: kinds, orders, the first one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from tasker.slot import Slot

__all__ = ["Hooks", "Inheritance", "Setup"]

# To the child, through the wire. Each is answered before the next is sent. DESTROY
# carries the packed error that broke the resource, or `None`; CHECK and RESET nothing.
SETUP, CALL, DESTROY, CHECK, RESET = 1, 2, 3, 4, 5
# From the child. The answer; ABORTED is added to it if `on_abort` was called:
RESULT, ERROR, ABORTED = 11, 12, 64
# Before the answer: a step's result, a log record.
NOTE, RECORD = 13, 14

# The body of a CALL begins with the call's number, the seconds until its deadline
# (negative without one), and how many of its steps were done before.
CALL_HEAD = struct.Struct("<QdI")

# Orders to the child, through the control pipe: the order, and the number of the call.
ORDER = struct.Struct("<BQ")
CANCELLED, DEADLINE, KILLED, STOPPING = 1, 2, 3, 4


class Inheritance(NamedTuple):
    """What a child takes over where its parent uses `multiprocessing`."""

    authkey: bytes
    """The key by which processes know each other."""
    parent_name: str
    """The name of the parent, as a process."""
    parent: int
    """The process number of the parent."""
    start_method: str | None
    """`None` if it is the default."""
    logs: bool
    """Whether `multiprocessing` logs what it does."""


class Hooks(NamedTuple):
    """The user's functions that run where the resource lives."""

    on_create: Callable[..., Any]
    on_destroy: Callable[[Any], object]
    check_health: Callable[[Exception, Any], object] | None
    """`None` unless it takes the resource."""
    on_check: Callable[[Any], object] | None
    on_reset: Callable[[Any], object] | None
    on_abort: Callable[[Any], object] | None


class Setup(NamedTuple):
    """The first message: how to be like the parent, and how to make the resource."""

    name: str
    """The name of the worker."""
    path: list[str]
    """`sys.path`."""
    argv: list[str]
    environment: dict[str, str]
    """All of it. Only a child process gets one."""
    inheritance: Inheritance | None
    levels: dict[str, int]
    """The levels of those loggers that have one."""
    values: list[bytes]
    """The manager's context: each `(key, value)` packed, those of the root first."""
    stopping: bool
    slot: Slot
    takes_slot: bool
    """Whether `on_create` is called with the slot."""
    hooks: bytes
    """`Hooks`, packed. Unpacking them may need all of the above."""
