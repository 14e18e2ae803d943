"""`async with`: the block drains or kills, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tasker import (
    TaskManagerKilledError,
    TaskManagerShutdownError,
)
from tests.support.loops import double, others, run, until
from tests.support.waiting import PATIENCE


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
            futures = [
                manager.submit(gate.named("running")),
                *(manager.submit(double, i) for i in range(50)),
            ]
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
def test_leaving_the_block_inside_of_the_manager_s_own_calls_waits_for_nothing(
    new_manager, factory, where
):
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
