"""The resources of `run_task`: a small pool used from the callers' own threads, never behind the queue.

A resource has one owner at a time: the pool, in its idle list, or the `Loan` of one caller. A caller borrows an idle
one or makes one; what he hands back is kept if it is healthy, there is room, and the pool is open, else destroyed, by
him. `close()` decides once: who borrows later is refused, who hands back later destroys.

Idle resources lie on shelves. Where they may be bound to the thread that made them (sqlite3, Playwright) each thread
has a shelf of its own, and takes from no other. So it is the maker that uses a resource, and destroys it: at the latest
when the thread ends, which is told by a destructor of what is local to it. Elsewhere all threads share one shelf.

Ctrl-C (any exception of a signal handler) may end each of these steps in the middle. Python runs signal handlers when a
Python function is entered, after a call of a C function, and at a jump back, nowhere else: so a resource changes its
owner in adjacent statements without a call between them, and a new one is in the loan at once. A `borrow` that raises
has handed back. A `hand_back` that raises may be called again with the same loan, and does what is left to do: the loan
counts as out until it is over.

`_lock` guards the shelves, the loans and the flag; it is reentrant, because a signal handler may call `run_task` while
its thread borrows or hands back. Nothing is created or destroyed under it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tasker.errors import TaskManagerShutdownError
from tasker.guard import raise_interrupt
from tasker.handover import set_from
from tasker.locks import new_lock
from tasker.threads import known_thread, local_to_threads, still_known
from tasker.unrun import refuse

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


class _Shared:
    """One shelf for all threads."""

    def __init__(self, pool: ResourcePool[Any]) -> None:
        self.shelf: list[Any] = pool.new_shelf()


class _Own:
    """A thread's own shelf."""

    def __init__(self, pool: ResourcePool[Any]) -> None:
        self.shelf: list[Any] = pool.new_shelf()
        self._end = _End(pool, self.shelf)


class _End:
    """What a thread lets go of when it ends, in that thread. It must not keep the pool alive until then."""

    def __init__(self, pool: ResourcePool[Any], shelf: list[Any]) -> None:
        self._pool = weakref.ref(pool)
        self._thread = threading.get_ident()
        self._as_known = known_thread()
        self._shelf = shelf

    def __del__(self, get_ident: Callable[[], int] = threading.get_ident) -> None:
        # in a forked child those of the threads that are not there are collected, too, and there all must stay
        pool = self._pool() if get_ident() == self._thread else None
        if pool is not None:
            with still_known(self._as_known):
                pool.take_down(self._shelf)


class ResourcePool(Generic[R]):
    """At most `size` idle resources, and the loans of those that are out. `shared`: whether a resource that one thread
    has made may be lent to another. `is_lost`: whether one is gone, where that may be; it is asked under the lock, so
    that one that is lost is either not kept, or found on its shelf by `discard`.

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
        *,
        shared: bool = True,
        is_lost: Callable[[R], bool] | None = None,
    ) -> None:
        self._name = name
        self._size = size
        self._create = create
        self._destroy = destroy
        self._empty = empty  # told when the last borrower hands back to a closed pool
        self._is_lost = is_lost
        self._lock = new_lock()
        self._shelves: dict[int, list[R]] = {}  # by their `id`
        self._kept = 0  # resources on them
        self._loans: set[Loan[R]] = set()
        self._closed = False
        self._shared = shared
        self._here: _Shared | _Own = _Shared(self) if shared else local_to_threads(_Own, self)

    def fill(self) -> None:
        """Make all `size` resources now. When one fails, those made are destroyed and its error is raised."""
        try:
            while self._kept < self._size:
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
            shelf = self._here.shelf
            with self._lock:
                closed = self._closed
                if not closed:
                    self._loans.add(loan)
                    if shelf and not new:
                        loan.resource = shelf[-1]
                        del shelf[-1]
                        self._kept -= 1
            if loan.resource is _NONE and not closed:
                set_from(loan, "resource", self._create)
                try:
                    refuse("on_create", loan.resource)
                except TypeError:
                    loan.resource = _NONE  # none, to be destroyed
                    raise
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
        shelf: list[R] = self._here.shelf if healthy else []
        with self._lock:
            if healthy and self._is_lost is not None and loan.resource is not _NONE:
                healthy = not self._is_lost(loan.resource)
            if healthy and self._kept < self._size and not self._closed and loan.resource is not _NONE:
                resource, loan.resource = loan.resource, _NONE
                self._kept += 1
                shelf.append(resource)
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
        found: list[tuple[list[R], int]] = []
        with self._lock:
            for shelf in self._shelves.values():
                found += [(shelf, place) for place, idle in enumerate(shelf) if idle is resource]
            for shelf, place in found:
                self._kept -= 1
                del shelf[place]
        if found:
            raise_interrupt(self._destroy(resource, None))
        return bool(found)

    def clear_own(self) -> None:
        """Destroy what lies on the calling thread's own shelf: here, as it may be bound to this thread."""
        if not self._shared:
            self.clear(self._here.shelf)

    def clear(self, shelf: list[R]) -> None:
        """Destroy what lies on a shelf, each as if it were handed back."""
        while shelf:
            loan: Loan[R] = Loan()
            loan.borrower = threading.get_ident()
            loan.resource = _NONE
            try:
                with self._lock:
                    self._loans.add(loan)
                    if shelf:
                        loan.resource = shelf[-1]
                        del shelf[-1]
                        self._kept -= 1
                self.hand_back(loan, healthy=False)
            except BaseException:  # Ctrl-C in the middle of it
                self.hand_back(loan, healthy=False)
                raise

    def close(self) -> list[R]:
        """Refuse borrowers from now on; returns the idle resources for the caller to destroy."""
        with self._lock:
            shelves = list(self._shelves.values())
            idle = [resource for shelf in shelves for resource in shelf]
            self._closed, self._kept, self._shelves = True, 0, {}
            for shelf in shelves:
                shelf.clear()
            return idle

    def new_shelf(self) -> list[R]:
        """An empty one."""
        shelf: list[R] = []
        with self._lock:
            if not self._closed:
                self._shelves[id(shelf)] = shelf
        return shelf

    def take_down(self, shelf: list[R]) -> None:
        """Its thread ends: destroy what lies on it, here."""
        try:
            self.clear(shelf)
        finally:
            self._shelves.pop(id(shelf), None)

    @property
    def available(self) -> int:
        """Idle resources now."""
        return self._kept

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
