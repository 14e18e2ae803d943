"""Programs in loops of asyncio, and what they run and wait for."""

from __future__ import annotations

import asyncio
import gc
import threading

from tests.support.waiting import PATIENCE


def run(main, *, new_loop=None):
    """`asyncio.run(main())` that fails on what a loop would only log, and gives up where it would wait for ever."""
    reported = []

    async def program():
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reported.append(context)
        )
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


def unhealed(manager):
    """Nothing but the protocol itself wakes who waits for room: the burst thread's tick does not help."""
    manager._engine.queue.wake_submitters = lambda: None


async def asynchronous(items):
    for item in items:
        await asyncio.sleep(0)
        yield item
