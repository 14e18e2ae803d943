"""`run_timeout` counts from each start of a task, `timeout` from its submission; and the defaults of both."""

from __future__ import annotations

import asyncio
import math
import threading
from datetime import timedelta

import pytest

from tasker import DeadlineExceededError, TaskTimeoutError, current_context
from tasker._tasks import deadlock
from tests.support.errors import Sick
from tests.support.methods import KINDS
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def new_manager(new_manager, clock):
    """The clock's block ends before the manager's."""
    return new_manager


class Run:
    """A task that stays until its context ends, and says when it has begun."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.contexts = []

    def __call__(self, ctx, resource, *_):
        self.contexts.append(ctx)
        self.begun.release()
        assert ctx.wait()

    def wait(self):
        assert self.begun.acquire(timeout=PATIENCE)


@pytest.fixture
def run():
    return Run()


def remaining(ctx, resource, *_):
    return ctx.remaining()


# -- one task ----------------------------------------------------------------------------------------------------------


def test_it_ends_what_runs_for_longer(new_manager, clock, run):
    manager = new_manager(worker_count=1, max_worker_count=1)
    future = manager.submit(run, run_timeout=10)
    run.wait()
    clock.advance(9)
    assert not future.done()
    clock.advance(1)
    error = future.exception(PATIENCE)
    assert type(error) is TaskTimeoutError
    assert (
        str(error) == "the task's run_timeout of 10 s ended while running: its context is cancelled"
    )
    assert isinstance(run.contexts[0].err(), DeadlineExceededError)
    assert run.contexts[0].cause() is error
    assert manager.submit(lambda resource: "served again").result(PATIENCE) == "served again"
    assert manager.metrics().total_tasks_failed == 1


def test_the_time_in_the_queue_does_not_count(new_manager, clock, run):
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.submit(run)
    run.wait()
    future = manager.submit(remaining, run_timeout=timedelta(seconds=10))
    clock.advance(100)
    run.contexts[0].cancel()
    assert future.result(PATIENCE) == 10


def test_the_deadline_is_the_earlier_one(new_manager, clock, run):
    manager = new_manager()
    assert manager.submit(remaining, run_timeout=10).result(PATIENCE) == 10
    assert manager.submit(remaining, run_timeout=10, timeout=20).result(PATIENCE) == 10
    assert manager.submit(remaining, run_timeout=20, timeout=10).result(PATIENCE) == 10
    future = manager.submit(run, run_timeout=20, timeout=10)
    run.wait()
    clock.advance(10)
    assert "timeout of 10 s" in str(future.exception(PATIENCE))


def test_a_task_that_did_not_ask_for_its_context_finds_the_deadline(new_manager):
    future = new_manager().submit(lambda resource: current_context().remaining(), run_timeout=10)
    assert future.result(PATIENCE) == 10


def test_nothing_is_left_of_it_when_the_task_has_returned_or_raised(new_manager, clock):
    manager = new_manager()
    assert manager.submit(lambda resource: 1, run_timeout=10).result(PATIENCE) == 1
    assert isinstance(manager.submit(min, run_timeout=10).exception(PATIENCE), TypeError)
    assert clock.deadlines == 0


def test_a_task_without_it_is_called_as_it_is(new_manager, clock, run):
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.submit(run)
    run.wait()
    plain, limited = manager.submit(remaining), manager.submit(remaining, run_timeout=math.inf)
    assert plain._fn is limited._fn is remaining
    run.contexts[0].cancel()


def test_errors_begin_in_the_function_and_say_how_it_was_called(new_manager):
    def fail(resource):
        raise KeyError

    manager = new_manager()
    error = manager.submit(fail, run_timeout=10).exception(PATIENCE)
    assert error.__traceback__.tb_frame.f_code is fail.__code__
    with pytest.raises(TypeError, match="the resource and 2 more arguments"):
        manager.submit(fail, 1, 2, run_timeout=10)


def test_what_has_been_used_up_is_not_tried_again(new_manager):
    def break_it(resource, items):
        raise Sick

    future = new_manager().submit(break_it, iter("abc"), run_timeout=10)
    assert isinstance(future.exception(PATIENCE), Sick)
    assert future.attempts == 1


def test_it_aborts_the_task(new_manager, clock):
    begun, aborted = threading.Event(), threading.Event()

    def deaf(resource):
        begun.set()
        assert aborted.wait(PATIENCE)

    manager = new_manager(on_abort=lambda resource: aborted.set())
    future = manager.submit(deaf, run_timeout=10)
    assert begun.wait(PATIENCE)
    clock.advance(10)
    assert "run_timeout of 10 s" in str(future.exception(PATIENCE))
    assert aborted.wait(PATIENCE)


# -- several attempts --------------------------------------------------------------------------------------------------


def test_each_attempt_has_it_anew(new_manager, clock, no_pauses):
    left, advanced = [], threading.Barrier(2)

    def run(ctx, resource):
        left.append(ctx.remaining())
        advanced.wait(PATIENCE)
        advanced.wait(PATIENCE)
        assert not ctx.cancelled()
        if len(left) < 3:
            raise Sick
        return "done"

    future = new_manager().submit(run, run_timeout=10, timeout=25)
    for _ in range(3):
        advanced.wait(PATIENCE)
        clock.advance(8)
        advanced.wait(PATIENCE)
    assert future.result(PATIENCE) == "done"
    assert left == [10, 10, 9]
    assert clock.deadlines == 0


def test_when_it_has_ended_there_is_no_other_attempt(new_manager, clock, no_pauses, log):
    begun = threading.Event()

    def run(ctx, resource):
        begun.set()
        ctx.wait()
        raise Sick

    manager = new_manager(worker_count=1, max_worker_count=1)
    future = manager.submit(run, run_timeout=10)
    assert begun.wait(PATIENCE)
    clock.advance(10)
    assert isinstance(future.exception(PATIENCE), TaskTimeoutError)
    assert manager.submit(lambda resource: 1).result(PATIENCE) == 1
    assert future.attempts == 1
    assert manager.metrics().total_tasks_retried == 0


# -- the defaults ------------------------------------------------------------------------------------------------------


def test_the_manager_has_defaults_for_tasks_that_have_none(new_manager, clock, run):
    manager = new_manager(timeout=timedelta(seconds=50), run_timeout=20)
    assert manager.submit(remaining).result(PATIENCE) == 20
    assert manager.submit(remaining, priority=True).result(PATIENCE) == 20
    assert manager.submit(remaining, run_timeout=30).result(PATIENCE) == 30
    assert manager.submit(remaining, timeout=10).result(PATIENCE) == 10
    assert manager.submit(remaining, run_timeout=math.inf).result(PATIENCE) == 50
    assert (
        manager.submit(remaining, run_timeout=math.inf, timeout=math.inf).result(PATIENCE) is None
    )
    assert manager.run_task(remaining) is None
    future = manager.submit(run)
    run.wait()
    clock.advance(20)
    assert "run_timeout of 20 s" in str(future.exception(PATIENCE))


def test_a_default_timeout_ends_what_waits(new_manager, clock, run):
    manager = new_manager(worker_count=1, max_worker_count=1, timeout=10)
    manager.submit(run, timeout=math.inf)
    run.wait()
    future = manager.submit(remaining)
    clock.advance(10)
    assert "timeout of 10 s ended while queued" in str(future.exception(PATIENCE))
    run.contexts[0].cancel()


# -- every way in ------------------------------------------------------------------------------------------------------


def test_each_of_the_twelve_methods_takes_it(new_manager):
    manager, left = new_manager(), []
    for kind in KINDS:
        assert getattr(manager, f"queue_task{kind}")(remaining, run_timeout=10) == 10
        future = getattr(manager, f"queue_task{kind}_async")(remaining, run_timeout=20)
        assert future.result(PATIENCE) == 20
        getattr(manager, f"queue_task{kind}_with_callback")(
            remaining, lambda result, error: left.append(result), run_timeout=30
        )
    eventually(lambda: left == [30] * len(KINDS))


@pytest.mark.parametrize("given", [True, False])
def test_each_item_of_map_has_it_and_a_chunk_that_of_all_its_items(new_manager, given):
    manager = new_manager() if given else new_manager(run_timeout=10)
    options = {"run_timeout": 10} if given else {}
    assert [*manager.map(remaining, range(3), **options)] == [10, 10, 10]
    assert [*manager.map(remaining, range(3), chunksize=2, **options)] == [20, 20, 10]

    async def main():
        return [each async for each in manager.amap(remaining, range(3), chunksize=2, **options)]

    assert asyncio.run(main()) == [20, 20, 10]


def test_the_calls_of_an_executor_have_the_options_of_the_view(new_manager, clock, run):
    def left(*_):
        return current_context().remaining()

    manager = new_manager(worker_count=1, max_worker_count=1, timeout=100)
    view = manager.executor(run_timeout=10, timeout=20)
    assert view.submit(left).result(PATIENCE) == 10
    assert [*view.map(left, range(3), chunksize=2)] == [20, 20, 10]
    assert manager.executor().submit(left).result(PATIENCE) == 100
    assert [*manager.executor().map(left, range(3), chunksize=2)] == [200, 200, 100]

    manager.submit(run, timeout=math.inf)
    run.wait()
    order = []
    manager.submit(lambda resource: order.append("main"))
    last = manager.executor(priority=True).submit(order.append, "priority")
    once = manager.executor(once=True).submit(order.append, "once")
    assert (last._priority, last._once, once._priority, once._once) == (True, False, False, True)
    run.contexts[0].cancel()
    once.result(PATIENCE)
    assert order == ["priority", "main", "once"]


def test_asyncio_awaits_it(new_manager, clock, run):
    manager = new_manager()

    async def main():
        assert await manager.asubmit(remaining, run_timeout=10) == 10
        awaiting = asyncio.ensure_future(manager.asubmit(run, run_timeout=10))
        await asyncio.to_thread(run.wait)
        clock.advance(10)
        with pytest.raises(TaskTimeoutError):
            await awaiting

    asyncio.run(main())


# -- waits in tasks ----------------------------------------------------------------------------------------------------


def test_a_circle_that_a_run_timeout_will_open_is_no_deadlock(new_manager, clock):
    manager, futures, both = new_manager(), [], threading.Barrier(3)

    def wait_for(resource, other):
        both.wait(PATIENCE)
        return type(futures[other].exception()).__name__

    futures += [
        manager.submit(wait_for, 1, run_timeout=10),
        manager.submit(wait_for, 0),
    ]
    both.wait(PATIENCE)
    eventually(lambda: len(deadlock._announced.waits) == 2)
    clock.advance(10)
    assert futures[1].result(PATIENCE) == "TaskTimeoutError"
    assert isinstance(futures[0].exception(PATIENCE), TaskTimeoutError)
