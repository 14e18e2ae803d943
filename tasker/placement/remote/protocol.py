"""What a manager and its children say to each other: kinds of messages, orders, and the first message."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Inheritance", "Setup"]

# to the child, by the wire. One is answered before the next is sent. DESTROY has the packed error that broke the
# resource, or `None`.
SETUP, CALL, DESTROY = 1, 2, 3
# from the child
RESULT, ERROR = 11, 12  # the answer
NOTE, RECORD = 13, 14  # before it: a step's result, a log record

# the body of a CALL begins with: its number; seconds until its deadline, negative without one; steps done already
CALL_HEAD = struct.Struct("<QdI")

# orders to the child, by the control pipe: what, and the number of the call
ORDER = struct.Struct("<BQ")
CANCELLED, DEADLINE, KILLED, STOPPING = 1, 2, 3, 4


class Inheritance(NamedTuple):
    """What a child takes over where its parent uses `multiprocessing`."""

    authkey: bytes
    """By which processes know each other."""
    parent_name: str
    """The name of the parent, as a process."""
    parent: int
    """Its number."""
    start_method: str | None
    """Unless it is the default."""
    logs: bool
    """Whether what `multiprocessing` does is logged."""


class Setup(NamedTuple):
    """The first message: what a child needs to be like its parent, and what makes its resource."""

    name: str
    """The worker's."""
    path: list[str]
    """`sys.path`."""
    argv: list[str]
    environment: dict[str, str]
    inheritance: Inheritance | None
    levels: dict[str, int]
    """Of loggers that have one."""
    values: list[bytes]
    """`(key, value)` of the manager's context, each packed, those of the root first."""
    stopping: bool
    hooks: bytes
    """`(on_create, on_destroy, check_health)`, packed: they may need all of the above to be unpacked. `check_health` is
    there only if it takes the resource; else it is `None`."""
