"""Loops of all kinds: several at once, uvloop, eager tasks, anyio, loops that are closed, forked children."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import traceback
import weakref

import pytest

from tasker import (
    TaskManagerShutdownError,
)
from tests.support.loops import bare, double, fail_with, others, run
from tests.support.waiting import PATIENCE, eventually


def everything(manager):
    """A program that uses all there is."""

    async def main():
        assert await manager.queue_task_async(double, 4) == 8
        assert await manager.asubmit(double, 4) == 8
        with pytest.raises(LookupError):
            await manager.asubmit(fail_with(LookupError()))
        assert await asyncio.gather(*(manager.asubmit(double, i) for i in range(200))) == list(
            range(0, 400, 2)
        )
        assert [x async for x in manager.amap(double, range(50), chunksize=3)] == list(
            range(0, 100, 2)
        )
        assert sorted([x async for x in manager.amap(double, range(50), ordered=False)]) == list(
            range(0, 100, 2)
        )

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
        return await (
            manager.asubmit(double, 4) if form == "asubmit" else manager.submit(double, 4)
        )

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


@pytest.mark.slow
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
    manager._engine.queue._main.remove(
        in_hands
    )  # as if a thread that is about to put it were between two lines

    async def main():
        for awaited in (
            waiting,
            in_hands,
            manager.asubmit(double, 4),
            anext(manager.amap(double, [1])),
        ):
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
