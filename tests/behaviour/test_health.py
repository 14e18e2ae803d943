"""Broken resources: verdicts, replacement, retries, creation that fails, and how long anybody waits for it."""

from __future__ import annotations

import functools
import threading
from unittest.mock import Mock, create_autospec

import pytest

import tasker._pool.backoff
from tasker import Config, ResourceCreationError, TaskTimeoutError, unhealthy_on
from tasker._tasks.hooks import takes_resource
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


def sick(resource):
    resource.broken = True
    raise Sick(resource.number)


@pytest.mark.slow
def test_an_unhealthy_error_costs_the_worker_its_resource_and_not_the_caller_the_task(
    new_manager, factory
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    seen = []

    def flaky(resource):
        seen.append(resource)
        if len(seen) < 3:
            raise Sick
        return "recovered"

    future = manager.submit(flaky)
    assert future.result(PATIENCE) == "recovered"
    assert future.attempts == 3
    assert len({id(resource) for resource in seen}) == 3
    assert [resource.alive for resource in seen] == [False, False, True]
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_retried,
        metrics.total_tasks_completed,
        metrics.total_tasks_failed,
    ) == (2, 1, 0)
    assert metrics.total_tasks_arrived == 1


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_an_always_sick_task_runs_once_and_then_max_retries_times(new_manager, retries):
    manager = new_manager(max_retries=retries)
    runs = []

    def task(resource):
        runs.append(resource)
        raise Sick("original")

    future = manager.submit(task)
    error = future.exception(PATIENCE)
    assert type(error) is Sick
    assert str(error) == "original"
    assert len(runs) == future.attempts == 1 + retries
    notes = getattr(error, "__notes__", [])
    assert len(notes) == (1 if retries else 0)
    assert all(str(1 + retries) in note for note in notes)
    eventually(lambda: manager.stats().creating_workers == 0)
    assert manager.queue_task(lambda resource: resource.broken) is False


@pytest.mark.usefixtures("no_pauses")
def test_an_error_object_that_is_raised_by_many_tasks_has_one_note_of_ours_and_keeps_those_of_others(
    new_manager,
):
    manager = new_manager(max_retries=3, worker_count=1, max_worker_count=1)
    shared = Sick("port is not open")
    shared.add_note("a note of the driver's")

    def task(resource):
        raise shared

    for once in (False, False, True, False):
        assert manager.submit(task, once=once).exception(PATIENCE) is shared
    assert shared.__notes__ == [
        "a note of the driver's",
        "tasker: the last of 4 attempts, each on another resource",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("notes", [None, (), [b"bytes"], "text"])
def test_notes_that_are_no_list_of_texts_cost_nothing(new_manager, notes):
    manager = new_manager(max_retries=1)
    error = Sick()
    error.__notes__ = notes

    def task(resource):
        raise error

    assert manager.submit(task).exception(PATIENCE) is error
    assert manager.queue_task(lambda resource: "goes on") == "goes on"


@pytest.mark.slow
@pytest.mark.parametrize("priority", [False, True])
def test_a_once_task_runs_at_most_once_and_its_resource_is_replaced_all_the_same(
    new_manager, factory, priority
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    future = manager.submit(sick, once=True, priority=priority)
    assert isinstance(future.exception(PATIENCE), Sick)
    assert future.attempts == 1
    assert manager.queue_task(lambda resource: resource.number) == 1


def test_healthy_errors_are_not_retried_and_keep_the_resource(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)

    def fail(resource):
        raise ValueError

    future = manager.submit(fail)
    assert isinstance(future.exception(PATIENCE), ValueError)
    assert future.attempts == 1
    assert manager.queue_task(lambda resource: resource.number) == 0


def test_a_retry_goes_to_the_front_of_its_own_lane(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, order = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))

    def flaky(resource, name):
        order.append(name)
        if order.count(name) == 1:
            raise Sick

    manager.submit(flaky, "main 1")
    manager.submit(lambda resource: order.append("main 2"))
    manager.submit(flaky, "priority 1", priority=True)
    manager.submit(lambda resource: order.append("priority 2"), priority=True)
    gate.set()
    assert manager.join(PATIENCE)
    assert order == ["priority 1", "priority 1", "priority 2", "main 1", "main 1", "main 2"]


@pytest.mark.slow
def test_all_workers_failing_together_recover(new_manager, factory):
    manager = new_manager(worker_count=4, max_worker_count=4)
    barrier = threading.Barrier(4)
    first = threading.local()

    def task(resource):
        if not hasattr(first, "seen"):
            first.seen = True
            barrier.wait(PATIENCE)
            raise Sick
        return resource.number

    futures = [manager.submit(task) for _ in range(4)]
    assert min(future.result(PATIENCE) for future in futures) >= 4, (
        "a broken resource was used again"
    )
    assert manager.join(PATIENCE)
    eventually(
        lambda: manager.stats().active_workers == 4 and manager.stats().creating_workers == 0
    )
    assert len(factory.created) == 8


def test_a_check_health_that_raises_counts_as_unhealthy_and_kills_nobody(new_manager, log):
    def check(error):
        raise RuntimeError("broken check")

    manager = new_manager(check_health=check, max_retries=1)

    def fail(resource):
        raise ValueError("mine")

    future = manager.submit(fail)
    assert isinstance(future.exception(PATIENCE), ValueError)
    assert future.attempts == 2
    assert any("broken check" in line for line in log.loud())


def test_a_check_health_that_takes_the_resource_is_asked_where_the_error_was_raised(new_manager):
    asked, used = [], []

    def check(error, resource):
        asked.append((error.args, resource, threading.get_ident()))
        return not resource.broken

    manager = new_manager(worker_count=1, max_worker_count=1, check_health=check)

    def task(resource):
        used.append((resource, threading.get_ident()))
        resource.broken = len(used) == 2
        if len(used) <= 2:
            raise ValueError(len(used))

    first = manager.submit(task)
    assert isinstance(first.exception(PATIENCE), ValueError)
    second = manager.submit(task)
    assert second.result(PATIENCE) is None
    assert (first.attempts, second.attempts) == (1, 2)
    assert [resource.number for resource, _ in used] == [0, 0, 1]
    assert asked == [((1,), *used[0]), ((2,), *used[1])]


def test_run_task_asks_a_check_health_that_takes_the_resource_in_the_thread_that_called(
    new_manager,
):
    made, asked, destroyed = [], [], []

    def check(error, resource):
        asked.append((resource, threading.get_ident()))
        return "broken" not in resource

    manager = new_manager(
        on_create=list, on_destroy=destroyed.append, check_health=check, resource_pool_size=1
    )

    def task(resource, *words):
        resource += words
        raise LookupError

    manager.run_task(made.append)
    for words in ((), ("broken",)):
        assert destroyed == []
        with pytest.raises(LookupError):
            manager.run_task(task, *words)
    assert asked == [(made[0], threading.get_ident())] * 2
    assert destroyed[0] is made[0]


def test_a_check_health_that_takes_the_resource_and_raises_counts_as_unhealthy(new_manager, log):
    def check(error, resource):
        raise RuntimeError(f"cannot ask number {resource.number}")

    manager = new_manager(worker_count=1, max_worker_count=1, check_health=check, max_retries=1)

    def fail(resource):
        raise ValueError("mine")

    future = manager.submit(fail)
    assert str(future.exception(PATIENCE)) == "mine"
    assert future.attempts == 2
    assert all(log.telling(of=f"cannot ask number {number}") for number in (0, 1))


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def adapted(function):
    @functools.wraps(function)
    def wrapper(error):
        return function(error, "resource")

    return wrapper


class Judge:
    def __init__(self, error, resource):
        pass

    def alone(self, error):
        return True

    def both(self, error, resource):
        return True

    __call__ = both

    @wrapped
    def decorated(self, error, resource):
        return True


def alone(error):
    return True


def both(error, resource):
    return True


@pytest.mark.parametrize(
    ("check", "takes"),
    [
        (alone, False),
        (lambda *args: True, False),
        (lambda error, *rest: True, False),
        (lambda error, verbose=False: True, False),
        (lambda error, *, verbose=False: True, False),
        (unhealthy_on(OSError), False),
        (bool, False),
        (Mock(), False),
        (functools.partial(both, resource=None), False),
        (functools.partial(both, OSError()), False),
        (Judge(1, 2).alone, False),
        (wrapped(alone), False),
        (adapted(both), False),
        (both, True),
        (lambda error, resource, verbose=False: True, True),
        (lambda error, resource, *rest: True, True),
        (isinstance, True),
        (create_autospec(both), True),
        (functools.partial(lambda kinds, error, resource: True, ()), True),
        (Judge, True),
        (Judge(1, 2), True),
        (Judge(1, 2).both, True),
        (Judge(1, 2).decorated, True),
        (wrapped(both), True),
        (functools.partial(wrapped(both)), True),
    ],
)
def test_a_check_health_gets_the_resource_if_it_cannot_do_without(check, takes):
    assert takes_resource(check) is takes
    Config(on_create=list, on_destroy=len, worker_count=1, check_health=check)


@pytest.mark.slow
def test_a_verdict_need_not_be_a_bool(new_manager):
    manager = new_manager(check_health=lambda error: [], max_retries=2)

    def fail(resource):
        raise ValueError

    assert manager.submit(fail).exception(PATIENCE) is not None
    eventually(lambda: manager.stats().creating_workers == 0)
    assert manager.metrics().total_tasks_retried == 2


def test_a_system_exit_says_nothing_about_the_resource(new_manager):
    asked = []
    manager = new_manager(worker_count=1, max_worker_count=1, check_health=asked.append)

    def leave(resource):
        raise SystemExit

    assert isinstance(manager.submit(leave).exception(PATIENCE), SystemExit)
    assert asked == []
    assert manager.queue_task(lambda resource: resource.number) == 0


def test_the_late_error_of_a_timed_out_task_is_judged_but_neither_retried_nor_counted_twice(
    new_manager,
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, runs = threading.Event(), []

    def task(resource):
        runs.append(resource)
        gate.wait(PATIENCE)
        raise Sick

    future = manager.submit(task, timeout=3600)
    eventually(lambda: runs)
    future._expire()
    with pytest.raises(TaskTimeoutError):
        future.result(PATIENCE)
    gate.set()
    assert manager.queue_task(lambda resource: resource.number) == 1
    assert len(runs) == 1
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_failed,
        metrics.total_tasks_retried,
        metrics.total_tasks_arrived,
    ) == (1, 0, 2)


def test_a_task_that_was_asked_to_end_is_not_retried(new_manager):
    manager = new_manager()
    started, gate = threading.Event(), threading.Event()

    def task(resource):
        started.set()
        gate.wait(PATIENCE)
        raise Sick

    future = manager.submit(task)
    started.wait(PATIENCE)
    assert future.cancel() is False
    gate.set()
    assert isinstance(future.exception(PATIENCE), Sick)
    assert future.attempts == 1


@pytest.mark.slow
def test_a_creation_that_fails_is_tried_again_until_it_succeeds(new_manager, factory, log):
    factory.fail_next = [OSError("down"), OSError("still down")]
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.queue_task(lambda resource: "up", timeout=PATIENCE) == "up"
    assert log.loud()[0].endswith("on_create raised, trying again: OSError: down")
    assert sum(level == "debug" and "down" in text for level, text in log.lines) == 2


def test_an_outage_heals_without_new_submissions(new_manager, factory, monkeypatch):
    monkeypatch.setattr(tasker._pool.backoff, "LONGEST_PAUSE_S", 0.02)
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=3, max_worker_count=3)
    futures = [manager.submit(lambda resource, x: x, i) for i in range(10)]
    assert manager.wait_ready(0.05) is False
    factory.fail_always = None
    assert [future.result(PATIENCE) for future in futures] == list(range(10))
    assert manager.wait_ready(PATIENCE)


def test_workers_that_turn_unhealthy_during_an_outage_come_back(new_manager, factory, monkeypatch):
    monkeypatch.setattr(tasker._pool.backoff, "LONGEST_PAUSE_S", 0.02)
    manager = new_manager(worker_count=2, max_worker_count=2)
    assert manager.wait_ready(PATIENCE)
    failed = threading.Barrier(2)
    first = []

    def task(resource):
        if len(first) < 2:
            first.append(resource)
            factory.fail_always = OSError("down")
            failed.wait(PATIENCE)
            raise Sick
        return "healed"

    futures = [manager.submit(task) for _ in range(2)]
    eventually(lambda: manager.stats().creating_workers == 2)
    assert manager.stats().active_workers == 2
    factory.fail_always = None
    assert [future.result(PATIENCE) for future in futures] == ["healed", "healed"]


def test_queued_tasks_fail_once_no_worker_has_held_a_resource_for_create_timeout(
    new_manager, factory, log
):
    down = OSError("down")
    factory.fail_always = down
    manager = new_manager(worker_count=2, create_timeout=0.05)
    eventually(log.loud)  # a creation has failed: what waits fails by it
    futures = [manager.submit(lambda resource: 0) for _ in range(5)]
    for future in futures:
        with pytest.raises(ResourceCreationError, match="create_timeout") as caught:
            future.result(PATIENCE)
        assert caught.value.__cause__ is down
    metrics = manager.metrics()
    assert (metrics.total_tasks_failed, metrics.total_tasks_arrived) == (5, 5)
    factory.fail_always = None
    assert manager.wait_ready(PATIENCE)
    assert manager.queue_task(lambda resource: "up") == "up"


def test_a_creation_that_never_returns_fails_the_queue_as_well(new_manager, factory):
    gate = threading.Event()

    def create():
        gate.wait(PATIENCE)
        return factory.create()

    manager = new_manager(worker_count=1, create_timeout=0.05, on_create=create)
    with pytest.raises(ResourceCreationError, match="has not returned"):
        manager.queue_task(lambda resource: 0)
    gate.set()


@pytest.mark.slow
@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt(), MemoryError()])
def test_no_exception_of_on_create_ends_a_worker(new_manager, factory, error):
    factory.fail_next = [error]
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.queue_task(lambda resource: resource.number) == 0


def test_an_on_destroy_that_raises_harms_nothing_and_is_reported(new_manager, factory, log):
    def destroy(resource):
        factory.destroy(resource)
        raise RuntimeError("cannot destroy")

    manager = new_manager(worker_count=2, max_worker_count=2, on_destroy=destroy, max_retries=1)
    assert isinstance(manager.submit(sick).exception(PATIENCE), Sick)
    assert manager.queue_task(lambda resource: "fine") == "fine"
    report = manager.stop()
    assert report.drained
    assert report.destroy_errors == len(factory.created)
    assert len(log.telling(of="cannot destroy")) == report.destroy_errors


@pytest.mark.parametrize(
    "method", ["record_arrival", "record_completion", "record_failure", "record_retry", "metrics"]
)
def test_a_collector_that_raises_costs_nothing_else(new_manager, log, method):
    class Collector:
        def __getattr__(self, name):
            def record(*args):
                if name == method:
                    raise RuntimeError(f"{name} is broken")

            return record

    manager = new_manager(collector=Collector(), max_retries=1)
    assert manager.queue_task(lambda resource: 1) == 1
    assert isinstance(manager.submit(sick).exception(PATIENCE), Sick)
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_completed,
        metrics.total_tasks_failed,
        metrics.total_tasks_retried,
    ) == (1, 1, 1)
    assert any(f"{method} is broken" in line for line in log.loud())


@pytest.mark.slow
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_logger_that_raises_costs_nothing_else(new_manager, factory, level):
    class Logger:
        def __getattr__(self, name):
            def write(*args):
                if name == level:
                    raise RuntimeError("broken logger")

            return write

    factory.fail_next = [OSError("down")]

    def bad_callback(result, error):
        raise ValueError

    manager = new_manager(logger=Logger(), worker_count=1)
    manager.queue_task_with_callback(lambda resource: 0, bad_callback)
    assert manager.queue_task(lambda resource: 1) == 1
    assert manager.stop().drained


@pytest.mark.slow
def test_a_thread_that_cannot_start_is_rolled_back_and_tried_again(new_manager, monkeypatch):
    real_start = threading.Thread.start
    refused = []

    def start(thread):
        if "-worker-" in thread.name and len(refused) < 3:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        real_start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    manager = new_manager(worker_count=2, max_worker_count=2)
    futures = [manager.submit(lambda resource, x: x, i) for i in range(10)]
    assert [future.result(PATIENCE) for future in futures] == list(range(10))
    assert len(refused) == 3
    eventually(lambda: manager.stats().active_workers == 2)


def test_a_worker_lost_to_an_error_of_our_own_is_replaced_and_its_task_settled(
    new_manager, log, monkeypatch
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.wait_ready(PATIENCE)
    worker = manager._engine.crew.members[0]

    def broken(task, error):
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(worker, "_failed", broken)
    future = manager.submit(sick)
    assert isinstance(future.exception(PATIENCE), AssertionError)
    assert manager.queue_task(lambda resource: "replaced") == "replaced"
    assert any("a bug of ours" in line for line in log.loud())


def test_the_burst_thread_survives_an_error(new_manager, log, monkeypatch):
    import tasker._pool.housekeeper

    manager = new_manager(worker_count=1, burst_interval=0.01)
    raised = threading.Event()

    def decide(sample, limits):
        raised.set()
        raise ZeroDivisionError("in decide")

    with monkeypatch.context() as patch:
        patch.setattr(tasker._pool.housekeeper, "decide", decide)
        assert raised.wait(PATIENCE)
    assert manager.queue_task(lambda resource: 1) == 1
    eventually(lambda: any("in decide" in line for line in log.loud()))
    assert manager.stop().drained


def test_a_worker_whose_wake_up_got_lost_is_woken_by_the_tick(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    queue = manager._engine.queue
    eventually(lambda: manager.stats().idle_workers == 1)
    assert (
        queue.idle.take_longest() is not None
    )  # as if Ctrl-C came between taking the announcement and the wake-up
    assert manager.queue_task(lambda resource: "woken", timeout=PATIENCE) == "woken"


def test_slow_creation_never_breaches_the_most_workers(new_manager, factory):
    gate, alive, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def create():
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        gate.wait(PATIENCE)
        return factory.create()

    def destroy(resource):
        factory.destroy(resource)
        with lock:
            alive[0] -= 1

    manager = new_manager(
        worker_count=2,
        max_worker_count=5,
        burst_interval=0.01,
        on_create=create,
        on_destroy=destroy,
    )
    futures = [manager.submit(lambda resource: 0) for _ in range(100)]
    eventually(
        lambda: most[0] == 5
    )  # a worker counts before its thread creates: stats() may say so too early
    gate.set()
    for future in futures:
        future.result(PATIENCE)
    manager.stop()
    assert most[0] == 5


def test_a_retry_that_is_cancelled_while_it_waits_hides_no_other_arrival(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    started, gates = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def task(resource, number):
        started[number].set()
        gates[number].wait(PATIENCE)
        if number == 0:
            raise Sick

    retried = manager.submit(task, 0)
    assert started[0].wait(PATIENCE)
    manager.submit(task, 1, priority=True)
    gates[0].set()
    assert started[1].wait(PATIENCE)
    assert retried.cancel()
    manager.submit(lambda resource: 0)
    arrived = manager.metrics().total_tasks_arrived
    gates[1].set()
    assert arrived == 3
