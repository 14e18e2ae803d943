"""`Crew` holds its bounds whoever asks for what: the limits of `scaling.decide` are not its only guard."""

from __future__ import annotations

import threading

import pytest

from tasker._pool.worker import Worker
from tests.support.locks import HookedLock
from tests.support.waiting import PATIENCE, eventually


def test_it_never_hires_above_the_most_however_many_ask_at_once(new_manager):
    manager = new_manager(worker_count=2, max_worker_count=5)
    crew = manager._engine.crew
    begin = threading.Barrier(4)
    hired = []

    def hire():
        begin.wait(PATIENCE)
        hired.append(crew.hire(10))

    threads = [threading.Thread(target=hire) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(hired) == 3
    assert len(crew.members) == 5


def test_many_that_fill_it_at_once_hire_the_base_and_no_more(new_manager):
    manager = new_manager(worker_count=4, max_worker_count=16)
    crew, idle = manager._engine.crew, manager._engine.queue.idle
    begin = threading.Barrier(4)
    crew.base = 8

    def fill():
        begin.wait(PATIENCE)
        crew.fill()

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(crew.members) == 8
    assert crew.retire(1, idle) == 0


def test_it_never_retires_below_the_base_nor_who_is_busy(new_manager, factory):
    manager = new_manager(worker_count=2, max_worker_count=4)
    crew, idle = manager._engine.crew, manager._engine.queue.idle
    assert crew.hire(2) == 2
    gate = threading.Event()
    busy = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(3)]
    eventually(
        lambda: all(future.running() for future in busy) and manager.stats().idle_workers == 1
    )
    assert crew.retire(10, idle) == 1
    eventually(lambda: len(crew.members) == 3)
    assert factory.live == 3
    gate.set()
    eventually(lambda: manager.stats().idle_workers == 3)
    assert crew.retire(10, idle) == 1
    eventually(lambda: len(crew.members) == 2)
    assert crew.retire(10, idle) == 0
    assert [future.result(0) for future in busy] == [True] * 3
    assert manager.queue_task(lambda resource: "still served") == "still served"


def test_a_member_whose_thread_ended_without_a_word_is_replaced(new_manager, monkeypatch):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    crew = manager._engine.crew
    lost = crew.members[0]
    monkeypatch.setattr(lost, "_leave", lambda worker: None)
    parker = manager._engine.queue.idle.take_longest
    eventually(lambda: lost.parker.parked and parker() is lost.parker)
    lost.dismiss()
    lost.thread.join(PATIENCE)
    assert manager.queue_task(lambda resource: "served by another") == "served by another"


@pytest.fixture
def slow_start(monkeypatch):
    """Workers whose threads have an identity and are not known to be alive yet, until the event is set."""
    gate, work = threading.Event(), Worker._work
    monkeypatch.setattr(
        Worker, "start", lambda worker: worker.thread.start()
    )  # which has not returned, so to say
    monkeypatch.setattr(Worker, "_work", lambda worker: (gate.wait(PATIENCE), work(worker)))
    alive = threading.Thread.is_alive
    monkeypatch.setattr(
        threading.Thread,
        "is_alive",
        lambda thread: (gate.is_set() or "-worker-" not in thread.name) and alive(thread),
    )
    return gate


def test_a_thread_that_is_about_to_begin_is_not_taken_for_one_that_ended(new_manager, slow_start):
    manager = new_manager(worker_count=2)
    crew, idle = manager._engine.crew, manager._engine.queue.idle
    members = crew.members
    crew.heal(idle)
    assert crew.members == members
    slow_start.set()
    assert manager.wait_ready(PATIENCE)
    assert crew.members == members


def test_a_worker_whose_start_was_interrupted_makes_no_resource_if_its_thread_comes_after_all(
    new_manager, factory, slow_start, monkeypatch
):
    manager = new_manager(worker_count=1, max_worker_count=3)
    crew, start, late = manager._engine.crew, Worker.start, []

    def interrupted(worker):
        start(worker)
        late.append(worker.thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crew.hire(1)
    slow_start.set()
    late[0].join(PATIENCE)
    assert manager.wait_ready(PATIENCE)
    assert len(crew.members) == len(factory.created) == 1


def test_retired_workers_figures_are_added_to_the_totals_once(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=4)
    crew, idle = manager._engine.crew, manager._engine.queue.idle
    for _ in range(5):
        crew.hire(3)
        barrier = threading.Barrier(4)
        for future in [
            manager.submit(lambda resource, b: b.wait(PATIENCE), barrier) for _ in range(4)
        ]:
            future.result(PATIENCE)
        eventually(lambda: manager.stats().idle_workers == 4)
        assert crew.retire(3, idle) == 3
        eventually(lambda: len(crew.members) == 1)
    assert manager.metrics().total_tasks_completed == manager.metrics().total_tasks_arrived == 20
    figures = manager._engine.counters
    eventually(
        lambda: len(figures._shards) == 3
    )  # one worker's, and the two for all that is no worker
    assert manager.metrics().total_tasks_completed == 20


def test_a_worker_that_is_struck_off_is_among_those_whose_end_is_waited_for(new_manager):
    """Else a closing that comes just then would neither name its thread nor wait for it."""
    manager = new_manager(worker_count=1, max_worker_count=2)
    crew, idle = manager._engine.crew, manager._engine.queue.idle
    assert crew.hire(1) == 1
    assert manager.wait_ready(PATIENCE)
    eventually(lambda: manager.stats().idle_workers == 2)
    before, seen = crew.members, []

    def look():
        seen.extend((worker in crew.members, worker.thread in crew._gone) for worker in before)

    crew._lock = HookedLock(look, "released")  # the next to take it is the worker that leaves
    assert crew.retire(1, idle) == 1
    eventually(lambda: seen)
    assert sorted(seen) == [(False, True), (True, False)]
