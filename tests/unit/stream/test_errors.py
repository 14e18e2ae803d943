"""Errors of items and of the input, retries, timeouts, chunks."""

from __future__ import annotations

import gc
import itertools
from collections import Counter

import pytest

from tasker import (
    TaskManagerShutdownError,
    TaskTimeoutError,
)
from tests.support.errors import Sick
from tests.support.streams import (
    CHUNKS,
    EVERY_KIND,
    KINDS,
    ORDERS,
    Failure,
    Hold,
    Input,
    InputError,
    Sickly,
    deadline_passes_once,
    double,
    fail,
    fail_at,
    in_thread,
    until_error,
)
from tests.support.waiting import PATIENCE, eventually

# -- errors ----------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_an_items_error_is_raised_in_its_place(new_manager, kind):
    results, error = until_error(new_manager().map(fail_at(5), range(50), **kind))
    assert isinstance(error, Failure)
    assert error.args == (5,)
    if kind.get("ordered", True):
        assert results == [0, 1, 2, 3, 4]
    assert 5 not in results


@EVERY_KIND
def test_exceptions_are_handed_out_in_their_place_if_asked_for(new_manager, kind):
    results = list(
        new_manager().map(fail_at(0, 5, 6, 7, 19), range(20), return_exceptions=True, **kind)
    )
    plain = [item.args[0] if isinstance(item, Failure) else item for item in results]
    if not kind.get("ordered", True):
        plain.sort()
    assert plain == list(range(20))
    assert {item.args[0] for item in results if isinstance(item, Failure)} == {0, 5, 6, 7, 19}


def test_the_traceback_of_an_items_error_ends_in_the_function(new_manager):
    for kind in KINDS:
        with pytest.raises(Failure) as raised:
            list(new_manager().map(fail, range(3), **kind))
        assert raised.traceback[-1].name == "fail"
        assert "_run_chunk" not in [entry.name for entry in raised.traceback]


@EVERY_KIND
def test_results_come_before_the_error_of_the_input(new_manager, kind):
    stream = new_manager().map(double, Input(range(7), InputError()), max_in_flight=3, **kind)
    results, error = until_error(stream)
    assert sorted(results) == [0, 2, 4, 6, 8, 10, 12]
    assert isinstance(error, InputError)
    assert list(stream) == []


@EVERY_KIND
def test_an_error_of_the_input_before_there_is_an_item_is_raised_at_the_call(new_manager, kind):
    with pytest.raises(InputError):
        new_manager().map(double, Input([], InputError()), **kind)


@EVERY_KIND
def test_an_items_error_comes_before_that_of_the_input(new_manager, kind):
    _, error = until_error(new_manager().map(fail, Input(range(4), InputError()), **kind))
    assert isinstance(error, Failure)


@EVERY_KIND
def test_of_an_input_that_has_raised_the_results_may_be_left_alone(new_manager, kind):
    stream = new_manager().map(double, Input(range(4), InputError()), max_in_flight=60, **kind)
    next(stream)
    stream.close()
    assert list(stream) == []


@EVERY_KIND
def test_a_closed_manager_refuses_at_the_call(new_manager, kind):
    manager = new_manager()
    manager.stop()
    items = Input(range(9))
    with pytest.raises(TaskManagerShutdownError):
        manager.map(double, items, **kind)
    assert items.taken <= kind.get("chunksize", 1)


@EVERY_KIND
def test_results_come_before_the_refusal_of_a_manager_that_was_stopped_meanwhile(new_manager, kind):
    manager = new_manager()
    stream = manager.map(double, itertools.count(), max_in_flight=6, **kind)
    first = next(stream)
    assert manager.stop().drained
    results, error = until_error(stream)
    assert sorted([first, *results]) == [0, 2, 4, 6, 8, 10]
    assert isinstance(error, TaskManagerShutdownError)


def test_what_is_refused_between_two_looks_at_the_closing_is_never_waited_for(new_manager, gated):
    """The queue closes while a submission is under way: its arrival is told, yet nothing of it is in flight."""
    manager = new_manager(worker_count=1, max_worker_count=1)
    queue = manager._engine.queue
    stream = manager.map(gated, itertools.count(), max_in_flight=2, ordered=False)
    put = queue.put

    def close_then_put(task):
        queue.put = put
        gated.gate.set()
        manager._engine.lifecycle.request_stop()
        eventually(lambda: queue.closed)
        put(task)

    gated.gate.set()
    assert next(stream) == 0
    queue.put = close_then_put
    results, error = until_error(stream)
    assert results == [1]
    assert isinstance(error, TaskManagerShutdownError)


class Falsy(Exception):  # as an empty collection
    def __len__(self):
        return 0


@EVERY_KIND
def test_an_error_that_is_false_is_an_error(new_manager, kind):
    with pytest.raises(Falsy):
        list(new_manager().map(fail_at(2, error=Falsy), range(4), **kind))
    with pytest.raises(Falsy):
        list(new_manager().map(double, Input(range(4), Falsy()), **kind))


@EVERY_KIND
def test_a_stop_iteration_of_an_item_does_not_pass_for_the_end(new_manager, kind):
    with pytest.raises(RuntimeError, match="StopIteration") as raised:
        list(new_manager().map(fail_at(2, error=StopIteration), range(4), **kind))
    assert isinstance(raised.value.__cause__, StopIteration)


def test_a_failure_of_what_was_in_flight_is_not_logged(new_manager, log):
    manager = new_manager()
    with pytest.raises(Failure):
        list(manager.map(fail, range(20)))
    gc.collect()
    assert manager.join(PATIENCE)
    assert log.loud() == []


# -- retries, timeouts, chunks ---------------------------------------------------------------------------------------


@pytest.mark.slow
@ORDERS
@CHUNKS
def test_an_item_that_broke_its_resource_runs_again_on_another_and_no_other_does(
    new_manager, ordered, chunksize
):
    function = Sickly({1: 1, 4: 2})
    manager = new_manager(worker_count=1, max_worker_count=1)
    results = list(manager.map(function, range(7), ordered=ordered, chunksize=chunksize))
    assert sorted(results) == list(range(7))
    assert function.runs == {0: 1, 1: 2, 2: 1, 3: 1, 4: 3, 5: 1, 6: 1}
    assert len(set(function.resources[4])) == 3
    if chunksize == 3:  # the rest of a chunk follows on the new resource
        assert function.resources[2] == function.resources[1][1:]
    assert manager.metrics().total_tasks_retried == 3


@pytest.mark.slow
@ORDERS
@CHUNKS
def test_once_an_item_that_broke_its_resource_does_not_run_again(new_manager, ordered, chunksize):
    function = Sickly({1: 1, 4: 1})
    options = {"once": True, "ordered": ordered, "chunksize": chunksize, "return_exceptions": True}
    results = list(new_manager().map(function, range(7), **options))
    assert function.runs == dict.fromkeys(range(7), 1)
    assert Counter(type(result) for result in results) == {int: 5, Sick: 2}


@ORDERS
def test_no_item_of_a_chunk_runs_again_because_of_another_one(new_manager, ordered):
    runs = Counter()

    def function(resource, item):
        runs[item] += 1
        if item % 3 == 1:
            raise Failure(item)
        return item

    results = list(
        new_manager().map(
            function, range(50), chunksize=10, ordered=ordered, return_exceptions=True
        )
    )
    assert len(results) == 50
    assert set(runs.values()) == {1}


def test_a_chunk_ends_with_the_first_error_if_that_leaves(new_manager):
    ran = []

    def function(resource, item):
        ran.append(item)
        return fail_at(2)(resource, item)

    manager = new_manager(worker_count=1, max_worker_count=1)
    results, error = until_error(manager.map(function, range(5), chunksize=5))
    assert (results, error.args, ran) == ([0, 1], (2,), [0, 1, 2])


def test_nothing_more_is_taken_while_the_results_before_an_error_are_handed_out(new_manager):
    items = Input(itertools.count())
    stream = new_manager(worker_count=1, max_worker_count=1).map(
        fail_at(2), items, chunksize=3, max_in_flight=4
    )
    assert until_error(stream)[0] == [0, 1]
    assert items.taken == 3


@ORDERS
def test_a_last_chunk_may_be_short(new_manager, ordered):
    manager = new_manager()
    assert sorted(manager.map(double, range(11), chunksize=4, ordered=ordered)) == [
        2 * i for i in range(11)
    ]
    assert manager.metrics().total_tasks_completed == 3


def test_the_timeout_is_an_items(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    hold = Hold(0, 2)
    with deadline_passes_once(hold, 1):
        results = list(
            manager.map(hold, range(3), timeout=1, max_in_flight=1, return_exceptions=True)
        )
    assert [type(result) for result in results] == [int, TaskTimeoutError, int]


@ORDERS
def test_an_item_that_waits_too_long_never_starts(new_manager, ordered, gated):
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.submit(gated, "first")
    assert gated.runs.wait(PATIENCE)
    results = list(
        manager.map(gated, range(3), timeout=0.01, ordered=ordered, return_exceptions=True)
    )
    assert [type(result) for result in results] == [TaskTimeoutError] * 3
    gated.gate.set()
    assert manager.join(PATIENCE)
    assert gated.started == ["first"]


@ORDERS
def test_the_timeout_of_a_chunk_hits_the_item_that_runs_then(new_manager, ordered):
    hold = Hold(0, 2, 3)
    manager = new_manager(worker_count=1, max_worker_count=1)
    with deadline_passes_once(hold, 4):
        results = list(
            manager.map(
                hold, range(4), timeout=1, chunksize=4, ordered=ordered, return_exceptions=True
            )
        )
    assert [type(result) for result in results] == [int, TaskTimeoutError, int, int]
    assert hold.started == [0, 1, 2, 3]
    hold = Hold(0)
    with deadline_passes_once(hold, 4), pytest.raises(TaskTimeoutError):
        list(manager.map(hold, range(4), timeout=1, chunksize=4, ordered=ordered))
    assert manager.join(PATIENCE)
    assert hold.started == [0, 1]


def test_what_an_item_of_a_chunk_returns_too_late_is_not_handed_out(new_manager):
    """Nor does the next item get the timeout in its place."""
    manager = new_manager(worker_count=1, max_worker_count=1)
    engine, (worker,) = manager._engine, manager._engine.crew.members
    record_failure = engine.record_failure

    def let_the_item_return_first(*args, **named):  # its context has ended, its future has not
        eventually(lambda: worker.parker.parked)
        record_failure(*args, **named)

    engine.record_failure = let_the_item_return_first
    hold = Hold(0, 2)
    with deadline_passes_once(hold, 3):
        results = list(manager.map(hold, range(3), timeout=1, chunksize=3, return_exceptions=True))
    assert [type(result) for result in results] == [int, TaskTimeoutError, int]
    assert hold.started == [0, 1, 2]


def test_a_chunk_has_the_time_of_all_its_items(new_manager):
    manager = new_manager()

    def time_left(ctx, resource, item):
        return ctx.remaining()

    remaining = list(manager.map(time_left, range(4), timeout=1000, chunksize=4))
    assert all(3000 < left <= 4000 for left in remaining)


@pytest.mark.parametrize("order", ["in order", "as they come"])
def test_the_rest_of_a_chunk_that_is_refused_ends_the_stream(new_manager, gated, order):
    """In the order of the input before anything beyond the gap; otherwise when all else is handed out."""
    ordered = order == "in order"
    manager = new_manager(worker_count=2, max_worker_count=2)

    def function(resource, item):
        if item == 1:
            gated(resource, item)
            raise Failure(item)
        return item

    stream = manager.map(function, range(6), chunksize=3, ordered=ordered, return_exceptions=True)
    assert gated.runs.wait(PATIENCE)
    eventually(lambda: manager.metrics().total_tasks_completed == 1)
    stopper = in_thread(manager.stop)
    eventually(lambda: "stopping" in repr(manager))
    gated.gate.set()
    stopper.join(PATIENCE)
    results, error = until_error(stream)
    assert isinstance(error, TaskManagerShutdownError)
    numbers = [-1 if isinstance(result, Failure) else result for result in results]
    assert numbers == ([0, -1] if ordered else [3, 4, 5, 0, -1])
