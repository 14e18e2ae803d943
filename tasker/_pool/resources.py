"""The resources of `run_task`: a small pool, used from the callers' own threads.

A call never waits behind the queue. A resource has one owner at a time: the pool, in
its idle list, or the `Loan` of one caller. A caller borrows an idle resource or makes
one. Where there is `on_check` it checks an idle one first, and destroys it if that is
not well. Threads that keep idle ones alive do the same (see `keepalive`). It also
destroys one that was condemned while it was idle (see `suspicion`). A resource that is
handed back is kept if it is healthy, there is room, and the pool is open. Otherwise its
caller destroys it. `close()` decides once: a later `borrow` is refused, and what is
handed back later is destroyed.

Idle resources lie on shelves. A resource may be bound to the thread that made it
(sqlite3, Playwright). Then each thread has a shelf of its own, and takes from no other.
So it is the maker that uses a resource and destroys it, at the latest when the thread
ends: a destructor of what is local to the thread tells. Otherwise all threads share one
shelf. Each resource lies there with its slot, which is freed when it was destroyed.

Ctrl-C (any exception of a signal handler) may end each of these steps in the middle. So
a resource changes its owner in one step without a call, and a new one is in the loan at
once (R2). A `borrow` that raises has handed back. A `hand_back` that raises may be
called again with the same loan, and does what is left to do: the loan counts as out
until it is over. Where there is no room on the stack it may raise again. Then its
thread *leaves* the loan, and the burst thread has another one end it.

`_lock` guards the shelves, the loans and the flag. It is reentrant, because a signal
handler may call `run_task` while its thread borrows or hands back. Nothing is created
or destroyed under it (I7).
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from tasker._pool.slots import Slots
from tasker._sync import timer
from tasker._sync.guard import raise_interrupt
from tasker._sync.handover import set_from
from tasker._sync.locks import new_lock
from tasker._sync.threads import known_thread, local_to_threads, still_known
from tasker._tasks import current
from tasker._tasks.unrun import refuse
from tasker.errors import TaskerError, TaskManagerShutdownError
from tasker.slot import Reason, Slot

__all__ = [
    "ABORTED",
    "LEFT",
    "NO_RESOURCE",
    "CheckLoan",
    "Loan",
    "ResourcePool",
    "was_aborted",
]

R = TypeVar("R")
# None may be one
NO_RESOURCE: Any = object()

# In place of the thread of a loan: that has left it, and another thread ends it.
LEFT, _ENDING = 0, -1


class Loan(Generic[R]):
    """A borrower's right to a resource, from when it asks until it has handed back.

    `run_task` notes the last five fields, for code inside of it."""

    __slots__ = (
        "aborted",
        "borrower",
        "context",
        "error",
        "outer",
        "owner",
        "resource",
        "shelf",
        "slot",
    )

    borrower: int
    """The identifier of its thread, or `LEFT`."""
    resource: R
    """The resource, or NO_RESOURCE."""
    slot: Slot | None
    """The slot of the resource that it makes, has or destroys."""
    shelf: list[Idle]
    """Where the resource will lie."""
    error: BaseException | None
    """The error that ended the use of the resource, if one has."""
    owner: Any
    """The engine."""
    outer: Any
    """The loan of the call around this one."""
    context: Any
    """The context of the task, if it has asked for it."""
    aborted: bool
    """`True` if the task was aborted; not there if not."""


class CheckLoan(Loan[R]):
    """That of a thread which checks an idle resource (see `keepalive`)."""

    __slots__ = ("since", "thread")

    since: float
    """When the resource was last known to be well."""

    def __init__(self) -> None:
        self.borrower = threading.get_ident()
        self.thread: str = threading.current_thread().name
        self.resource, self.slot = NO_RESOURCE, None


# What lies on a shelf: a resource, its slot, and since when (`timer.now()`), where that
# matters. The time is replaced if the resource may be broken by an abort, or like
# another one, and if it is to be destroyed for the latter reason.
Idle = tuple[Any, Slot | None, float]
# When a resource is to be checked that was proved to be well at some time.
DueAt = Callable[[float, Slot | None], float]
ABORTED = -sys.float_info.max
_SUSPECT = -math.inf
_CONDEMNED = math.inf


def _new_loan(resource: Any = NO_RESOURCE, slot: Slot | None = None) -> Loan[Any]:
    loan: Loan[Any] = Loan()
    loan.borrower = threading.get_ident()
    loan.resource, loan.slot = resource, slot

    return loan


def was_aborted(loan: Loan[Any]) -> bool:
    """Whether the task was aborted."""
    return getattr(loan, "aborted", False)


class _Shared:
    """One shelf for all threads."""

    def __init__(self, pool: ResourcePool[Any]) -> None:
        self.shelf: list[Idle] = pool.new_shelf()


class _Own:
    """A thread's own shelf."""

    def __init__(self, pool: ResourcePool[Any]) -> None:
        self.shelf: list[Idle] = pool.new_shelf()
        self._end = _End(pool, self.shelf)


class _End:
    """Is collected when its thread ends, in that thread, and destroys what is on its
    shelf.

    It must not keep the pool alive until then."""

    def __init__(self, pool: ResourcePool[Any], shelf: list[Idle]) -> None:
        self._pool = weakref.ref(pool)
        self._thread = threading.get_ident()
        self._as_known = known_thread()
        self._shelf = shelf

    def __del__(self, get_ident: Callable[[], int] = threading.get_ident) -> None:
        # A forked child collects those of the threads that are not there, too. All that
        # is on their shelves must stay.
        pool = self._pool() if get_ident() == self._thread else None
        if pool is not None:
            with still_known(self._as_known):
                pool.take_down(self._shelf)


class ResourcePool(Generic[R]):
    """At most `size` idle resources, and the loans of those that are out.

    `shared`: whether a resource that one thread has made may be lent to another.

    `is_lost`: whether a resource is gone, where that may happen. It is called under the
    lock. So a lost resource either is not kept, or `discard` finds it on its shelf.

    `maker(slot)` returns the function that makes a resource. `made` is called when it
    has made one. `empty` is called when the last borrower hands back to a closed pool.
    `destroy` is called with a resource that is not kept, its slot, and the error that
    ended its last use, if there was one. It returns the interrupt that has ended it, to
    be raised here when the loan is over. It raises nothing but the exception of a
    signal handler, and only before it has done anything. `check` is called with the
    loan of an idle resource, and since when that was idle. It returns whether the
    resource is well. If not, the error is in the loan."""

    def __init__(
        self,
        name: str,
        size: int,
        slots: Slots,
        maker: Callable[[Slot], Callable[[], R]],
        destroy: Callable[[R, Slot | None, BaseException | None], object],
        empty: Callable[[], object],
        *,
        shared: bool = True,
        is_lost: Callable[[R], bool] | None = None,
        check: Callable[[Loan[R], float], bool] | None = None,
        made: Callable[[], object] = bool,
    ) -> None:
        self._name = name
        self._size = size
        self._slots = slots
        self._maker = maker
        self._destroy = destroy
        self._empty = empty
        self._is_lost = is_lost
        self._check = check
        self._made = made
        self._lock = new_lock()
        self._shelves: dict[int, list[Idle]] = {}  # by their `id`
        self._kept = 0  # resources on them
        self._loans: set[Loan[R]] = set()
        # Loans of checks that nothing waits for any more.
        self._given_up: set[CheckLoan[R]] = set()
        self._closed = False
        self._shared = shared
        self._here: _Shared | _Own = _Shared(self) if shared else local_to_threads(_Own, self)

    def fill(self) -> None:
        """Make all `size` resources now.

        When one fails, those that were made are destroyed and its error is raised."""
        try:
            while self._kept < self._size:
                self.hand_back(self.borrow(new=True), healthy=True)
        except BaseException:
            idle = self.close()
            for interrupt in [self._destroy(each.resource, each.slot, None) for each in idle]:
                raise_interrupt(interrupt)
            raise

    def borrow(self, *, new: bool = False) -> Loan[R]:
        """An idle resource, or one that is made here and now: always, if `new` is true.

        Raises what `on_create` does. Closed, it raises `TaskManagerShutdownError`."""
        # INLINED _new_loan: 0.05 us a call, benchmarks --only run-task
        loan: Loan[R] = Loan()
        loan.borrower = threading.get_ident()
        loan.resource, loan.slot = NO_RESOURCE, None
        healthy = True

        try:
            loan.shelf = shelf = self._here.shelf
            since = 0.0
            with self._lock:
                closed = self._closed
                if not closed:
                    self._loans.add(loan)
                    if shelf and not new:
                        loan.resource, loan.slot, since = shelf[-1]
                        del shelf[-1]
                        self._kept -= 1

            if self._check is not None or since == _CONDEMNED:
                # None is well until its check says so: a Ctrl-C may end that.
                healthy = False
                self._let_pass(loan, shelf, since)
                healthy = True

            if loan.resource is NO_RESOURCE and not closed:
                self._make(loan)
                self._made()
        except BaseException:
            try:
                self.hand_back(loan, healthy=healthy)
            except BaseException:  # Ctrl-C in the middle of it
                try:
                    self.hand_back(loan, healthy=healthy)
                except BaseException:
                    loan.borrower = LEFT
                    raise
                raise
            raise

        if closed:
            raise TaskManagerShutdownError(
                f"{self._name} is stopping or closed: the task was not accepted"
            )
        return loan

    def _let_pass(self, loan: Loan[R], shelf: list[Idle], since: float) -> None:
        """Check the idle resource of a loan, if it has one.

        One that is not well is destroyed, and the next one of the shelf is checked."""
        while loan.resource is not NO_RESOURCE:
            if self._check is not None:
                if self._check(loan, since):
                    return
            elif since == _CONDEMNED:
                loan.error = TaskerError("others broke within a second: it may be broken, too")
            else:
                return

            interrupt = self._destroy(loan.resource, loan.slot, loan.error)
            # Its traceback may lead to a frame that has the loan (R4).
            loan.resource, loan.error = NO_RESOURCE, None
            self._slots.free(loan)
            raise_interrupt(interrupt)

            with self._lock:
                if shelf:
                    loan.resource, loan.slot, since = shelf[-1]
                    del shelf[-1]
                    self._kept -= 1

    def _make(self, loan: Loan[R]) -> None:
        slot = self._slots.take(loan, threading.current_thread().name, Reason.CALL)
        try:
            current.call_hook(slot, partial(set_from, loan, "resource", self._maker(slot)))
            try:
                refuse("on_create", loan.resource)
            except TypeError:
                loan.resource = NO_RESOURCE  # none, to be destroyed
                raise
        except BaseException:
            if loan.resource is NO_RESOURCE:
                self._slots.free(loan, unused=True)
            raise

    def hand_back(self, loan: Loan[R], *, healthy: bool) -> None:
        """End a loan: keep the resource, or destroy it here.

        May be called again, and must be if an interrupt ended it."""
        since = 0.0
        if self._check is not None:
            since = ABORTED if was_aborted(loan) else timer.now()

        with self._lock:
            if healthy and self._is_lost is not None and loan.resource is not NO_RESOURCE:
                healthy = not self._is_lost(loan.resource)

            if (
                healthy
                and self._kept < self._size
                and not self._closed
                and loan.resource is not NO_RESOURCE
            ):
                idle = loan.resource, loan.slot, since
                loan.resource, loan.slot = NO_RESOURCE, None
                self._kept += 1
                loan.shelf.append(idle)
                self._loans.discard(loan)
                return

        if loan.resource is not NO_RESOURCE:
            try:
                interrupt = self._destroy(loan.resource, loan.slot, getattr(loan, "error", None))
            except Exception:
                # The loan is over all the same (after an interrupt by the second call).
                self._end(loan)
                raise

            loan.resource = NO_RESOURCE
            self._end(loan)
            raise_interrupt(interrupt)
            return

        self._end(loan)

    def take_left(self) -> list[Loan[R]]:
        """The loans that their threads have left, each once. The caller ends them."""
        left = [loan for loan in self._loans.copy() if loan.borrower == LEFT]
        for loan in left:
            loan.borrower = _ENDING

        return left

    # -- checks of what is idle (see `keepalive`) --------------------------------------

    def is_lent_to_any_thread(self) -> bool:
        """Whether any thread may borrow what is kept, and some is."""
        return self._shared and self._size > 0

    def look_for_due(self, due_at: DueAt, now: float) -> tuple[bool, float]:
        """Whether an idle resource is due, and when the next one will be."""
        with self._lock:
            times = [due_at(since, slot) for _, slot, since in self._here.shelf]

        later = [time for time in times if time > now]
        return len(later) < len(times), min(later, default=math.inf)

    def lend_due(self, loan: CheckLoan[R], due_at: DueAt, now: float) -> bool:
        """Lend an idle resource that is due. `False`: there is none.

        The loan is to be handed back all the same. None is lent when as many are being
        checked as may be idle, because all of these checks may hang."""
        with self._lock:
            loan.shelf = shelf = self._here.shelf
            checked = [each for each in self._loans if isinstance(each, CheckLoan)]
            if self._closed or len(checked) + len(self._given_up) >= self._size:
                return False

            self._loans.add(loan)
            for place, (resource, slot, since) in enumerate(shelf):
                if due_at(since, slot) <= now:
                    # One step to the end (R2).
                    loan.resource, loan.slot, loan.since = resource, slot, since
                    del shelf[place]
                    self._kept -= 1
                    return True

        return False

    def give_up(self, loan: CheckLoan[R]) -> None:
        """Wait no more for this loan: its check takes too long."""
        with self._lock:
            if loan not in self._loans:
                return
            self._given_up.add(loan)
            self._loans.discard(loan)
            last = self._closed and not self._loans

        if last:
            self._empty()

    def given_up(self) -> tuple[str, ...]:
        """The threads of checks that nothing waits for any more."""
        with self._lock:
            return tuple(loan.thread for loan in self._given_up)

    def borrowers(self) -> tuple[str, ...]:
        """The threads that have a resource now, or make or destroy one, in words."""
        return tuple(
            loan.thread if isinstance(loan, CheckLoan) else "a thread in run_task"
            for loan in self._loans.copy()
        )

    def discard(self, resource: R) -> bool:
        """Destroy a resource if it is idle. `True` if it was."""
        loan = _new_loan()
        try:
            with self._lock:
                self._loans.add(loan)
                for shelf in self._shelves.values():
                    for place, (idle, slot, _) in enumerate(shelf):
                        if idle is resource:
                            loan.resource, loan.slot = idle, slot
                            del shelf[place]
                            self._kept -= 1
                            break
            found = loan.resource is not NO_RESOURCE
        finally:
            self.hand_back(loan, healthy=False)

        return found

    def suspect(self, *, condemn: bool) -> None:
        """Another resource broke: those that are idle may be broken, too.

        `condemn`: the next borrower of one that was a suspect before destroys it."""
        with self._lock:
            for shelf in self._shelves.values():
                for place, (resource, slot, since) in enumerate(shelf):
                    if condemn and since == _SUSPECT:
                        shelf[place] = resource, slot, _CONDEMNED
                    elif since not in (ABORTED, _CONDEMNED):
                        shelf[place] = resource, slot, _SUSPECT

    def clear_own(self) -> None:
        """Destroy what is on the calling thread's own shelf.

        Here, because it may be bound to this thread."""
        if not self._shared:
            self.clear(self._here.shelf)

    def clear(self, shelf: list[Idle]) -> None:
        """Destroy what is on a shelf, each as if it were handed back."""
        while shelf:
            loan = _new_loan()
            try:
                with self._lock:
                    self._loans.add(loan)
                    if shelf:
                        loan.resource, loan.slot, _ = shelf[-1]
                        del shelf[-1]
                        self._kept -= 1
                self.hand_back(loan, healthy=False)
            except BaseException:  # Ctrl-C in the middle of it
                self.hand_back(loan, healthy=False)
                raise

    def close(self) -> list[Loan[R]]:
        """Refuse borrowers from now on.

        Returns what was idle. The caller destroys that, and frees the slots."""
        with self._lock:
            shelves = list(self._shelves.values())
            loans = [_new_loan(idle, slot) for shelf in shelves for idle, slot, _ in shelf]
            self._closed, self._kept, self._shelves = True, 0, {}
            for shelf in shelves:
                shelf.clear()

            return loans

    def new_shelf(self) -> list[Idle]:
        """An empty one."""
        shelf: list[Idle] = []
        with self._lock:
            if not self._closed:
                self._shelves[id(shelf)] = shelf
        return shelf

    def take_down(self, shelf: list[Idle]) -> None:
        """The thread of a shelf ends: destroy here what is on it."""
        try:
            self.clear(shelf)
        finally:
            self._shelves.pop(id(shelf), None)

    @property
    def closed(self) -> bool:
        """Whether borrowers are refused."""
        return self._closed

    @property
    def available(self) -> int:
        """Idle resources now."""
        return self._kept

    @property
    def out(self) -> int:
        """Calls that have a resource now, or make or destroy one."""
        return len(self._loans)

    def lends_to_this_thread(self) -> bool:
        """Whether the calling thread is in such a call, or is borrowing."""
        thread = threading.get_ident()
        return any(loan.borrower == thread for loan in self._loans.copy())

    def _end(self, loan: Loan[R]) -> None:
        self._slots.free(loan)
        with self._lock:
            self._loans.discard(loan)
            if isinstance(loan, CheckLoan):
                self._given_up.discard(loan)
            last = self._closed and not self._loans
        if last:
            self._empty()
