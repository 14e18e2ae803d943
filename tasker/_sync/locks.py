"""`new_lock` makes each lock that tasker takes by `with`.

The other functions tell which of them a thread holds, and release those.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "have_locks",
    "holds",
    "holds_any",
    "holds_lock",
    "locks_of",
    "new_lock",
    "release_locks",
]

# Each of these functions returns objects that have locks among their attributes.
have_locks: list[Callable[[], Iterable[object]]] = []


def new_lock() -> Any:
    """Make a reentrant lock for `with`.

    It is reentrant because a signal handler may interrupt the thread that holds it, and
    take it again. Its type is looked up at each call: gevent, say, may have replaced
    it.

    CPython 3.14 looks for signals after the lock was taken, before the block. What is
    raised there would leave the lock taken for ever. That was mended in 3.15."""
    if _LOOKS_BEFORE_BLOCK and threading.RLock is _RLOCK_AT_FIRST:
        return _LockInOneStep()
    return threading.RLock()


_LOOKS_BEFORE_BLOCK = sys.version_info[:2] == (3, 14)
_RLOCK_AT_FIRST = threading.RLock


# `RLock` may be derived from, whatever the type checkers say.
class _LockInOneStep(_thread.RLock):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    """A lock that a `with` statement takes in one step, on CPython 3.14 (R2).

    CPython does not look for signals when a function written in Python returns. Nor
    does it look when an attribute is read, and to read one is what takes the lock
    here."""

    __slots__ = ()
    _taken: Any = property(_thread.RLock.acquire)

    def __enter__(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._taken


def holds(lock: Any) -> bool:
    """Whether the calling thread holds a reentrant lock, or a condition made with one.

    `False` if the lock cannot tell: it is not reentrant, or a tool has wrapped it."""
    is_owned = getattr(lock, "_is_owned", None)
    return is_owned is not None and bool(is_owned())


def locks_of(part: object) -> dict[str, Any]:
    """The locks among the attributes of an object, by their names.

    A lock is known by its methods, as others replace the types that `threading` makes.
    They are looked up on its type: a mock of the user's, asked itself, has them all."""
    return {name: value for name, value in list(vars(part).items()) if _is_lock(value)}


def _is_lock(value: object) -> bool:
    return all(hasattr(type(value), name) for name in ("acquire", "release", "__enter__"))


def holds_lock(*parts: object) -> bool:
    """Whether the calling thread holds a lock that is an attribute of one of these."""
    return any(holds(lock) for part in parts for lock in locks_of(part).values())


def holds_any() -> bool:
    """Whether the calling thread holds any of tasker's locks that can say so."""
    return any(holds_lock(*parts()) for parts in have_locks)


def release_locks() -> None:
    """Release the locks of tasker that the calling thread holds.

    Called where a thread holds none, after an error has brought it there. Up to CPython
    3.14 the end of a `with` block needs memory. Where there is none, the lock stays
    taken."""
    for parts in have_locks:
        for part in parts():
            for lock in locks_of(part).values():
                while holds(lock):
                    lock.release()
