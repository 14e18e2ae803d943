"""What was awaited, or is not handed out, is freed without the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import weakref

import pytest

from tasker._sync.parking import gil_enabled
from tests.support.loops import asynchronous, double, others, run, until
from tests.support.waiting import PATIENCE, eventually


class Watched(Exception):
    def __init__(self, references):
        references.append(weakref.ref(self))


@pytest.mark.parametrize(
    "form",
    ["future", "settled future", "asubmit", "amap", "amap unordered", "input", "async input"],
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
                async for _ in manager.amap(
                    double, items() if form == "input" else asynchronous(items())
                ):
                    pass
            else:
                async for _ in manager.amap(fail, [1], ordered=form == "amap"):
                    pass
        except Watched:
            future = None
        assert failures
        await manager.submit(double, 1)  # the worker has turned to something else

    def freed():
        manager.queue_task(
            double, 1
        )  # free-threaded builds free some things when the worker runs again
        return failures[0]() is None

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    eventually(freed, "the end of the failure")


@pytest.mark.skipif(
    not gil_enabled(), reason="there, what two threads held is freed some time later"
)
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
        stream = manager.amap(
            lambda resource, x: Result(), range(20), ordered=ordered, max_in_flight=20
        )
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
