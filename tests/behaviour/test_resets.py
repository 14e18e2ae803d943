"""`on_reset`: a resource is clean when a task gets it, whatever the task before did."""

from __future__ import annotations

import threading

import pytest

from tasker import TaskTimeoutError, current_slot
from tasker.slot import Reason
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


class Reset:
    """An `on_reset` that notes what it was called with, and raises what it is told to."""

    def __init__(self):
        self.events = []
        self.errors = []

    def __call__(self, resource):
        self.events.append(("reset", resource.number))
        self.thread = threading.get_ident()
        if self.errors and (error := self.errors.pop(0)) is not None:
            if callable(error):
                return error(resource)
            raise error
        return None

    def task(self, resource):
        self.events.append(("task", resource.number))
        return resource.number


@pytest.fixture
def reset():
    return Reset()


@pytest.fixture
def manager(new_manager, reset):
    return new_manager(worker_count=1, max_worker_count=1, on_reset=reset)


def fail(resource):
    raise ZeroDivisionError


def test_it_is_called_once_after_each_task_and_before_the_next(manager, reset):
    futures = [manager.submit(reset.task) for _ in range(3)]
    assert manager.stop().drained
    assert all(future.done() for future in futures)
    assert reset.events == [("task", 0), ("reset", 0)] * 3
    assert not manager._engine.crew.members


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["result", "error", "SystemExit", "cancelled", "timed out"])
def test_it_is_called_whatever_the_outcome_which_is_there_before(new_manager, outcome):
    gate, seen = threading.Event(), []
    futures = []
    begun = threading.Event()

    def on_reset(resource):
        seen.append(futures[0].done())

    def task(ctx, resource):
        begun.set()
        if outcome == "error":
            raise ValueError
        if outcome == "SystemExit":
            raise SystemExit(3)
        if outcome in ("cancelled", "timed out"):
            ctx.wait(PATIENCE)

    manager = new_manager(worker_count=1, max_worker_count=1, on_reset=on_reset)
    manager.submit(lambda resource: gate.wait(PATIENCE))
    futures.append(manager.submit(task, timeout=0.05 if outcome == "timed out" else None))
    gate.set()
    if outcome != "timed out":
        assert begun.wait(PATIENCE)
    if outcome == "cancelled":
        futures[0].cancel()
    expected = {"error": ValueError, "SystemExit": SystemExit, "timed out": TaskTimeoutError}
    if outcome in expected:
        assert type(futures[0].exception(PATIENCE)) is expected[outcome]
    manager.stop()
    assert seen[-1] is True


def test_it_is_not_called_for_a_task_that_never_ran(manager, reset):
    gate = threading.Event()
    manager.submit(lambda resource: gate.wait(PATIENCE))
    cancelled = [manager.submit(reset.task) for _ in range(5)]
    last = manager.submit(reset.task)
    assert all(future.cancel() for future in cancelled)
    gate.set()
    assert last.result(PATIENCE) == 0
    manager.stop()
    assert reset.events == [("reset", 0), ("task", 0), ("reset", 0)]


@pytest.mark.usefixtures("no_pauses")
def test_it_is_not_called_after_the_task_that_broke_the_resource(manager, reset):
    def sick_once(resource):
        reset.task(resource)
        if resource.number == 0:
            raise Sick

    assert manager.submit(sick_once).result(PATIENCE) is None
    manager.stop()
    assert reset.events == [("task", 0), ("task", 1), ("reset", 1)]


RAISED = [
    Sick("cannot roll back"),
    SystemExit(3),
    KeyboardInterrupt(),
    StopIteration(),
    GeneratorExit(),
]


@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.usefixtures("endless_pauses")
def test_what_it_raises_costs_the_resource_and_nothing_else(manager, reset, factory, log, error):
    worker = manager._engine.crew.members[0]
    reset.errors = [error]
    futures = [manager.submit(reset.task) for _ in range(2)]
    assert [future.result(PATIENCE) for future in futures] == [0, 1]
    assert {future.attempts for future in futures} == {1}
    assert (worker._reason, worker.thread.is_alive()) == (Reason.BROKEN, True)
    assert [resource.alive for resource in factory.created] == [False, True]
    (told,) = log.loud()
    assert "on_reset raised; the resource is replaced" in told


def test_a_reset_that_only_makes_what_would_have_to_be_run_fails(manager, reset, log, recwarn):
    async def later(): ...

    reset.errors = [lambda resource: later()]
    assert [manager.queue_task(reset.task) for _ in range(2)] == [0, 1]
    assert "on_reset returned a coroutine" in log.loud()[0]
    assert [*recwarn] == []


def test_a_task_that_comes_while_an_idle_worker_resets_is_run(new_manager):
    gate, begun = threading.Event(), threading.Event()

    def on_reset(resource):
        begun.set()
        gate.wait(PATIENCE)

    manager = new_manager(worker_count=1, max_worker_count=1, on_reset=on_reset)
    assert manager.queue_task(lambda resource: resource.number) == 0
    assert begun.wait(PATIENCE)
    future = manager.submit(lambda resource: resource.number)
    gate.set()
    assert future.result(PATIENCE) == 0


def test_it_may_use_its_manager(new_manager):
    futures = []

    def on_reset(resource):
        if not futures:
            futures.append(manager.submit(lambda resource: resource.number))
            manager.stop()

    manager = new_manager(worker_count=1, max_worker_count=1, on_reset=on_reset)
    assert manager.queue_task(lambda resource: 42) == 42
    eventually(lambda: futures, "the reset")
    assert futures[0].result(PATIENCE) == 0
    assert manager.stop().drained


def test_with_a_collector_too(new_manager, reset):
    class Collector:
        def record_arrival(self): ...
        def record_completion(self, stamps):
            reset.events.append("recorded")

        def record_failure(self, stamps): ...
        def record_retry(self): ...
        def metrics(self): ...

    manager = new_manager(worker_count=1, max_worker_count=1, on_reset=reset, collector=Collector())
    manager.queue_task(reset.task)
    manager.stop()
    assert reset.events == [("task", 0), "recorded", ("reset", 0)]


# -- run_task ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[None, 1, 0], ids="size {}".format)
def pooled(request, new_manager, reset, factory):
    factory.any_thread = True
    return new_manager(worker_count=1, on_reset=reset, resource_pool_size=request.param)


def test_run_task_resets_in_the_callers_thread_before_others_get_the_resource(pooled, reset):
    number = pooled.run_task(reset.task)
    assert reset.events == [("task", number), ("reset", number)]
    assert reset.thread == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        pooled.run_task(fail)
    assert len(reset.events) == 3
    with pytest.raises(Sick):
        pooled.run_task(lambda resource: (_ for _ in ()).throw(Sick))
    assert len(reset.events) == 3, "its resource is broken"
    assert pooled._engine.pool.out == 0


@pytest.mark.parametrize("error", [Sick("cannot roll back"), StopIteration()], ids=repr)
def test_what_a_reset_of_run_task_raises_costs_the_resource_and_the_result_stands(
    pooled, reset, factory, log, error
):
    reset.errors = [error]
    number = pooled.run_task(reset.task)
    assert not factory.created[number].alive
    assert "on_reset raised; the resource is replaced" in log.loud()[0]
    assert pooled.run_task(reset.task) != number


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_reset_of_run_task_is_raised_and_the_resource_destroyed(
    pooled, reset, factory, interrupt
):
    reset.errors = [interrupt()]
    with pytest.raises(interrupt):
        pooled.run_task(reset.task)
    number = reset.events[0][1]
    assert not factory.created[number].alive
    assert pooled._engine.pool.out == 0
    assert pooled.run_task(reset.task) != number


def test_checks_and_resets_know_the_slot_of_their_resource(new_manager, factory):
    factory.any_thread = True
    seen = []

    def task(resource):
        seen.append(("task", current_slot().index))
        return current_slot().index

    manager = new_manager(
        worker_count=1,
        max_worker_count=1,
        resource_pool_size=1,
        check_after=0,
        on_check=lambda resource: seen.append(("check", current_slot().index)),
        on_reset=lambda resource: seen.append(("reset", current_slot().index)),
    )
    eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")
    pooled = manager.run_task(task)
    assert seen == [("check", pooled), ("task", pooled), ("reset", pooled)]
    del seen[:]

    inner = manager.queue_task(lambda resource: (manager.run_task(task), current_slot().index)[1])
    manager.stop()
    assert inner != pooled
    assert [slot for _, slot in seen] == [inner, pooled, pooled, pooled, inner]


def test_a_run_task_inside_of_another_resets_its_own_resource(pooled, reset):
    outer = pooled.run_task(lambda resource: (pooled.run_task(reset.task), resource.number))
    assert reset.events == [("task", outer[0]), ("reset", outer[0]), ("reset", outer[1])]


def test_without_it_no_worker_has_anything_to_do_between_two_tasks(new_manager):
    assert not new_manager()._engine.user.serves_between
