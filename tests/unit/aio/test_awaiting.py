"""Futures that are awaited: outcomes, cancellation, timeouts, what asyncio makes of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from concurrent.futures import CancelledError as StandardCancelledError

import pytest

from tasker import (
    TaskManagerKilledError,
    TaskTimeoutError,
)
from tests.support.errors import Sick
from tests.support.loops import Gate, bare, double, fail_with, others, run, until
from tests.support.waiting import PATIENCE, eventually


@pytest.mark.parametrize("kind", ["", "_once", "_with_priority", "_with_priority_once"])
def test_what_the_async_methods_return_can_be_awaited(new_manager, kind):
    manager = new_manager()
    error = LookupError("mine")

    async def main():
        method = getattr(manager, f"queue_task{kind}_async")
        assert await method(double, 4) == 8
        with pytest.raises(LookupError) as caught:
            await method(fail_with(error))
        assert caught.value is error

    run(main)


def test_a_settled_future_is_awaited_without_a_loop(new_manager):
    future = new_manager().submit(double, 4)
    assert future.result(PATIENCE) == 8
    with pytest.raises(StopIteration) as returned:
        next(future.__await__())
    assert returned.value.value == 8


def test_an_unsettled_one_needs_a_loop_and_says_so(block, gate):
    future = block().submit(double, 4)
    with pytest.raises(RuntimeError, match="no running event loop"):
        next(future.__await__())
    assert not future._waiting
    gate.opened.set()
    assert future.result(PATIENCE) == 8


def test_a_future_may_be_awaited_twice_and_by_several_tasks(block, gate):
    manager = block()
    error = LookupError("mine")

    async def main():
        good, bad = manager.submit(double, 4), manager.submit(fail_with(error))

        async def wait_for(future):
            return await future

        tasks = [asyncio.create_task(wait_for(future)) for future in (good, bad) * 5]
        await others()
        gate.opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results == [8, error] * 5
        assert await good == 8
        for _ in range(2):
            with pytest.raises(LookupError):
                await bad

    run(main)


def test_a_future_may_be_awaited_in_one_loop_after_another(block, gate):
    manager = block()
    future = manager.submit(double, 4)

    async def give_up():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.shield(asyncio.wrap_future(future))
        waiter = asyncio.create_task(outcome_of(future))
        await others()
        assert not waiter.done()
        waiter.get_coro().close()  # neither cancelled nor ended

    async def outcome_of(future):
        return await future

    loop = asyncio.new_event_loop()
    waiter = outcome_of(future)
    task = loop.create_task(waiter)
    loop.run_until_complete(others())
    assert not task.done()

    async def main():
        gate.opened.set()
        return await future

    assert run(main) == 8
    assert loop.run_until_complete(task) == 8
    loop.close()


def test_cancelling_the_awaiting_task_empties_the_place_of_a_queued_one(block, gate):
    manager = block()

    async def main():
        future = manager.submit(gate.named("never"))
        waiter = asyncio.ensure_future(future)
        await others()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert waiter.cancelled()
        assert future.cancelled()
        assert manager.stats().queued_tasks == 0

    run(main)
    gate.opened.set()
    assert manager.join(PATIENCE)
    assert gate.ran == [None]
    assert manager.metrics().total_tasks_cancelled == 1


def test_cancelling_the_awaiting_task_cancels_the_context_of_a_running_one(new_manager, gate):
    manager = new_manager()

    async def main():
        future = manager.submit(gate)
        waiter = asyncio.ensure_future(future)
        await others()  # to_thread() gives way to nobody when the thread is done at once
        await asyncio.to_thread(gate.started_one)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert gate.contexts[0].cancelled()
        await asyncio.to_thread(future.result, PATIENCE)  # it ends as its function does

    run(main)


async def give_up(form, awaited):
    """Await something, and cancel that before the loop has run anything else."""
    if form == "wait_for":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaited, 0)
        return
    task = {"gather": asyncio.gather, "ensure_future": asyncio.ensure_future}[form](awaited)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


FORMS = ["ensure_future", "gather", "wait_for"]


@pytest.mark.parametrize("form", FORMS)
def test_a_task_of_asyncio_that_is_cancelled_before_it_began_cancels_nothing(
    new_manager, gate, form
):
    """Nothing was awaited, as when a coroutine's task is cancelled before its first step."""
    manager = new_manager()

    async def main():
        future = manager.submit(gate)
        await give_up(form, future)
        await others()
        await until(lambda: gate.contexts)
        assert not gate.contexts[0].cancelled()
        gate.opened.set()
        assert await future is None

    run(main)
    assert manager.metrics().total_tasks_completed == 1


@pytest.mark.parametrize("form", [*FORMS, None])
def test_wrapped_for_asyncio_a_future_is_cancelled_however_early(new_manager, gate, form):
    manager = new_manager()

    async def main():
        future = manager.submit(gate)
        wrapped = asyncio.wrap_future(future)
        if form is None:
            wrapped.cancel()
        else:
            await give_up(form, wrapped)
        await asyncio.to_thread(concurrent.futures.wait, [future], PATIENCE)
        assert future.cancelled() or gate.contexts[0].cancelled()

    run(main)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="new in Python 3.12")
@pytest.mark.parametrize("form", FORMS)
def test_an_eager_task_of_asyncio_awaits_at_once_so_it_cancels_at_once(block, gate, form):
    manager = block()

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        future = manager.submit(gate)
        await give_up(form, future)
        assert future.cancelled()

    run(main)


def test_an_asubmit_that_is_cancelled_before_it_began_submits_nothing(new_manager, gate):
    manager = new_manager()

    async def main():
        await give_up("ensure_future", manager.asubmit(gate))
        with pytest.raises(ExceptionGroup):
            await failing_group()
        await others()

    async def failing_group():
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.asubmit(gate))
            raise LookupError

    run(main)
    assert manager.metrics().total_tasks_arrived == 0


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
def test_with_eager_start_an_asubmit_submits_at_once(block, gate):
    manager = block()

    async def main():
        task = asyncio.create_task(manager.asubmit(double, 4), eager_start=True)
        given_up = asyncio.create_task(manager.asubmit(gate), eager_start=True)
        assert manager.stats().queued_tasks == 2
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert manager.stats().queued_tasks == 1
        gate.opened.set()
        assert await task == 8
        done = manager.submit(double, 5)
        await until(done.done)
        assert asyncio.create_task(bare(done), eager_start=True).result() == 10

    run(main)


def test_an_await_that_is_given_up_leaves_nothing_in_the_future(new_manager, gate):
    manager = new_manager()

    async def main():
        future = manager.submit(lambda resource: gate.opened.wait(PATIENCE))
        await until(future.running)
        for _ in range(3):
            waiter = asyncio.ensure_future(future)
            await others()
            assert len(future._waiting) == 1
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert future._waiting == []
        gate.opened.set()

    run(main)


@pytest.mark.parametrize("settled", ["before", "after"])
def test_an_outcome_that_comes_while_an_await_begins_is_not_missed(block, gate, settled):
    manager = block()

    async def main():
        future = manager.submit(double, 4)

        def announce(waiter):
            if settled == "after":
                type(future)._announce(future, waiter)
            gate.opened.set()
            eventually(future.done)
            if settled == "before":
                type(future)._announce(future, waiter)

        future._announce = announce
        assert await future == 8

    run(main)


def test_a_running_task_whose_awaiter_is_cancelled_is_not_retried(new_manager, gate):
    manager = new_manager(max_retries=5)

    def break_resource(context, resource):
        gate(context, resource)
        raise Sick

    async def main():
        future = manager.submit(break_resource)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await future

    run(main)
    gate.opened.set()
    assert manager.join(PATIENCE)
    assert len(gate.ran) <= 1


def test_a_shielded_future_outlives_the_cancelled_awaiter(block, gate):
    manager = block()

    async def main():
        future = manager.submit(double, 4)

        async def wait():
            return await asyncio.shield(future)

        waiter = asyncio.create_task(wait())
        await others()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not future.done()
        gate.opened.set()
        assert await future == 8

    run(main)


@pytest.mark.parametrize("form", ["wait_for", "timeout"])
def test_a_timeout_of_asyncio_cancels_the_task(block, form):
    manager = block()

    async def bounded(future):
        async with asyncio.timeout(0.001):
            await future

    async def main():
        future = manager.submit(double, 4)
        with pytest.raises(TimeoutError):
            await (asyncio.wait_for(future, 0.001) if form == "wait_for" else bounded(future))
        assert future.cancelled()

    run(main)


def test_a_task_group_cancels_the_others_when_one_fails(block, gate):
    manager = block()

    async def program():
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.asubmit(fail_with(error), priority=True))
            group.create_task(manager.asubmit(second))
            group.create_task(manager.asubmit(second))
            await others()
            gate.opened.set()
            await asyncio.Event().wait()

    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            await program()
        assert caught.value.exceptions == (error,)
        assert manager.join(PATIENCE)
        assert len(second.contexts) < 2
        assert all(context.cancelled() for context in second.contexts)

    second, error = Gate(), LookupError("mine")

    run(main)


def test_gather_takes_futures_as_they_are(new_manager):
    manager = new_manager()
    error = LookupError("mine")

    async def main():
        futures = [
            manager.submit(double, i) if i % 10 else manager.submit(fail_with(error))
            for i in range(200)
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert results == [2 * i if i % 10 else error for i in range(200)]

    run(main)


def test_a_future_that_somebody_else_cancels_raises_cancelled_error_in_every_awaiter(block):
    manager = block()

    async def main():
        future = manager.submit(double, 4)
        waiters = [asyncio.ensure_future(future) for _ in range(3)]
        await others()
        canceller = threading.Thread(target=future.cancel)
        canceller.start()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 3
        canceller.join()
        with pytest.raises(asyncio.CancelledError):  # and in whoever comes later
            await future

    run(main)


def test_the_awaiters_of_a_killed_manager_are_told(block):
    manager = block()

    async def main():
        waiters = [asyncio.ensure_future(manager.submit(double, i)) for i in range(3)]
        await others()
        assert not any(waiter.done() for waiter in waiters)
        manager._engine.lifecycle.request_kill(PATIENCE)
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TaskManagerKilledError] * 3

    run(main)


def test_a_task_s_own_timeout_ends_the_await(block):
    manager = block()

    async def main():
        with pytest.raises(TaskTimeoutError):
            await manager.submit(double, 4, timeout=0.001)

    run(main)


@pytest.mark.parametrize("form", ["future", "asubmit", "amap", "amap unordered"])
@pytest.mark.parametrize(
    "error", [StopIteration, StopAsyncIteration, GeneratorExit, StandardCancelledError, MemoryError]
)
@pytest.mark.parametrize("settled", [False, True], ids=["in time", "before"])
def test_no_exception_of_a_task_hangs_or_silently_ends_an_awaiter(
    block, gate, error, form, settled
):
    manager = block()
    if settled:
        gate.opened.set()

    async def awaited():
        if form == "future":
            future = manager.submit(fail_with(error(1)))
            if settled:
                await until(future.done)
            return [await future]
        if form == "asubmit":
            return [await manager.asubmit(fail_with(error(1)))]
        return [x async for x in manager.amap(fail_with(error(1)), [1], ordered=form == "amap")]

    async def main():
        task = asyncio.create_task(awaited())
        await others()
        gate.opened.set()
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the type is looked at below
            await task
        converted = form.startswith("amap") and issubclass(
            error, StopAsyncIteration
        )  # by any asynchronous generator
        if converted or issubclass(error, (StopIteration, GeneratorExit)):
            assert type(caught.value) is RuntimeError
            causes = [caught.value.__cause__, getattr(caught.value.__cause__, "__cause__", None)]
            assert error in map(type, causes)
        else:
            assert type(caught.value) is error

    run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("form", ["future", "asubmit", "amap"])
def test_what_would_end_the_program_leaves_the_loop(new_manager, error, form):
    manager = new_manager()

    async def main():
        if form == "future":
            await manager.submit(fail_with(error(1)))
        elif form == "asubmit":
            await manager.asubmit(fail_with(error(1)))
        else:
            async for _ in manager.amap(fail_with(error(1)), [1, 2, 3]):
                pass

    with pytest.raises(error):
        run(main)
    assert manager.queue_task(double, 4) == 8


def test_a_cancellation_at_the_very_moment_of_the_outcome_is_a_cancellation(block, gate):
    manager = block()

    async def main():
        future = manager.submit(double, 4)
        waiter = asyncio.ensure_future(future)
        await others()
        gate.opened.set()
        assert manager.join(PATIENCE)  # the outcome is there, and the loop has yet to hear of it
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert await future == 8

    run(main)


@pytest.mark.slow
def test_thousands_of_awaits_need_no_thread_each_and_one_message(block, gate):
    manager = block()
    messages = []

    class CountingLoop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback, *args, context=None):
            messages.append(callback)
            return super().call_soon_threadsafe(callback, *args, context=context)

    async def main():
        before = threading.active_count()
        tasks = [asyncio.ensure_future(manager.submit(double, i)) for i in range(5000)]
        await others()
        assert threading.active_count() == before
        assert messages == []
        gate.opened.set()
        assert manager.join(PATIENCE)  # the loop hears of nothing meanwhile
        assert len(messages) == 1
        assert await asyncio.gather(*tasks) == [2 * i for i in range(5000)]
        assert threading.active_count() == before

    run(main, new_loop=CountingLoop)
