"""The pool of `run_task`: a resource that is handed back while the pool is closed is destroyed once, by somebody."""

from __future__ import annotations

import pytest

from tasker import TaskManagerShutdownError
from tasker._pool.resources import CheckLoan, ResourcePool, _new_loan
from tests.support.exploring import World, catches, exhaust, sample
from tests.support.pools import resource_pool, taken

pytestmark = pytest.mark.slow


class HandBackAndClose(World):
    """A resource is out; its borrower hands it back while the pool is closed."""

    threads = ("hand_back", "close")
    healthy = True

    def __init__(self):
        super().__init__()
        self.created = 0
        self.destroyed = []
        self.empty = 0
        self.pool = resource_pool(1, self.create, self.destroy, self.told_empty)
        self.out_at_close = None
        self.loan = self.pool.borrow()

    def create(self):
        self.created += 1
        return self.created

    def destroy(self, resource, reason):
        self.destroyed.append(resource)

    def told_empty(self):
        self.empty += 1

    def hand_back(self):
        self.pool.hand_back(self.loan, healthy=self.healthy)

    def close(self):
        for loan in self.pool.close():
            self.destroyed.append(loan.resource)
            self.pool._slots.free(loan)
        self.out_at_close = self.pool.out

    def check(self):
        assert sorted(self.destroyed) == [*range(1, self.created + 1)]
        assert self.pool.available == self.pool.out == 0
        assert taken(self.pool._slots) == []
        assert self.empty or not self.out_at_close  # who waits for the borrowers is told


class BrokenResource(HandBackAndClose):
    healthy = False


class BorrowAndClose(HandBackAndClose):
    """Another borrower comes while the pool is closed."""

    threads = ("borrow", "close")

    def __init__(self):
        super().__init__()
        self.hand_back()

    def borrow(self):
        try:
            loan = self.pool.borrow()
        except TaskManagerShutdownError:
            return
        self.pool.hand_back(loan, healthy=True)


class BorrowHandBackAndClose(BorrowAndClose):
    """All three at once."""

    threads = ("hand_back", "borrow", "close")

    def __init__(self):
        HandBackAndClose.__init__(self)


class CheckAndClose(BorrowAndClose):
    """A thread checks the idle resource while the pool is closed."""

    threads = ("keep_alive", "close")

    def __init__(self):
        super().__init__()
        self.used = []

    def keep_alive(self):
        loan = CheckLoan()
        if self.pool.lend_due(loan, lambda since, slot: since, 0.0):
            self.use(loan)
        self.pool.hand_back(loan, healthy=self.healthy)

    def use(self, loan):
        assert loan.resource not in self.used
        assert loan.resource not in self.destroyed
        self.used.append(loan.resource)
        self.used.remove(loan.resource)


class CheckAndBorrow(CheckAndClose):
    """A caller comes while a thread checks the idle resource."""

    threads = ("keep_alive", "borrow")

    def borrow(self):
        loan = self.pool.borrow()
        self.use(loan)
        self.pool.hand_back(loan, healthy=True)

    def check(self):
        idle = [resource for resource, _, _ in self.pool._here.shelf]
        assert sorted(self.destroyed + idle) == [*range(1, self.created + 1)]
        assert self.pool.available == len(idle) == 1
        assert self.pool.out == 0
        assert len(taken(self.pool._slots)) == 1


class GiveUpAndReturn(CheckAndClose):
    """A check returns when its time is up, and the pool is closed meanwhile."""

    threads = ("give_up", "return_", "close")

    def __init__(self):
        super().__init__()
        self.loan = CheckLoan()
        assert self.pool.lend_due(self.loan, lambda since, slot: since, 0.0)

    def give_up(self):
        self.pool.give_up(self.loan)

    def return_(self):
        self.pool.hand_back(self.loan, healthy=False)

    def check(self):
        super().check()
        assert self.pool.given_up() == ()


def hand_back_that_looks_before_it_locks(self, loan, *, healthy):
    keep = healthy and not self._closed and self._kept < self._size
    with self._lock:
        self._loans.discard(loan)
        if keep:
            self._kept += 1
            loan.shelf.append((loan.resource, loan.slot, 0.0))
    if not keep:
        self._destroy(loan.resource, loan.slot, None)
        self._slots.free(loan)


def close_without_the_lock(self):
    (shelf,) = self._shelves.values()
    idle = [_new_loan(resource, slot) for resource, slot, _ in shelf]
    self._closed = True
    self._kept = 0
    shelf.clear()
    return idle


def end_that_looks_before_it_locks(self, loan):
    self._slots.free(loan)
    last = self._closed and self._loans == {loan}
    with self._lock:
        self._loans.discard(loan)
    if last:
        self._empty()


def lend_that_looks_before_it_locks(self, loan, due_at, now):
    loan.shelf = shelf = self._here.shelf
    found = self._kept > 0
    with self._lock:
        self._loans.add(loan)
        if found:
            loan.resource, loan.slot, loan.since = shelf[0]
            del shelf[0]
            self._kept -= 1
    return found


def give_up_whatever_has_returned(self, loan):
    with self._lock:
        self._given_up.add(loan)
        self._loans.discard(loan)


@pytest.mark.parametrize("world", [HandBackAndClose, BrokenResource, BorrowAndClose, CheckAndClose])
def test_a_resource_is_destroyed_once_when_the_pool_is_closed_meanwhile(world):
    exhaust(world)


def test_a_caller_and_a_check_use_different_resources():
    exhaust(CheckAndBorrow, preemptions=1)


def test_no_resource_is_left_whatever_the_schedule():
    sample(BorrowHandBackAndClose, 100)
    sample(GiveUpAndReturn, 100)


@pytest.mark.parametrize(
    ("world", "name", "broken"),
    [
        (HandBackAndClose, "hand_back", hand_back_that_looks_before_it_locks),
        (HandBackAndClose, "close", close_without_the_lock),
        (BrokenResource, "_end", end_that_looks_before_it_locks),
        (CheckAndClose, "lend_due", lend_that_looks_before_it_locks),
        (GiveUpAndReturn, "give_up", give_up_whatever_has_returned),
    ],
)
def test_a_pool_that_decides_outside_its_lock_is_caught(monkeypatch, world, name, broken):
    monkeypatch.setattr(ResourcePool, name, broken)
    assert catches(world)
