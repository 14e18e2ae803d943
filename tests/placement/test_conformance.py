"""What tasks do and get is the same wherever they run: calls and outcomes. One manager serves a whole placement."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tasker import RemoteTaskError, TaskManager, Threads, current_context, current_resource
from tests.support import remote_tasks
from tests.support.errors import Faithful, Lossy
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("shared")

Manager = TaskManager[Any]

METHODS = [
    f"queue_task{kind}{form}"
    for kind in ("", "_once", "_with_priority", "_with_priority_once")
    for form in ("", "_async", "_with_callback")
]


def is_remote(manager: Manager) -> bool:
    return not isinstance(manager._engine.config.placement, Threads)


# -- calls and results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, 0, "text", b"bytes", (1, [2, {"three": 3.5}]), frozenset({1, 2})], ids=repr
)
def test_arguments_and_results_are_what_was_given(shared, value):
    assert shared.queue_task(remote_tasks.give, value) == value


def test_a_task_gets_its_arguments_after_the_resource(shared):
    assert shared.queue_task(remote_tasks.give, 1, "two", None) == (1, "two", None)
    assert shared.queue_task(remote_tasks.add_up, 40, 2) == 42


def test_lambdas_and_closures_are_tasks(shared):
    captured = [1, 2]

    def closure(resource, more):
        return captured + more

    assert shared.queue_task(lambda resource, x: x + 1, 41) == 42
    assert shared.queue_task(closure, [3]) == [1, 2, 3]


def test_bound_methods_partials_and_callable_objects_are_tasks(shared):
    from functools import partial

    assert shared.queue_task(partial(remote_tasks.add_up, second=2), 40) == 42
    assert shared.queue_task(remote_tasks.Adder(2).add, 40) == 42
    assert shared.queue_task(remote_tasks.Adder(2), 40) == 42


def test_a_task_finds_its_resource_without_being_given_it(shared):
    assert shared.queue_task(remote_tasks.is_current)
    assert shared.run_task(remote_tasks.is_current)


def test_a_resource_is_the_same_from_task_to_task(shared):
    keys = {shared.queue_task(remote_tasks.key) for _ in range(20)}
    assert 1 <= len(keys) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_each_method_runs_a_task(shared, name):
    method = getattr(shared, name)
    if name.endswith("_with_callback"):
        told, outcomes = threading.Event(), []
        method(remote_tasks.add_up, lambda *outcome: (outcomes.append(outcome), told.set()), 40, 2)
        assert told.wait(PATIENCE)
        assert outcomes == [(42, None)]
    elif name.endswith("_async"):
        assert method(remote_tasks.add_up, 40, 2).result(PATIENCE) == 42
    else:
        assert method(remote_tasks.add_up, 40, 2) == 42


def test_many_tasks_all_have_their_own_results(shared):
    futures = [
        shared.submit(remote_tasks.square, number, priority=number % 3 == 0)
        for number in range(300)
    ]
    assert [future.result(PATIENCE) for future in futures] == [
        number * number for number in range(300)
    ]


def test_a_function_that_can_be_called_neither_way_is_refused(shared):
    with pytest.raises(TypeError, match="add_up"):
        shared.submit(remote_tasks.add_up, 1, 2, 3)


# -- exceptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong", 7),
        KeyError("key"),
        FileNotFoundError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(3),
        Faithful(7, "seven"),
        SystemExit(3),
        KeyboardInterrupt("now"),
        GeneratorExit(),
        ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_is_the_tasks_outcome_with_its_type_and_arguments(shared, error):
    got = shared.submit(remote_tasks.fail, error).exception(PATIENCE)
    assert type(got) is type(error)
    if not isinstance(error, BaseExceptionGroup):
        assert got.args == error.args
    assert vars(got).get("code") == vars(error).get("code")
    assert str(got) == str(error)
    assert shared.queue_task(remote_tasks.give, "alive") == "alive"


def test_the_blocking_form_raises_the_tasks_exception(shared):
    with pytest.raises(Faithful, match="seven") as caught:
        shared.queue_task(remote_tasks.fail, Faithful(7, "seven"))
    assert caught.value.code == 7


def test_an_exception_that_does_not_survive_pickling_is_itself_here_and_told_of_from_elsewhere(
    shared,
):
    error = shared.submit(remote_tasks.fail_lossily).exception(PATIENCE)
    assert "7: seven" in str(error)
    if is_remote(shared):
        assert isinstance(error, RemoteTaskError)
        assert error.type_name == f"{Lossy.__module__}.Lossy"
        assert "in fail_lossily" in error.traceback
    else:
        assert isinstance(error, Lossy)


def test_a_coroutine_that_a_task_returns_is_its_error_and_is_closed_where_it_was_made(
    shared, capfd
):
    for way in (shared.queue_task, shared.run_task):
        with pytest.raises(TypeError, match=r"fetch_later.* returned a coroutine.* asyncio\.run"):
            way(remote_tasks.fetch_later)
    for size in (1, 2):
        results = list(
            shared.map(remote_tasks.fetch_at_two, range(4), chunksize=size, return_exceptions=True)
        )
        assert [type(each) for each in results] == [int, int, TypeError, int]
    assert "never awaited" not in capfd.readouterr().err


def test_where_an_exception_was_raised_is_printed(shared):
    import traceback

    error = shared.submit(remote_tasks.fail_with_a_cause).exception(PATIENCE)
    text = "".join(traceback.format_exception(error))
    assert "in fail_with_a_cause" in text
    assert "KeyError: 'first'" in text
    assert "child_main.py" not in text
    assert "worker.py" not in text
    if is_remote(shared):
        assert type(error.__cause__).__name__ == "RemoteTraceback"


# -- run_task --------------------------------------------------------------------------------------------------------


def test_run_task_runs_in_a_resource_of_its_own_and_keeps_it(shared):
    first, second = shared.run_task(remote_tasks.key), shared.run_task(remote_tasks.key)
    assert first == second
    assert shared.run_task(remote_tasks.add_up, 40, 2) == 42
    with pytest.raises(Faithful):
        shared.run_task(remote_tasks.fail, Faithful(7, "seven"))
    assert shared.run_task(remote_tasks.key) == first


def test_run_task_has_a_context(shared):
    same, error, remaining, stopping = shared.run_task(remote_tasks.look_at_context)
    assert (same, error, remaining, stopping) == (True, None, None, False)


# -- map -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7])
def test_map_gives_results_in_order(shared, chunksize):
    assert list(shared.map(remote_tasks.square, range(40), chunksize=chunksize)) == [
        n * n for n in range(40)
    ]


@pytest.mark.parametrize("chunksize", [1, 7])
def test_map_unordered_gives_each_result_once(shared, chunksize):
    results = list(shared.map(remote_tasks.square, range(40), ordered=False, chunksize=chunksize))
    assert sorted(results) == [n * n for n in range(40)]


@pytest.mark.parametrize("chunksize", [1, 4])
def test_an_error_in_the_middle_of_a_map_is_raised_in_its_place(shared, chunksize):
    results = []
    with pytest.raises(Faithful, match="seven"):
        results.extend(shared.map(remote_tasks.square_unless_seven, range(20), chunksize=chunksize))
    stream = shared.map(remote_tasks.square_unless_seven, range(20), chunksize=chunksize)
    assert [next(stream) for _ in range(7)] == [n * n for n in range(7)]
    with pytest.raises(Faithful):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("chunksize", [1, 4])
def test_a_map_can_hand_out_errors_among_its_results(shared, chunksize):
    results = list(
        shared.map(
            remote_tasks.square_unless_seven, range(20), chunksize=chunksize, return_exceptions=True
        )
    )
    error = results.pop(7)
    assert isinstance(error, Faithful)
    assert results == [n * n for n in range(20) if n != 7]


def test_the_input_of_a_map_may_be_endless(shared):
    from itertools import count

    with shared.map(remote_tasks.square, count()) as stream:
        assert [next(stream) for _ in range(30)] == [n * n for n in range(30)]


# -- asyncio and executors -------------------------------------------------------------------------------------------


def test_tasks_are_awaited_and_mapped_in_asyncio(shared):
    async def main():
        assert await shared.asubmit(remote_tasks.add_up, 40, 2) == 42
        with pytest.raises(Faithful):
            await shared.asubmit(remote_tasks.fail, Faithful(7, "seven"))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await shared.asubmit(remote_tasks.fail, StopIteration(3))
        assert await shared.queue_task_async(remote_tasks.add_up, 40, 2) == 42
        return [result async for result in shared.amap(remote_tasks.square, range(20), chunksize=3)]

    assert asyncio.run(main()) == [n * n for n in range(20)]


def test_a_cancelled_await_ends_the_context_of_its_task(shared, gate, journal):
    async def main():
        task = asyncio.create_task(shared.asubmit(remote_tasks.until_cancelled, gate, journal))
        await asyncio.to_thread(gate.await_reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert shared.join(PATIENCE)
    assert journal.of("ended") == ["True ContextCancelledError ContextCancelledError"]


def test_the_executor_view_calls_plain_functions(shared):
    with shared.executor() as executor:
        assert executor.submit(remote_tasks.plain_square, 6).result(PATIENCE) == 36
        assert executor.submit(remote_tasks.plain_add, 40, second=2).result(PATIENCE) == 42
        assert list(executor.map(remote_tasks.plain_square, range(20), chunksize=3)) == [
            n * n for n in range(20)
        ]
        assert executor.submit(remote_tasks.is_with_a_resource).result(PATIENCE)
        with pytest.raises(ZeroDivisionError):
            executor.submit(divmod, 1, 0).result(PATIENCE)


# -- contexts --------------------------------------------------------------------------------------------------------


def test_a_task_sees_its_context(shared):
    same, error, remaining, stopping = shared.queue_task(remote_tasks.look_at_context)
    assert (same, error, remaining, stopping) == (True, None, None, False)


def test_a_task_sees_how_long_it_has(shared):
    future = shared.submit(remote_tasks.remaining, timeout=PATIENCE)
    assert 0 < future.result(PATIENCE) <= PATIENCE
    assert shared.queue_task(remote_tasks.remaining) is None


def test_there_is_no_context_and_no_resource_outside_of_a_task(shared):
    with pytest.raises(RuntimeError, match="outside of a task"):
        current_context()
    with pytest.raises(RuntimeError, match="outside of a task"):
        current_resource()


def test_context_variables_are_seen_as_they_were_at_the_submission_and_not_changed(shared):
    token = remote_tasks.variable.set("by the submitter")
    try:
        futures = [shared.submit(remote_tasks.see_variable) for _ in range(6)]
    finally:
        remote_tasks.variable.reset(token)
    assert [future.result(PATIENCE) for future in futures] == ["by the submitter"] * 6
    assert [shared.queue_task(remote_tasks.see_variable) for _ in range(4)] == ["unset"] * 4


def test_a_task_that_ignores_a_cancel_has_its_result(shared, gate):
    future = shared.submit(remote_tasks.hold, gate)
    gate.await_reached()
    assert future.cancel() is False
    assert future.result(PATIENCE) == "ContextCancelledError"


@pytest.mark.slow
def test_a_manager_of_its_own_cannot_be_reached_from_elsewhere(shared):
    if is_remote(shared):
        with pytest.raises(TypeError, match=r"argument 1.*TaskManager"):
            shared.submit(remote_tasks.give, shared)
    else:
        assert shared.queue_task(remote_tasks.give, shared) is shared
