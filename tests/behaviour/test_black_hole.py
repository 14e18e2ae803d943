"""A worker on which tasks fail at once is idle first; it must not eat the stream for that."""

from __future__ import annotations

import threading

import pytest

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
