"""The resources of `run_task`: a small pool used from the callers' own threads, never behind the queue.

A resource has one owner at a time: the pool, in its idle list, or the `Loan` of one caller. A caller borrows an idle
one or makes one; what he hands back is kept if it is healthy, there is room, and the pool is open, else destroyed, by
him. `close()` decides once: who borrows later is refused, who hands back later destroys.

Ctrl-C (any exception of a signal handler) may end each of these steps in the middle. Python runs signal handlers when a
Python function is entered, after a call of a C function, and at a jump back, nowhere else: so a resource changes its
owner in adjacent statements without a call between them, and a new one is in the loan at once. A `borrow` that
raises has handed back. A `hand_back` that
raises may be called again with the same loan, and does what is left to do: the loan counts as out until it is over.

`_lock` guards the idle list, the loans and the flag; it is reentrant, because a signal handler may call `run_task`
while its thread borrows or hands back. Nothing is created or destroyed under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tasker.errors import TaskManagerShutdownError
from tasker.guard import raise_interrupt
from tasker.handover import set_from

__all__ = ["Loan", "ResourcePool"]

R = TypeVar("R")
_NONE: Any = object()  # no resource: None may be one


class Loan(Generic[R]):
    """What a borrower holds: the resource, from the moment it is his until it is handed back."""

    __slots__ = ("borrower", "context", "error", "outer", "owner", "resource")

    borrower: int  # the identifier of his thread
    resource: R  # or _NONE
    # what its borrower notes here
    error: BaseException  # by which the use of the resource has ended, if one has
    owner: Any
    outer: Any  # the loan of the call around this one
    context: Any


class ResourcePool(Generic[R]):
    """At most `size` idle resources, and the loans of those that are out.

    `destroy` is called with a resource that is not kept, and with the error by which its last use ended, if one did. It
    raises nothing but the exception of a signal handler, before it has done anything, and returns that which has ended
    it: an interrupt, to be raised here when the loan is over."""

    def __init__(
        self,
        name: str,
        size: int,
        create: Callable[[], R],
        destroy: Callable[[R, BaseException | None], object],
        empty: Callable[[], object],
    ) -> None:
        self._name = name
        self._size = size
        self._create = create
        self._destroy = destroy
        self._empty = empty  # told when the last borrower hands back to a closed pool
        self._lock = threading.RLock()
        self._idle: list[R] = []
        self._loans: set[Loan[R]] = set()
        self._closed = False

    def fill(self) -> None:
        """Make all `size` resources now. When one fails, those made are destroyed and its error is raised."""
        try:
            while len(self._idle) < self._size:
                self.hand_back(self.borrow(new=True), healthy=True)
        except BaseException:
            for interrupt in [self._destroy(resource, None) for resource in self.close()]:
                raise_interrupt(interrupt)
            raise

    def borrow(self, *, new: bool = False) -> Loan[R]:
        """An idle resource, or (always, if it is to be `new`) one made here and now.

        Raises what `create` does; closed, `TaskManagerShutdownError`."""
        loan: Loan[R] = Loan()
        loan.borrower = threading.get_ident()
        loan.resource = _NONE
        try:
            with self._lock:
                closed = self._closed
                if not closed:
                    self._loans.add(loan)
                    if self._idle and not new:
                        loan.resource = self._idle[-1]
                        del self._idle[-1]
            if loan.resource is _NONE and not closed:
                set_from(loan, "resource", self._create)
        except BaseException:
            try:
                self.hand_back(loan, healthy=True)
            except BaseException:  # Ctrl-C in the middle of it
                self.hand_back(loan, healthy=True)
                raise
            raise
        if closed:
            raise TaskManagerShutdownError(f"{self._name} is stopping or closed: the task was not accepted")
        return loan

    def hand_back(self, loan: Loan[R], *, healthy: bool) -> None:
        """End a loan: keep the resource, or destroy it here. May be repeated, and must be if an interrupt ended it."""
        with self._lock:
            room = len(self._idle) < self._size  # the call comes first: a handler that runs after it may close the pool
            if healthy and room and not self._closed and loan.resource is not _NONE:
                resource, loan.resource = loan.resource, _NONE
                self._idle.append(resource)
                self._loans.discard(loan)
                return
        if loan.resource is not _NONE:
            try:
                interrupt = self._destroy(loan.resource, getattr(loan, "error", None))
            except Exception:  # the end of the loan all the same; after an interrupt, the second call ends it
                self._end(loan)
                raise
            loan.resource = _NONE
            self._end(loan)
            raise_interrupt(interrupt)
            return
        self._end(loan)

    def discard(self, resource: R) -> bool:
        """Destroy one if it is idle (`True`)."""
        with self._lock:
            found = [place for place, idle in enumerate(self._idle) if idle is resource]
            for place in found:
                del self._idle[place]
        if found:
            raise_interrupt(self._destroy(resource, None))
        return bool(found)

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
        return len(self._loans)

    def lends_to_this_thread(self) -> bool:
        """Whether the calling thread is one of those callers, in `run_task` or in the middle of borrowing for it."""
        thread = threading.get_ident()
        return any(loan.borrower == thread for loan in self._loans.copy())

    def _end(self, loan: Loan[R]) -> None:
        with self._lock:
            self._loans.discard(loan)
            last = self._closed and not self._loans
        if last:
            self._empty()
