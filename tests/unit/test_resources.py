"""`ResourcePool` by itself: one user at a time, closing races, failures, reentrancy."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading

import pytest

from tasker import TaskManagerShutdownError
from tests.support.bytecodes import Interrupter
from tests.support.locks import HookedLock
from tests.support.pools import resource_pool, taken
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE


class Emptied:
    """Counts how often a closed pool says that its last borrower has handed back."""

    def __init__(self):
        self.told = 0

    def __call__(self):
        self.told += 1


@pytest.fixture
def emptied():
    return Emptied()


@pytest.fixture
def pool_of(factory, emptied):
    """`pool_of(size)`: a pool on recorded resources, closed at the end as a manager closes it."""
    factory.any_thread = True
    pools = []

    def make(size, create=factory.create, destroy=factory.destroy):
        pools.append(resource_pool(size, create, destroy, emptied))
        return pools[-1]

    yield make
    for pool in pools:
        close(pool, factory)
        assert pool.out == 0
        assert pool.available == 0
        assert taken(pool._slots) == []


def close(pool, factory):
    for loan in pool.close():
        factory.destroy(loan.resource)
        pool._slots.free(loan)


# -- borrowing -----------------------------------------------------------------------------------------------------


def test_nothing_is_made_before_it_is_needed(pool_of, factory):
    pool = pool_of(3)
    assert factory.created == []
    first = pool.borrow()
    assert len(factory.created) == 1
    assert (pool.out, pool.available) == (1, 0)
    pool.hand_back(first, healthy=True)
    assert (pool.out, pool.available) == (0, 1)


def test_an_idle_resource_is_used_again_the_warmest_first(pool_of, factory):
    pool = pool_of(3)
    first, second = pool.borrow(), pool.borrow()
    warm, warmer = second.resource, first.resource
    pool.hand_back(second, healthy=True)
    pool.hand_back(first, healthy=True)
    loans = [pool.borrow(), pool.borrow()]
    assert [loan.resource for loan in loans] == [warmer, warm]
    assert len(factory.created) == 2
    for loan in loans:
        pool.hand_back(loan, healthy=True)


def test_who_finds_none_idle_makes_one_and_no_more_than_the_size_are_kept(pool_of, factory):
    pool = pool_of(2)
    borrowed = [pool.borrow() for _ in range(5)]
    assert (pool.out, len(factory.created)) == (5, 5)
    for loan in borrowed:
        pool.hand_back(loan, healthy=True)
    assert (pool.out, pool.available, factory.live) == (0, 2, 2)


def test_a_pool_of_size_zero_keeps_nothing_and_destroys_in_the_callers_thread(pool_of, factory):
    factory.any_thread = False
    pool = pool_of(0)
    for _ in range(3):
        loan = pool.borrow()
        assert loan.resource.thread == threading.get_ident()
        pool.hand_back(loan, healthy=True)
        assert factory.live == 0
    assert len(factory.created) == 3


def test_an_idle_resource_that_is_lost_is_discarded_and_one_in_use_is_not(pool_of, factory):
    pool = pool_of(2)
    idle, used = pool.borrow(), pool.borrow()
    lost = idle.resource
    pool.hand_back(idle, healthy=True)
    assert not pool.discard(used.resource)
    assert pool.discard(lost)
    assert factory.destroyed == [lost]
    assert not pool.discard(lost)
    pool.hand_back(used, healthy=True)
    assert (pool.out, pool.available) == (0, 1)


def test_an_unhealthy_resource_is_destroyed_and_not_kept(pool_of, factory):
    pool = pool_of(2)
    first, second = pool.borrow(), pool.borrow()
    good, bad = first.resource, second.resource
    pool.hand_back(second, healthy=False)
    assert factory.destroyed == [bad]
    assert (pool.out, pool.available) == (1, 0)
    pool.hand_back(first, healthy=True)
    again = pool.borrow()
    assert again.resource is good
    pool.hand_back(again, healthy=True)


def test_none_is_a_resource_like_any_other(emptied):
    made = []
    pool = resource_pool(
        1, lambda: made.append(1), lambda resource, reason: made.remove(1), emptied
    )
    for healthy in (True, False):
        loan = pool.borrow()
        assert loan.resource is None
        assert made == [1]
        pool.hand_back(loan, healthy=healthy)
    assert made == []


def test_threads_that_borrow_at_the_same_time_get_different_resources(pool_of, factory):
    pool = pool_of(4)
    pool.fill()
    threads, seen = 10, []
    barrier = threading.Barrier(threads)

    def use():
        barrier.wait(PATIENCE)
        loan = pool.borrow()
        seen.append(loan.resource)
        barrier.wait(PATIENCE)  # all have theirs
        assert pool.out == threads
        barrier.wait(PATIENCE)
        pool.hand_back(loan, healthy=True)

    users = [threading.Thread(target=use) for _ in range(threads)]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    assert len({resource.number for resource in seen}) == threads == len(factory.created)
    assert (pool.out, pool.available, factory.live) == (0, 4, 4)


def test_no_resource_has_two_users_and_none_is_used_after_its_end(pool_of, factory):
    pool = pool_of(3)
    seed = int(os.environ.get("TASKER_SEED", "1"))
    task = factory.use(lambda resource: resource.number)
    barrier = threading.Barrier(6)

    def use(number):
        rng = random.Random(seed + number)
        barrier.wait(PATIENCE)
        for _ in range(200):
            loan = pool.borrow()
            task(loan.resource)
            pool.hand_back(loan, healthy=rng.random() > 0.1)

    users = [threading.Thread(target=use, args=(i,)) for i in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    assert pool.out == 0
    assert factory.live == pool.available <= 3


# -- filling, failing ----------------------------------------------------------------------------------------------


def test_filling_makes_as_many_as_are_kept(pool_of, factory):
    pool = pool_of(3)
    pool.fill()
    assert (pool.available, len(factory.created)) == (3, 3)
    assert pool.out == 0


@pytest.mark.parametrize("error", [OSError("down"), KeyboardInterrupt()])
def test_a_creation_that_fails_while_filling_leaks_none_of_those_before(factory, emptied, error):
    factory.any_thread = True
    for made_before in range(5):
        already = len(factory.created)

        def create(already=already, made_before=made_before):
            if len(factory.created) - already == made_before:
                raise error
            return factory.create()

        pool = resource_pool(5, create, factory.destroy, emptied)
        with pytest.raises(type(error)) as caught:
            pool.fill()
        assert caught.value is error
        assert len(factory.created) - already == made_before
        assert factory.live == 0
        with pytest.raises(TaskManagerShutdownError):
            pool.borrow()


@pytest.mark.parametrize("error", [OSError("down"), KeyboardInterrupt()])
def test_a_creation_that_fails_leaves_no_borrower_behind(pool_of, factory, emptied, error):
    pool = pool_of(2)
    factory.fail_next.append(error)
    with pytest.raises(type(error)) as caught:
        pool.borrow()
    assert caught.value is error
    assert (pool.out, pool.available) == (0, 0)
    pool.hand_back(pool.borrow(), healthy=True)  # and the pool goes on
    assert emptied.told == 0


def test_a_creation_that_fails_after_closing_tells_that_the_last_is_back(emptied):
    def create():
        assert pool.close() == []
        raise OSError("down")

    pool = resource_pool(2, create, print, emptied)
    with pytest.raises(OSError, match="down"):
        pool.borrow()
    assert (pool.out, emptied.told) == (0, 1)


@pytest.mark.parametrize("closed", [False, True])
def test_a_destruction_that_raises_still_ends_the_borrowing(factory, emptied, closed):
    factory.any_thread = True

    def destroy(resource, reason):
        factory.destroy(resource)
        raise OSError("cannot close")

    pool = resource_pool(2, factory.create, destroy, emptied)
    loan = pool.borrow()
    if closed:
        pool.close()
    with pytest.raises(OSError, match="cannot close"):
        pool.hand_back(loan, healthy=False)
    assert (pool.out, pool.available, emptied.told) == (0, 0, int(closed))


# -- closing -------------------------------------------------------------------------------------------------------


def test_closing_returns_what_is_idle_and_refuses_borrowers(pool_of, factory):
    pool = pool_of(3)
    pool.fill()
    out = pool.borrow()
    idle = pool.close()
    assert len(idle) == 2
    assert out.resource not in [loan.resource for loan in idle]
    assert pool.close() == []
    with pytest.raises(TaskManagerShutdownError, match="pool is stopping or closed"):
        pool.borrow()
    assert (pool.out, len(factory.created)) == (1, 3)
    for loan in idle:
        factory.destroy(loan.resource)
        pool._slots.free(loan)
    pool.hand_back(out, healthy=True)


def test_what_comes_back_after_closing_is_destroyed_by_who_brings_it(pool_of, factory, emptied):
    pool = pool_of(3)
    borrowed = [pool.borrow() for _ in range(3)]
    resources = [loan.resource for loan in borrowed]
    pool.close()
    for back, loan in enumerate(borrowed):
        assert emptied.told == 0
        pool.hand_back(loan, healthy=True)
        assert factory.destroyed == resources[: back + 1]
    assert emptied.told == 1
    assert pool.out == 0


def test_an_open_pool_does_not_tell_that_it_is_empty(pool_of, emptied):
    pool = pool_of(0)
    pool.hand_back(pool.borrow(), healthy=True)
    assert emptied.told == 0


@pytest.mark.parametrize("moment", ["taken", "released"])
def test_a_hand_back_that_meets_closing_leaves_the_resource_to_exactly_one(
    pool_of, factory, emptied, moment
):
    pool = pool_of(2)
    loan = pool.borrow()
    # just before the hand-back is decided, or just after
    pool._lock = HookedLock(lambda: close(pool, factory), moment)
    pool.hand_back(loan, healthy=True)
    assert factory.destroyed == factory.created
    assert (pool.out, pool.available) == (0, 0)
    assert emptied.told == (1 if moment == "taken" else 0)


@pytest.mark.parametrize("moment", ["taken", "released"])
def test_a_borrower_that_meets_closing_is_refused_or_counted(pool_of, factory, emptied, moment):
    pool = pool_of(2)
    pool.hand_back(pool.borrow(), healthy=True)
    pool._lock = HookedLock(lambda: close(pool, factory), moment)
    if moment == "taken":
        with pytest.raises(TaskManagerShutdownError):
            pool.borrow()
        assert (pool.out, factory.live) == (0, 0)
    else:
        loan = pool.borrow()
        assert (pool.out, factory.live) == (1, 1)
        pool.hand_back(loan, healthy=True)
        assert emptied.told == 1


def test_many_that_hand_back_while_one_closes_destroy_everything_once(pool_of, factory, emptied):
    for _ in range(30):
        pool = pool_of(2)
        told = emptied.told
        borrowed = [pool.borrow() for _ in range(4)]
        barrier = threading.Barrier(5)

        def back(loan, pool=pool, barrier=barrier):
            barrier.wait(PATIENCE)
            pool.hand_back(loan, healthy=True)

        threads = [threading.Thread(target=back, args=(loan,)) for loan in borrowed]
        for thread in threads:
            thread.start()
        barrier.wait(PATIENCE)
        close(pool, factory)
        for thread in threads:
            thread.join(PATIENCE)
        assert factory.live == 0
        assert (pool.out, pool.available) == (0, 0)
        assert emptied.told - told <= 1


# -- reentrancy ----------------------------------------------------------------------------------------------------


def test_nothing_of_the_users_runs_under_the_lock(factory):
    factory.any_thread = True
    ran = []

    def use_pool(name):
        ran.append(name)
        pool.hand_back(pool.borrow(), healthy=True)  # needs the lock
        return name

    def create():
        if "create" not in ran:
            in_another_thread(lambda: use_pool("create"))
        return factory.create()

    def destroy(resource, reason):
        if "destroy" not in ran:
            in_another_thread(lambda: use_pool("destroy"))
        factory.destroy(resource)

    def empty():
        def ask():
            with pytest.raises(TaskManagerShutdownError):
                pool.borrow()
            return True

        ran.append(in_another_thread(ask))

    pool = resource_pool(1, create, destroy, empty)
    pool.hand_back(pool.borrow(), healthy=True)
    pool.hand_back(pool.borrow(), healthy=False)
    out = pool.borrow()
    close(pool, factory)
    pool.hand_back(out, healthy=True)
    assert ran == ["create", "destroy", True]


def test_a_creation_and_a_destruction_may_borrow_themselves(factory, emptied):
    factory.any_thread = True
    depth = []

    def create():
        if len(depth) < 3:
            depth.append(1)
            pool.hand_back(pool.borrow(), healthy=True)
        return factory.create()

    pool = resource_pool(1, create, factory.destroy, emptied)
    pool.hand_back(pool.borrow(), healthy=True)
    assert pool.out == 0
    assert factory.live == pool.available == 1
    close(pool, factory)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
@pytest.mark.parametrize("interrupted", ["borrow", "hand_back", "close"])
def test_a_signal_handler_may_borrow_and_hand_back_in_the_middle_of_either(
    pool_of, factory, emptied, interrupted
):
    pool = pool_of(3)
    pool.fill()
    out = pool.borrow()
    held, handled = [out.resource], []

    def handler(*_):
        inner = pool.borrow()
        assert inner.resource not in held
        pool.hand_back(inner, healthy=not handled)
        handled.append(1)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        for moment in ("taken", "released") if interrupted != "close" else ("taken",):
            pool._lock = HookedLock(lambda: signal.raise_signal(signal.SIGUSR1), moment)
            if interrupted == "borrow":
                pool.hand_back(pool.borrow(), healthy=True)
            elif interrupted == "hand_back":
                held.clear()
                pool.hand_back(out, healthy=True)
                out = pool.borrow()
                held.append(out.resource)
            else:
                close(pool, factory)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert len(handled) == (1 if interrupted == "close" else 2)
    assert pool.out == 1
    pool.hand_back(out, healthy=True)


def test_who_holds_the_lock_may_take_it_again(pool_of):
    pool = pool_of(2)

    def interrupted():
        with pool._lock:  # here comes the signal
            pool.hand_back(pool.borrow(), healthy=True)
            return pool.available

    assert in_another_thread(interrupted) == 1


def test_an_interrupt_after_a_resource_was_taken_hands_it_back(pool_of, factory):
    pool = pool_of(2)
    pool.hand_back(pool.borrow(), healthy=True)

    def interrupt():
        raise KeyboardInterrupt

    for moment in ("taken", "released"):
        pool._lock = HookedLock(interrupt, moment)
        with pytest.raises(KeyboardInterrupt):
            pool.borrow()
        pool._lock = threading.RLock()
        assert (pool.out, pool.available, factory.live) == (0, 1, 1)


# -- Ctrl-C (`run_task` as a whole is in test_keyboard_interrupts) --------------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.usefixtures("no_collection")
def test_a_second_hand_back_completes_one_that_was_interrupted_anywhere(
    factory, emptied, shared, healthy, closed
):
    factory.any_thread = True
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        emptied.told = 0
        pool = resource_pool(1, factory.create, factory.destroy, emptied, shared=shared)
        loan = pool.borrow()
        if closed:
            pool.close()
        with (
            Interrupter(moment, everywhere=False) as interrupter,
            contextlib.suppress(KeyboardInterrupt),
        ):
            pool.hand_back(loan, healthy=healthy)
        interrupted = interrupter.where is not None
        if interrupted:
            pool.hand_back(loan, healthy=healthy)
        assert pool.out == 0, interrupter.where
        assert factory.live == pool.available == (1 if healthy and not closed else 0), (
            interrupter.where
        )
        assert (emptied.told > 0) is closed, interrupter.where
        close(pool, factory)
        assert taken(pool._slots) == [], interrupter.where
    assert moment > 4, "no trace function was called"


@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.parametrize("state", ["idle", "empty", "down", "closed"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.usefixtures("no_collection")
def test_a_borrowing_that_is_interrupted_anywhere_leaves_nothing_out(
    factory, emptied, shared, state
):
    factory.any_thread = True
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        pool = resource_pool(1, factory.create, factory.destroy, emptied, shared=shared)
        if state == "idle":
            pool.fill()
        elif state == "closed":
            pool.close()
        factory.fail_always = OSError("down") if state == "down" else None
        loan = None
        ends = contextlib.suppress(KeyboardInterrupt, OSError, TaskManagerShutdownError)
        with Interrupter(moment, everywhere=False) as interrupter, ends:
            loan = pool.borrow()
        interrupted = interrupter.where is not None
        if loan is not None:
            pool.hand_back(loan, healthy=True)
        assert pool.out == 0, interrupter.where
        assert factory.live == pool.available, interrupter.where
        close(pool, factory)
        assert taken(pool._slots) == [], interrupter.where
    assert moment > 3, "no trace function was called"


def test_an_interrupt_at_the_entry_of_a_destruction_leaves_the_loan_to_the_second_hand_back(
    factory, emptied
):
    factory.any_thread = True
    interrupts = [KeyboardInterrupt()]

    def destroy(resource, reason):
        if interrupts:
            raise interrupts.pop()
        factory.destroy(resource)

    pool = resource_pool(0, factory.create, destroy, emptied)
    loan = pool.borrow()
    pool.close()
    with pytest.raises(KeyboardInterrupt):
        pool.hand_back(loan, healthy=True)
    assert (pool.out, emptied.told) == (1, 0)  # closing still waits for it
    pool.hand_back(loan, healthy=True)
    assert (pool.out, emptied.told) == (0, 1)


# -- shelves -----------------------------------------------------------------------------------------------------------


def destroyer(factory):
    return lambda resource, reason: factory.destroy(resource)


def test_a_thread_takes_from_its_own_shelf_alone(factory, emptied):
    pool = resource_pool(3, factory.create, destroyer(factory), emptied, shared=False)
    mine = pool.borrow()
    resource = mine.resource
    pool.hand_back(mine, healthy=True)

    def another():
        loan = pool.borrow()
        assert loan.resource is not resource
        pool.hand_back(loan, healthy=True)
        assert pool.available == 2
        return loan.borrower

    assert in_another_thread(another) != mine.borrower
    again = pool.borrow()
    assert again.resource is resource
    pool.hand_back(again, healthy=True)
    pool.clear_own()
    assert (pool.available, pool.out, factory.live) == (0, 0, 0)
    close(pool, factory)


@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.usefixtures("no_collection")
def test_to_clear_a_shelf_is_completed_by_a_second_time_wherever_it_was_interrupted(
    factory, emptied
):
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        pool = resource_pool(2, factory.create, destroyer(factory), emptied, shared=False)
        loans = [pool.borrow(), pool.borrow()]
        for loan in loans:
            pool.hand_back(loan, healthy=True)
        with (
            Interrupter(moment, everywhere=False) as interrupter,
            contextlib.suppress(KeyboardInterrupt),
        ):
            pool.clear_own()
        interrupted = interrupter.where is not None
        assert pool.out == 0, interrupter.where
        pool.clear_own()
        assert (pool.available, factory.live) == (0, 0), interrupter.where
        assert taken(pool._slots) == [], interrupter.where
    assert moment > 4, "no trace function was called"
