"""Tasks that wait for tasks: a wait that can never end raises, any other does not."""

from __future__ import annotations

import threading

import pytest

from tasker import PoolDeadlockError, TaskTimeoutError, deadlock
from tests.conftest import PATIENCE, eventually

WAITS = {
    "result": lambda manager, fn: manager.queue_task_async(fn).result(),
    "exception": lambda manager, fn: manager.queue_task_async(fn).exception(),
    "blocking": lambda manager, fn: manager.queue_task(fn),
}


def leaf(_):
    return "done"


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_the_only_worker_that_waits_for_a_queued_task_is_told(make, wait):
    manager = make(worker_count=1, max_worker_count=1)

    def parent(_):
        wait(manager, leaf)

    future = manager.queue_task_async(parent)
    with pytest.raises(PoolDeadlockError, match=r"parent on \S+worker-1 waits for \S*leaf.*max_worker_count"):
        future.result(PATIENCE)
    assert manager.queue_task_async(leaf).result(PATIENCE) == "done"
    assert manager.stop().drained


def test_a_blocking_submission_that_is_refused_so_leaves_no_task_behind(make):
    manager = make(worker_count=1, max_worker_count=1)
    ran = []

    def parent(_):
        with pytest.raises(PoolDeadlockError):
            manager.queue_task(lambda _: ran.append(1))

    manager.queue_task_async(parent).result(PATIENCE)
    report = manager.stop()
    assert (ran, report.cancelled, report.completed) == ([], 1, 1)


def test_a_task_that_waits_for_itself_is_told(make):
    manager = make(worker_count=4)
    known = threading.Event()
    futures = []

    def narcissus(_):
        known.wait(PATIENCE)
        futures[0].result()

    futures.append(manager.queue_task_async(narcissus))
    known.set()
    with pytest.raises(PoolDeadlockError, match=r"narcissus on .* waits for .*narcissus"):
        futures[0].result(PATIENCE)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_the_wait_that_closes_a_circle_of_running_tasks_is_told_and_the_others_end_by_that(make, length):
    manager = make(worker_count=length + 2)
    all_run = threading.Barrier(length)
    known = threading.Event()
    futures = []

    def member(_, index):
        known.wait(PATIENCE)
        all_run.wait(PATIENCE)
        return futures[(index + 1) % length].result()

    futures += [manager.queue_task_async(member, index) for index in range(length)]
    known.set()
    errors = [future.exception(PATIENCE) for future in futures]
    assert {type(error) for error in errors} == {PoolDeadlockError}
    assert len({id(error) for error in errors}) == 1, "one was told; the rest got it from whom they waited for"
    assert str(errors[0]).count(" waits for ") == length


def test_a_circle_through_two_managers_is_seen(make):
    first, second = make(worker_count=1, max_worker_count=1), make(worker_count=1, max_worker_count=1)

    def there(_):
        first.queue_task(leaf)

    def here(_):
        second.queue_task(there)

    future = first.queue_task_async(here)
    with pytest.raises(PoolDeadlockError, match=r"here on .* waits for .*there"):
        future.result(PATIENCE)


def test_all_workers_that_wait_for_queued_tasks_are_a_circle_and_the_last_to_wait_is_told(make):
    manager = make(worker_count=3, max_worker_count=3)
    all_run = threading.Barrier(3)
    told = []

    def parent(_):
        all_run.wait(PATIENCE)
        try:
            return manager.queue_task(leaf)
        except PoolDeadlockError as error:
            told.append(error)
            return "told"

    futures = [manager.queue_task_async(parent) for _ in range(3)]
    outcomes = sorted(future.result(PATIENCE) for future in futures)
    assert outcomes == ["done", "done", "told"]
    assert len(told) == 1


def test_no_alarm_while_another_worker_can_be_hired(make):
    manager = make(worker_count=1, max_worker_count=4, burst_interval=0.01)

    def parent(_, depth):
        return manager.queue_task(parent, depth - 1) + 1 if depth else 0

    assert manager.queue_task_async(parent, 3).result(PATIENCE) == 3
    with pytest.raises(PoolDeadlockError):
        manager.queue_task_async(parent, 4).result(PATIENCE)


def test_without_scaling_the_base_is_all_there_is(make):
    manager = make(worker_count=1, max_worker_count=4, burst_interval=0)
    with pytest.raises(PoolDeadlockError):
        manager.queue_task_async(lambda _: manager.queue_task(leaf)).result(PATIENCE)


def test_no_alarm_while_a_worker_is_free_or_busy_with_something_else(make):
    manager = make(worker_count=2, max_worker_count=2)
    release = threading.Event()
    busy = manager.queue_task_async(lambda _: release.wait(PATIENCE))
    parent = manager.queue_task_async(lambda _: manager.queue_task(leaf))
    eventually(lambda: manager.stats().queued_tasks == 1)
    release.set()
    assert parent.result(PATIENCE) == "done"
    assert busy.result(PATIENCE)


def test_no_alarm_for_a_wait_with_a_limit_or_for_a_task_with_a_timeout(make):
    manager = make(worker_count=1, max_worker_count=1)

    def parent(_):
        with pytest.raises(TimeoutError):
            manager.queue_task_async(leaf).result(0.01)
        with pytest.raises(TaskTimeoutError):
            manager.queue_task(leaf, timeout=0.01)
        with pytest.raises(TaskTimeoutError):
            manager.submit(leaf, timeout=0.01).result()

    manager.queue_task_async(parent).result(PATIENCE)


def test_base_minus_one_nested_waits_are_served(make):
    manager = make(worker_count=4, max_worker_count=4)

    def parent(_, depth):
        return manager.queue_task(parent, depth - 1) + 1 if depth else 0

    assert manager.queue_task_async(parent, 3).result(PATIENCE) == 3


def test_what_a_draining_manager_still_has_to_do_is_served_though_all_its_workers_wait_for_it(make):
    manager = make(worker_count=1, max_worker_count=2, burst_interval=10)
    stopping = threading.Event()

    def parent(_, child):
        stopping.wait(PATIENCE)
        return child[0].result()

    child = []
    future = manager.queue_task_async(parent, child)
    child.append(manager.queue_task_async(leaf))
    stopper = threading.Thread(target=manager.stop)
    stopper.start()
    eventually(lambda: "stopping" in repr(manager))
    stopping.set()
    assert future.result(PATIENCE) == "done"
    stopper.join(PATIENCE)


def test_a_wait_in_a_callback_counts_too(make):
    manager = make(worker_count=1, max_worker_count=1)
    told = []

    def callback(_):
        try:
            manager.queue_task(leaf)
        except PoolDeadlockError as error:
            told.append(str(error))

    manager.queue_task_async(leaf).add_done_callback(callback)
    assert manager.queue_task_async(leaf).result(PATIENCE) == "done"
    assert manager.join(PATIENCE)
    assert len(told) <= 1  # none if the task had ended before the callback was added: then it ran here


def test_a_name_that_cannot_be_told_is_no_obstacle(make):
    manager = make(worker_count=1, max_worker_count=1)

    class Nameless:
        def __getattr__(self, name):
            raise ValueError if name == "__qualname__" else AttributeError(name)

        def __call__(self, _):
            manager.queue_task(leaf)

    with pytest.raises(PoolDeadlockError, match="Nameless on"):
        manager.queue_task_async(Nameless()).result(PATIENCE)


def test_a_wait_inside_of_a_wait_leaves_the_outer_one_in_force(make):
    """A `__del__` may wait while its thread is about to."""
    manager = make(worker_count=1, max_worker_count=2, burst_interval=10)
    worker = manager._engine.crew.members[0]
    release = threading.Event()
    first, second = (manager.queue_task_async(lambda _: release.wait(PATIENCE)) for _ in range(2))
    assert deadlock.begin_wait(worker, first) is None
    assert deadlock.begin_wait(worker, second) is first
    deadlock.end_wait(worker, first)
    assert deadlock._waits == {worker: first}
    deadlock.end_wait(worker, None)
    assert deadlock._waits == {}
    assert not deadlock.all_wait([worker])
    release.set()


def test_many_tasks_that_wait_for_each_other_at_random_all_end(make):
    """Whatever the waits, each task gets its result or is told; nothing hangs."""
    manager = make(worker_count=3, max_worker_count=3)
    futures = []
    known = threading.Event()

    def member(_, targets):
        known.wait(PATIENCE)
        for target in targets:
            try:
                futures[target].result()
            except PoolDeadlockError:
                return "told"
        return "done"

    count = 60
    futures += [
        manager.queue_task_async(member, [(index * 7 + 3) % count, (index * 11 + 5) % count]) for index in range(count)
    ]
    known.set()
    assert {future.result(PATIENCE) for future in futures} <= {"done", "told"}
    assert manager.stop().drained
