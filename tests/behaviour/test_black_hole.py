"""A worker on which tasks fail at once is idle first; it must not eat the stream for that."""

from __future__ import annotations

import threading
import time

import pytest

from tasker import Reason
from tests.support.waiting import PATIENCE, eventually


def worker_of(resource):
    return threading.current_thread().name


def fail(resource):
    raise ValueError(threading.current_thread().name)


def at_rest(manager):
    eventually(lambda: manager.stats().idle_workers == len(manager._engine.crew.members))


@pytest.fixture
def manager(new_manager):
    manager = new_manager(worker_count=3, max_worker_count=3)
    assert manager.wait_ready(PATIENCE)
    at_rest(manager)
    return manager


def test_a_worker_whose_task_failed_gets_the_next_one_last(manager):
    failed_on = str(manager.submit(fail).exception(PATIENCE))
    at_rest(manager)
    for _ in range(5):
        assert manager.queue_task(worker_of) != failed_on
        at_rest(manager)


def test_it_is_as_good_as_the_others_once_a_task_has_succeeded_on_it(new_manager):
    manager = new_manager(worker_count=2, max_worker_count=2)
    assert manager.wait_ready(PATIENCE)
    at_rest(manager)
    failed_on = str(manager.submit(fail).exception(PATIENCE))
    at_rest(manager)
    gates, futures = [threading.Event(), threading.Event()], []
    for gate in gates:
        futures.append(
            manager.submit(lambda resource, gate=gate: (gate.wait(PATIENCE), worker_of(resource)))
        )
        eventually(futures[-1].running)
    for place, (gate, future) in enumerate(zip(gates, futures, strict=True)):
        gate.set()
        assert (future.result(PATIENCE)[1] == failed_on) == (place == 1)
        eventually(lambda place=place: manager.stats().idle_workers == place + 1)
    assert manager.queue_task(worker_of) == failed_on, "it came last"


def test_the_first_to_be_retired_is_one_whose_task_failed(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=3)
    manager._engine.crew.hire(2)
    eventually(lambda: manager.stats().idle_workers == 3)
    failed_on = str(manager.submit(fail).exception(PATIENCE))
    at_rest(manager)
    assert manager._engine.crew.retire(1, manager._engine.queue.idle) == 1
    eventually(lambda: len(manager._engine.crew.members) == 2)
    assert failed_on not in [worker.name for worker in manager._engine.crew.members]


# -- eject_after -----------------------------------------------------------------------------------------------------


class Hole:
    """Makes resources, of which the first is bad: tasks fail on it at once."""

    def __init__(self, factory):
        self.factory, self.reasons = factory, []

    def create(self, slot):
        self.reasons.append(slot.reason)
        return self.factory.create()

    def is_gone(self):
        return any(resource.number == 0 for resource in self.factory.destroyed)


def work(resource):
    if resource.number == 0:
        raise ValueError("bad")
    time.sleep(0.001)  # the others are busy, so it gets tasks as well
    return resource.number


@pytest.fixture
def hole(factory):
    return Hole(factory)


def fails_in_the_stream(manager, hole, most):
    """How many tasks of a stream fail until the bad one is gone, or of so many."""
    failed = 0
    for _ in range(most // 8):
        futures = [manager.submit(work) for _ in range(8)]
        failed += sum(future.exception(PATIENCE) is not None for future in futures)
        if hole.is_gone():
            break
    return failed


@pytest.mark.slow
def test_a_resource_on_which_tasks_fail_that_succeed_on_others_is_replaced(
    new_manager, factory, hole, log
):
    manager = new_manager(worker_count=4, max_worker_count=4, on_create=hole.create, eject_after=5)
    assert manager.wait_ready(PATIENCE)
    failed = fails_in_the_stream(manager, hole, 10_000)
    assert hole.is_gone()
    assert failed >= 5
    assert manager.wait_ready(PATIENCE)
    assert hole.reasons == [Reason.HIRED] * 4 + [Reason.OUTLIER]
    (told,) = log.loud()
    assert "eject_after" in told
    assert "ValueError: bad" in told
    assert fails_in_the_stream(manager, hole, 80) == 0
    assert manager.metrics().total_tasks_failed == failed


@pytest.mark.slow
def test_it_is_not_without_eject_after(new_manager, hole):
    manager = new_manager(worker_count=4, max_worker_count=4, on_create=hole.create)
    assert manager.wait_ready(PATIENCE)
    assert fails_in_the_stream(manager, hole, 800) > 5
    assert not hole.is_gone()


def test_a_task_that_fails_on_every_resource_has_none_replaced(new_manager, factory):
    manager = new_manager(worker_count=4, max_worker_count=4, eject_after=1)
    for _ in range(50):
        futures = [manager.submit(each) for each in (fail, worker_of) * 4]
        for future in futures:
            future.exception(PATIENCE)
    assert factory.destroyed == []


def test_what_ends_with_its_context_does_not_count(new_manager, factory):
    manager = new_manager(worker_count=2, max_worker_count=2, eject_after=1)
    counted = []
    failed = manager._engine.outliers.failed
    manager._engine.outliers.failed = lambda *args: counted.append(args) or failed(*args)
    started = threading.Event()

    def task(context, resource):
        started.set()
        context.wait(PATIENCE)
        raise ValueError

    future = manager.submit(task)
    assert started.wait(PATIENCE)
    future.cancel()
    future.exception(PATIENCE)
    at_rest(manager)
    assert counted == []
    assert isinstance(manager.submit(fail).exception(PATIENCE), ValueError)
    assert len(counted) == 1


def add(resource, item):
    return item


def call(item=0):
    return item


@pytest.mark.parametrize("how", ["submit", "map", "map in chunks", "executor", "executor map"])
def test_chunks_and_calls_go_by_the_users_function(new_manager, how):
    manager = new_manager(eject_after=5)
    if how == "submit":
        manager.submit(add, 1).result(PATIENCE)
    elif how.startswith("map"):
        list(manager.map(add, range(4), chunksize=2 if how.endswith("chunks") else 1))
    elif how == "executor":
        manager.executor().submit(call, item=1).result(PATIENCE)
    else:
        list(manager.executor().map(call, range(4), chunksize=2))
    (function,) = manager._engine.outliers._functions
    assert f".{call.__name__ if 'executor' in how else add.__name__}:" in function
