"""Waits inside of tasks for the end of a manager, and for room in a queue."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from tasker import Config, PoolDeadlockError, QueueFullError, TaskManager
from tasker._tasks import deadlock
from tasker.threadpool import ThreadPoolExecutor
from tests.support.waiting import PATIENCE, eventually
from tests.support.waits import ONE, leaf

# -- waits for managers ----------------------------------------------------------------------------------------------


def leave(manager):
    with manager:
        pass


CLOSINGS = {
    "stop": lambda manager: manager.stop(),
    "with": leave,
    "join": lambda manager: manager.join(),
}


@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
def test_to_wait_for_a_manager_that_waits_for_this_task_is_told(new_manager, close):
    here, there = new_manager(**ONE), new_manager(**ONE)

    def parent(_):
        there.queue_task_async(lambda _: here.queue_task(leaf))
        eventually(lambda: there._engine.crew.members[0] in deadlock._announced)
        close(there)

    with pytest.raises(
        PoolDeadlockError, match=r"parent on \S+ waits for tasker to (close|come to rest)"
    ):
        here.queue_task(parent)
    assert here.stop().drained
    assert there.stop().drained


@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
def test_to_wait_for_this_task_is_told_where_it_waits_for_the_manager(new_manager, close):
    here, there = new_manager(**ONE), new_manager(**ONE)
    told = threading.Event()

    def inner(_, parent):
        eventually(lambda: parent and here._engine.crew.members[0] in deadlock._announced)
        try:
            parent[0].result()
        except PoolDeadlockError:
            told.set()

    def outer(_, parent):
        there.queue_task_async(inner, parent)
        close(there)
        return "closed"

    parent = []
    parent.append(here.queue_task_async(outer, parent))
    assert parent[0].result(PATIENCE) == "closed"
    assert told.is_set()


@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
def test_to_wait_for_a_manager_that_has_work_to_do_is_no_circle(new_manager, close):
    here, there, gate = new_manager(**ONE), new_manager(**ONE), threading.Event()

    def parent(_):
        futures = [there.queue_task_async(lambda _: gate.wait(PATIENCE)) for _ in range(3)]
        threading.Timer(0.05, gate.set).start()
        close(there)
        return [future.result(0) for future in futures]

    assert here.queue_task(parent) == [True] * 3


def test_to_shut_down_a_drop_in_pool_whose_call_waits_for_this_task_is_told(new_manager):
    here = new_manager(**ONE)

    def parent(_):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(here.queue_task, leaf)
            eventually(lambda: pool._task_engine.crew.members[0] in deadlock._announced)

    with pytest.raises(PoolDeadlockError, match="to close"):
        here.queue_task(parent)
    assert here.join(PATIENCE)


def test_to_stop_a_manager_in_whose_run_task_this_task_is_waited_for_is_told(new_manager):
    here, there = new_manager(**ONE), new_manager(**ONE)

    def direct(_):
        return here.queue_task(lambda _: there.stop())

    with pytest.raises(PoolDeadlockError, match="to close"):
        there.run_task(direct)
    eventually(
        lambda: deadlock._announced.waits == {}
    )  # the other wait of the circle ends by itself


def test_a_wait_in_run_task_is_part_of_a_circle_in_whatever_thread(new_manager):
    here, there = new_manager(**ONE), new_manager(**ONE)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = threading.Event()

        def direct(_, future):
            waiting.set()
            return future.result()

        def stops(_):
            assert waiting.wait(PATIENCE)
            eventually(lambda: deadlock._announced.waits)
            there.stop()

        future = here.queue_task_async(stops)
        caller = thread.submit(there.run_task, direct, future)
        with pytest.raises(PoolDeadlockError, match="run_task on ThreadPoolExecutor"):
            future.result(PATIENCE)
        assert isinstance(caller.exception(PATIENCE), PoolDeadlockError)


def test_a_hook_that_waits_until_its_manager_is_ready_is_told():
    managers, said = [], []
    known = threading.Event()

    def create():
        assert known.wait(PATIENCE)
        try:
            managers[0].wait_ready()
        except PoolDeadlockError as error:
            said.append(str(error))
        return object()

    with TaskManager(
        Config(on_create=create, on_destroy=bool, worker_count=1, burst_interval=0)
    ) as manager:
        managers.append(manager)
        known.set()
        assert manager.wait_ready(PATIENCE)
    assert len(said) == 1
    assert "hook or run_task on tasker-worker-1 waits for tasker to be ready" in said[0]


# -- room ------------------------------------------------------------------------------------------------------------


def test_to_wait_for_room_that_another_manager_can_make_only_after_this_task_is_told(new_manager):
    here, there = new_manager(**ONE), new_manager(**ONE, queue_size=1)

    def parent(_):
        there.queue_task_async(lambda _: here.queue_task(leaf))
        eventually(lambda: there._engine.crew.members[0] in deadlock._announced)
        there.queue_task_async(leaf)  # the last place
        there.queue_task_async(leaf)

    with pytest.raises(
        PoolDeadlockError, match=r"parent on \S+ waits for room in the queue of tasker"
    ):
        here.queue_task(parent)
    assert there.join(PATIENCE)


def test_room_in_two_queues_that_each_others_workers_wait_for_is_told(new_manager):
    first, second = new_manager(**ONE, queue_size=1), new_manager(**ONE, queue_size=1)
    both = threading.Barrier(2)
    told = []

    def parent(_, other):
        both.wait(PATIENCE)
        try:
            for _ in range(3):
                other.queue_task_async(leaf)
        except PoolDeadlockError as error:
            told.append(error)

    for manager, other in ((first, second), (second, first)):
        manager.queue_task_async(parent, other)
    assert first.join(PATIENCE)
    assert second.join(PATIENCE)
    assert len(told) == 1


def test_room_that_a_timeout_makes_is_waited_for(new_manager):
    here, there = new_manager(**ONE), new_manager(**ONE, queue_size=1)

    def parent(_):
        there.queue_task_async(lambda _: here.queue_task(leaf))
        eventually(lambda: there._engine.crew.members[0] in deadlock._announced)
        there.submit(leaf, timeout=0.05)
        return there.queue_task_async(leaf)

    assert here.queue_task(parent).result(PATIENCE) == "done"


@pytest.mark.slow
def test_room_that_a_timeout_made_and_another_one_got_is_told(new_manager):
    """No wait closes this circle: a tick finds it."""
    here, there = new_manager(**ONE), new_manager(**ONE, queue_size=1)
    lined_up = threading.Event()

    def parent(_):
        there.queue_task_async(lambda _: here.queue_task(leaf))
        eventually(lambda: there._engine.crew.members[0] in deadlock._announced)
        there.submit(leaf, timeout=0.5)
        lined_up.set()
        eventually(lambda: there._engine.queue.room._line)
        there.queue_task_async(leaf)

    future = here.queue_task_async(parent)
    assert lined_up.wait(PATIENCE)
    other = there.queue_task_async(leaf)  # waits for the room before the task does, and is no task
    with pytest.raises(PoolDeadlockError, match="room in the queue"):
        future.result(PATIENCE)
    assert other.result(PATIENCE) == "done"


def test_in_a_task_of_its_own_a_full_queue_is_still_refused_at_once(new_manager):
    manager = new_manager(**ONE, queue_size=1)

    def parent(_):
        manager.queue_task_async(leaf)
        with pytest.raises(QueueFullError):
            manager.queue_task_async(leaf)

    manager.queue_task(parent)
