"""`on_abort` makes a running call return when its context ends: once, from another thread, and never the next call."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading

import pytest

from tasker import (
    Config,
    ContextCancelledError,
    TaskManager,
    TaskTimeoutError,
)
from tasker._pool.backoff import Backoff
from tasker._pool.suspicion import Suspicion
from tasker._tasks.abort import Abort
from tasker.testing import ManualClock
from tests.support.errors import Sick
from tests.support.snippets import run_python
from tests.support.waiting import PATIENCE, eventually

RUNAWAY = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


class Deaf:
    """A task that does not listen to its context, and returns when it is aborted."""

    def __init__(self, error=None):
        self.began, self.told = threading.Event(), threading.Event()
        self.aborts = []
        self.error = error

    def __call__(self, resource):
        self.began.set()
        assert self.told.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return "returned"

    def abort(self, resource):
        self.aborts.append((resource, threading.current_thread()))
        self.told.set()


@pytest.fixture
def deaf():
    deaf = Deaf()
    yield deaf
    deaf.told.set()


@pytest.fixture
def manager(new_manager, deaf):
    return new_manager(worker_count=1, max_worker_count=1, on_abort=deaf.abort)


# -- when it comes ---------------------------------------------------------------------------------------------------


def test_a_timeout_aborts_the_running_task_and_its_resource_serves_on(manager, deaf):
    resource = manager.queue_task(lambda resource: [resource])[0]
    with ManualClock() as clock:
        future = manager.submit(deaf, timeout=5)
        assert deaf.began.wait(PATIENCE)
        clock.advance(5)
        assert type(future.exception(0)) is TaskTimeoutError
        assert manager.queue_task(lambda resource: [resource]) == [resource]
    [(aborted, thread)] = deaf.aborts
    assert aborted is resource
    assert thread not in {worker.thread for worker in manager._engine.crew.members}
    assert thread is not threading.current_thread()


def test_cancel_aborts_the_running_task(manager, deaf):
    future = manager.submit(deaf)
    assert deaf.began.wait(PATIENCE)
    assert not future.cancel()
    assert future.result(PATIENCE) == "returned"
    assert not future.cancel()
    manager.join(PATIENCE)
    assert len(deaf.aborts) == 1


def test_a_task_that_cancels_its_own_context_is_aborted(manager, deaf):
    def cancels(context, resource):
        context.cancel()
        return deaf(resource)

    assert manager.queue_task(cancels) == "returned"
    assert len(deaf.aborts) == 1


def test_kill_aborts_the_running_task(manager, deaf):
    future = manager.submit(deaf)
    assert deaf.began.wait(PATIENCE)
    report = manager.kill(PATIENCE)
    assert report.abandoned == ()
    assert future.result(0) == "returned"
    assert len(deaf.aborts) == 1


def test_a_kill_without_time_aborts_as_well(manager, deaf):
    future = manager.submit(deaf)
    assert deaf.began.wait(PATIENCE)
    manager.kill(0)
    assert future.done()
    assert len(deaf.aborts) == 1


def test_kill_aborts_a_run_task(manager, deaf):
    returned = []
    caller = threading.Thread(target=lambda: returned.append(manager.run_task(deaf)))
    caller.start()
    assert deaf.began.wait(PATIENCE)
    assert manager.kill(PATIENCE).abandoned == ()
    caller.join(PATIENCE)
    assert returned == ["returned"]
    assert len(deaf.aborts) == 1


def test_a_context_that_ends_twice_aborts_once(manager, deaf):
    with ManualClock() as clock:
        future = manager.submit(deaf, timeout=5)
        assert deaf.began.wait(PATIENCE)
        future.cancel()
        clock.advance(5)
        manager.kill(PATIENCE)
    assert len(deaf.aborts) == 1


def test_each_attempt_has_an_abort_of_its_own(new_manager, deaf, no_pauses):
    def breaks_once(context, resource):
        if deaf.began.is_set():
            context.cancel()
            return deaf(resource)
        deaf.began.set()
        raise Sick

    manager = new_manager(worker_count=1, on_abort=deaf.abort)
    assert manager.queue_task(breaks_once) == "returned"
    assert len(deaf.aborts) == 1


# -- when it does not ------------------------------------------------------------------------------------------------


def test_a_waiting_task_is_not_aborted(manager, deaf):
    with ManualClock() as clock:
        first = manager.submit(deaf)
        assert deaf.began.wait(PATIENCE)
        waits = [manager.submit(len, timeout=1), manager.submit(len)]
        clock.advance(1)
        assert waits[1].cancel()
    assert deaf.aborts == []
    deaf.told.set()
    assert first.result(PATIENCE) == "returned"


def test_a_task_that_has_returned_is_not_aborted(manager, deaf):
    with ManualClock() as clock:
        future = manager.submit(lambda resource: 7, timeout=1)
        assert future.result(PATIENCE) == 7
        clock.advance(1)
        assert not future.cancel()
        manager.run_task(lambda resource: 7)
        manager.kill(PATIENCE)
    assert deaf.aborts == []


def test_a_task_that_was_asked_to_end_before_its_call_is_neither_called_nor_aborted(
    manager, deaf, monkeypatch
):
    # as if `cancel()` came between the start and the call
    make = type(manager.submit(len))._make_context
    manager.join(PATIENCE)

    def asked(future, values):
        future._cancel_asked = True
        return make(future, values)

    monkeypatch.setattr("tasker._tasks.future.TaskFuture._make_context", asked)
    assert type(manager.submit(deaf).exception(PATIENCE)) is ContextCancelledError
    assert not deaf.began.is_set()
    assert deaf.aborts == []


# -- the next call ---------------------------------------------------------------------------------------------------


class Slow:
    """An abort that has begun, and does not return until it is let go."""

    def __init__(self, monkeypatch):
        self.began, self.go, self.awaited = (threading.Event() for _ in range(3))
        self.order = []
        wait = Abort._wait

        def waits(abort):
            self.awaited.set()
            wait(abort)

        monkeypatch.setattr(Abort, "_wait", waits)

    def __call__(self, resource):
        self.began.set()
        assert self.go.wait(PATIENCE)
        self.order.append("aborted")

    def cut_short(self, context, resource):
        """A task that returns in the middle of its abort."""
        context.cancel()
        assert self.began.wait(PATIENCE)


def test_the_next_task_does_not_run_before_the_abort_has_returned(new_manager, monkeypatch):
    slow = Slow(monkeypatch)
    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=slow)
    manager.submit(slow.cut_short)
    following = manager.submit(lambda resource: slow.order.append("next task"))
    assert slow.awaited.wait(PATIENCE)
    assert not following.running()
    slow.go.set()
    following.result(PATIENCE)
    assert slow.order == ["aborted", "next task"]


def test_the_next_run_task_does_not_run_before_the_abort_has_returned(new_manager, monkeypatch):
    slow = Slow(monkeypatch)
    manager = new_manager(
        worker_count=1, on_abort=slow, resource_pool_size=1, on_create=list, on_destroy=list.clear
    )

    def calls():
        manager.run_task(slow.cut_short)
        manager.run_task(lambda resource: slow.order.append("next call"))

    caller = threading.Thread(target=calls)
    caller.start()
    assert slow.awaited.wait(PATIENCE)
    assert manager._engine.pool.available == 0
    slow.go.set()
    caller.join(PATIENCE)
    assert slow.order == ["aborted", "next call"]


def test_where_ctrl_c_ends_the_wait_for_an_abort_run_task_keeps_no_resource(
    new_manager, monkeypatch
):
    destroyed = []
    slow = Slow(monkeypatch)
    manager = new_manager(
        worker_count=1,
        on_abort=slow,
        resource_pool_size=1,
        on_create=list,
        on_destroy=destroyed.append,
        on_reset=lambda resource: slow.order.append("reset"),
    )

    def interrupted(abort):
        raise KeyboardInterrupt

    monkeypatch.setattr(Abort, "_wait", interrupted)
    used = []
    with pytest.raises(KeyboardInterrupt):
        manager.run_task(
            lambda context, resource: used.append(resource) or slow.cut_short(context, resource)
        )
    assert destroyed[0] is used[0]
    assert manager.stats().available_resources == 0
    assert slow.order == []
    slow.go.set()


def test_an_abort_that_comes_too_late_does_nothing(new_manager, monkeypatch):
    jobs, aborts = [], []
    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=aborts.append)
    engine = manager._engine
    monkeypatch.setattr(engine.runner, "run_apart", jobs.append)

    manager.queue_task(lambda context, resource: context.cancel())
    [job] = jobs
    job()
    assert aborts == []


def test_aborts_that_meet_the_ends_of_tasks_stay_with_their_tasks(new_manager, hasty):
    """Each task runs about as long as its timeout. An abort finds the task that it is for, or none."""
    wrong = []

    class Used:
        by = None
        close = int

    def use(resource, number):
        resource.by = number
        threading.Event().wait(0.001)
        resource.by = None

    def abort(resource):
        seen = [resource.by for _ in range(200)]
        if seen[-1] not in (seen[0], None):
            wrong.append(seen)

    manager = new_manager(worker_count=2, on_abort=abort, on_create=Used, on_destroy=repr)
    futures = [manager.submit(use, number, timeout=0.001 * (number + 1)) for number in range(300)]
    for future in futures:
        future.exception(PATIENCE)
    assert manager.stop(PATIENCE).drained
    assert wrong == []


# -- what it does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_abort_that_raises_is_logged_and_costs_nothing(new_manager, log, error):
    def abort(resource):
        raise error

    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=abort)
    assert manager.queue_task(lambda context, resource: context.cancel()) is None
    began, gate = threading.Event(), threading.Event()
    future = manager.submit(lambda resource: (began.set(), gate.wait(PATIENCE)))
    assert began.wait(PATIENCE)
    future.cancel()
    eventually(lambda: log.telling("on_abort raised"))
    gate.set()
    [told] = log.telling("on_abort raised")
    assert "tasker-worker-1" in told
    assert type(error).__name__ in told
    assert manager.queue_task(lambda resource: 7) == 7
    assert manager.stop(PATIENCE).drained


def test_aborts_that_block_hold_up_nobody_but_their_own_workers(new_manager):
    gate, began = threading.Event(), []

    def abort(resource):
        began.append(resource)
        assert gate.wait(PATIENCE)

    manager = new_manager(worker_count=4, max_worker_count=4, on_abort=abort)
    blocked = [
        manager.submit(lambda context, resource: (context.cancel(), gate.wait(PATIENCE)))
        for _ in range(3)
    ]
    try:
        eventually(lambda: len(began) == 3, "all three aborts at once")
        told = threading.Event()
        manager.submit(lambda resource: 7).add_done_callback(lambda _: told.set())
        assert told.wait(PATIENCE)
        assert manager.queue_task(lambda resource: 8) == 8
    finally:
        gate.set()
    for future in blocked:
        future.result(PATIENCE)
    assert manager.stop(PATIENCE).drained


def test_what_an_aborted_task_raises_is_judged(new_manager, factory):
    deaf = Deaf(Sick("interrupted"))
    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=deaf.abort)
    resource = manager.queue_task(lambda resource: [resource])
    future = manager.submit(deaf)
    assert deaf.began.wait(PATIENCE)
    future.cancel()
    assert type(future.exception(PATIENCE)) is Sick
    assert future.attempts == 1
    assert manager.queue_task(lambda resource: [resource]) != resource


def test_the_resource_of_an_aborted_task_is_a_suspect_until_it_has_finished_another(manager, deaf):
    [worker] = manager._engine.crew.members
    future = manager.submit(deaf)
    assert deaf.began.wait(PATIENCE)
    future.cancel()
    future.result(PATIENCE)
    eventually(lambda: worker.is_suspect())
    manager.queue_task(lambda resource: 7)
    eventually(lambda: not worker.is_suspect())


class Fragile(Deaf):
    """An abort of it breaks the resource."""

    def __call__(self, resource):
        self.told.clear()
        super().__call__(resource)

    def abort(self, resource):
        resource.broken = True
        super().abort(resource)


@pytest.fixture
def fragile():
    fragile = Fragile(Sick("closed"))
    yield fragile
    fragile.told.set()


def abort_one(manager, task):
    task.began.clear()
    future = manager.submit(task)
    assert task.began.wait(PATIENCE)
    future.cancel()
    return future.exception(PATIENCE)


def suspects(manager):
    return [worker.name for worker in manager._engine.crew.members if worker.is_suspect()]


def test_a_resource_made_after_an_abort_has_broken_the_last_is_no_suspect(new_manager, fragile):
    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=fragile.abort)
    assert type(abort_one(manager, fragile)) is Sick
    eventually(lambda: manager.stats().idle_workers == 1)
    assert suspects(manager) == []


def look(resource):
    """An `on_check` or `on_reset`."""
    if resource.broken:
        raise Sick


FOUND_LATER = {
    "by its check": {"check_health": lambda error: True, "on_check": look, "check_after": 600},
    "by its reset": {"check_health": lambda error: True, "on_reset": look},
    "by the next task": {"check_health": lambda error: type(error) is not Sick},
}


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize("found", FOUND_LATER)
def test_a_breakage_of_an_abort_that_is_found_later_is_still_the_aborts(
    new_manager, log, fragile, found, monkeypatch
):
    manager = new_manager(
        worker_count=1, max_worker_count=1, on_abort=fragile.abort, **FOUND_LATER[found]
    )
    broken = []
    monkeypatch.setattr(Suspicion, "broke", lambda *_, counts: broken.append(counts))
    if found == "by the next task":
        fragile.error = ValueError("interrupted")
    for _ in range(3):
        abort_one(manager, fragile)
        if found == "by the next task":
            future = manager.submit(look, once=True)
            assert type(future.exception(PATIENCE)) is Sick
        assert manager.queue_task(lambda resource: resource.broken, timeout=PATIENCE) is False
    assert broken == []
    assert log.telling("pausing") == []


def test_a_task_that_aborts_itself_is_tried_again_on_what_is_well(new_manager, fragile, no_pauses):
    manager = new_manager(worker_count=3, max_worker_count=3, on_abort=fragile.abort)
    assert manager.wait_ready(PATIENCE)
    doubted = []

    def cancels(context, resource):
        if not doubted:
            doubted.append(None)
            context.cancel()
            # It may have been told by now.
            Deaf.__call__(fragile, resource)
        doubted.append(suspects(manager))

    manager.queue_task(cancels)
    [_, others] = doubted
    assert len(others) == 2


def test_an_abort_neither_adds_to_a_row_of_failures_nor_ends_it(
    new_manager, factory, log, fragile, no_pauses, monkeypatch
):
    pauses = []
    monkeypatch.setattr(Backoff, "broke", lambda *_: pauses.append(_))
    factory.fail_next = [OSError("down"), OSError("down")]
    manager = new_manager(worker_count=1, max_worker_count=1, on_abort=fragile.abort)
    [worker] = manager._engine.crew.members
    for _ in range(2):
        abort_one(manager, fragile)
    eventually(lambda: manager.stats().idle_workers == 1)
    assert worker._failures == 2
    assert pauses == []
    assert log.telling("pausing") == []


def test_a_check_that_is_aborted_does_speak_against_others(new_manager, deaf, monkeypatch):
    broken = []
    monkeypatch.setattr(Suspicion, "broke", lambda *_, counts: broken.append(counts))
    with ManualClock() as clock:
        manager = new_manager(
            worker_count=1, max_worker_count=1, on_check=deaf, on_abort=deaf.abort
        )
        manager.queue_task(lambda resource: None)
        eventually(lambda: manager.stats().idle_workers == 1)
        clock.advance(2)
        future = manager.submit(lambda resource: 7)
        assert deaf.began.wait(PATIENCE)
        clock.advance(5)
        assert future.result(PATIENCE) == 7
    assert len(deaf.aborts) == 1
    assert broken == [True]


def test_a_coroutine_that_an_abort_returns_is_reported(new_manager, log):
    async def aborts():
        pass

    manager = new_manager(worker_count=1, on_abort=lambda resource: aborts())
    future = manager.submit(
        lambda context, resource: (
            context.cancel(),
            eventually(lambda: log.telling("on_abort raised")),
        )
    )
    future.result(PATIENCE)
    assert "on_abort returned a coroutine" in log.telling("on_abort raised")[0]


def test_a_check_that_takes_too_long_is_aborted(new_manager, deaf, factory):
    with ManualClock() as clock:
        manager = new_manager(
            worker_count=1, max_worker_count=1, on_check=deaf, on_abort=deaf.abort, check_timeout=7
        )
        [resource] = manager.queue_task(lambda resource: [resource])
        eventually(lambda: manager.stats().idle_workers)
        clock.advance(2)
        future = manager.submit(lambda resource: [resource])
        assert deaf.began.wait(PATIENCE)
        clock.advance(7)
        assert future.result(PATIENCE) != [resource]
    assert future.attempts == 1
    assert [aborted for aborted, _ in deaf.aborts] == [resource]


def test_a_check_of_run_task_that_takes_too_long_is_aborted(new_manager, deaf):
    with ManualClock() as clock:
        manager = new_manager(
            worker_count=1, on_check=deaf, on_abort=deaf.abort, resource_pool_size=None
        )
        found = []

        def calls():
            found.extend(manager.run_task(lambda resource: [resource]))
            clock.advance(2)
            found.extend(manager.run_task(lambda resource: [resource]))
            manager._engine.pool.clear_own()

        caller = threading.Thread(target=calls)
        caller.start()
        assert deaf.began.wait(PATIENCE)
        clock.advance(5)
        caller.join(PATIENCE)
    assert found[0] is not found[1]
    assert [aborted for aborted, _ in deaf.aborts] == [found[0]]


def test_a_runaway_query_ends_at_its_timeout():
    config = Config(
        on_create=lambda: sqlite3.connect(":memory:"),
        on_destroy=sqlite3.Connection.close,
        worker_count=1,
        on_abort=sqlite3.Connection.interrupt,
    )
    with TaskManager(config) as manager:
        future = manager.submit(lambda db: db.execute(RUNAWAY).fetchone(), timeout=0.2)
        assert type(future.exception(PATIENCE)) is TaskTimeoutError
        assert manager.queue_task(lambda db: db.execute("select 7").fetchone()) == (7,)


# -- interrupts, exits, forks ----------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="signals, forks and sleep")


@posix
def test_ctrl_c_in_a_run_task_leaves_no_abort_behind(new_manager, deaf):
    manager = new_manager(
        worker_count=1,
        on_abort=deaf.abort,
        resource_pool_size=1,
        on_create=list,
        on_destroy=list.clear,
    )
    with pytest.raises(KeyboardInterrupt):
        manager.run_task(lambda resource: os.kill(os.getpid(), signal.SIGINT))
    assert manager.kill(PATIENCE).abandoned == ()
    assert deaf.aborts == []


PROGRAM = """
import subprocess, sys, threading
import tasker._pool.exit_and_fork
from tasker import Config, TaskManager

tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.5

def create():
    return subprocess.Popen(["sleep", "1000"])

def deaf(child):
    print(child.pid, flush=True)
    began.set()
    {deaf}

def destroy(child):
    child.kill()
    child.wait()

config = Config(on_create=create, on_destroy=destroy, worker_count=1, on_abort=subprocess.Popen.kill)
manager = TaskManager(config)
began = threading.Event()
{call}
"""


@posix
@pytest.mark.slow
@pytest.mark.parametrize("deaf", ["child.wait()", "threading.Event().wait()"])
@pytest.mark.parametrize(
    "call",
    [
        "manager.submit(deaf, run_timeout=0.5).exception(); began.wait()",
        "manager.submit(deaf); began.wait(); sys.exit()",
        "threading.Thread(target=manager.run_task, args=(deaf,), daemon=True).start(); began.wait()",
        "manager.submit(deaf); began.wait(); print(manager.kill(0.5).drained)",
    ],
    ids=["timeout", "exit", "run_task", "kill"],
)
def test_no_child_program_outlives_the_exit(deaf, call):
    ran = run_python(PROGRAM.format(deaf=deaf, call=call))
    child = int(ran.stdout.split()[0])
    eventually(lambda: not is_running(child), "the end of the resource's program")


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@posix
@pytest.mark.slow
def test_a_child_that_a_run_task_forks_in_the_middle_of_its_abort_waits_for_nothing():
    ran = run_python(
        """
        import os, sys, threading
        from tasker import Config, TaskManager

        began, gate = threading.Event(), threading.Event()

        def abort(resource):
            began.set()
            gate.wait()

        def forks(context, resource):
            context.cancel()
            began.wait()
            return os.fork()

        config = Config(on_create=list, on_destroy=list.clear, worker_count=1, on_abort=abort)
        manager = TaskManager(config)
        threading.Timer(0.5, gate.set).start()
        child = manager.run_task(forks)
        if child == 0:
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert ran.stdout == "7\n"
