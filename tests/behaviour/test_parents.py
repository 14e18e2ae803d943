"""A task that was submitted with `ctx=`: what it has of that context, and how it ends with it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from tasker import (
    ContextCancelledError,
    DeadlineExceededError,
    QueueFullError,
    TaskTimeoutError,
    background,
    current_context,
    with_cancel,
    with_timeout,
    with_value,
)
from tasker.testing import ManualClock
from tests.support.contexts import pass_deadline, told_by
from tests.support.errors import Sick
from tests.support.methods import KINDS
from tests.support.snippets import needs_fork, printed_by
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def parent():
    return with_cancel(background())


@pytest.fixture
def one_worker(new_manager):
    """A manager whose one worker is busy until its gate is set."""
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.gate, busy = threading.Event(), threading.Event()
    manager.submit(lambda resource: busy.set() or manager.gate.wait(PATIENCE))
    assert busy.wait(PATIENCE)
    yield manager
    manager.gate.set()


def dependants(ctx):
    return len(told_by(ctx).dependants)


def until_cancelled(ctx, resource):
    assert ctx.wait(PATIENCE)
    return ctx


# -- what it has of its parent -----------------------------------------------------------------------------------------


def test_values_come_from_the_parent_and_behind_it_from_the_manager(new_manager, parent):
    ours = with_value(with_value(background(), "both", "manager's"), "manager", 1)
    manager = new_manager(ctx=ours)
    given = with_value(with_value(parent, "both", "parent's"), "given", 2)

    def look(ctx, resource):
        below = with_value(ctx, "own", 3)
        return [below.value(key) for key in ("both", "manager", "given", "own", "none")]

    assert manager.submit(look, ctx=given).result(PATIENCE) == ["parent's", 1, 2, 3, None]
    assert manager.submit(look).result(PATIENCE) == ["manager's", 1, None, 3, None]


def test_a_task_that_did_not_ask_for_its_context_finds_the_values_by_current_context(
    new_manager, parent
):
    given = with_value(parent, "key", "value")
    future = new_manager().submit(lambda resource: current_context().value("key"), ctx=given)
    assert future.result(PATIENCE) == "value"


def test_each_attempt_has_the_values(new_manager, parent, no_pauses):
    seen = []

    def break_once(ctx, resource):
        seen.append((ctx, ctx.value("key"), ctx.cancelled()))
        if len(seen) == 1:
            raise Sick

    manager = new_manager()
    manager.submit(break_once, ctx=with_value(parent, "key", "value")).result(PATIENCE)
    assert [rest for _, *rest in seen] == [["value", False]] * 2
    assert seen[0][0] is not seen[1][0]


def test_it_is_the_tasks_own_manager_that_is_stopping(new_manager):
    first, second = new_manager(), new_manager()
    asked, go_on = threading.Event(), threading.Event()

    def inner(ctx, resource):
        asked.set()
        assert go_on.wait(PATIENCE)
        return ctx.stopping()

    outer = first.submit(lambda ctx, resource: second.submit(inner, ctx=ctx))
    assert asked.wait(PATIENCE)
    first.stop()
    go_on.set()
    assert outer.result(PATIENCE).result(PATIENCE) is False


def test_the_deadline_is_the_earliest(new_manager, parent):
    def remaining(ctx, resource):
        return ctx.remaining()

    with ManualClock():
        manager = new_manager()
        late, soon = with_timeout(parent, 90), with_timeout(parent, 30)
        assert manager.submit(remaining, ctx=parent).result(PATIENCE) is None
        assert manager.submit(remaining, ctx=soon, timeout=60).result(PATIENCE) == 30
        assert manager.submit(remaining, ctx=late, timeout=60).result(PATIENCE) == 60
        assert manager.submit(remaining, ctx=late).result(PATIENCE) == 90
        for ctx in (late, soon):
            ctx.cancel()
        manager.stop()


# -- its parent is cancelled -------------------------------------------------------------------------------------------


def test_what_waits_is_cancelled_and_never_runs(one_worker, parent):
    ran = []
    futures = [
        one_worker.submit(lambda resource, n=n: ran.append(n), ctx=parent, priority=n == 1)
        for n in range(3)
    ]
    other = one_worker.submit(lambda resource: "other")
    parent.cancel()
    assert all(future.cancelled() for future in futures)
    with pytest.raises(CancelledError):
        futures[0].result()
    one_worker.gate.set()
    assert other.result(PATIENCE) == "other"
    assert not ran
    assert one_worker.join(PATIENCE)
    assert one_worker.metrics().total_tasks_cancelled == 3


def test_what_runs_has_its_context_ended_for_the_same_reason(new_manager, parent):
    manager, started = new_manager(), threading.Event()
    why = KeyError("why")

    def run(ctx, resource):
        started.set()
        return until_cancelled(ctx, resource)

    future = manager.submit(run, ctx=parent)
    assert started.wait(PATIENCE)
    parent.cancel(why)
    ctx = future.result(PATIENCE)
    assert isinstance(ctx.err(), ContextCancelledError)
    assert ctx.cause() is why


def test_what_runs_is_aborted(new_manager, parent):
    begun, aborted = threading.Event(), threading.Event()

    def deaf(resource):
        begun.set()
        return aborted.wait(PATIENCE)

    manager = new_manager(on_abort=lambda resource: aborted.set())
    future = manager.submit(deaf, ctx=parent)
    assert begun.wait(PATIENCE)
    parent.cancel()
    assert future.result(PATIENCE) is True


def test_what_runs_is_not_tried_again(new_manager, parent, no_pauses):
    started = threading.Event()

    def run(ctx, resource):
        started.set()
        until_cancelled(ctx, resource)
        raise Sick

    future = new_manager().submit(run, ctx=parent)
    assert started.wait(PATIENCE)
    parent.cancel()
    assert isinstance(future.exception(PATIENCE), Sick)
    assert future.attempts == 1


def test_what_waits_for_its_next_attempt_is_cancelled(new_manager, parent, endless_pauses):
    manager = new_manager(worker_count=1, max_worker_count=1)

    def fail(resource):
        raise Sick

    future = manager.submit(fail, ctx=parent)
    eventually(lambda: future.attempts == 1 and future._waits_for_start())
    parent.cancel()
    assert future.cancelled()
    assert manager.join(PATIENCE)


def test_callbacks_run_in_order_on_a_thread_that_is_not_the_one_that_cancels(one_worker, parent):
    called, gate = [], threading.Event()

    def callback(future):
        assert gate.wait(PATIENCE)
        called.append((future, threading.current_thread()))

    futures = [one_worker.submit(lambda resource: 1, ctx=parent) for _ in range(3)]
    for future in futures:
        future.add_done_callback(callback)
    parent.cancel()
    gate.set()
    eventually(lambda: len(called) == 3)
    assert [future for future, _ in called] == futures
    assert threading.current_thread() not in [thread for _, thread in called]


def test_a_callback_that_blocks_holds_up_no_deadline(one_worker, parent):
    gate = threading.Event()
    limited = with_timeout(parent, 3600)
    futures = [one_worker.submit(lambda resource: 1, ctx=limited) for _ in range(2)]
    futures[0].add_done_callback(lambda future: gate.wait(PATIENCE))
    pass_deadline(limited)
    assert isinstance(futures[0].exception(PATIENCE), TaskTimeoutError)
    with with_timeout(background(), 0.001) as other:
        assert other.wait(PATIENCE)
    gate.set()


@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_a_parent_may_be_a_task_of_another_manager(new_manager, one_worker, end):
    manager, submitted = new_manager(), []

    def outer(ctx, resource):
        submitted.append(one_worker.submit(lambda resource: 1, ctx=ctx))
        until_cancelled(ctx, resource)

    future = manager.submit(outer)
    eventually(lambda: submitted)
    if end == "cancel":
        assert future.cancel() is False
    else:
        manager.kill()
    eventually(submitted[0].cancelled)
    assert future.exception(PATIENCE) is None


# -- its parent's deadline passes --------------------------------------------------------------------------------------


def test_what_waits_times_out_and_never_runs(one_worker, parent):
    with ManualClock() as clock:
        limited = with_timeout(parent, 10)
        future = one_worker.submit(lambda resource: 1, ctx=with_value(limited, "key", 1))
        clock.advance(9)
        assert not future.done()
        clock.advance(1)
        error = future.exception(PATIENCE)
    assert type(error) is TaskTimeoutError
    assert str(error) == "the deadline of the task's ctx passed while queued: it never started"
    assert future.attempts == 0


def test_what_runs_times_out_and_has_its_context_ended(new_manager, parent):
    manager, ended, started = new_manager(), [], threading.Event()

    def run(ctx, resource):
        started.set()
        ended.append(until_cancelled(ctx, resource).err())

    with ManualClock() as clock:
        future = manager.submit(run, ctx=with_timeout(parent, 10))
        assert started.wait(PATIENCE)
        clock.advance(10)
        assert str(future.exception(PATIENCE)) == (
            "the deadline of the task's ctx passed while running: its context is cancelled"
        )
    eventually(lambda: ended)
    assert isinstance(ended[0], DeadlineExceededError)


def test_an_earlier_timeout_of_its_own_says_so(one_worker, parent):
    with ManualClock() as clock:
        future = one_worker.submit(lambda resource: 1, ctx=with_timeout(parent, 10), timeout=5)
        clock.advance(5)
        assert "timeout of 5 s ended while queued" in str(future.exception(PATIENCE))
        assert clock.deadlines == 1


def test_a_deadline_is_kept_when_the_task_that_handed_it_on_has_ended(new_manager, one_worker):
    with ManualClock() as clock:
        outer = new_manager().submit(
            lambda resource: one_worker.submit(lambda resource: 1, ctx=current_context()),
            timeout=10,
        )
        inner = outer.result(PATIENCE)
        clock.advance(10)
        assert isinstance(inner.exception(PATIENCE), TaskTimeoutError)


def test_an_outer_task_that_times_out_ends_the_wait_for_the_inner_one(new_manager):
    manager, errors = new_manager(worker_count=2), []
    started, gate = threading.Event(), threading.Event()

    def inner(resource):
        started.set()
        gate.wait(PATIENCE)

    def outer(ctx, resource):
        try:
            manager.submit(inner, ctx=ctx).result()
        except TaskTimeoutError as error:
            errors.append(error)

    with ManualClock() as clock:
        future = manager.submit(outer, timeout=10)
        assert started.wait(PATIENCE)
        clock.advance(10)
        assert isinstance(future.exception(PATIENCE), TaskTimeoutError)
    eventually(lambda: errors)
    gate.set()


# -- its parent has ended already --------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
def test_the_task_is_not_run(new_manager, parent, busy):
    manager, ran = new_manager(worker_count=1, max_worker_count=1), []
    gate = threading.Event()
    if busy:
        manager.submit(lambda resource: gate.wait(PATIENCE))
    parent.cancel()
    assert manager.submit(lambda resource: ran.append(1), ctx=parent).cancelled()
    late = manager.submit(lambda resource: ran.append(2), ctx=with_timeout(background(), 0))
    assert isinstance(late.exception(), TaskTimeoutError)
    gate.set()
    assert manager.submit(lambda resource: 3).result(PATIENCE) == 3
    assert ran == []
    assert manager.join(PATIENCE)
    totals = manager.metrics()
    assert (totals.total_tasks_cancelled, totals.total_tasks_failed) == (1, 1)
    assert totals.total_tasks_arrived == 3 + busy


def test_it_is_not_run_when_nothing_watches_the_deadline_any_more(new_manager):
    manager = new_manager()
    with ManualClock() as clock:
        ctx = manager.submit(lambda ctx, resource: ctx, timeout=10).result(PATIENCE)
        clock.advance(20)
        assert not ctx.cancelled()
        late = manager.submit(lambda resource: 1, ctx=ctx)
        assert isinstance(late.exception(), TaskTimeoutError)


def test_a_closed_manager_refuses_it_all_the_same(new_manager, parent):
    manager = new_manager()
    parent.cancel()
    manager.stop()
    with pytest.raises(RuntimeError, match="stopping or closed"):
        manager.submit(lambda resource: 1, ctx=parent)


# -- nothing is kept ---------------------------------------------------------------------------------------------------


def test_a_parent_keeps_no_task_that_has_ended(new_manager, parent, endless_pauses):
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=0, queue_size=1)

    def fail(resource):
        raise KeyError

    assert manager.submit(lambda resource: 1, ctx=parent).result(PATIENCE) == 1
    assert isinstance(manager.submit(fail, ctx=parent).exception(PATIENCE), KeyError)
    eventually(lambda: dependants(parent) == 0)

    gate, busy = threading.Event(), threading.Event()
    manager.submit(lambda resource: busy.set() or gate.wait(PATIENCE), ctx=parent)
    assert busy.wait(PATIENCE)
    assert dependants(parent) == 1
    cancelled = manager.submit(lambda resource: 1, ctx=parent)
    with pytest.raises(QueueFullError):
        manager.submit(lambda resource: 1, ctx=parent, queue_timeout=0)
    assert dependants(parent) == 2
    assert cancelled.cancel()
    assert dependants(parent) == 1
    timed_out = manager.submit(lambda resource: 1, ctx=parent, timeout=0.001)
    assert isinstance(timed_out.exception(PATIENCE), TaskTimeoutError)
    eventually(lambda: dependants(parent) == 1)
    killed = manager.submit(lambda resource: 1, ctx=parent)
    gate.set()
    manager.kill()
    assert killed.done()
    eventually(lambda: dependants(parent) == 0)
    with pytest.raises(RuntimeError):
        manager.submit(lambda resource: 1, ctx=parent)
    assert dependants(parent) == 0


class Thing:
    """Something that a weak reference can watch."""


@pytest.mark.usefixtures("no_collection")
def test_a_future_that_is_kept_keeps_neither_its_parent_nor_that_its_future(new_manager):
    manager = new_manager()
    value, argument = Thing(), Thing()
    watched = [weakref.ref(value), weakref.ref(argument)]
    parent = with_value(background(), "key", value)
    future = manager.submit(lambda resource, thing: None, argument, ctx=parent)
    future.result(PATIENCE)
    del value, argument
    eventually(lambda: watched[1]() is None)
    watched.append(weakref.ref(future))
    del parent
    eventually(lambda: watched[0]() is None)
    del future
    eventually(lambda: watched[2]() is None)


@pytest.mark.usefixtures("no_collection")
def test_what_a_cancelled_task_was_made_of_is_freed(one_worker, parent):
    argument = Thing()
    freed = weakref.ref(argument)
    future = one_worker.submit(lambda resource, thing: None, argument, ctx=parent)
    del argument
    parent.cancel()
    assert future.cancelled()
    eventually(lambda: freed() is None)


class Sleeps:
    """Whose destructor blocks."""

    def __init__(self, gate):
        self.gate = gate

    def __del__(self):
        self.gate.wait(PATIENCE)


def test_a_destructor_that_blocks_holds_up_no_deadline(one_worker):
    gate = threading.Event()
    limited = with_timeout(background(), 3600)
    # without the GIL an object is freed by the thread that made it, if that still runs
    late = in_another_thread(
        lambda: one_worker.submit(lambda resource, thing: None, Sleeps(gate), ctx=limited)
    )
    pass_deadline(limited)
    assert isinstance(late.exception(PATIENCE), TaskTimeoutError)
    with with_timeout(background(), 0.001) as other:
        assert other.wait(PATIENCE)
    gate.set()


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_parent_of_ten_thousand_waiting_tasks_ends(one_worker, parent):
    futures = [one_worker.submit(lambda resource: 1, ctx=parent) for _ in range(10_000)]
    parent.cancel()
    assert all(future.cancelled() for future in futures)
    one_worker.gate.set()
    assert one_worker.join(PATIENCE)
    assert one_worker.metrics().total_tasks_cancelled == 10_000


# -- waiting for room --------------------------------------------------------------------------------------------------


@pytest.fixture
def full(new_manager):
    """A manager whose worker is busy and whose queue is full."""
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    manager.gate, busy = threading.Event(), threading.Event()
    manager.submit(lambda resource: busy.set() or manager.gate.wait(PATIENCE))
    assert busy.wait(PATIENCE)
    manager.waiting = manager.submit(lambda resource: "waited")
    yield manager
    manager.gate.set()


def ends(manager):
    """All seats are free in the end, and everything is counted."""
    manager.gate.set()
    assert manager.waiting.result(PATIENCE) == "waited"
    assert manager.submit(lambda resource: 1).result(PATIENCE) == 1
    assert manager.join(PATIENCE)
    eventually(lambda: manager._engine.queue.room.used() == 0)
    totals = manager.metrics()
    assert totals.total_tasks_arrived == totals.total_tasks_completed + totals.total_tasks_cancelled


def test_a_parent_that_ends_ends_the_wait_for_room(full, parent):
    futures = []
    thread = threading.Thread(
        target=lambda: futures.append(full.submit(lambda resource: 1, ctx=parent))
    )
    thread.start()
    eventually(lambda: full._engine.queue.room.is_wanted())
    parent.cancel()
    thread.join(PATIENCE)
    assert futures[0].cancelled()
    assert not full._engine.queue.room.is_wanted()
    ends(full)


def test_what_has_ended_needs_no_room(full, parent):
    parent.cancel()
    assert full.submit(lambda resource: 1, ctx=parent).cancelled()
    assert full.submit(lambda resource: 1, ctx=parent, queue_timeout=0).cancelled()
    ends(full)


def test_a_wait_for_room_within_a_task_ends_with_the_parent(full, new_manager, parent):
    waits = new_manager().submit(
        lambda resource: full.submit(lambda resource: 1, ctx=parent).cancelled()
    )
    eventually(lambda: full._engine.queue.room.is_wanted())
    parent.cancel()
    assert waits.result(PATIENCE) is True
    ends(full)


def test_a_parent_that_lives_leaves_the_wait_for_room_as_it_is(full, parent):
    with pytest.raises(QueueFullError):
        full.submit(lambda resource: 1, ctx=parent, queue_timeout=0.001)
    assert not told_by(parent).callbacks
    assert dependants(parent) == 0
    ends(full)


def test_an_await_of_room_ends_with_the_parent(full, parent):
    async def main():
        awaiting = asyncio.ensure_future(full.asubmit(lambda resource: 1, ctx=parent))
        while not full._engine.queue.room.is_wanted():
            await asyncio.sleep(0.001)
        parent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting

    asyncio.run(main())
    assert not full._engine.queue.room.is_wanted()
    assert not told_by(parent).callbacks
    ends(full)


# -- every way in ------------------------------------------------------------------------------------------------------


def test_each_of_the_twelve_methods_takes_it(new_manager, parent):
    manager = new_manager()
    parent.cancel()
    for kind in KINDS:
        with pytest.raises(CancelledError):
            getattr(manager, f"queue_task{kind}")(lambda resource: 1, ctx=parent)
        assert getattr(manager, f"queue_task{kind}_async")(
            lambda resource: 1, ctx=parent
        ).cancelled()


def test_map_has_it_for_all_items(new_manager, parent):
    manager, ran = new_manager(worker_count=1, max_worker_count=1), []

    def work(ctx, resource, item):
        ran.append(ctx.value("key"))
        if item == 1:
            parent.cancel()
        return item

    given = with_value(parent, "key", "value")
    results = manager.map(work, range(10), max_in_flight=4, ctx=given)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(CancelledError):
        next(results)
    assert ran == ["value"] * 2


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_an_item_that_the_parent_has_cancelled_has_an_exception_like_any_other(
    new_manager, parent, ordered, chunksize
):
    parent.cancel()
    results = new_manager().map(
        lambda resource, item: item,
        range(5),
        ctx=parent,
        return_exceptions=True,
        ordered=ordered,
        chunksize=chunksize,
    )
    assert [type(result) for result in results] == [CancelledError] * 5


def test_amap_ends_with_the_error_of_an_item_that_the_parent_has_cancelled(full, parent):
    async def main():
        results = full.amap(lambda resource, item: item, range(5), ctx=parent)
        first = asyncio.ensure_future(anext(results))
        while not full._engine.queue.room.is_wanted():
            await asyncio.sleep(0.001)
        parent.cancel()
        with pytest.raises(CancelledError):
            await first

    asyncio.run(main())
    ends(full)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_executor_has_it_for_all_calls(new_manager, parent, chunksize):
    manager = new_manager()
    given = with_value(parent, "key", "value")
    executor = manager.executor(ctx=given)
    assert executor.submit(lambda: current_context().value("key")).result(PATIENCE) == "value"
    assert [
        *executor.map(lambda n: current_context().value("key"), "abc", chunksize=chunksize)
    ] == ["value"] * 3
    parent.cancel()
    assert executor.submit(int).cancelled()


def test_asyncio_sees_a_cancellation_of_a_parent_as_one_and_a_deadline_as_a_timeout(
    one_worker, parent
):
    async def main():
        with ManualClock() as clock:
            limited = with_timeout(parent, 10)
            late = asyncio.ensure_future(one_worker.asubmit(lambda resource: 1, ctx=limited))
            await asyncio.sleep(0)
            clock.advance(10)
            with pytest.raises(TaskTimeoutError):
                await late
        awaiting = asyncio.ensure_future(one_worker.asubmit(lambda resource: 1, ctx=parent))
        await asyncio.sleep(0)
        parent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaiting

    asyncio.run(main())


def test_the_root_of_all_contexts_is_a_parent_that_never_ends(new_manager):
    assert new_manager().submit(lambda resource: 1, ctx=background()).result(PATIENCE) == 1


# -- forks -------------------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.slow
def test_a_forked_child_may_end_a_parent_of_tasks_that_are_not_its_own():
    assert (
        printed_by(
            """
            import os, threading
            from tasker import Config, TaskManager, background, with_cancel

            parent, gate = with_cancel(background()), threading.Event()
            config = Config(on_create=object, on_destroy=lambda _: None, worker_count=1)
            with TaskManager(config) as manager:
                futures = [manager.submit(lambda _: gate.wait(), ctx=parent) for _ in range(3)]
                child = os.fork()
                if not child:
                    parent.cancel()
                    os._exit(0 if parent.cancelled() and not futures[2].cancelled() else 1)
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), futures[2].cancelled())
                parent.cancel()
                print(futures[2].cancelled())
                gate.set()
            """
        )
        == "0 False\nTrue\n"
    )
