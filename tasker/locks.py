"""`new_lock`: how the locks of tasker are made that are taken by `with`, and what a thread holds of them."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["have_locks", "holds", "holds_any", "holds_lock", "locks_of", "new_lock", "release_locks"]

have_locks: list[Callable[[], Iterable[object]]] = []  # what return those that have locks among their attributes


def new_lock() -> Any:
    """A reentrant lock for `with`: each of tasker's that is taken so. Its type is what others have made of such locks
    by now.

    CPython 3.14 looks for signals between the lock and the block. What is raised there would leave the lock taken for
    ever. That was mended in 3.15."""
    if _LOOKS_BEFORE_BLOCK and threading.RLock is _RLOCK_AT_FIRST:
        return _LockInOneStep()
    return threading.RLock()


_LOOKS_BEFORE_BLOCK = sys.version_info[:2] == (3, 14)
_RLOCK_AT_FIRST = threading.RLock


class _LockInOneStep(_thread.RLock):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # which allows for it
    """CPython does not look when a function written in Python returns. Nor does it when an attribute is read: here that
    is what takes the lock."""

    __slots__ = ()
    _taken: Any = property(_thread.RLock.acquire)

    def __enter__(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._taken


def holds(lock: Any) -> bool:
    """Whether the calling thread holds a reentrant lock, or a condition that was made with one.

    `False` if the lock does not know: it is not reentrant, or a tool has wrapped it."""
    is_owned = getattr(lock, "_is_owned", None)
    return is_owned is not None and bool(is_owned())


def locks_of(part: object) -> dict[str, Any]:
    """The locks among the attributes of an object, by their names.

    By what they can do: others replace the types that `threading` makes. Asked of their own type, as to a mock of the
    user's nothing is impossible."""
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
    """Release what the calling thread holds of tasker's locks: an error has brought it back to where it holds none.

    Up to CPython 3.14 the end of a `with` block needs memory. Where there is none the lock stays taken."""
    for parts in have_locks:
        for part in parts():
            for lock in locks_of(part).values():
                while holds(lock):
                    lock.release()
