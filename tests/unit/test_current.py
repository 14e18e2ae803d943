"""What a task's code finds out about itself: the submitter's context variables, its context, its resource."""

from __future__ import annotations

import contextvars
import decimal
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tasker
from tasker import (
    ConfigError,
    Context,
    ContextCancelledError,
    TaskManager,
    background,
    current_context,
    current_resource,
    with_value,
)
from tests.support.errors import Sick
from tests.support.recording import Resource
from tests.support.waiting import PATIENCE, eventually

request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

Make = Callable[..., TaskManager[Resource]]


# -- context variables -------------------------------------------------------------------------------------------------


@pytest.fixture
def in_request() -> Any:
    token = request.set("submitter's")
    yield
    request.reset(token)


@pytest.mark.usefixtures("in_request")
@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda r: request.get(), ()),
        (lambda ctx, r: request.get(), ()),
        (lambda r, x: request.get(), (1,)),
    ],
    ids=["plain", "context", "argument"],
)
def test_a_task_sees_the_context_variables_of_its_submitter(
    new_manager: Make, fn: Callable[..., str], args: tuple[int, ...]
) -> None:
    assert new_manager().submit(fn, *args).result(PATIENCE) == "submitter's"


def test_a_task_sees_them_as_they_were_when_it_was_submitted(new_manager: Make) -> None:
    manager, gate = new_manager(worker_count=1), threading.Event()
    manager.submit(lambda r: gate.wait(PATIENCE))
    seen = []
    for name in ("first", "second"):
        token = request.set(name)
        seen.append(manager.submit(lambda r: request.get()))
        request.reset(token)
    gate.set()
    assert [future.result(PATIENCE) for future in seen] == ["first", "second"]


@pytest.mark.usefixtures("in_request")
def test_what_a_task_changes_is_seen_by_nobody_else(new_manager: Make) -> None:
    manager = new_manager(worker_count=1)
    manager.submit(lambda r: request.set("changed")).result(PATIENCE)
    assert manager.submit(lambda r: request.get()).result(PATIENCE) == "submitter's"
    assert request.get() == "submitter's"


@pytest.mark.slow
@pytest.mark.usefixtures("in_request")
def test_what_an_attempt_changes_is_not_seen_by_the_next(new_manager: Make) -> None:
    seen = []

    def task(resource: Resource) -> None:
        seen.append(request.get())
        request.set("changed")
        if len(seen) < 3:
            raise Sick

    new_manager().submit(task).result(PATIENCE)
    assert seen == ["submitter's"] * 3


@pytest.mark.usefixtures("in_request")
def test_without_propagation_a_task_sees_those_of_its_workers_thread_alone(
    new_manager: Make, factory: Any
) -> None:
    def create() -> Resource:
        request.set("worker's")
        return factory.create()  # type: ignore[no-any-return]

    manager = new_manager(propagate_contextvars=False, on_create=create)
    assert manager.submit(lambda r: request.get()).result(PATIENCE) == "worker's"
    assert manager.submit(lambda ctx, r: request.get()).result(PATIENCE) == "worker's"


@pytest.mark.usefixtures("in_request")
def test_worker_threads_start_from_an_empty_context(new_manager: Make, factory: Any) -> None:
    seen: list[int] = []

    def create() -> Resource:
        seen.append(len(contextvars.copy_context()))
        return factory.create()  # type: ignore[no-any-return]

    new_manager(on_create=create, worker_count=1).wait_ready(PATIENCE)
    assert seen == [0]


@pytest.mark.usefixtures("in_request")
def test_run_task_runs_in_the_callers_own_context(new_manager: Make) -> None:
    manager = new_manager()
    assert manager.run_task(lambda r: request.get()) == "submitter's"
    token = manager.run_task(lambda r: request.set("changed"))
    assert request.get() == "changed"
    request.reset(token)


def test_a_decimal_context_follows(new_manager: Make) -> None:
    with decimal.localcontext() as context:
        context.prec = 3
        assert (
            str(new_manager().submit(lambda r: decimal.Decimal(1) / 3).result(PATIENCE)) == "0.333"
        )


def test_a_settled_task_lets_go_of_its_submitters_variables(new_manager: Make) -> None:
    future = new_manager().submit(lambda r: 1)
    future.result(PATIENCE)
    assert future._variables is None
    with pytest.raises(ZeroDivisionError):
        (failed := new_manager().submit(lambda r: 1 / 0)).result(PATIENCE)
    assert failed._variables is None


def test_propagate_contextvars_must_be_a_flag(new_manager: Make) -> None:
    with pytest.raises(ConfigError, match="propagate_contextvars must be True or False, not 1"):
        new_manager(propagate_contextvars=1)


# -- current_context ---------------------------------------------------------------------------------------------------


def test_current_context_is_the_one_that_the_function_gets(new_manager: Make) -> None:
    assert new_manager().submit(lambda ctx, r: ctx is current_context()).result(PATIENCE)
    assert new_manager().run_task(lambda ctx, r: ctx is current_context())


def test_current_context_is_made_when_first_asked_for_and_ends_with_the_tasks_cancellation(
    new_manager: Make,
) -> None:
    manager, running = new_manager(), threading.Event()

    def task(resource: Resource) -> type | None:
        assert current_context() is current_context()
        running.set()
        assert current_context().wait(PATIENCE)
        return type(current_context().err())

    future = manager.submit(task)
    assert running.wait(PATIENCE)
    assert not future.cancel()
    assert future.result(PATIENCE) is ContextCancelledError


def test_current_context_of_a_task_that_was_asked_to_end_before_is_done(new_manager: Make) -> None:
    manager, running, asked = new_manager(), threading.Event(), threading.Event()

    def task(resource: Resource) -> bool:
        running.set()
        assert asked.wait(PATIENCE)
        return current_context().cancelled()

    future = manager.submit(task)
    assert running.wait(PATIENCE)
    future.cancel()
    asked.set()
    assert future.result(PATIENCE)


def test_kill_ends_the_current_context_of_run_task(new_manager: Make) -> None:
    manager, running = new_manager(), threading.Event()

    def task(resource: Resource) -> bool:
        current_context()
        running.set()
        return current_context().wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(manager.run_task, task)
        assert running.wait(PATIENCE)
        manager.kill(PATIENCE)
        assert future.result(PATIENCE)


def test_current_context_has_the_values_and_the_deadline_of_the_task(new_manager: Make) -> None:
    manager = new_manager(ctx=with_value(background(), "who", "me"))
    assert manager.submit(lambda r: current_context().value("who")).result(PATIENCE) == "me"
    assert (
        manager.submit(lambda r: current_context().remaining(), timeout=PATIENCE).result(PATIENCE)
        <= PATIENCE
    )


def test_outside_of_a_task_there_is_no_current_context(new_manager: Make) -> None:
    with pytest.raises(RuntimeError, match="outside of a task"):
        current_context()
    manager = new_manager()
    manager.run_task(lambda r: current_context())
    with pytest.raises(RuntimeError, match="outside of a task"):
        current_context()


# -- current_resource --------------------------------------------------------------------------------------------------


def test_current_resource_is_the_one_that_the_function_gets(new_manager: Make) -> None:
    manager = new_manager()
    assert manager.submit(lambda r: r is manager.current_resource()).result(PATIENCE)
    assert manager.run_task(lambda r: r is manager.current_resource())


def test_of_nested_tasks_the_innermost_counts_and_the_outer_one_comes_back(
    new_manager: Make,
) -> None:
    one, other = new_manager(), new_manager()

    def inner(resource: Resource) -> None:
        assert other.current_resource() is resource
        assert one.current_resource() is not resource
        mine = one.current_resource()
        assert one.run_task(lambda r: r is one.current_resource() and r is not mine)
        with pytest.raises(ZeroDivisionError):
            one.run_task(lambda r: 1 / 0)
        assert one.current_resource() is mine

    def outer(ctx: tasker.Context, resource: Resource) -> bool:
        with pytest.raises(RuntimeError):
            other.current_resource()
        other.run_task(inner)
        return one.current_resource() is resource and current_context() is ctx

    assert one.submit(outer).result(PATIENCE)
    assert one.run_task(outer)


def test_outside_of_its_tasks_a_manager_has_no_current_resource(new_manager: Make) -> None:
    manager = new_manager(name="books")
    with pytest.raises(
        RuntimeError, match=r"books: current_resource\(\) was called outside of its tasks"
    ):
        manager.current_resource()
    other = new_manager()
    future = other.submit(lambda r: manager.current_resource())
    with pytest.raises(RuntimeError, match="books"):
        future.result(PATIENCE)


def test_a_parked_worker_names_no_task(new_manager: Make) -> None:
    manager = new_manager(worker_count=1)
    manager.submit(lambda r: current_context()).result(PATIENCE)
    eventually(lambda: manager.stats().idle_workers == 1)
    (worker,) = manager._engine.crew.members
    assert not worker.serves(manager._engine)


# -- current_resource, of the module -----------------------------------------------------------------------------------


def test_current_resource_is_the_one_of_the_innermost_task(new_manager: Make) -> None:
    manager, other = new_manager(), new_manager()

    def nested(resource: Resource) -> bool:
        inner = other.run_task(lambda r: r is current_resource() and r is not resource)
        return inner and current_resource() is resource

    assert manager.submit(nested).result(PATIENCE)
    assert manager.run_task(nested)


def test_outside_of_a_task_there_is_no_current_resource(new_manager: Make) -> None:
    with pytest.raises(RuntimeError, match="outside"):
        current_resource()
    manager = new_manager()
    manager.run_task(lambda r: current_resource())
    with pytest.raises(RuntimeError, match="outside"):
        current_resource()


def test_what_was_found_of_one_function_is_not_believed_of_another_of_the_same_code(
    new_manager: Make,
) -> None:
    def task_of(kind: Any) -> Any:
        def task(first: kind, second: object = None) -> list[object]:
            return [first, second]

        task.__annotations__ = {"first": kind}
        return task

    manager = new_manager(worker_count=1)
    asks, takes_a_resource = task_of(Context), task_of(object)
    for _ in range(3):
        first, second = manager.queue_task(asks)
        assert isinstance(first, Context)
        assert second is manager.queue_task(takes_a_resource)[0]
        assert manager.run_task(asks)[1] is not None
        assert manager.run_task(takes_a_resource)[1] is None
    asks.__code__ = (lambda resource: "changed").__code__
    assert manager.queue_task(asks) == "changed"


def gone(*references: Callable[[], object]) -> bool:
    gc.collect()  # without the GIL, what one thread made and another lets go of may stay until then
    return not any(reference() for reference in references)


def test_a_function_that_asked_for_its_context_is_not_kept(new_manager: Make) -> None:
    def task(ctx: Context, resource: object) -> bool:
        return ctx.cancelled()

    manager = new_manager(worker_count=1)
    assert manager.queue_task(task) is False
    reference = weakref.ref(task)
    del task
    eventually(lambda: gone(reference))
    assert manager.queue_task(lambda ctx, resource: ctx.cancelled()) is False


def test_a_context_that_is_kept_keeps_neither_its_task_nor_the_outcome(new_manager: Make) -> None:
    class Outcome:
        pass

    manager = new_manager(worker_count=1)
    kept: list[Context] = []

    def task(ctx: Context, resource: object) -> Outcome:
        kept.append(ctx)
        return Outcome()

    future = manager.submit(task)
    references = weakref.ref(future.result(PATIENCE)), weakref.ref(future), weakref.ref(kept[0])
    assert not kept[0].cancelled()
    del future
    eventually(lambda: gone(*references[:2]))
    future = manager.submit(task)
    future.result(PATIENCE)
    kept.clear()
    eventually(lambda: gone(references[2]))
    assert future._context is None
