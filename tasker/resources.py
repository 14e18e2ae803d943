"""The resources of `run_task`: a small pool used from the callers' own threads, never behind the queue.

A resource is used by one caller at a time. A caller takes an idle one or makes one; what he hands back is kept if it is
healthy, there is room, and the pool is open, else destroyed, by him. `close()` decides once: who borrows later is
refused, who hands back later destroys.

`_lock` guards the idle list, the count of borrowers and the flag; it is reentrant, because a signal handler may call
`run_task` while its thread borrows or hands back. Nothing is created or destroyed under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tasker.errors import TaskManagerShutdownError

__all__ = ["ResourcePool"]

R = TypeVar("R")
_NONE: Any = object()  # no resource: None may be one


class ResourcePool(Generic[R]):
    """At most `size` idle resources, and the count of those that are out."""

    def __init__(
        self, name: str, size: int, create: Callable[[], R], destroy: Callable[[R], object], empty: Callable[[], object]
    ) -> None:
        self._name = name
        self._size = size
        self._create = create
        self._destroy = destroy
        self._empty = empty  # told when the last borrower hands back to a closed pool
        self._lock = threading.RLock()
        self._idle: list[R] = []
        self._out = 0
        self._closed = False

    def fill(self) -> None:
        """Make all `size` resources now. When one fails, those made are destroyed and its error is raised."""
        try:
            while len(self._idle) < self._size:
                self._idle.append(self._create())
        except BaseException:
            for resource in self.close():
                self._destroy(resource)
            raise

    def borrow(self) -> R:
        """An idle resource, or one made here and now. Raises what `create` does; closed, `TaskManagerShutdownError`."""
        counted = False
        resource = _NONE
        try:
            with self._lock:
                if self._closed:
                    raise TaskManagerShutdownError(f"{self._name} is stopping or closed: the task was not accepted")
                self._out += 1
                counted = True
                if self._idle:  # no call between the look and the deletion, so no Ctrl-C either
                    resource = self._idle[-1]
                    del self._idle[-1]
            return self._create() if resource is _NONE else resource
        except BaseException:
            if resource is not _NONE:
                self.hand_back(resource, healthy=True)
            elif counted:
                self._returned()
            raise

    def hand_back(self, resource: R, *, healthy: bool) -> None:
        """End the use of a resource: keep it, or destroy it here."""
        with self._lock:
            keep = healthy and not self._closed and len(self._idle) < self._size
            if keep:
                self._out -= 1
                self._idle.append(resource)
        if not keep:
            try:
                self._destroy(resource)
            finally:
                self._returned()

    def close(self) -> list[R]:
        """Refuse borrowers from now on; returns the idle resources for the caller to destroy."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            return idle

    @property
    def available(self) -> int:
        """Idle resources now."""
        return len(self._idle)

    @property
    def out(self) -> int:
        """Callers that have a resource now, or make one, or destroy one."""
        return self._out

    def _returned(self) -> None:
        with self._lock:
            self._out -= 1
            last = self._closed and self._out == 0
        if last:
            self._empty()
