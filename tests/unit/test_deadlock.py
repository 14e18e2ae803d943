"""Waits inside of tasks: one that can never end raises, any other does not."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import threading
import time
import weakref
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, as_completed

import pytest

import tasker._pool.scaling
import tasker._tasks.future
from tasker import (
    Config,
    PoolDeadlockError,
    QueueFullError,
    ResourceCreationError,
    TaskManager,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
)
from tasker._tasks import deadlock
from tasker._tasks.current import thread_state
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually
from tests.support.waits import ONE, STANDARD, UNTIL, WAITS, leaf


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_the_only_worker_that_waits_for_a_queued_task_is_told(new_manager, wait):
    manager = new_manager(worker_count=1, max_worker_count=1)

    def parent(_):
        wait(manager, leaf)

    future = manager.queue_task_async(parent)
    with pytest.raises(
        PoolDeadlockError, match=r"parent on \S+worker-1 waits for \S+.*max_worker_count"
    ):
        future.result(PATIENCE)
    assert manager.queue_task_async(leaf).result(PATIENCE) == "done"
    assert manager.stop().drained


def test_a_blocking_submission_that_is_refused_so_leaves_no_task_behind(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    ran = []

    def parent(_):
        with pytest.raises(PoolDeadlockError):
            manager.queue_task(lambda _: ran.append(1))

    manager.queue_task_async(parent).result(PATIENCE)
    report = manager.stop()
    assert (ran, report.cancelled, report.completed) == ([], 1, 1)


def test_a_task_that_waits_for_itself_is_told(new_manager):
    manager = new_manager(worker_count=4)
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
def test_the_wait_that_closes_a_circle_of_running_tasks_is_told_and_the_others_end_by_that(
    new_manager, length
):
    manager = new_manager(worker_count=length + 2)
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
    assert len({id(error) for error in errors}) == 1, (
        "one was told; the rest got it from whom they waited for"
    )
    assert str(errors[0]).count(" waits for ") == length


def test_a_circle_through_two_managers_is_seen(new_manager):
    first, second = (
        new_manager(worker_count=1, max_worker_count=1),
        new_manager(worker_count=1, max_worker_count=1),
    )

    def there(_):
        first.queue_task(leaf)

    def here(_):
        second.queue_task(there)

    future = first.queue_task_async(here)
    with pytest.raises(PoolDeadlockError, match=r"here on .* waits for .*there"):
        future.result(PATIENCE)


def test_all_workers_that_wait_for_queued_tasks_are_a_circle_and_the_last_to_wait_is_told(
    new_manager,
):
    manager = new_manager(worker_count=3, max_worker_count=3)
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


def test_no_alarm_while_another_worker_can_be_hired(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=4, burst_interval=0.01)

    def parent(_, depth):
        return manager.queue_task(parent, depth - 1) + 1 if depth else 0

    assert manager.queue_task_async(parent, 3).result(PATIENCE) == 3
    with pytest.raises(PoolDeadlockError):
        manager.queue_task_async(parent, 4).result(PATIENCE)


def test_without_scaling_the_base_is_all_there_is(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=4, burst_interval=0)
    with pytest.raises(PoolDeadlockError):
        manager.queue_task_async(lambda _: manager.queue_task(leaf)).result(PATIENCE)


def test_no_alarm_while_a_worker_is_free_or_busy_with_something_else(new_manager):
    manager = new_manager(worker_count=2, max_worker_count=2)
    release = threading.Event()
    busy = manager.queue_task_async(lambda _: release.wait(PATIENCE))
    parent = manager.queue_task_async(lambda _: manager.queue_task(leaf))
    eventually(lambda: manager.stats().queued_tasks == 1)
    release.set()
    assert parent.result(PATIENCE) == "done"
    assert busy.result(PATIENCE)


def test_no_alarm_for_a_wait_with_a_limit_or_for_a_task_with_a_timeout(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)

    def parent(_):
        with pytest.raises(TimeoutError):
            manager.queue_task_async(leaf).result(0.01)
        with pytest.raises(TaskTimeoutError):
            manager.queue_task(leaf, timeout=0.01)
        with pytest.raises(TaskTimeoutError):
            manager.submit(leaf, timeout=0.01).result()

    manager.queue_task_async(parent).result(PATIENCE)


def test_base_minus_one_nested_waits_are_served(new_manager):
    manager = new_manager(worker_count=4, max_worker_count=4)

    def parent(_, depth):
        return manager.queue_task(parent, depth - 1) + 1 if depth else 0

    assert manager.queue_task_async(parent, 3).result(PATIENCE) == 3


def test_what_a_draining_manager_still_has_to_do_is_served_though_all_its_workers_wait_for_it(
    new_manager,
):
    manager = new_manager(worker_count=1, max_worker_count=2, burst_interval=10)
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


def test_a_wait_in_a_callback_counts_too(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    told = []

    def callback(_):
        try:
            manager.queue_task(leaf)
        except PoolDeadlockError as error:
            told.append(str(error))

    manager.queue_task_async(leaf).add_done_callback(callback)
    assert manager.queue_task_async(leaf).result(PATIENCE) == "done"
    assert manager.join(PATIENCE)
    assert (
        len(told) <= 1
    )  # none if the task had ended before the callback was added: then it ran here


def test_a_name_that_cannot_be_told_is_no_obstacle(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)

    class Nameless:
        def __getattr__(self, name):
            raise ValueError if name == "__qualname__" else AttributeError(name)

        def __call__(self, _):
            manager.queue_task(leaf)

    with pytest.raises(PoolDeadlockError, match="Nameless on"):
        manager.queue_task_async(Nameless()).result(PATIENCE)


def test_a_wait_inside_of_a_wait_leaves_the_outer_one_in_force(new_manager, monkeypatch):
    """A `__del__` may wait while its thread is about to."""
    worker = new_manager(**ONE)._engine.crew.members[0]
    other, release = new_manager(), threading.Event()
    first, second = (other.queue_task_async(lambda _: release.wait(PATIENCE)) for _ in range(2))
    monkeypatch.setattr(thread_state.running, "worker", worker)
    with deadlock.Wait(deadlock.Outcomes((first,)), bool) as outer:
        with deadlock.Wait(deadlock.Outcomes((second,)), bool) as inner:
            assert deadlock._announced.waits == {worker: inner}
        assert deadlock._announced.waits == {worker: outer}
    assert deadlock._announced.waits == {}
    release.set()


def test_many_tasks_that_wait_for_each_other_at_random_all_end(new_manager):
    """Whatever the waits, each task gets its result or is told; nothing hangs."""
    manager = new_manager(worker_count=3, max_worker_count=3)
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
        manager.queue_task_async(member, [(index * 7 + 3) % count, (index * 11 + 5) % count])
        for index in range(count)
    ]
    known.set()
    assert {future.result(PATIENCE) for future in futures} <= {"done", "told"}
    assert manager.stop().drained


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_the_error_keeps_no_reference_to_the_task_that_it_ends(new_manager, wait):
    manager = new_manager(**ONE)
    future = manager.queue_task_async(lambda _: wait(manager, leaf))
    watched = weakref.ref(future)
    assert isinstance(future.exception(PATIENCE), PoolDeadlockError)
    assert manager.join(PATIENCE)
    del future
    eventually(lambda: watched() is None)


# -- the standard library's waits ------------------------------------------------------------------------------------


def endless(manager, gate):
    """A task that runs until the gate opens."""
    future = manager.queue_task_async(lambda _: gate.wait(PATIENCE))
    eventually(future.running)
    return future


@pytest.mark.parametrize("wait", STANDARD.values(), ids=STANDARD)
def test_a_standard_wait_of_a_task_is_served_where_a_worker_is_free(new_manager, wait):
    manager = new_manager(worker_count=2, max_worker_count=2)
    manager.queue_task(
        lambda _: wait([manager.queue_task_async(leaf) for _ in range(20)]), timeout=PATIENCE
    )
    assert deadlock._announced.waits == {}


@pytest.mark.parametrize("until", UNTIL)
def test_a_standard_wait_with_a_limit_is_no_circle(new_manager, until):
    manager = new_manager(**ONE)

    def parent(_):
        futures = [manager.queue_task_async(leaf)]
        assert concurrent.futures.wait(futures, 0.01, until).not_done == set(futures)
        with pytest.raises(TimeoutError):
            list(as_completed(futures, 0.01))

    manager.queue_task(parent)


@pytest.mark.parametrize("wait", STANDARD.values(), ids=STANDARD)
def test_a_standard_wait_for_a_task_with_a_timeout_ends(new_manager, wait):
    manager = new_manager(**ONE)

    def parent(_):
        with contextlib.suppress(TaskTimeoutError):
            wait([manager.submit(leaf, timeout=0.01)])
        return "done"

    assert manager.queue_task(parent) == "done"


@pytest.mark.parametrize("until", [FIRST_COMPLETED, FIRST_EXCEPTION])
def test_a_standard_wait_may_end_by_a_future_that_is_not_taskers(new_manager, until):
    manager = new_manager(**ONE)
    foreign = concurrent.futures.Future()

    def parent(_):
        child = manager.queue_task_async(leaf)
        threading.Timer(0.05, foreign.set_exception, [KeyError()]).start()
        return concurrent.futures.wait([child, foreign], return_when=until).done

    assert manager.queue_task(parent) == {foreign}


def test_what_can_never_end_is_told_when_the_rest_has_been_handed_out(new_manager):
    here, there = new_manager(**ONE), new_manager(**ONE)
    seen = []

    def parent(_):
        futures = [
            here.queue_task_async(leaf),
            there.queue_task_async(leaf),
            there.queue_task_async(leaf),
        ]
        for future in as_completed(futures):
            seen.append(future.result())  # noqa: PERF401  # what was seen before the error

    with pytest.raises(PoolDeadlockError):
        here.queue_task(parent)
    assert seen == ["done", "done"]


def test_a_wait_for_all_is_told_although_some_of_them_may_end(new_manager):
    here, there, gate = new_manager(**ONE), new_manager(**ONE), threading.Event()
    foreign = concurrent.futures.Future()

    def parent(_):
        concurrent.futures.wait([here.queue_task_async(leaf), endless(there, gate), foreign])

    try:
        with pytest.raises(PoolDeadlockError):
            here.queue_task(parent)
    finally:
        gate.set()


def test_a_wait_for_the_first_error_is_told_when_what_could_have_raised_has_returned(new_manager):
    """No wait closes this circle: a tick finds it."""
    here, there, gate = new_manager(**ONE), new_manager(**ONE), threading.Event()

    def parent(_):
        futures = [here.queue_task_async(leaf), endless(there, gate)]
        concurrent.futures.wait(futures, return_when=FIRST_EXCEPTION)

    future = here.queue_task_async(parent)
    eventually(lambda: here._engine.crew.members[0] in deadlock._announced)
    assert not future.done()
    gate.set()
    with pytest.raises(PoolDeadlockError):
        future.result(PATIENCE)


def test_a_standard_wait_outside_of_tasks_is_as_it_was(new_manager):
    manager = new_manager()
    gate = threading.Event()
    future = endless(manager, gate)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(concurrent.futures.wait, [future])
        eventually(lambda: future._standard is not None and future._standard.waiters)
        assert (
            type(future._standard.waiters[0].event) is tasker._tasks.future._Event
        )  # which watches nothing
        gate.set()
        assert waiting.result(PATIENCE).done == {future}


# -- circles that time closes ----------------------------------------------------------------------------------------


class OneConnection:
    """A backend with one connection: who asks for a second one is refused, or waits."""

    def __init__(self, *, refuses):
        self.refuses = refuses
        self.free = threading.Semaphore(1)
        self.gate = threading.Event()
        self.asked = threading.Event()

    def create(self):
        if not self.free.acquire(blocking=False):
            self.asked.set()
            if self.refuses:
                raise OSError("too many connections")
            assert self.gate.wait(PATIENCE)
        return object()


@pytest.mark.slow
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_worker_that_gets_no_resource_is_hoped_for_no_longer_than_create_timeout(wait):
    backend = OneConnection(refuses=True)
    options = {
        "worker_count": 2,
        "burst_interval": 0,
        "create_timeout": 0.3,
        "resource_pool_size": 0,
    }
    with TaskManager(Config(on_create=backend.create, on_destroy=bool, **options)) as manager:
        with pytest.raises(
            PoolDeadlockError,
            match=r"0\.3 s \(create_timeout\): on_create raised OSError: too many",
        ):
            manager.queue_task(lambda _: wait(manager, leaf))
        assert manager.queue_task(leaf) == "done"


@pytest.mark.slow
def test_a_worker_that_is_late_with_its_resource_is_waited_for():
    backend = OneConnection(refuses=False)
    options = {"worker_count": 2, "burst_interval": 0, "resource_pool_size": 0}
    with TaskManager(Config(on_create=backend.create, on_destroy=bool, **options)) as manager:

        def parent(_):
            child = manager.queue_task_async(leaf)
            assert backend.asked.wait(PATIENCE)
            threading.Timer(0.3, backend.gate.set).start()
            return child.result()

        assert manager.queue_task(parent) == "done"


@pytest.mark.slow
def test_one_that_never_comes_back_from_on_destroy_is_hoped_for_no_longer_either():
    gate, broken = threading.Event(), threading.Event()

    def destroy(resource):
        if broken.is_set():
            gate.wait(PATIENCE)

    def breaking(_):
        broken.set()
        raise Sick

    options = {
        "worker_count": 2,
        "burst_interval": 0,
        "create_timeout": 0.3,
        "resource_pool_size": 0,
    }
    healthy = {"check_health": lambda error: not isinstance(error, Sick), "max_retries": 0}
    manager = TaskManager(Config(on_create=object, on_destroy=destroy, **options, **healthy))
    assert manager.wait_ready(PATIENCE)
    try:
        with pytest.raises(Sick):
            manager.queue_task(breaking)
        eventually(lambda: manager.stats().creating_workers == 1)
        with pytest.raises(PoolDeadlockError, match="on_destroy has not returned"):
            manager.queue_task(lambda _: manager.queue_task(leaf))
    finally:
        gate.set()
        manager.stop()


@pytest.mark.slow
def test_there_is_hope_again_once_a_worker_is_free(new_manager, factory):
    manager = new_manager(worker_count=2, create_timeout=0.2)
    assert manager.wait_ready(PATIENCE)
    factory.fail_always = OSError("too many connections")

    def breaking(_):
        raise Sick

    with pytest.raises(Sick):
        manager.queue_task_once(breaking)
    with pytest.raises(PoolDeadlockError):
        manager.queue_task(lambda _: manager.queue_task(leaf))
    assert manager.queue_task(leaf) == "done"
    eventually(lambda: not manager._engine.is_hopeless())
    factory.fail_always = None
    assert manager.wait_ready(PATIENCE)
    assert manager.queue_task(lambda _: manager.queue_task(leaf)) == "done"


# -- the promise that a worker is hired ------------------------------------------------------------------------------


def test_a_stuck_pool_is_known_to_scaling_as_such(new_manager, monkeypatch):
    samples = []

    def decide(sample, limits):
        samples.append(sample)
        return tasker._pool.scaling.decide(sample, limits)

    monkeypatch.setattr("tasker._pool.housekeeper.decide", decide)
    manager = new_manager(worker_count=1, max_worker_count=4, burst_interval=0.01)

    def parent(_, depth):
        return manager.queue_task(parent, depth - 1) + 1 if depth else 0

    assert manager.queue_task(parent, 3) == 3
    stuck = [sample.workers - sample.creating for sample in samples if sample.stuck]
    # The fourth may get its resource while a sample is made.
    assert {1, 2, 3} & {*stuck}


def wait_for_each_other(first, second):
    """Each has a task on one worker, which waits for a task of the other one. Returns their futures."""
    both = threading.Barrier(2)

    def parent(_, other):
        both.wait(PATIENCE)  # no child is there before both parents run
        child = other.queue_task_async(leaf)
        both.wait(PATIENCE)
        return child.result()

    return [first.queue_task_async(parent, second), second.queue_task_async(parent, first)]


def test_two_pools_whose_workers_wait_for_each_other_do_not_leave_the_hiring_to_each_other(
    new_manager,
):
    futures = wait_for_each_other(
        *(new_manager(worker_count=1, max_worker_count=2, burst_interval=0.01) for _ in range(2))
    )
    assert [future.result(PATIENCE) for future in futures] == ["done", "done"]


def test_two_that_are_stopping_and_whose_workers_wait_for_each_other_do_not_do_so_either(
    new_manager,
):
    managers = [new_manager(worker_count=1, max_worker_count=2) for _ in range(2)]
    stopping = threading.Event()

    def parent(_, children, other):
        assert stopping.wait(PATIENCE)
        return children[other].result()

    children = []
    futures = [
        managers[0].queue_task_async(parent, children, 1),
        managers[1].queue_task_async(parent, children, 0),
    ]
    children += [manager.queue_task_async(leaf) for manager in managers]
    for manager in managers:
        manager._engine.lifecycle.request_stop()
    stopping.set()
    assert [future.result(PATIENCE) for future in futures] == ["done", "done"]


@pytest.mark.slow
def test_two_pools_that_get_no_other_resource_do_not_hope_for_each_other():
    options = {
        "worker_count": 2,
        "burst_interval": 0,
        "create_timeout": 0.3,
        "resource_pool_size": 0,
    }
    backends = [OneConnection(refuses=True) for _ in range(2)]
    managers = [
        TaskManager(Config(on_create=backend.create, on_destroy=bool, name=name, **options))
        for backend, name in zip(backends, "ab", strict=True)
    ]
    errors = [future.exception(PATIENCE) for future in wait_for_each_other(*managers)]
    assert PoolDeadlockError in map(type, errors)
    assert [manager.stop().drained for manager in managers] == [True, True]


@pytest.mark.slow
def test_one_that_leaves_is_not_counted_on_nor_in_the_way(new_manager):
    """A worker that was just retired takes nothing any more; another one may be hired in its place."""
    manager = new_manager(worker_count=1, max_worker_count=2, burst_interval=0.01)
    engine = manager._engine
    for _ in range(20):
        engine.crew.hire(1)
        eventually(lambda: manager.stats().idle_workers == 2)
        parent = manager.queue_task_async(
            lambda _: (engine.crew.retire(1, engine.queue.idle), manager.queue_task(leaf))
        )
        assert parent.result(PATIENCE)[1] == "done"


# -- never a false alarm ---------------------------------------------------------------------------------------------


def test_an_unordered_map_whose_oldest_item_waits_for_the_task_may_go_on_with_another_one(
    new_manager,
):
    manager = new_manager(worker_count=3, max_worker_count=3)
    parent, known = [], threading.Event()

    def child(_, item):
        if item == "oldest":
            return parent[0].result()
        eventually(lambda: len(deadlock._announced.waits) == 2)
        return item

    def mapping(_):
        known.wait(PATIENCE)
        with manager.map(child, ["oldest", "other"], ordered=False) as results:
            return next(results)

    parent.append(manager.queue_task_async(mapping))
    known.set()
    assert parent[0].result(PATIENCE) == "other"


@pytest.mark.slow
def test_what_a_manager_that_is_being_killed_leaves_undone_ends_by_that(new_manager):
    here, there, gate = new_manager(**ONE), new_manager(**ONE), threading.Event()
    alarms = []

    def waits(_, future):
        try:
            future.result()
        except PoolDeadlockError as error:
            alarms.append(error)
            raise

    def parent(_):
        child = there.queue_task_async(waits, mine[0])
        eventually(lambda: there._engine.crew.members[0] in deadlock._announced)
        there._engine.lifecycle.request_kill(0.2)
        with pytest.raises(TaskManagerKilledError):
            child.result()

    mine = []
    mine.append(here.queue_task_async(lambda _: gate.wait(PATIENCE) and parent(_)))
    gate.set()
    mine[0].result(PATIENCE)
    there.kill(PATIENCE)
    assert alarms == []


def test_a_retry_that_runs_elsewhere_is_not_taken_for_what_its_first_worker_does(
    new_manager, factory
):
    other = new_manager(**ONE)
    first, second = threading.Event(), threading.Event()
    attempts = []

    def destroy(resource):
        if not first.is_set():
            first.set()
            assert second.wait(PATIENCE)
            other.queue_task(waits)
        factory.destroy(resource)

    def breaking(_):
        attempts.append(1)
        if len(attempts) == 1:
            raise Sick
        assert first.wait(PATIENCE)
        second.set()
        eventually(lambda: len(deadlock._announced.waits) == 2)
        return "done"

    def waits(_):
        return future.result()

    manager = new_manager(worker_count=2, max_worker_count=2, on_destroy=destroy)
    assert manager.wait_ready(PATIENCE)
    future = manager.queue_task_async(breaking)
    assert future.result(PATIENCE) == "done"
    assert manager.stop().destroy_errors == 0


@pytest.mark.slow
def test_waits_that_only_go_one_way_are_never_told():
    """Tasks wait for tasks of later managers alone: each wait ends, whatever breaks, comes late, is hired or leaves."""
    rng = random.Random(1)

    def create():
        if rng.random() < 0.2:
            raise OSError
        time.sleep(rng.random() / 100)
        return object()

    options = {
        "on_create": create,
        "on_destroy": bool,
        "check_health": lambda error: not isinstance(error, Sick),
    }
    managers = [
        TaskManager(
            Config(
                **options, worker_count=1, max_worker_count=3, burst_interval=0.01, queue_size=size
            )
        )
        for size in (0, 3, 0)
    ]
    ways = [
        *WAITS.values(),
        lambda manager, fn: manager.run_task(fn),
        lambda manager, fn: manager.executor().shutdown(),
    ]
    alarms, broken = [], set()

    def member(_, level, seed):
        own = random.Random(seed)
        if level + 1 < len(managers):
            later = own.randrange(level + 1, len(managers))
            try:
                own.choice(ways)(
                    managers[later], lambda resource: member(resource, later, seed + 1)
                )
            except PoolDeadlockError as error:
                alarms.append(error)
            except (ResourceCreationError, Sick):  # in run_task, which tries nothing again
                pass
        if own.random() < 0.05 and seed not in broken:
            broken.add(seed)
            raise Sick

    futures = [managers[0].queue_task_async(member, 0, number * 10) for number in range(150)]
    assert not concurrent.futures.wait(futures, PATIENCE).not_done
    assert [future.exception() for future in futures if future.exception() is not None] == []
    assert [manager.stop(PATIENCE).drained for manager in managers] == [True] * 3
    assert alarms == []


@pytest.mark.slow
def test_waits_of_every_kind_at_random_all_end():
    """Whatever tasks of two managers wait for, each gets what it waits for or is told, and none hangs."""
    rng = random.Random(1)
    options = {
        "on_create": object,
        "on_destroy": bool,
        "resource_pool_size": 0,
        "burst_interval": 0,
    }
    managers = [
        TaskManager(Config(**options, worker_count=2, max_worker_count=2, queue_size=4))
        for _ in range(2)
    ]
    ways = [
        *WAITS.values(),
        lambda manager, fn: manager.join(),
        lambda manager, fn: manager.executor().shutdown(),
    ]

    def member(_, depth, seed):
        own = random.Random(seed)
        manager = own.choice(managers)

        def deeper(resource):
            return member(resource, depth - 1, seed + 1) if depth else "done"

        with contextlib.suppress(PoolDeadlockError, QueueFullError, TaskManagerShutdownError):
            own.choice(ways)(manager, deeper)
        return "done"

    futures = [
        rng.choice(managers).queue_task_async(member, rng.randint(0, 3), number * 10)
        for number in range(300)
    ]
    for future in futures:
        with contextlib.suppress(PoolDeadlockError, QueueFullError):
            assert future.result(PATIENCE) == "done"
    for manager in managers:
        assert manager.stop(PATIENCE).drained
    assert deadlock._announced.waits == {}
