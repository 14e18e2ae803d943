"""All the places from which `map` may be asked: threads, tasks, callbacks, other streams."""

from __future__ import annotations

import itertools
import operator
import os
import signal
import threading

import pytest

from tasker import (
    PoolDeadlockError,
    QueueFullError,
    TaskManagerKilledError,
    TaskManagerShutdownError,
)
from tasker._tasks import deadlock
from tests.support.streams import (
    EVERY_KIND,
    KINDS,
    ORDERS,
    Hold,
    double,
    in_thread,
    until_error,
)
from tests.support.waiting import PATIENCE, eventually


@EVERY_KIND
def test_a_task_may_map_on_its_own_manager(new_manager, kind):
    manager = new_manager(worker_count=2)

    def parent(_):
        return sorted(manager.map(double, range(50), **kind))

    assert manager.submit(parent).result(PATIENCE) == [2 * i for i in range(50)]


@EVERY_KIND
def test_a_task_that_maps_where_no_worker_is_left_is_told(new_manager, kind):
    manager = new_manager(worker_count=1, max_worker_count=1)
    ran = []

    def parent(_):
        list(manager.map(lambda _, item: ran.append(item), range(50), **kind))

    with pytest.raises(PoolDeadlockError, match="parent on"):
        manager.submit(parent).result(PATIENCE)
    assert manager.join(PATIENCE)
    assert ran == [], "what it submitted is cancelled"


@EVERY_KIND
def test_of_tasks_that_all_map_one_is_told_and_the_others_are_served(new_manager, kind):
    manager = new_manager(worker_count=3, max_worker_count=3)
    all_run = threading.Barrier(3)

    def parent(_):
        all_run.wait(PATIENCE)
        try:
            return len(list(manager.map(double, range(20), **kind)))
        except PoolDeadlockError:
            return "told"

    outcomes = [future.result(PATIENCE) for future in [manager.submit(parent) for _ in range(3)]]
    assert set(outcomes) == {20, "told"}
    assert (
        1 <= outcomes.count("told") <= 2
    )  # who is told frees a worker; until it is idle the next is told as well


@ORDERS
def test_items_that_wait_for_the_task_that_maps_are_told(new_manager, ordered):
    manager = new_manager(worker_count=3, max_worker_count=3)
    known, futures = threading.Event(), []

    def child(_, item):
        known.wait(PATIENCE)
        return futures[0].result()

    def parent(_):
        return list(manager.map(child, range(2), ordered=ordered))

    futures.append(manager.submit(parent))
    eventually(lambda: manager.stats().running_tasks == 3)
    known.set()
    with pytest.raises(PoolDeadlockError):
        futures[0].result(PATIENCE)


@EVERY_KIND
def test_no_alarm_while_another_worker_can_be_hired(new_manager, kind):
    manager = new_manager(worker_count=1, max_worker_count=2, burst_interval=0.01)

    def parent(_):
        return sorted(manager.map(double, range(50), **kind))

    assert manager.submit(parent).result(PATIENCE) == [2 * i for i in range(50)]


def test_a_wait_for_a_stream_is_over_when_it_is(new_manager):
    manager = new_manager(worker_count=2)
    for kind in KINDS:
        manager.submit(lambda _, kind=kind: list(manager.map(double, range(50), **kind))).result(
            PATIENCE
        )
    assert deadlock._announced.waits == {}


@EVERY_KIND
def test_a_task_of_another_manager_may_map(new_manager, kind):
    here, there = (
        new_manager(worker_count=1, max_worker_count=1),
        new_manager(worker_count=1, max_worker_count=1),
    )
    future = here.submit(lambda _: sorted(there.map(double, range(30), **kind)))
    assert future.result(PATIENCE) == [2 * i for i in range(30)]


@EVERY_KIND
def test_a_bounded_queue_may_be_smaller_than_the_window(new_manager, kind):
    manager = new_manager(worker_count=2, queue_size=1)
    assert sorted(manager.map(double, range(100), max_in_flight=50, **kind)) == [
        2 * i for i in range(100)
    ]
    assert manager._engine.queue.room.used() == 0


def test_in_a_task_a_full_queue_refuses_after_the_results_of_what_it_had_room_for(
    new_manager, gated
):
    """A task cannot wait for room of its own manager's."""
    manager = new_manager(worker_count=2, max_worker_count=2, queue_size=2)

    def parent(_):
        manager.submit(gated, "other worker")
        assert gated.runs.wait(PATIENCE)
        stream = manager.map(double, range(9), max_in_flight=9)
        gated.gate.set()
        return until_error(stream)

    results, error = manager.submit(parent).result(PATIENCE)
    assert results == [0, 2]
    assert isinstance(error, QueueFullError)


@EVERY_KIND
def test_a_kill_ends_whoever_asks(new_manager, kind):
    manager = new_manager(worker_count=1, max_worker_count=1)
    hold = Hold()
    outcome = []
    stream = manager.map(hold, itertools.count(), **kind)
    consumer = in_thread(lambda: outcome.append(until_error(stream)))
    assert hold.holds.wait(PATIENCE)
    assert manager.kill(PATIENCE).abandoned == ()
    consumer.join(PATIENCE)
    assert not consumer.is_alive()
    # the one that ran has seen its context end, and returned
    ((results, error),) = outcome
    assert results in ([], [0])
    assert isinstance(error, (TaskManagerKilledError, TaskManagerShutdownError))
    assert hold.started == [0]


def test_the_rest_of_a_chunk_that_a_kill_ends_is_killed(new_manager):
    manager = new_manager(worker_count=1)

    def kill_at_once(ctx, resource, item):
        manager.kill()
        assert ctx.wait(PATIENCE)
        return item

    results = manager.map(kill_at_once, range(3), chunksize=3, return_exceptions=True)
    assert next(results) == 0
    assert type(next(results)) is TaskManagerKilledError


@EVERY_KIND
def test_a_kill_that_abandons_a_task_ends_whoever_asks(new_manager, kind, gated, factory):
    manager = new_manager(worker_count=1, max_worker_count=1)
    outcome = []
    stream = manager.map(gated, itertools.count(), **kind)
    consumer = in_thread(lambda: outcome.append(until_error(stream)))
    assert gated.runs.wait(PATIENCE)
    assert manager.kill(0).abandoned
    consumer.join(PATIENCE)
    ((results, error),) = outcome
    assert results == []
    assert isinstance(error, TaskManagerKilledError)
    gated.gate.set()
    eventually(lambda: factory.live == 0)


@EVERY_KIND
def test_a_stop_lets_whoever_asks_have_all_that_was_accepted(new_manager, kind, gated):
    manager = new_manager(worker_count=1, max_worker_count=1)
    outcome = []
    stream = manager.map(gated, itertools.count(), max_in_flight=6, **kind)
    consumer = in_thread(lambda: outcome.append(until_error(stream)))
    assert gated.runs.wait(PATIENCE)
    stopper = in_thread(manager.stop)
    eventually(lambda: "stopping" in repr(manager))
    gated.gate.set()
    consumer.join(PATIENCE)
    stopper.join(PATIENCE)
    ((results, error),) = outcome
    assert sorted(results) == [0, 1, 2, 3, 4, 5]
    assert isinstance(error, TaskManagerShutdownError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@EVERY_KIND
def test_in_a_forked_child_a_stream_raises_or_ends(new_manager, kind, gated):
    manager = new_manager(worker_count=1, max_worker_count=1)
    stream = manager.map(gated, itertools.count(), **kind)
    other = manager.map(gated, range(5), return_exceptions=True, **kind)
    third = manager.map(gated, itertools.count(), **kind)
    assert gated.runs.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)  # ends a child that hangs
            first = until_error(stream)
            second = until_error(other)
            third.close()
            assert first[0] == []
            assert isinstance(first[1], TaskManagerShutdownError)
            assert 1 <= len(second[0]) <= 5
            assert isinstance(second[1], TaskManagerShutdownError)
            assert all(isinstance(error, TaskManagerShutdownError) for error in second[0])
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    gated.gate.set()
    assert sorted(other) == [0, 1, 2, 3, 4]
    stream.close()
    third.close()


def test_several_streams_share_a_manager(new_manager):
    manager = new_manager(worker_count=3)
    streams = [
        manager.map(double, itertools.count(), max_in_flight=5, **kind)
        for kind in KINDS[:2]
        for _ in range(3)
    ]
    found = [[] for _ in streams]
    for _ in range(100):
        for stream, results in zip(streams, found, strict=True):
            results.append(next(stream))
    for stream, results in zip(streams, found, strict=True):
        stream.close()
        assert len(set(results)) == 100
        assert max(results) < 2 * 105
    assert found[0] == found[1] == [2 * i for i in range(100)]


def test_several_threads_have_streams_of_one_manager(new_manager):
    manager = new_manager(worker_count=3)
    kinds = KINDS * 2
    found = {}

    def consume(number):
        found[number] = sorted(manager.map(double, range(300), **kinds[number]))

    threads = [in_thread(lambda number=number: consume(number)) for number in range(len(kinds))]
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {number: [2 * i for i in range(300)] for number in range(len(kinds))}


@ORDERS
def test_a_second_thread_that_asks_meanwhile_is_told(new_manager, gated, ordered):
    manager = new_manager(worker_count=1, max_worker_count=1)
    asked = threading.Event()

    def items():
        yield from range(2)
        asked.set()
        yield 2

    stream = manager.map(
        lambda resource, item: gated(resource, item) if item else 0,
        items(),
        max_in_flight=2,
        ordered=ordered,
    )
    assert next(stream) == 0
    results = []
    consumer = in_thread(lambda: results.extend(stream))
    assert asked.wait(PATIENCE)
    for use in (stream.__next__, stream.close):
        with pytest.raises(ValueError, match="already executing"):
            use()
    gated.gate.set()
    consumer.join(PATIENCE)
    assert results == [1, 2]


def test_an_input_may_use_the_manager(new_manager):
    manager = new_manager()

    def items():
        for number in range(20):
            yield manager.queue_task(double, number)

    assert list(manager.map(double, items())) == [4 * i for i in range(20)]


def test_a_callable_whose_signature_cannot_be_read_is_a_function(new_manager):
    manager = new_manager(on_create=lambda: 7, on_destroy=lambda resource: None)
    assert list(manager.map(operator.add, range(3))) == [7, 8, 9]
    assert list(manager.map(max, [1, 9], chunksize=2)) == [7, 9]
