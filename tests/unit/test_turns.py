"""`run_task_limit`: how many callers are in `run_task` at once, and what becomes of those that wait for their turn."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import tasker._pool.run_task
from tasker import (
    ConfigError,
    PoolDeadlockError,
    Processes,
    QueueFullError,
    ResourceCreationError,
    TaskManagerShutdownError,
)
from tasker._tasks import deadlock
from tests.support import remote_tasks
from tests.support.errors import Sick
from tests.support.snippets import run_python
from tests.support.waiting import PATIENCE, eventually

LIMITS = {"worker_count": 1, "max_worker_count": 1, "resource_pool_size": None}
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals to the own process")


@pytest.fixture
def limited(new_manager, factory):
    """`limited(limit)`: a manager of one worker."""
    factory.any_thread = True
    return lambda limit=1, **options: new_manager(**{**LIMITS, "run_task_limit": limit, **options})


class Holder:
    """Threads that are in `run_task` until they are told to leave."""

    def __init__(self, manager, threads=1):
        self.manager, self.gate = manager, threading.Event()
        self.pool = ThreadPoolExecutor(threads)
        self.futures = [self.pool.submit(manager.run_task, self.hold) for _ in range(threads)]
        eventually(lambda: manager._engine.pool.out == threads)

    def hold(self, resource):
        assert self.gate.wait(PATIENCE)
        return resource.number

    def leave(self):
        self.gate.set()
        self.pool.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()


def in_line(manager):
    return len(manager._engine.turns.room._line)


def nothing_left(manager):
    turns = manager._engine.turns
    return not (
        turns.room.holders() or turns.is_wanted() or turns._waiting or deadlock._announced.waits
    )


# -- the limit ---------------------------------------------------------------------------------------------------------


def test_no_more_callers_than_the_limit_have_a_resource_and_all_have_their_turn(limited, factory):
    manager = limited(3, resource_pool_size=0)
    lock, inside, most = threading.Lock(), [], []

    def task(resource):
        with lock:
            inside.append(resource)
            most.append(len(inside))
        resource.number.bit_length()
        with lock:
            inside.remove(resource)

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(manager.run_task, task) for _ in range(300)]:
            future.result(PATIENCE)
    assert max(most) <= 3
    assert manager.metrics().total_tasks_completed == 300
    assert nothing_left(manager)


def test_the_limit_bounds_the_resources_that_are_shared(limited, factory):
    manager = limited(3, resource_pool_size=2)
    with Holder(manager, 3) as holder, ThreadPoolExecutor(5) as pool:
        waiting = [
            pool.submit(manager.run_task, lambda resource: resource.number) for _ in range(5)
        ]
        eventually(lambda: in_line(manager) == 5)
        holder.leave()
        assert (
            len(
                {future.result(PATIENCE) for future in waiting}
                | {f.result() for f in holder.futures}
            )
            == 3
        )


def test_callers_have_their_turns_in_the_order_in_which_they_came(limited):
    manager = limited(1)
    ran = []
    with Holder(manager) as holder, ThreadPoolExecutor(5) as pool:
        for number in range(5):
            pool.submit(manager.run_task, lambda resource, number: ran.append(number), number)
            eventually(lambda number=number: in_line(manager) == number + 1)
        holder.leave()
    assert ran == [0, 1, 2, 3, 4]


def test_who_may_not_wait_is_told_how_many_are_there(limited):
    manager = limited(2)
    with Holder(manager, 2):
        for seconds in (0, 0.01):
            with pytest.raises(
                QueueFullError, match=r"2 of 2 callers are in run_task \(run_task_limit\)"
            ):
                manager.run_task(lambda resource: 0, queue_timeout=seconds)
        assert manager.metrics().total_tasks_arrived == 0  # what is refused is not accepted
    assert manager.run_task(lambda resource: 1, queue_timeout=0) == 1
    assert nothing_left(manager)


@pytest.mark.parametrize("limit", [None, 1])
def test_a_wrong_time_is_refused_with_or_without_a_limit(limited, limit):
    manager = limited(limit)
    with pytest.raises(ConfigError, match="queue_timeout must be None, a number of seconds"):
        manager.run_task(lambda resource: 0, queue_timeout=-1)
    assert manager.run_task(lambda resource, one: one, 1, queue_timeout=float("inf")) == 1


def test_the_time_in_the_line_is_no_execution_time(limited, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(tasker._pool.run_task, "monotonic", lambda: now[0])
    manager = limited(1)
    with Holder(manager) as holder, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.run_task, lambda resource: 0)
        eventually(lambda: in_line(manager) == 1)
        holder.leave()  # 0 seconds after it began
        waiting.result(PATIENCE)
        now[0] += 100
    manager.run_task(lambda resource: now.append(now.pop() + 3))
    assert manager.metrics().average_execution_time == 1.0


@pytest.mark.parametrize("error", [Sick(), KeyboardInterrupt(), ValueError()])
def test_whatever_ends_a_turn_gives_it_back(limited, factory, error):
    manager = limited(1)

    def task(resource):
        raise error

    with pytest.raises(type(error)):
        manager.run_task(task)
    assert manager.wait_ready(PATIENCE)
    factory.fail_next.append(OSError("down"))
    if isinstance(error, Sick):
        with pytest.raises(ResourceCreationError):
            manager.run_task(lambda resource: 0)
    assert manager.run_task(lambda resource: 1, queue_timeout=0) == 1
    factory.fail_next.clear()
    assert nothing_left(manager)


@pytest.mark.slow
@posix_only
def test_resources_in_processes_are_limited_as_well():
    from tasker import Config, TaskManager

    config = Config(
        on_create=dict, on_destroy=bool, worker_count=1, run_task_limit=1, placement=Processes()
    )
    with TaskManager(config) as manager, ThreadPoolExecutor(3) as pool:
        processes = [pool.submit(manager.run_task, remote_tasks.process_of) for _ in range(6)]
        assert len({process.result(PATIENCE) for process in processes}) == 1


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_who_waits_when_the_manager_closes_is_refused_as_a_submitter_is(limited, end):
    manager = limited(1)
    with Holder(manager) as holder, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(manager.run_task, lambda resource: 0) for _ in range(3)]
        eventually(lambda: in_line(manager) == 3)
        closing = pool.submit(getattr(manager, end))
        for future in waiting:
            with pytest.raises(TaskManagerShutdownError) as refused:
                future.result(PATIENCE)
            with pytest.raises(TaskManagerShutdownError) as submitted:
                manager.submit(lambda resource: 0)
            assert str(refused.value) == str(submitted.value)
        holder.leave()
        assert closing.result(PATIENCE).abandoned == ()
    assert nothing_left(manager)


def test_a_wake_up_that_got_lost_is_made_good_by_the_next_tick(limited, monkeypatch):
    manager = limited(1)
    with Holder(manager) as holder, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.run_task, lambda resource: 1)
        eventually(lambda: in_line(manager) == 1)
        monkeypatch.setattr(manager._engine.turns.room, "_call_next", lambda: None)
        with monkeypatch.context() as ticks:
            ticks.setattr(manager._engine.turns, "heal", lambda: None)
            holder.leave()
            assert not manager._engine.housekeeper._is_quiet()  # although nobody is in `run_task`
            assert manager._engine.pool.out == 0
            assert not waiting.done()
        assert waiting.result(PATIENCE) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_nobody_waits():
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        manager = TaskManager(Config(on_create=object, on_destroy=bool, worker_count=1, run_task_limit=1))
        started, gate, parent = threading.Event(), threading.Event(), os.getpid()
        threads = [threading.Thread(target=manager.run_task, args=(lambda r: (started.set(), gate.wait()),))]
        threads[0].start()
        started.wait()
        threads.append(threading.Thread(target=manager.run_task, args=(bool,)))
        threads[1].start()
        while not manager._engine.turns.is_wanted():
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            try:
                manager.run_task(bool)
            except TaskManagerShutdownError:
                print("refused", flush=True)
            os._exit(manager.stop().destroy_errors)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        gate.set()
        for thread in threads:
            thread.join()

        def fork(resource):  # in its turn
            if os.fork() == 0:
                return "child"
            os.wait()
            return "parent"

        print(manager.run_task(fork), flush=True)
        if os.getpid() == parent:
            print(manager.run_task(lambda r: "goes on"), manager.stop().drained, flush=True)
    """)
    assert done.stdout.splitlines() == ["refused", "child 0", "child", "parent", "goes on True"]
    assert (done.returncode, done.stderr) == (0, "")


# -- waits that would never end ----------------------------------------------------------------------------------------


def test_to_wait_inside_of_the_last_turn_for_another_is_told(limited):
    manager = limited(1)

    def outer(resource):
        return manager.run_task(lambda inner: 0)

    with pytest.raises(
        PoolDeadlockError, match=r"waits for its turn in run_task of tasker \(run_task_limit\)"
    ):
        manager.run_task(outer)
    assert nothing_left(manager)
    with pytest.raises(QueueFullError):
        manager.run_task(lambda resource: manager.run_task(lambda inner: 0, queue_timeout=0.01))
    assert (
        limited(2).run_task(lambda resource: manager.run_task(lambda other: "another manager's"))
        is not None
    )


def test_a_turn_in_a_turn_counts_and_is_had_where_the_limit_allows_it(limited):
    manager = limited(2)
    assert manager.run_task(lambda one: manager.run_task(lambda two: one is not two)) is True
    with pytest.raises(PoolDeadlockError):
        manager.run_task(
            lambda one: manager.run_task(lambda two: manager.run_task(lambda three: 0))
        )


def test_callers_that_all_want_a_second_turn_are_told_and_the_others_get_theirs(limited):
    manager = limited(3)
    barrier = threading.Barrier(3)

    def outer(resource):
        barrier.wait(PATIENCE)
        return manager.run_task(lambda inner: "two")

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(manager.run_task, outer) for _ in range(3)]
        outcomes = [future.exception(PATIENCE) or future.result() for future in futures]
    assert [type(outcome) for outcome in outcomes].count(PoolDeadlockError) == 1
    assert outcomes.count("two") == 2
    assert nothing_left(manager)


def test_a_turn_that_a_caller_holds_that_waits_for_this_task_is_told(limited):
    manager = limited(1)

    def task(resource):
        return manager.run_task(lambda inner: 0)

    with pytest.raises(PoolDeadlockError):
        manager.run_task(lambda resource: manager.queue_task(task))
    with Holder(manager) as holder:  # which waits for nothing
        future = manager.submit(lambda resource: manager.run_task(lambda inner: 5))
        eventually(lambda: in_line(manager) == 1)
        holder.leave()
        assert future.result(PATIENCE) == 5
    assert nothing_left(manager)


def test_a_hook_that_wants_a_turn_while_its_resource_is_made_for_the_last_is_told(limited, factory):
    nested = []

    def create():
        if threading.current_thread() is threading.main_thread() and not nested:
            nested.append(manager)
            manager.run_task(lambda inner: 0)
        return factory.create()

    manager = limited(1, on_create=create)
    with pytest.raises(ResourceCreationError) as caught:
        manager.run_task(lambda resource: 0)
    assert isinstance(caught.value.__cause__, PoolDeadlockError)
    assert manager.run_task(lambda resource: 1) == 1
    assert nothing_left(manager)


# -- signals -----------------------------------------------------------------------------------------------------------


@posix_only
def test_ctrl_c_in_the_line_costs_no_turn(limited, ctrl_c):
    manager = limited(1)

    def interrupt():
        eventually(lambda: in_line(manager) == 1)
        ctrl_c.press()

    with Holder(manager):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            manager.run_task(lambda resource: 0)
        thread.join(PATIENCE)
        assert not manager._engine.turns.is_wanted()
    assert manager.run_task(lambda resource: 1, queue_timeout=0) == 1
    assert nothing_left(manager)


@posix_only
@pytest.mark.parametrize("place", ["in the line", "in its turn"])
def test_a_signal_handler_does_not_wait_for_the_thread_that_it_interrupts(limited, place):
    manager = limited(1)
    raised = []

    def handler(*_):
        with contextlib.suppress(Exception):
            try:
                manager.run_task(lambda resource: 0)
            except Exception as error:
                raised.append(type(error))
        if place == "in the line":
            holder.gate.set()

    def send():
        eventually(lambda: in_line(manager) == 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        if place == "in the line":
            with Holder(manager) as holder:
                thread = threading.Thread(target=send)
                thread.start()
                assert manager.run_task(lambda resource: 1) == 1
                thread.join(PATIENCE)
        else:
            manager.run_task(lambda resource: signal.raise_signal(signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert raised == [QueueFullError if place == "in the line" else PoolDeadlockError]
    assert nothing_left(manager)
