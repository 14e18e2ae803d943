"""What tasks and `on_create` return although it is yet to be run or entered, or is the task's own resource."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import tempfile
import threading
import weakref
from types import AsyncGeneratorType, GeneratorType
from unittest.mock import MagicMock

import pytest

import tasker._pool.usercode
from tasker import Config, ResourceCreationError, TaskManager, ThreadPoolExecutor
from tests.support.recording import Log
from tests.support.waiting import PATIENCE, eventually


async def fetch(resource, number=0):
    return number


def rows(resource, number=0):
    yield number


async def arows(resource, number=0):
    yield number


def sync_fetch(resource, number=0):
    return fetch(resource, number)


WAYS = {
    "submit": lambda manager, fn: manager.submit(fn).result(PATIENCE),
    "queue_task": lambda manager, fn: manager.queue_task(fn),
    "priority": lambda manager, fn: manager.queue_task_with_priority_once(fn),
    "run_task": lambda manager, fn: manager.run_task(fn),
    "asubmit": lambda manager, fn: asyncio.run(manager.asubmit(fn)),
    "map": lambda manager, fn: next(manager.map(lambda resource, _: fn(resource), [1])),
    "a chunk": lambda manager, fn: next(
        manager.map(lambda resource, _: fn(resource), range(10), chunksize=10)
    ),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


# -- coroutines ----------------------------------------------------------------------------------------------------


def test_a_coroutine_that_a_task_returns_is_its_error_and_is_closed(new_manager, way):
    manager = new_manager(worker_count=1)
    made = []

    def task(resource):
        made.append(fetch(resource))
        return made[-1]

    with pytest.raises(TypeError, match=r"returned a coroutine.* asyncio\.run") as caught:
        way(manager, task)
    assert "task <function" in str(caught.value)
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED
    assert manager.queue_task(lambda resource: "goes on") == "goes on"
    assert manager.metrics().total_tasks_failed == 1


def test_each_item_of_a_map_whose_function_returns_coroutines_has_that_error(new_manager):
    manager = new_manager()
    for size in (1, 3):
        results = list(manager.map(sync_fetch, range(7), chunksize=size, return_exceptions=True))
        assert [type(error) for error in results] == [TypeError] * 7


def test_one_item_of_a_chunk_may_have_it(new_manager):
    manager = new_manager()

    def task(resource, number):
        return fetch(resource) if number == 4 else number

    results = list(manager.map(task, range(9), chunksize=3, return_exceptions=True))
    assert type(results.pop(4)) is TypeError
    assert results == [0, 1, 2, 3, 5, 6, 7, 8]


def test_the_error_has_no_frames_of_ours(new_manager):
    future = new_manager().submit(sync_fetch)
    assert future.exception(PATIENCE).__traceback__ is None


def test_a_coroutine_that_somebody_has_begun_to_run_is_left_alone(new_manager):
    async def suspended(resource):
        await asyncio.sleep(0)
        return 7

    def begin(resource):
        coroutine = suspended(resource)
        coroutine.send(None)
        return coroutine

    coroutine = new_manager().queue_task(begin)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value == 7


def test_calls_of_an_executor_may_return_what_they_like(new_manager, log):
    manager = new_manager()
    with manager.executor() as view, ThreadPoolExecutor(1) as pool:
        for executor in (view, pool):
            coroutine = executor.submit(fetch_later).result()
            assert asyncio.run(coroutine) == 3
            assert list(executor.submit(lambda: rows(None, 4)).result()) == [4]
    assert log.loud() == []


def fetch_later():
    return fetch(None, 3)


# -- generators, and the resource itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(("make_one", "kind"), [(rows, GeneratorType), (arows, AsyncGeneratorType)])
def test_a_generator_that_tasks_return_is_told_once_for_each_function(
    new_manager, log, way, make_one, kind
):
    manager = new_manager(worker_count=2)

    def first(resource):
        return make_one(resource)

    def second(resource):
        return make_one(resource)

    assert type(way(manager, first)) is kind
    (told,) = log.loud()
    assert "returned a generator" in told
    assert "map()" in told
    for fn in (first, second, first, second):
        assert type(way(manager, fn)) is kind
    assert len(log.loud()) == (
        1 if "lambda" in told else 2
    )  # some ways have one of their own around them


def test_a_resource_that_tasks_return_is_told_once_for_each_function(new_manager, log, way):
    factory_of = new_manager(worker_count=1)
    for _ in range(3):
        assert type(way(factory_of, lambda resource: resource)).__name__ == "Resource"
    (told,) = log.loud()
    assert "returned its resource" in told


def test_functions_that_are_made_again_and_again_are_told_of_once(new_manager, log):
    manager = new_manager()
    for number in range(5):
        manager.queue_task(lambda resource, number=number: rows(resource, number))
    assert len(log.loud()) == 1


def test_a_callable_without_code_is_told_of_by_its_type(new_manager, log):
    class Rows:
        def __call__(self, resource):
            return rows(resource)

    manager = new_manager()
    for fn in (Rows(), Rows(), MagicMock(side_effect=rows), MagicMock(side_effect=rows)):
        assert type(manager.queue_task(fn)) is GeneratorType
    assert len(log.loud()) == 2


class Held:
    pass


@pytest.mark.usefixtures("no_collection")
def test_a_function_that_was_told_of_is_not_kept(new_manager, log):
    manager = new_manager(worker_count=1)
    (worker,) = manager._engine.crew.members
    held = Held()
    watch = weakref.ref(held)
    manager.submit(lambda resource, held=held: rows(resource)).result(PATIENCE)
    del held
    eventually(lambda: worker.parker.parked)
    log.lines.clear()
    eventually(lambda: watch() is None)


def test_no_more_functions_are_told_of_than_can_be_remembered(new_manager, log, monkeypatch):
    monkeypatch.setattr(tasker._pool.usercode, "_MOST_FUNCTIONS", 3)
    manager = new_manager()
    for number in range(5):
        names = {"rows": rows}
        exec(f"def made_{number}(resource): return rows(resource)", names)
        manager.queue_task(names[f"made_{number}"])
    assert len(log.loud()) == 3


@pytest.mark.parametrize("resource", [None, True, 7, "gpu:0", b"x", (1, 2), int])
def test_a_resource_that_is_no_more_than_a_value_may_be_returned(log, resource):
    config = Config(
        on_create=lambda: resource, on_destroy=lambda _: None, worker_count=1, logger=log
    )
    with TaskManager(config) as manager:
        for run in (manager.queue_task, manager.run_task):
            assert run(lambda resource: resource) == resource
    assert log.loud() == []


def test_another_object_of_the_resources_type_may_be_returned(new_manager, log, way):
    manager = new_manager()
    other = manager.queue_task(lambda resource: type(resource)(99))
    assert way(manager, lambda resource: other) is other
    assert log.loud() == []


# -- context managers that nobody has entered ----------------------------------------------------------------------


@contextlib.contextmanager
def session():
    yield "a session"


def test_a_context_manager_that_nobody_has_entered_is_told_of_once_with_what_to_do(log):
    config = Config(
        on_create=lambda: session(), on_destroy=lambda _: None, worker_count=3, logger=log
    )
    with TaskManager(config) as manager:
        assert manager.wait_ready(PATIENCE)
        manager.run_task(lambda resource: None)
    (told,) = log.loud()
    assert "nobody has entered" in told
    assert "Config.from_context_manager" in told


def entered():
    manager = session()
    manager.__enter__()
    return manager


@pytest.mark.parametrize(
    "create", [entered, threading.Lock, contextlib.ExitStack, tempfile.TemporaryFile]
)
def test_what_was_entered_or_is_used_without_is_not_told_of(log, create):
    config = Config(
        on_create=create,
        on_destroy=lambda each: getattr(each, "close", int)(),
        worker_count=1,
        logger=log,
    )
    with TaskManager(config) as manager:
        assert manager.wait_ready(PATIENCE)
    assert log.loud() == []


def test_a_logger_that_raises_costs_no_result_and_no_resource():
    class Broken(Log):
        def warning(self, msg, /, *args):
            raise OSError

    config = Config(
        on_create=lambda: session(), on_destroy=lambda _: None, worker_count=1, logger=Broken()
    )
    with TaskManager(config) as manager:
        assert list(manager.queue_task(lambda resource: rows(resource, 5))) == [5]
        assert manager.stats().active_workers == 1


# -- what hooks return ---------------------------------------------------------------------------------------------


class AsyncClient:
    """As its users would have it close."""

    async def aclose(self):
        pass

    async def is_broken(self):
        return True


async def connect():
    return AsyncClient()


@pytest.mark.slow
def test_a_coroutine_that_on_create_returns_is_no_resource(log):
    config = Config(
        on_create=lambda: connect(),
        on_destroy=lambda _: None,
        worker_count=1,
        logger=log,
        create_timeout=0.2,
    )
    with TaskManager(config) as manager:
        for run in (manager.queue_task, manager.run_task):
            with pytest.raises(ResourceCreationError) as caught:
                run(lambda resource: None)
            assert isinstance(caught.value.__cause__, TypeError)
            assert "on_create returned a coroutine" in str(caught.value.__cause__)
            assert "asyncio.run" in str(caught.value.__cause__)
    assert manager.stop().destroy_errors == 0
    with pytest.raises(ResourceCreationError, match="while the run_task pool was filled"):
        TaskManager(dataclasses.replace(config, resource_pool_size=2))


@pytest.mark.parametrize(
    ("factory", "what"), [(lambda: connect(), "a coroutine"), (lambda: rows(None), "a generator")]
)
def test_a_factory_of_context_managers_that_returns_what_is_to_be_run_is_told_so(
    log, factory, what
):
    made = Config.from_context_manager(factory, worker_count=1, logger=log)
    with pytest.raises(TypeError, match=f"factory returned {what}"):
        made.on_create()


@pytest.mark.parametrize(
    ("destroy", "what"), [(AsyncClient.aclose, "a coroutine"), (rows, "a generator")]
)
def test_what_on_destroy_returns_to_be_run_is_reported_as_what_it_raises(log, destroy, what):
    config = Config(
        on_create=AsyncClient,
        on_destroy=lambda client: destroy(client),
        worker_count=2,
        resource_pool_size=1,
        logger=log,
    )
    with TaskManager(config) as manager:
        assert manager.wait_ready(PATIENCE)
    assert manager.stop().destroy_errors == 3
    assert any(f"on_destroy returned {what}" in line for line in log.loud())


def test_a_health_check_that_returns_a_coroutine_is_one_that_raises(new_manager, factory, log):
    manager = new_manager(worker_count=1, max_retries=0, check_health=lambda error: connect())
    assert isinstance(manager.submit(lambda resource: 1 / 0).exception(PATIENCE), ZeroDivisionError)
    assert manager.queue_task(lambda resource: resource.number) == 1
    assert any("check_health returned a coroutine" in line for line in log.loud())


def test_a_generator_may_be_a_resource():
    def total():
        sum = 0
        while True:
            sum += yield sum

    def primed():
        generator = total()
        next(generator)
        return generator

    for create in (primed, lambda: total()):
        config = Config(on_create=create, on_destroy=GeneratorType.close, worker_count=1)
        with TaskManager(config) as manager:
            assert manager.queue_task(lambda generator: generator.gi_frame is not None)
        assert manager.stop().destroy_errors == 0


def test_results_of_all_types_are_looked_at_in_whichever_order_they_come(new_manager, log):
    manager = new_manager(worker_count=1)
    made = iter([1, "text", None, 2, fetch, None, fetch, fetch, rows, 3, rows])

    def task(resource):
        value = next(made)
        return value(resource) if callable(value) else value

    futures = [manager.submit(task) for _ in range(11)]
    kinds = [type(future.exception(PATIENCE)) for future in futures]
    assert [place for place, kind in enumerate(kinds) if kind is TypeError] == [4, 6, 7]
    assert len(log.loud()) == 1


def test_each_coroutine_of_a_function_that_run_task_calls_again_and_again_is_an_error(
    new_manager, log
):
    manager = new_manager()
    for _ in range(3):
        with pytest.raises(TypeError, match="returned a coroutine"):
            manager.run_task(sync_fetch)
        assert type(manager.run_task(lambda resource: rows(resource))) is GeneratorType
    assert len(log.loud()) == 1


def test_a_function_that_returns_a_coroutine_now_and_then_is_looked_at_each_time(new_manager):
    manager = new_manager()
    for run in (manager.queue_task, manager.run_task, manager.queue_task, manager.run_task):
        for late in (False, True, False, True):
            if late:
                with pytest.raises(TypeError, match="returned a coroutine"):
                    run(now_or_later, late)
            else:
                assert run(now_or_later, late) == 1


def now_or_later(_, late):
    return fetch(None) if late else 1
