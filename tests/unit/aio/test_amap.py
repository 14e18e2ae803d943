"""`amap`: its results, its window, its errors, and all of its ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import CancelledError as StandardCancelledError

import pytest

from tasker import (
    ConfigError,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
)
from tasker.testing import ManualClock
from tests.support.loops import asynchronous, double, others, run, until
from tests.support.waiting import PATIENCE, eventually


async def take_all(stream, results):
    async for x in stream:
        results.append(x)


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
    "kind",
    [list, iter, asynchronous, OldIterable, BareAsyncIterable, Both],
    ids=lambda kind: kind.__name__,
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
        return [
            x async for x in manager.amap(lambda context, resource, x: (context.err(), x), [1, 2])
        ]

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
def test_at_most_max_in_flight_items_are_taken_and_not_handed_out(
    new_manager, kind, limit, chunksize, ordered
):
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
        async for _ in manager.amap(
            double, kind(count()), max_in_flight=limit, chunksize=chunksize, ordered=ordered
        ):
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
def test_amap_returns_exceptions_in_the_place_of_results(
    new_manager, chunksize, ordered, queue_size
):
    manager = new_manager(queue_size=queue_size)

    def odd_fails(resource, x):
        if x % 2:
            raise LookupError(x)
        return x

    async def main():
        stream = manager.amap(
            odd_fails,
            asynchronous(range(40)),
            return_exceptions=True,
            chunksize=chunksize,
            ordered=ordered,
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
@pytest.mark.parametrize(
    "error", [LookupError, asyncio.CancelledError, GeneratorExit, StandardCancelledError]
)
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
            await take_all(
                manager.amap(double, items, chunksize=chunksize, ordered=ordered), results
            )
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
def test_an_input_that_would_end_the_program_cancels_what_an_eager_puller_has_begun(
    new_manager, gate, error
):
    manager = new_manager()

    def items():
        yield "first"
        gate.started_one()
        raise error

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        asyncio.get_running_loop().set_exception_handler(
            lambda *reported: None
        )  # the puller's, which nobody has
        async for _ in manager.amap(
            lambda context, resource, name: gate.run(context, name), items()
        ):
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
        for wrong in (
            {"chunksize": 0},
            {"max_in_flight": 0},
            {"ordered": 1},
            {"timeout": -1},
            {"priority": None},
        ):
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
def test_an_input_that_answers_a_cancellation_with_something_else_starts_nothing(
    new_manager, answer
):
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
def test_a_submission_that_is_refused_in_the_last_moment_ends_the_stream_as_any_refusal(
    new_manager, ordered
):
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
