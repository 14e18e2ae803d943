"""Behaviours of trusted pools that belong to no module's tests. All of them are listed in test_behaviours."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading

import pytest

import tasker._pool.scaling
from tasker import QueueFullError, TaskManagerShutdownError
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually

# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pauses", ["no_pauses", "short_pauses"])
def test_tasks_that_are_always_sick_keep_no_other_from_running(new_manager, request, pauses):
    request.getfixturevalue(pauses)
    manager = new_manager(worker_count=1, max_worker_count=1, max_retries=3)
    order = []

    def sick(resource, name):
        order.append(name)
        raise Sick

    failing = [manager.submit(sick, "sick", priority=i % 2 == 0) for i in range(6)]
    others = [manager.submit(lambda resource, i: order.append(i), i) for i in range(6)]
    assert [future.result(PATIENCE) for future in others] == [None] * 6
    assert {type(future.exception(PATIENCE)) for future in failing} == {Sick}
    assert order.count("sick") == 6 * 4
    assert [name for name in order if name != "sick"] == list(range(6))


def test_cancelled_entries_do_not_delay_the_task_behind_them(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, order = threading.Event(), []
    eventually(manager.submit(lambda resource: gate.wait(PATIENCE)).running)
    for priority in (False, True):
        cancelled = [
            manager.submit(lambda resource: order.append("cancelled"), priority=priority)
            for _ in range(500)
        ]
        manager.submit(
            lambda resource, priority: order.append(priority), priority, priority=priority
        )
        assert all(future.cancel() for future in cancelled)
    gate.set()
    assert manager.join(PATIENCE)
    assert order == [True, False]


# -- scaling ---------------------------------------------------------------------------------------------------------


def test_workers_that_are_retired_while_tasks_come_lose_none(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=4)
    engine = manager._engine
    futures, done = [], threading.Event()

    def retire():
        while not done.is_set():
            engine.crew.hire(3)
            eventually(lambda: engine.queue.idle.announced or done.is_set())
            engine.crew.retire(3, engine.queue.idle)

    thread = threading.Thread(target=retire)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for i in range(1000):
            futures.append(manager.submit(lambda resource, i: i, i))
            if i % 3 == 0:
                assert futures[-1].result(PATIENCE) == i  # so that workers park in between
    finally:
        sys.setswitchinterval(before)
        done.set()
        thread.join(PATIENCE)
    assert [future.result(PATIENCE) for future in futures] == list(range(1000))
    assert manager.stats().active_workers >= 1


def test_long_idleness_ends_no_base_worker(new_manager, monkeypatch):
    monkeypatch.setattr(tasker._pool.scaling, "WINDOW_S", 0.01)  # long is what takes many windows
    manager = new_manager(worker_count=3, max_worker_count=6, burst_interval=0.002)
    engine = manager._engine
    assert manager.wait_ready(PATIENCE)
    before, samples = engine.crew.members, []
    tick = engine.housekeeper._sampler.tick
    monkeypatch.setattr(
        engine.housekeeper._sampler,
        "tick",
        lambda *args, **kw: samples.append(1) or tick(*args, **kw),
    )
    eventually(lambda: len(samples) > 60)
    assert engine.crew.members == before
    assert manager.stats().idle_workers == 3


# -- resources -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_at_rest_the_live_resources_are_those_of_the_workers_and_of_the_pool(new_manager, factory):
    factory.any_thread = True
    manager = new_manager(
        worker_count=2, max_worker_count=5, burst_interval=0.01, resource_pool_size=2, max_retries=1
    )
    refused = []

    def task(resource, i):
        if i % 7 == 0:
            raise Sick
        return i

    def call():
        for i in range(50):
            try:
                manager.run_task(task, i)
            except Sick:
                refused.append(i)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    futures = [manager.submit(task, i) for i in range(300)]
    for caller in callers:
        caller.join(PATIENCE)
    assert {type(future.exception(PATIENCE)) for future in futures} == {Sick, type(None)}
    assert len(refused) == 4 * 8

    def held():
        stats = manager.stats()
        return stats.active_workers + stats.available_resources

    eventually(lambda: manager.stats().creating_workers == 0 and factory.live == held())
    assert factory.live >= 2


# -- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_manager_whose_waiting_tasks_were_all_cancelled_closes(new_manager, end, busy):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate = threading.Event()
    running = manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(running.running)
    futures = [manager.submit(lambda resource: 0, priority=i % 2 == 0) for i in range(10)]
    assert all(future.cancel() for future in futures)
    if not busy:
        gate.set()
        assert running.result(PATIENCE)
    threading.Timer(0.02, gate.set).start()
    report = getattr(manager, end)(PATIENCE)
    assert (report.cancelled, report.never_started, report.abandoned) == (10, 10, ())
    with pytest.raises(TaskManagerShutdownError):
        manager.submit(lambda resource: 0)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_when_the_end_is_reported_no_thread_is_left_but_the_abandoned(new_manager, factory, end):
    manager = new_manager(name="outlived", worker_count=3, max_worker_count=6, burst_interval=0.005)
    gate = threading.Event()
    for _ in range(50):
        manager.queue_task_with_callback(lambda resource: 0, lambda result, error: None)
    if end == "stop":
        report = manager.stop()
    else:
        stuck = manager.submit(lambda resource: gate.wait(PATIENCE), priority=True)
        eventually(stuck.running)
        report = manager.kill(0)

    def names():
        return {
            thread.name for thread in threading.enumerate() if thread.name.startswith("outlived")
        }

    # those that have told of the end are on their way out
    eventually(lambda: not names() & {"outlived-aside", "outlived-burst"})
    left = names()
    gate.set()
    eventually(lambda: factory.live == 0)
    assert left <= set(report.abandoned)  # one of those may have ended since
    assert ("-worker-" in str(left)) is (end == "kill")
    assert bool(left) == (end == "kill")


# -- looking ---------------------------------------------------------------------------------------------------------


def test_at_rest_arrivals_are_what_ended_and_what_waits_and_what_runs(new_manager):
    manager = new_manager(worker_count=2, max_worker_count=2)
    begun, gate = threading.Barrier(3), threading.Event()
    manager.queue_task(lambda resource: 0)
    running = [
        manager.submit(lambda resource: (begun.wait(PATIENCE), gate.wait(PATIENCE))[1])
        for _ in range(2)
    ]
    begun.wait(PATIENCE)
    waiting = [manager.submit(lambda resource: 0, priority=i % 2 == 0) for i in range(5)]
    waiting[0].cancel()
    stats, totals = manager.stats(), manager.metrics()
    assert (stats.running_tasks, stats.queued_tasks, stats.priority_tasks) == (2, 2, 2)
    assert (
        totals.total_tasks_completed,
        totals.total_tasks_failed,
        totals.total_tasks_cancelled,
    ) == (1, 0, 1)
    assert totals.total_tasks_arrived == 1 + 0 + 1 + 2 + 4
    gate.set()
    assert all(future.result(PATIENCE) for future in running)


def locks_of(manager):
    """The locks of a manager's parts, whatever they guard."""
    engine = manager._engine
    parts = [
        engine,
        *(part for part in vars(engine).values() if type(part).__module__.startswith("tasker.")),
    ]
    return {
        f"{type(part).__name__}.{name}": value
        for part in parts
        for name, value in getattr(part, "__dict__", {}).items()
        if hasattr(value, "acquire") and hasattr(value, "release") and not hasattr(value, "wait")
    }


def test_stats_wait_for_no_lock_and_work_in_every_state(new_manager):
    manager = new_manager(worker_count=1)
    assert manager.wait_ready(PATIENCE)
    locks = locks_of(manager)
    assert len(locks) >= 4
    held, looked, seen = threading.Event(), threading.Event(), []

    def hold():
        for lock in locks.values():
            lock.acquire()
        held.set()
        looked.wait(PATIENCE)
        for lock in locks.values():
            lock.release()

    holder = threading.Thread(target=hold)
    looker = threading.Thread(target=lambda: seen.append(manager.stats()))
    holder.start()
    assert held.wait(PATIENCE)
    looker.start()
    looker.join(PATIENCE)
    stuck = looker.is_alive()
    looked.set()
    holder.join(PATIENCE)
    looker.join(PATIENCE)
    assert not stuck
    assert seen[0].active_workers == 1

    looks = []
    manager.queue_task(lambda resource: looks.append(manager.stats().running_tasks))
    manager.queue_task_with_callback(
        lambda resource: 0, lambda result, error: looks.append(manager.stats())
    )
    manager.stop()
    assert looks[0] == 1
    assert manager.stats().active_workers == 0
    manager.kill()
    assert manager.stats().available_resources == 0


# -- user code and locks ---------------------------------------------------------------------------------------------


def test_no_lock_is_held_while_code_of_the_users_runs(new_manager, factory, monkeypatch):
    """Another thread takes every lock while the user's code waits for it: that one holds none of them."""
    factory.any_thread = True
    places, kept = set(), []
    locks = {}

    def probe(place):
        def take_all():
            for name, lock in locks.items():
                if lock.acquire(timeout=PATIENCE / 4):
                    lock.release()
                else:
                    kept.append((place, name))

        if locks and place not in places:  # once is enough for each
            places.add(place)
            thread = threading.Thread(target=take_all)
            thread.start()
            thread.join(PATIENCE)

    class Collector:
        def record_arrival(self):
            probe("record_arrival")

        def record_completion(self, stamps):
            probe("record_completion")

        def record_failure(self, stamps):
            probe("record_failure")

        def record_retry(self):
            probe("record_retry")

        def metrics(self):
            probe("metrics")

    class Log:
        def debug(self, msg, *args):
            probe("debug")

        info = debug

        def warning(self, msg, *args):
            probe("warning")

        def error(self, msg, *args):
            probe("error")

    def create():
        probe("on_create")
        return factory.create()

    def destroy(resource):
        probe("on_destroy")
        factory.destroy(resource)
        raise OSError("which is a warning")

    def check(error):
        probe("check_health")
        return not isinstance(error, Sick)

    manager = new_manager(
        worker_count=1,
        max_worker_count=2,
        burst_task_threshold=1,
        burst_interval=0.01,
        max_retries=1,
        queue_size=100,
        resource_pool_size=1,
        on_create=create,
        on_destroy=destroy,
        check_health=check,
        collector=Collector(),
        logger=Log(),
    )
    locks.update(locks_of(manager))

    def task(resource, error):
        probe("task")
        if error is not None:
            raise error

    def callback(done):
        probe(
            f"callback of {type(done.exception()).__name__ if not done.cancelled() else 'a cancelled task'}"
        )
        raise ValueError

    for error in (None, Sick(), LookupError()):
        future = manager.submit(task, error)
        future.add_done_callback(callback)
        assert future.exception(PATIENCE) is error
    with pytest.raises(Sick):
        manager.run_task(task, Sick())
    gate = threading.Event()
    running = [manager.submit(lambda ctx, resource: gate.wait(PATIENCE)) for _ in range(4)]
    eventually(lambda: manager.stats().running_tasks == 2)
    cancelled = manager.submit(task, None)
    cancelled.add_done_callback(callback)
    assert cancelled.cancel()
    late = manager.submit(task, None, timeout=0.001)
    late.add_done_callback(callback)
    eventually(late.done)
    manager.metrics()
    gate.set()
    assert all(future.result(PATIENCE) for future in running)
    manager.stop()
    assert kept == []
    assert places == {
        *("on_create", "on_destroy", "check_health", "task", "debug", "warning", "error"),
        *("record_arrival", "record_completion", "record_failure", "record_retry", "metrics"),
        *(
            f"callback of {kind}"
            for kind in ("NoneType", "Sick", "LookupError", "TaskTimeoutError", "a cancelled task")
        ),
    }


@pytest.mark.parametrize("bound", [0, 20])
def test_a_del_that_the_collector_runs_anywhere_may_use_the_manager(new_manager, factory, bound):
    factory.any_thread = True
    manager = new_manager(
        worker_count=2, max_worker_count=2, queue_size=bound, resource_pool_size=1
    )
    done, errors = [], []

    class Knot:
        """Garbage that only the collector finds."""

        def __init__(self):
            self.me = self

        def __del__(self):
            try:
                future = manager.submit(
                    lambda resource: done.append(1), queue_timeout=0, timeout=PATIENCE
                )
                manager.submit(lambda resource: None, priority=True, queue_timeout=0).cancel()
                future.cancelled()
                manager.stats()
                manager.metrics()
            except QueueFullError:
                pass
            except BaseException as error:
                errors.append(error)

    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for i in range(300):
            Knot()
            with contextlib.suppress(QueueFullError):
                manager.submit(
                    lambda resource: [[]], timeout=PATIENCE, queue_timeout=1, priority=i % 2 == 0
                )
            if i % 50 == 0:
                manager.run_task(lambda resource: [[]])
                gc.collect()  # without the GIL it does not run by itself for so little
    finally:
        gc.set_threshold(*before)
    assert manager.join(PATIENCE)
    Knot()  # one that finds room: all the others may have met a full queue
    gc.collect()
    assert manager.join(PATIENCE)
    assert errors == []
    assert done
