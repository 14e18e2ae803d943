"""asyncio: futures that are awaited, `asubmit`, `amap`, `async with`; loops of all kinds, and what tells them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import random
import sys
import threading
import traceback
import weakref
from collections import Counter, deque
from concurrent.futures import CancelledError as StandardCancelledError
from functools import partial

import pytest

from tasker import (
    ConfigError,
    QueueFullError,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
    awaiting,
)
from tasker.parking import gil_enabled
from tasker.testing import ManualClock
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually

# -- what the tests share ----------------------------------------------------------------------------------------------


def run(main, *, new_loop=None):
    """`asyncio.run(main())` that fails on what a loop would only log, and gives up where it would wait for ever."""
    reported = []

    async def program():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        async with asyncio.timeout(PATIENCE):
            return await main()

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(program())
    finally:
        gc.collect()
        assert reported == []


async def until(condition):
    """Wait in a loop for something that nothing signals."""
    while not condition():
        await asyncio.sleep(0.002)


async def bare(awaitable):
    """A coroutine that does nothing but await it."""
    return await awaitable


async def others():
    """Let everything that can run in the loop run."""
    for _ in range(20):
        await asyncio.sleep(0)


def fail_with(error):
    def fail(resource, *args):
        raise error

    return fail


def double(resource, x):
    return 2 * x


class Gate:
    """Tasks that wait for the gate: they say that they have started, and hear when their context ends."""

    def __init__(self):
        self.opened = threading.Event()
        self.started = threading.Semaphore(0)
        self.contexts = []
        self.ran = []

    def __call__(self, context, resource):
        return self.run(context, None)

    def named(self, name):
        return lambda context, resource: self.run(context, name)

    def run(self, context, name):
        self.contexts.append(context)
        self.ran.append(name)
        self.started.release()
        context.on_done(self.opened.set)
        assert self.opened.wait(PATIENCE)
        return name

    def started_one(self):
        assert self.started.acquire(timeout=PATIENCE)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def block(new_manager, gate):
    """`block(**options)`: a manager whose only worker is busy until the gate opens."""

    def block(**options):
        manager = new_manager(**{"worker_count": 1, "max_worker_count": 1, **options})
        manager.submit(gate)
        gate.started_one()
        return manager

    return block


def unhealed(manager):
    """Nothing but the protocol itself wakes who waits for room: the burst thread's tick does not help."""
    manager._engine.queue.wake_submitters = lambda: None


# -- futures -----------------------------------------------------------------------------------------------------------


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
def test_a_task_of_asyncio_that_is_cancelled_before_it_began_cancels_nothing(new_manager, gate, form):
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
        futures = [manager.submit(double, i) if i % 10 else manager.submit(fail_with(error)) for i in range(200)]
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
def test_no_exception_of_a_task_hangs_or_silently_ends_an_awaiter(block, gate, error, form, settled):
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
        converted = form.startswith("amap") and issubclass(error, StopAsyncIteration)  # by any asynchronous generator
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


# -- loops -------------------------------------------------------------------------------------------------------------


def everything(manager):
    """A program that uses all there is."""

    async def main():
        assert await manager.queue_task_async(double, 4) == 8
        assert await manager.asubmit(double, 4) == 8
        with pytest.raises(LookupError):
            await manager.asubmit(fail_with(LookupError()))
        assert await asyncio.gather(*(manager.asubmit(double, i) for i in range(200))) == list(range(0, 400, 2))
        assert [x async for x in manager.amap(double, range(50), chunksize=3)] == list(range(0, 100, 2))
        assert sorted([x async for x in manager.amap(double, range(50), ordered=False)]) == list(range(0, 100, 2))

    return main


@pytest.mark.parametrize("queue_size", [0, 3])
def test_several_loops_in_one_process_at_once(new_manager, queue_size):
    manager = new_manager(queue_size=queue_size)
    trouble = []

    def program():
        try:
            asyncio.run(everything(manager)())
        except BaseException:
            trouble.append(traceback.format_exc())

    threads = [threading.Thread(target=program) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert trouble == []
    assert not any(thread.is_alive() for thread in threads)


def test_loops_of_one_thread_may_take_turns(new_manager):
    manager = new_manager()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    futures = [manager.submit(double, i) for i in range(10)]

    async def awaited(future):
        return await future

    results = [loops[i % 2].run_until_complete(awaited(future)) for i, future in enumerate(futures)]
    assert results == list(range(0, 20, 2))
    for loop in loops:
        loop.close()


@pytest.mark.parametrize("queue_size", [0, 3])
def test_everything_works_under_uvloop(new_manager, queue_size):
    uvloop = pytest.importorskip("uvloop")
    manager = new_manager(queue_size=queue_size)
    run(everything(manager), new_loop=uvloop.new_event_loop)

    async def main():
        async with manager:
            waiter = asyncio.ensure_future(manager.submit(double, 4))
        assert await waiter == 8

    run(main, new_loop=uvloop.new_event_loop)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="new in Python 3.12")
@pytest.mark.parametrize("queue_size", [0, 3])
def test_everything_works_with_eager_tasks(new_manager, queue_size):
    manager = new_manager(queue_size=queue_size)

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await everything(manager)()

    run(main)


@pytest.mark.skipif(not hasattr(asyncio, "capture_call_graph"), reason="new in Python 3.14")
def test_the_call_graph_of_asyncio_shows_who_awaits(block, gate):
    manager = block()

    async def of(form):
        if form == "amap":
            async for result in manager.amap(double, [4]):
                return result
        return await (manager.asubmit(double, 4) if form == "asubmit" else manager.submit(double, 4))

    async def main():
        tasks = [asyncio.create_task(of(form)) for form in ("submit", "asubmit", "amap")]
        waiters = [asyncio.create_task(bare(task)) for task in tasks]
        await others()
        for task, waiter in zip(tasks, waiters, strict=True):
            graph = asyncio.capture_call_graph(task)
            assert of.__qualname__ in [entry.frame.f_code.co_qualname for entry in graph.call_stack]
            assert [above.future for above in graph.awaited_by] == [waiter]
            assert "bare()" in asyncio.format_call_graph(task)
            del graph  # which holds frames
        gate.opened.set()
        assert await asyncio.gather(*waiters) == [8, 8, 8]

    run(main)


def test_everything_works_in_debug_mode(new_manager):
    manager = new_manager(queue_size=3)

    async def main():
        asyncio.get_running_loop().set_debug(True)
        await everything(manager)()

    run(main)


def test_everything_works_under_anyio(new_manager):
    anyio = pytest.importorskip("anyio")
    manager = new_manager(queue_size=3)
    anyio.run(everything(manager))


def test_an_anyio_scope_that_is_cancelled_cancels_the_task(block, gate):
    anyio = pytest.importorskip("anyio")
    manager = block(queue_size=1)

    async def main():
        waiting = manager.submit(double, 4)
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await waiting
        assert waiting.cancelled()
        waiting = manager.submit(double, 4)  # the queue is full
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await manager.asubmit(double, 5)
        with anyio.move_on_after(0.01) as scope:
            async for _ in manager.amap(double, [1, 2, 3]):
                pass
        assert scope.cancelled_caught
        assert len(asyncio.all_tasks()) == 1, "the puller outlives its stream"
        gate.opened.set()
        assert await waiting == 8

    anyio.run(main)


def test_a_block_that_an_anyio_scope_cancels_is_left_when_the_manager_has_ended(new_manager, gate):
    """Such a scope cancels again whatever waits inside of it."""
    anyio = pytest.importorskip("anyio")
    manager = new_manager()

    async def main():
        with anyio.CancelScope() as scope:
            async with manager:
                manager.submit(gate)
                await anyio.to_thread.run_sync(gate.started_one)
                scope.cancel()
                await anyio.sleep(PATIENCE)
        assert manager._engine.lifecycle.has_ended()
        assert gate.contexts[0].cancelled()

    anyio.run(main)


def test_a_loop_that_is_closed_while_something_is_awaited_there_hurts_nobody(block, gate, log):
    manager = block()
    (worker,) = manager._engine.crew.members

    async def awaited(future):
        return await future

    def leave_a_loop():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # that a pending task is destroyed
        tasks = [loop.create_task(awaited(manager.submit(double, i))) for i in range(3)]
        tasks.append(loop.create_task(anext(manager.amap(double, [1]))))
        loop.run_until_complete(others())
        assert not any(task.done() for task in tasks)
        loop.close()
        return weakref.ref(loop)

    loop = leave_a_loop()
    gate.opened.set()
    assert manager.queue_task(double, 4) == 8
    assert manager.join(PATIENCE)
    assert manager._engine.crew.members == (worker,)
    assert log.loud() == []
    del worker

    def dead():
        gc.collect()
        return loop() is None

    eventually(dead, "the end of the loop")


def test_a_loop_that_is_closed_before_it_is_told_is_not_kept_alive(block, gate):
    manager = block()

    async def awaited(future):
        return await future

    def leave_a_loop():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        task = loop.create_task(awaited(manager.submit(double, 4)))
        loop.run_until_complete(others())
        gate.opened.set()
        assert manager.join(PATIENCE)  # the message is on its way
        assert not task.done()
        loop.close()
        return weakref.ref(loop)

    loop = leave_a_loop()
    eventually(lambda: gc.collect() >= 0 and loop() is None)


@pytest.mark.parametrize("manager_is", ["open", "closed"])
def test_closed_loops_are_not_kept_alive(new_manager, manager_is):
    manager = new_manager(queue_size=2)
    loops = []

    async def main():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await everything(manager)()
        if manager_is == "closed":
            async with manager:
                pass

    run(main)
    # the thread that woke the loop last may not have come back from that call
    eventually(lambda: gc.collect() >= 0 and loops[0]() is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_a_forked_child_awaiting_ends_with_an_error(block, gate):
    manager = block()
    waiting = manager.submit(double, 4)
    in_hands = manager.submit(double, 5)
    manager._engine.queue._main.remove(in_hands)  # as if a thread that is about to put it were between two lines

    async def main():
        for awaited in (waiting, in_hands, manager.asubmit(double, 4), anext(manager.amap(double, [1]))):
            with pytest.raises(TaskManagerShutdownError):
                await awaited
        async with manager:
            pass

    pid = os.fork()
    if not pid:
        code = 1
        try:
            asyncio.run(asyncio.wait_for(main(), PATIENCE))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    manager._engine.queue._main.append(in_hands)
    gate.opened.set()
    assert waiting.result(PATIENCE) == 8
    assert in_hands.result(PATIENCE) == 10


# -- the mailbox -------------------------------------------------------------------------------------------------------


class Note(awaiting.Message):
    """Counts how often it was delivered."""

    def __init__(self, mailbox, told=lambda: None):
        super().__init__(mailbox)
        self.delivered = 0
        self.told = told

    def deliver(self):
        self.delivered += 1
        self.told()


def test_a_message_that_is_put_when_a_delivery_has_just_ended_is_delivered_too():
    asked = []

    class Loop:
        def call_soon_threadsafe(self, callback):
            asked.append(callback)

    class Messages(deque):
        def append(self, message):
            for delivery in asked:  # as if the loop came before this thread goes on
                delivery()
            asked.clear()
            super().append(message)

    mailbox = awaiting.Mailbox(Loop())
    mailbox._messages = Messages()
    notes = [Note(mailbox), Note(mailbox)]
    for note in notes:
        note.wake()
    assert [note.delivered for note in notes] == [1, 0]
    (delivery,) = asked
    delivery()
    assert [note.delivered for note in notes] == [1, 1]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_message_is_delivered_once_however_many_threads_put(threads):
    rounds, each = 30, 40
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    async def main():
        rng = random.Random(seed)
        mailbox = awaiting.mailbox_here()
        for _ in range(rounds):
            arrived = asyncio.Event()
            left = threads * each

            def count():
                nonlocal left
                left -= 1
                if not left:
                    arrived.set()  # noqa: B023  # it is called in its own turn

            notes = [[Note(mailbox, count) for _ in range(each)] for _ in range(threads)]
            pauses = [[rng.random() < 0.3 for _ in range(each)] for _ in range(threads)]
            start = threading.Barrier(threads)

            def put(mine, pausing, start=start):
                start.wait(PATIENCE)
                for note, pause in zip(mine, pausing, strict=True):
                    note.wake()
                    if pause:
                        threading.Event().wait(0)  # lets the loop in

            putters = [threading.Thread(target=put, args=pair) for pair in zip(notes, pauses, strict=True)]
            for putter in putters:
                putter.start()
            await arrived.wait()
            for putter in putters:
                putter.join()
            assert all(note.delivered == 1 for mine in notes for note in mine)
            assert not mailbox._messages

    run(main)


@pytest.mark.usefixtures("hasty")
def test_no_await_is_lost_however_tasks_settle_and_are_cancelled(new_manager):
    manager = new_manager(worker_count=4)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    async def main():
        rng = random.Random(seed)
        for _ in range(40):
            futures = [manager.submit(double, i) for i in range(30)]
            waiters = [asyncio.ensure_future(future) for future in futures]
            await asyncio.sleep(0)
            for waiter in rng.sample(waiters, 10):
                waiter.cancel()
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
            for i, outcome in enumerate(outcomes):
                assert outcome == 2 * i or isinstance(outcome, asyncio.CancelledError)
            assert sum(outcome == 2 * i for i, outcome in enumerate(outcomes)) >= 20

    run(main)


def test_an_interrupted_delivery_loses_nothing():
    """Ctrl-C leaves a loop that nothing protects from it; the loop may be run again."""
    notes = []

    def put():
        mailbox = awaiting.mailbox_here()

        def interrupt():
            if notes[0].delivered == 1:
                raise KeyboardInterrupt

        notes.extend((Note(mailbox, interrupt), Note(mailbox), Note(mailbox)))
        for note in notes:
            note.wake()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.call_soon(put)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        loop.run_until_complete(others())
    assert [note.delivered for note in notes] == [2, 1, 1]


def test_an_interrupted_question_is_asked_again_by_the_next_message(monkeypatch):
    async def main():
        mailbox = awaiting.mailbox_here()
        loop = asyncio.get_running_loop()
        notes = [Note(mailbox), Note(mailbox)]

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", interrupted, raising=False)
            with pytest.raises(KeyboardInterrupt):
                notes[0].wake()
        notes[1].wake()
        await others()
        assert [note.delivered for note in notes] == [1, 1]

    run(main)


# -- asubmit -----------------------------------------------------------------------------------------------------------


def test_asubmit_gives_the_result_or_raises_the_task_s_own_exception(new_manager):
    manager = new_manager()
    error = LookupError("mine")

    async def main():
        assert await manager.asubmit(lambda resource: resource.alive) is True
        assert await manager.asubmit(lambda context, resource, a, b: (context.err(), a, b), 1, "x") == (None, 1, "x")
        with pytest.raises(LookupError) as caught:
            await manager.asubmit(fail_with(error))
        assert caught.value is error

    run(main)


def test_asubmit_takes_the_options_of_submit(block, gate):
    manager = block(max_retries=3)
    order = []

    def note(resource, name):
        order.append(name)

    def break_resource(resource):
        order.append("sick")
        raise Sick

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(note, "main"))]
        tasks += [asyncio.create_task(manager.asubmit(note, "priority", priority=True))]
        tasks += [asyncio.create_task(manager.asubmit(break_resource, once=True))]
        tasks += [asyncio.create_task(manager.asubmit(note, "never", timeout=0.001))]
        with pytest.raises(TaskTimeoutError):
            await tasks[3]
        gate.opened.set()
        with pytest.raises(Sick):
            await tasks[2]
        await asyncio.gather(*tasks[:2])
        assert order == ["priority", "main", "sick"]

    run(main)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda manager: manager.asubmit(double, 1, queue_timeout=-1), ConfigError, "queue_timeout"),
        (lambda manager: manager.asubmit(double, 1, queue_timeout="soon"), ConfigError, "queue_timeout"),
        (lambda manager: manager.asubmit(double, 1, timeout=0), ConfigError, "timeout"),
        (lambda manager: manager.asubmit(double, 1, priority="yes"), ConfigError, "priority"),
        (lambda manager: manager.asubmit(lambda a, b, c: 0), TypeError, "lambda"),
        (lambda manager: manager.asubmit(None), TypeError, "None"),
        (lambda manager: manager.asubmit(asyncio.sleep, 1), TypeError, "sleep"),
    ],
)
@pytest.mark.parametrize("queue_size", [0, 1])
def test_asubmit_refuses_what_submit_refuses(new_manager, queue_size, call, error, text):
    manager = new_manager(queue_size=queue_size)

    async def main():
        with pytest.raises(error, match=text):
            await call(manager)

    run(main)


def test_asubmit_awaits_room_and_is_served_first_come_first_served(block, gate):
    manager = block(queue_size=1)
    unhealed(manager)
    order = []

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(lambda resource, i=i: order.append(i))) for i in range(300)]
        await others()
        assert manager.stats().queued_tasks == 1
        gate.opened.set()
        await asyncio.gather(*tasks)
        assert order == list(range(300))

    run(main)


def test_who_comes_later_does_not_overtake_one_that_waits_for_room(block, gate):
    manager = block(queue_size=1)
    unhealed(manager)
    order = []

    async def main():
        async def submit(name):
            await manager.asubmit(lambda resource: order.append(name))

        filling = manager.submit(double, 1)
        early = [asyncio.create_task(submit(name)) for name in ("first", "second")]
        await others()
        gate.opened.set()
        assert filling.result(PATIENCE) == 2  # there is room, and the loop has yet to hear of it
        late = asyncio.create_task(submit("late"))
        await asyncio.gather(*early, late)
        assert order == ["first", "second", "late"]

    run(main)


def test_threads_and_coroutines_wait_for_room_in_one_line(block, gate):
    manager = block(queue_size=1)
    unhealed(manager)
    order, threads, line = [], [], manager._engine.queue.room._line

    async def main():
        filling = manager.submit(double, 1)
        tasks = []
        for i in range(9):
            if i % 3:
                note = partial(manager.queue_task, lambda resource, i=i: order.append(i))
                threads.append(threading.Thread(target=note))
                threads[-1].start()
            else:
                tasks.append(asyncio.create_task(manager.asubmit(lambda resource, i=i: order.append(i))))
                await others()
            eventually(lambda i=i: len(line) == i + 1)
        gate.opened.set()
        await asyncio.gather(*tasks, filling)

    run(main)
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(9))


@pytest.mark.parametrize("at", ["first", "middle", "all but the last"])
def test_those_that_are_cancelled_while_they_wait_for_room_hold_up_nobody(block, gate, at):
    manager = block(queue_size=1)
    unhealed(manager)
    order = []

    async def main():
        filling = manager.submit(double, 1)
        tasks = [asyncio.create_task(manager.asubmit(lambda resource, i=i: order.append(i))) for i in range(9)]
        await others()
        leaving = {"first": tasks[:1], "middle": tasks[4:5], "all but the last": tasks[:-1]}[at]
        gate.opened.set()
        assert filling.result(PATIENCE) == 2  # the first has been woken, and is cancelled before it knows
        for task in leaving:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == len(leaving)
        assert order == [i for i, task in enumerate(tasks) if task not in leaving]

    run(main)
    assert not manager._engine.queue.room.is_wanted()


@pytest.mark.usefixtures("hasty")
def test_none_is_lost_of_threads_loops_and_cancelled_ones_that_wait_for_room(new_manager):
    manager = new_manager(queue_size=2, worker_count=2)
    unhealed(manager)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    ran, expected, trouble = Counter(), Counter(), []

    def note(resource, name):
        ran[name] += 1  # each name is one task's own

    async def submit_some(number):
        rng = random.Random(seed + number)
        for turn in range(8):
            names = [(number, turn, i) for i in range(25)]
            tasks = [asyncio.create_task(manager.asubmit(note, name)) for name in names]
            for task in rng.sample(tasks, 8):
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            expected.update(name for name, outcome in zip(names, outcomes, strict=True) if outcome is None)

    def program(number):
        try:
            if number == 0:
                for i in range(100):
                    manager.queue_task(note, (0, i))
                    expected[(0, i)] += 1
            else:
                asyncio.run(asyncio.wait_for(submit_some(number), PATIENCE))
        except BaseException:
            trouble.append(traceback.format_exc())

    threads = [threading.Thread(target=program, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert trouble == []
    assert manager.join(PATIENCE)
    assert expected - ran == Counter()
    assert max(ran.values()) == 1
    assert manager._engine.queue.room.used() == 0


def test_queue_timeout_bounds_the_wait_for_room(block):
    manager = block(queue_size=1)
    manager.submit(double, 1)

    async def main():
        for queue_timeout in (0, 0.001):
            with pytest.raises(QueueFullError, match="queue full: 1 of 1 waiting, 1 of 1 workers busy"):
                await manager.asubmit(double, 4, queue_timeout=queue_timeout)
        patient = asyncio.create_task(manager.asubmit(double, 4, queue_timeout=float("inf")))
        await others()
        with pytest.raises(QueueFullError):  # though it is not the first in the line
            await manager.asubmit(double, 4, queue_timeout=0.001)
        assert not patient.done()
        patient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patient

    run(main)


def test_a_task_that_meets_its_own_manager_s_full_queue_is_refused_at_once(new_manager):
    manager = new_manager(queue_size=1, worker_count=1, max_worker_count=1)

    def task(resource):
        waiting = manager.submit(double, 1)
        with pytest.raises(QueueFullError):
            asyncio.run(manager.asubmit(double, 2))
        with pytest.raises(QueueFullError):
            asyncio.run(anext(manager.amap(double, [2])))
        return waiting

    assert manager.queue_task(task).result(PATIENCE) == 2


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_those_that_wait_for_room_are_refused_when_the_manager_closes(block, gate, how):
    manager = block(queue_size=1)
    manager.submit(double, 1)

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(double, i)) for i in range(50)]
        await others()
        if how == "stop":
            manager._engine.lifecycle.request_stop()
        else:
            manager._engine.lifecycle.request_kill(PATIENCE)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        gate.opened.set()
        kinds = {type(outcome) for outcome in outcomes[1:]}
        assert kinds == {TaskManagerShutdownError}

    run(main)


def test_a_loop_that_does_not_run_holds_up_no_other(block, gate):
    manager = block(queue_size=1)
    manager.submit(double, 1)
    idle = asyncio.new_event_loop()
    stuck = idle.create_task(manager.asubmit(double, 2))
    idle.run_until_complete(others())

    async def main():
        tasks = [asyncio.create_task(manager.asubmit(double, i)) for i in range(5)]
        await others()
        gate.opened.set()
        return await asyncio.gather(*tasks)

    assert run(main) == [0, 2, 4, 6, 8]
    assert idle.run_until_complete(stuck) == 4
    idle.close()


# -- amap --------------------------------------------------------------------------------------------------------------


async def take_all(stream, results):
    async for x in stream:
        results.append(x)


async def asynchronous(items):
    for item in items:
        await asyncio.sleep(0)
        yield item


class OldIterable:
    """Its iterator has no `__iter__`, which `iter()` does not ask for."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return _Next(iter(self.items))


class _Next:
    def __init__(self, items):
        self._items = items

    def __next__(self):
        return next(self._items)


class BareAsyncIterable:
    """Its iterator has no `__aiter__`, and gives what can be awaited rather than coroutines."""

    def __init__(self, items):
        self.items = items

    def __aiter__(self):
        return _ANext(iter(self.items))


class _ANext:
    def __init__(self, items):
        self._items = items

    def __anext__(self):
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(next(self._items))
        except StopIteration:
            future.set_exception(StopAsyncIteration())
        return future


class Both:
    """Iterable in both ways, its iterators too: the asynchronous one is what a loop wants."""

    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        raise AssertionError("asked as a thread would")

    def __aiter__(self):
        return self

    async def __anext__(self):
        for item in self.items:
            return item
        raise StopAsyncIteration


@pytest.mark.parametrize(
    "kind", [list, iter, asynchronous, OldIterable, BareAsyncIterable, Both], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("queue_size", [0, 1])
def test_amap_hands_out_every_result(new_manager, kind, chunksize, ordered, queue_size):
    manager = new_manager(queue_size=queue_size)

    async def main():
        for count in (0, 1, 50):
            stream = manager.amap(double, kind(range(count)), chunksize=chunksize, ordered=ordered)
            results = [x async for x in stream]
            assert (results if ordered else sorted(results)) == list(range(0, 2 * count, 2))
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_amap_gives_the_context_to_a_function_that_asks_for_it(new_manager):
    manager = new_manager()

    async def main():
        return [x async for x in manager.amap(lambda context, resource, x: (context.err(), x), [1, 2])]

    assert run(main) == [(None, 1), (None, 2)]


def test_unordered_results_come_as_they_come(new_manager, gate):
    manager = new_manager(worker_count=2)

    def work(context, resource, x):
        return gate.run(context, x) if x == 0 else x

    async def main():
        stream = manager.amap(work, range(5), ordered=False)
        first = [await anext(stream) for _ in range(4)]
        gate.opened.set()
        return sorted(first), [x async for x in stream]

    assert run(main) == ([1, 2, 3, 4], [0])


@pytest.mark.parametrize("ordered", [True, False])
def test_an_input_that_is_waited_for_holds_up_no_finished_result(new_manager, ordered):
    manager = new_manager()

    async def main():
        asked_for_more = asyncio.Event()

        async def items():
            yield 1
            yield 2
            await asked_for_more.wait()
            yield 3

        results = []
        async for x in manager.amap(double, items(), ordered=ordered):
            results.append(x)
            if len(results) == 2:
                asked_for_more.set()
        return sorted(results)

    assert run(main) == [2, 4, 6]


@pytest.mark.parametrize("kind", [iter, asynchronous], ids=["sync", "async"])
@pytest.mark.parametrize(("limit", "chunksize"), [(1, 1), (3, 1), (7, 3), (6, 6)])
@pytest.mark.parametrize("ordered", [True, False])
def test_at_most_max_in_flight_items_are_taken_and_not_handed_out(new_manager, kind, limit, chunksize, ordered):
    manager = new_manager()
    taken, most = 0, 0

    def count():
        nonlocal taken
        for i in range(60):
            taken += 1
            yield i

    async def main():
        nonlocal most
        handed_out = 0
        async for _ in manager.amap(double, kind(count()), max_in_flight=limit, chunksize=chunksize, ordered=ordered):
            most = max(most, taken - handed_out)
            await others()
            most = max(most, taken - handed_out)
            handed_out += 1
        assert handed_out == 60

    run(main)
    assert most <= limit
    assert limit - chunksize < most  # and the window is used


def test_by_default_the_window_is_four_times_the_most_workers(block):
    manager = block(worker_count=1, max_worker_count=1)
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    async def main():
        stream = manager.amap(double, items())
        first = asyncio.create_task(anext(stream))
        await others()
        assert len(taken) == 4
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    run(main)


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("queue_size", [0, 1])
def test_amap_returns_exceptions_in_the_place_of_results(new_manager, chunksize, ordered, queue_size):
    manager = new_manager(queue_size=queue_size)

    def odd_fails(resource, x):
        if x % 2:
            raise LookupError(x)
        return x

    async def main():
        stream = manager.amap(
            odd_fails, asynchronous(range(40)), return_exceptions=True, chunksize=chunksize, ordered=ordered
        )
        return [x if isinstance(x, int) else x.args[0] async for x in stream]

    results = run(main)
    assert (results if ordered else sorted(results)) == list(range(40))


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_item_s_error_is_raised_in_its_place_and_cancels_the_rest(block, gate, chunksize):
    manager = block(worker_count=1)
    ran = []

    def fails_at_three(resource, x):
        ran.append(x)
        if x == 3:
            raise LookupError(x)
        return x

    async def main():
        results = []
        stream = manager.amap(fails_at_three, range(1000), chunksize=chunksize)
        first = asyncio.create_task(anext(stream))
        await others()
        gate.opened.set()
        results.append(await first)
        with pytest.raises(LookupError) as caught:
            await take_all(stream, results)
        assert caught.value.args == (3,)
        assert results == [0, 1, 2]
        assert [x async for x in stream] == []
        assert len(asyncio.all_tasks()) == 1

    run(main)
    assert manager.join(PATIENCE)
    assert len(ran) < 30


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, GeneratorExit, StandardCancelledError])
def test_what_the_input_raises_comes_after_the_results_of_what_was_taken_before(
    new_manager, kind, chunksize, ordered, error
):
    manager = new_manager()

    class Failing:
        def __init__(self):
            self.left = 6

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise error(1)
            self.left -= 1
            return self.left

    class FailingAsync(Failing):
        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.sleep(0)
            return self.__next__()

    items = Failing() if kind == "sync" else FailingAsync()

    async def main():
        results = []
        with pytest.raises(RuntimeError if error is GeneratorExit else error) as caught:
            await take_all(manager.amap(double, items, chunksize=chunksize, ordered=ordered), results)
        assert sorted(results) == [0, 2, 4, 6, 8, 10]
        assert error in (type(caught.value), type(caught.value.__cause__))

    run(main)


def test_a_puller_that_somebody_cancels_does_not_end_its_stream_in_silence(new_manager):
    manager = new_manager()

    async def main():
        results = []
        stream = manager.amap(double, range(50), max_in_flight=2)
        results.append(await anext(stream))
        await others()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await take_all(stream, results)
        assert results == [0, 2]

    run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_input_that_would_end_the_program_ends_the_loop(new_manager, error, kind):
    manager = new_manager()

    def items():
        yield 1
        raise error

    async def async_items():
        yield 1
        raise error

    async def main():
        async for _ in manager.amap(double, items() if kind == "sync" else async_items()):
            pass

    with pytest.raises(error):
        run(main)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="new in Python 3.12")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_input_that_would_end_the_program_cancels_what_an_eager_puller_has_begun(new_manager, gate, error):
    manager = new_manager()

    def items():
        yield "first"
        gate.started_one()
        raise error

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        asyncio.get_running_loop().set_exception_handler(lambda *reported: None)  # the puller's, which nobody has
        async for _ in manager.amap(lambda context, resource, name: gate.run(context, name), items()):
            pass

    with pytest.raises(error):
        asyncio.run(main())
    assert gate.contexts[0].cancelled()


def test_amap_checks_its_arguments_at_the_call(new_manager):
    manager = new_manager()

    async def main():
        for items in (None, 5, object()):
            with pytest.raises(TypeError, match="items must be"):
                manager.amap(double, items)
        for wrong in ({"chunksize": 0}, {"max_in_flight": 0}, {"ordered": 1}, {"timeout": -1}, {"priority": None}):
            with pytest.raises(ConfigError, match=next(iter(wrong))):
                manager.amap(double, [], **wrong)
        with pytest.raises(TypeError):
            manager.amap(asyncio.sleep, [1])

    run(main)


def test_a_stream_that_was_never_asked_leaves_nothing(new_manager):
    manager = new_manager()
    taken = []

    async def items():
        taken.append(1)
        yield 1

    async def main():
        manager.amap(double, items())
        manager.amap(double, [1])
        stream = manager.amap(double, items())
        await stream.aclose()
        gc.collect()
        await others()

    run(main)
    assert taken == []


ENDINGS = ["aclose", "cancel", "break", "error"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async", "waiting"])
@pytest.mark.parametrize("queue_size", [0, 2])
def test_however_a_stream_ends_what_is_left_is_cancelled_and_no_puller_remains(
    new_manager, gate, ending, ordered, kind, queue_size
):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=queue_size)

    def work(context, resource, x):
        return gate.run(context, x) if x else x

    def endless():
        i = 0
        while True:
            yield i
            i += 1

    async def then_waits():
        for i in range(3):
            yield i
        await asyncio.Event().wait()

    items = {"sync": endless, "async": lambda: asynchronous(endless()), "waiting": then_waits}[kind]

    async def consume(stream, has_one):
        async for x in stream:
            assert x == 0
            await asyncio.to_thread(gate.started_one)
            if ending == "break":
                break
            if ending == "error":
                raise LookupError
            has_one.set()

    async def main():
        has_one = asyncio.Event()
        stream = manager.amap(work, items(), ordered=ordered)
        if ending == "aclose":
            assert await anext(stream) == 0
            await asyncio.to_thread(gate.started_one)
            await others()
            await stream.aclose()
        elif ending == "cancel":
            task = asyncio.create_task(consume(stream, has_one))
            await has_one.wait()
            await others()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            consumer = consume(stream, has_one)
            del stream
            with contextlib.suppress(LookupError):
                await consumer
            del consumer
        await until(lambda: gate.contexts[0].cancelled())
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert gate.ran == [1]

    run(main)
    assert manager.join(PATIENCE)
    assert gate.ran == [1]


@pytest.mark.parametrize("answer", ["another item", "the end", "an error", "later"])
def test_an_input_that_answers_a_cancellation_with_something_else_starts_nothing(new_manager, answer):
    manager = new_manager()
    ran, closing = [], []

    class Stubborn:
        def __init__(self):
            self.count = 0

        def __aiter__(self):
            return self

        async def __anext__(self):
            self.count += 1
            if self.count == 1:
                return 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                closing.append(True)
                if answer == "another item":
                    return 2
                if answer == "the end":
                    raise StopAsyncIteration from None
                if answer == "an error":
                    raise LookupError from None
                await others()
                raise

    async def main():
        stream = manager.amap(lambda resource, x: ran.append(x), Stubborn())
        await anext(stream)
        await others()
        await stream.aclose()
        assert closing == [True]
        assert len(asyncio.all_tasks()) == 1

    run(main)
    assert manager.join(PATIENCE)
    assert ran == [1]


def test_a_consumer_that_is_cancelled_again_while_its_stream_ends_is_patient(new_manager):
    manager = new_manager()

    async def main():
        leaving = asyncio.Event()
        may_leave = asyncio.Event()

        async def items():
            yield 1
            try:
                await asyncio.Event().wait()
            finally:
                leaving.set()
                await may_leave.wait()

        async def consume():
            async for _ in manager.amap(double, items()):
                pass

        task = asyncio.create_task(consume())
        await others()
        await until(lambda: manager.stats().running_tasks == 0)
        await others()
        task.cancel()
        await leaving.wait()
        task.cancel()
        await others()
        assert not task.done()
        may_leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("queue_size", [0, 1])
def test_a_stream_whose_manager_is_killed_says_so(block, ordered, queue_size):
    manager = block(queue_size=queue_size)

    async def main():
        first = asyncio.create_task(anext(manager.amap(double, range(100), ordered=ordered)))
        await others()
        manager._engine.lifecycle.request_kill(PATIENCE)
        with pytest.raises((TaskManagerKilledError, TaskManagerShutdownError)):
            await first

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_submission_that_is_refused_in_the_last_moment_ends_the_stream_as_any_refusal(new_manager, ordered):
    manager = new_manager()
    queue = manager._engine.queue
    closes = iter([False, False, True])

    class ClosingLane(type(queue._main)):
        def append(self, task):
            if next(closes):
                manager._engine.lifecycle.request_stop()
            else:
                super().append(task)  # the last one is withdrawn before a worker can have taken it

    assert manager.wait_ready(PATIENCE)
    queue._main = ClosingLane()

    async def main():
        results = []
        with pytest.raises(TaskManagerShutdownError):
            await take_all(manager.amap(double, [1, 2, 3, 4], ordered=ordered), results)
        assert sorted(results) == [2, 4]

    run(main)


def test_an_item_s_timeout_is_the_item_s(new_manager, gate):
    manager = new_manager()

    def work(context, resource, x):
        return gate.run(context, x) if x == 1 else x

    async def main():
        stream = manager.amap(work, [0, 1, 2], timeout=1, return_exceptions=True)
        return [type(x) async for x in stream]

    def let_time_pass():  # when the others have ended, however slow they were
        gate.started_one()
        eventually(lambda: manager.metrics().total_tasks_completed == 2)
        clock.advance(1)

    with ManualClock() as clock:
        passing = threading.Thread(target=let_time_pass)
        passing.start()
        assert run(main) == [int, TaskTimeoutError, int]
        passing.join(PATIENCE)


def test_tasks_of_a_stream_see_the_context_variables_of_who_asks(new_manager):
    import contextvars

    name = contextvars.ContextVar("name", default="none")
    manager = new_manager()

    async def main():
        name.set("mine")
        assert await manager.asubmit(lambda resource: name.get()) == "mine"
        return [x async for x in manager.amap(lambda resource, x: name.get(), [1, 2])]

    assert run(main) == ["mine", "mine"]


# -- async with --------------------------------------------------------------------------------------------------------


def test_leaving_the_block_drains_without_blocking_the_loop(new_manager, gate, factory):
    manager = new_manager(worker_count=1, max_worker_count=1)

    async def main():
        async def open_the_gate():
            await until(lambda: manager._engine.is_stopping())
            await others()  # the loop runs, though the manager cannot have ended
            assert not manager._engine.lifecycle.has_ended()
            gate.opened.set()

        opener = asyncio.create_task(open_the_gate())
        async with manager as entered:
            assert entered is manager
            futures = [manager.submit(gate.named("running")), *(manager.submit(double, i) for i in range(50))]
        assert [future.result(0) for future in futures] == ["running", *range(0, 100, 2)]
        assert manager._engine.lifecycle.has_ended()
        await opener
        with pytest.raises(TaskManagerShutdownError):
            await manager.asubmit(double, 1)

    run(main)
    assert manager.stop().drained
    assert manager._engine.lifecycle.awaiting == []


def test_an_ordinary_error_drains_as_well(new_manager):
    manager = new_manager()

    async def program(futures):
        async with manager:
            futures.append(manager.submit(double, 4))
            raise LookupError

    async def main():
        futures = []
        with pytest.raises(LookupError):
            await program(futures)
        assert futures[0].result(0) == 8

    run(main)
    assert manager.stop().drained


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_an_interrupt_or_a_cancellation_kills(block, gate, error):
    manager = block()
    waiting = manager.submit(double, 4)

    async def main():
        async with manager:
            raise error

    with pytest.raises(error):
        run(main)
    assert gate.contexts[0].cancelled()
    assert isinstance(waiting.exception(0), TaskManagerKilledError)
    assert manager._engine.lifecycle.has_ended()


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancellation_while_it_stops_kills_and_waits_for_the_end(new_manager, times):
    manager = new_manager(worker_count=1, max_worker_count=1)
    started, may_end = threading.Event(), threading.Event()

    def stubborn(context, resource):
        started.set()
        context.wait(PATIENCE)
        assert may_end.wait(PATIENCE)

    async def main():
        async def block():
            async with manager:
                futures.append(manager.submit(stubborn))
                futures.append(manager.submit(double, 4))
                await asyncio.to_thread(started.wait, PATIENCE)

        futures = []
        task = asyncio.create_task(block())
        await until(lambda: manager._engine.is_stopping())
        await others()
        assert not futures[0]._cancel_asked
        for _ in range(times):
            task.cancel()
            await others()
        await until(lambda: futures[1].done())
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert manager._engine.lifecycle.has_ended()
        assert isinstance(futures[1].exception(0), TaskManagerKilledError)

    run(main)
    assert manager._engine.lifecycle.awaiting == []


def test_several_coroutines_may_wait_for_the_end_at_once(block, gate):
    manager = block()

    async def main():
        async def leave():
            async with manager:
                pass

        tasks = [asyncio.create_task(leave()) for _ in range(10)]
        await others()
        assert not any(task.done() for task in tasks)
        gate.opened.set()
        await asyncio.gather(*tasks)
        await leave()  # closed already

    run(main)


@pytest.mark.parametrize("where", ["a task", "run_task", "a callback"])
def test_leaving_the_block_inside_of_the_manager_s_own_calls_waits_for_nothing(new_manager, factory, where):
    factory.any_thread = True
    manager = new_manager(resource_pool_size=1)
    left = threading.Event()

    def program(*_):
        async def main():
            async with manager:
                pass
            assert not manager._engine.lifecycle.has_ended()

        asyncio.run(asyncio.wait_for(main(), PATIENCE))
        left.set()

    if where == "a task":
        manager.queue_task(lambda resource: program())
    elif where == "run_task":
        manager.run_task(lambda resource: program())
    else:
        added = threading.Event()  # or it would run here, where leaving waits
        manager.submit(lambda resource: added.wait(PATIENCE)).add_done_callback(program)
        added.set()
        assert left.wait(PATIENCE)
    assert left.is_set()
    assert manager.stop(PATIENCE).drained


@pytest.mark.parametrize("form", ["map", "amap"])
def test_a_manager_that_is_closed_inside_of_another_s_input_is_waited_for(new_manager, form):
    """Which runs below tasker's own frames, but not in its threads."""
    outer, inner = new_manager(), new_manager()

    def items():
        with inner:
            yield inner.queue_task(double, 1)
        yield inner._engine.lifecycle.has_ended()

    async def async_items():
        async with inner:
            yield await inner.submit(double, 1)
        yield inner._engine.lifecycle.has_ended()

    async def main():
        return [x async for x in outer.amap(double, async_items())]

    assert (list(outer.map(double, items())) if form == "map" else run(main)) == [4, 2]


def test_an_interrupted_program_kills_once_and_ends(new_manager, gate):
    """Ctrl-C cancels the main task of `asyncio.run`, which leaves the block."""
    manager = new_manager()

    async def main():
        main_task = asyncio.current_task()
        async with manager:
            future = manager.submit(gate)
            await asyncio.to_thread(gate.started_one)
            asyncio.get_running_loop().call_soon(main_task.cancel)
            await future

    with pytest.raises(asyncio.CancelledError):
        run(main)
    assert gate.contexts[0].cancelled()


# -- memory ------------------------------------------------------------------------------------------------------------


class Watched(Exception):
    def __init__(self, references):
        references.append(weakref.ref(self))


@pytest.mark.parametrize(
    "form", ["future", "settled future", "asubmit", "amap", "amap unordered", "input", "async input"]
)
@pytest.mark.usefixtures("no_collection")
def test_a_failure_that_was_awaited_is_freed_without_the_collector(new_manager, form):
    manager = new_manager(worker_count=1)
    failures = []

    def fail(resource, *_):
        raise Watched(failures)  # in no variable, which would be a circle of the test's own

    def items():
        yield 1
        fail(None)

    async def main():
        try:
            if form == "future":
                await manager.submit(fail)
            elif form == "settled future":
                future = manager.submit(fail)
                await until(future.done)
                await future
            elif form == "asubmit":
                await manager.asubmit(fail)
            elif form.endswith("input"):
                async for _ in manager.amap(double, items() if form == "input" else asynchronous(items())):
                    pass
            else:
                async for _ in manager.amap(fail, [1], ordered=form == "amap"):
                    pass
        except Watched:
            future = None
        assert failures
        await manager.submit(double, 1)  # the worker has turned to something else

    def freed():
        manager.queue_task(double, 1)  # free-threaded builds free some things when the worker runs again
        return failures[0]() is None

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    eventually(freed, "the end of the failure")


@pytest.mark.skipif(not gil_enabled(), reason="there, what two threads held is freed some time later")
def test_a_result_is_freed_as_soon_as_its_consumer_lets_go_of_it(new_manager):
    manager = new_manager(worker_count=1)

    class Result:
        pass

    async def main():
        alive = []
        async for result in manager.amap(lambda resource, x: Result(), range(20), max_in_flight=1):
            alive.append(weakref.ref(result))
            del result
            await until(lambda: manager.stats().idle_workers == 1)
            await others()
            assert [reference() for reference in alive] == [None] * len(alive)

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.usefixtures("no_collection")
def test_what_was_not_handed_out_is_freed_without_the_collector(new_manager, ordered):
    manager = new_manager(worker_count=1)
    references = []

    class Result:
        def __init__(self):
            references.append(weakref.ref(self))

    async def main():
        stream = manager.amap(lambda resource, x: Result(), range(20), ordered=ordered, max_in_flight=20)
        await anext(stream)
        assert manager.join(PATIENCE)
        await others()
        await stream.aclose()
        assert len(references) == 20

    def freed():
        manager.queue_task(double, 1)
        return not any(reference() for reference in references)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(main())
    eventually(freed, "the end of the results")
