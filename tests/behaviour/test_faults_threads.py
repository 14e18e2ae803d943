"""Fault injection: threads that cannot be started, a burst thread that meets errors, closing from any place."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

import tasker._pool.scaling
from tasker import TaskManagerKilledError, TaskManagerShutdownError, TaskTimeoutError
from tests.support.errors import Sick
from tests.support.snippets import run_python
from tests.support.threads import Refusals
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def refusals(monkeypatch):
    return Refusals(monkeypatch)


def lose_the_worker(manager):
    """The only worker is lost to an error of tasker's own; its task ends with that error."""

    def one_is_lost():
        for worker in manager._engine.crew.members:  # one may have been hired meanwhile
            worker._failed = None
        return isinstance(manager.submit(lambda resource: 1 / 0).exception(PATIENCE), TypeError)

    eventually(one_is_lost)


# -- threads that cannot be started ------------------------------------------------------------------------------------


def test_one_thread_that_starts_runs_all_tasks_while_the_others_cannot_be_started(
    new_manager, factory, refusals
):
    refusals.begin("-worker-", but="tasker-worker-1")
    manager = new_manager(worker_count=2, max_worker_count=2)
    futures = [manager.submit(lambda resource, x: (resource.number, x), i) for i in range(20)]
    assert [future.result(PATIENCE) for future in futures] == [(0, i) for i in range(20)]
    assert len(factory.created) == 1
    refusals.end()
    assert manager.wait_ready(PATIENCE)
    assert manager.stats().active_workers == 2


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_without_any_worker_thread_tasks_wait_for_one_and_kill_and_stop_return(
    new_manager, refusals, end
):
    refusals.begin("-worker-")
    manager = new_manager(worker_count=2, max_worker_count=2)
    future = manager.submit(lambda resource: "run")
    assert (manager.stats().active_workers, future.done()) == (0, False)
    if end == "kill":
        assert manager.kill(PATIENCE).abandoned == ()
        assert isinstance(future.exception(0), TaskManagerKilledError)
    else:
        manager._engine.lifecycle.request_stop()
        eventually(lambda: len(refusals.refused) > 5)
        assert not future.done()
        refusals.end()
        assert manager.stop().drained
        assert future.result(0) == "run"


def test_a_burst_worker_that_cannot_be_started_is_hired_later(new_manager, refusals):
    manager = new_manager(
        worker_count=1, max_worker_count=2, burst_interval=0.01, burst_task_threshold=1
    )
    gate = threading.Event()
    refusals.begin("-worker-")
    tasks = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(4)]
    eventually(lambda: refusals.refused)
    refusals.end()
    eventually(lambda: manager.stats().running_tasks == 2)
    gate.set()
    assert [task.result(PATIENCE) for task in tasks] == [True] * 4


def test_a_constructor_whose_burst_thread_cannot_be_started_raises_and_leaves_nothing(
    new_manager, factory, refusals
):
    factory.any_thread = True
    before = threading.active_count()
    refusals.begin("-burst")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        new_manager(worker_count=3, resource_pool_size=2)
    assert threading.active_count() == before
    assert (len(factory.created), factory.live) == (2, 0)
    refusals.end()
    assert new_manager().queue_task(lambda resource: "another manager") == "another manager"


@pytest.mark.slow
def test_a_replacement_that_cannot_be_started_comes_later_and_loses_no_task(new_manager, refusals):
    manager = new_manager(worker_count=1, max_worker_count=1)
    assert manager.wait_ready(PATIENCE)
    refusals.begin("-worker-", times=3)
    lose_the_worker(manager)
    futures = [manager.submit(lambda resource, x: x, i) for i in range(10)]
    assert [future.result(PATIENCE) for future in futures] == list(range(10))
    assert len(refusals.refused) == 3
    assert manager.stop().drained


@pytest.mark.slow
def test_a_deadline_set_while_the_timer_thread_cannot_be_started_ends_its_task_once_it_can(
    new_manager, refusals, timer
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate = threading.Event()
    refusals.begin("tasker-timer")
    running = manager.submit(lambda resource: gate.wait(PATIENCE), timeout=0.01)
    waiting = manager.submit(lambda resource: 0, timeout=0.01)
    eventually(
        lambda: len(refusals.refused) > 3
    )  # two by submit, the others by the burst thread's tick
    assert not running.done()
    refusals.end()
    for future in (running, waiting):
        assert isinstance(future.exception(PATIENCE), TaskTimeoutError)
    gate.set()
    assert manager.stop().drained


def test_callbacks_whose_thread_cannot_be_started_run_once_it_can(new_manager, refusals):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, called = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))
    refusals.begin("-aside", times=3)
    for _ in range(3):
        manager.queue_task_with_callback(
            lambda resource: 0, lambda *outcome: called.append(outcome), timeout=0.01
        )
    eventually(lambda: len(called) == 3)
    assert len(refusals.refused) == 3
    gate.set()
    assert manager.stop().drained


@pytest.mark.slow
def test_a_thread_that_cannot_be_started_is_tried_again_at_the_next_tick_and_not_at_once(
    new_manager, monkeypatch
):
    refusals = Refusals(monkeypatch)
    refusals.begin("-worker-")
    manager = new_manager(worker_count=1)
    parker, slept = manager._engine.housekeeper._parker, []

    class Parker:
        """The burst thread's, which tells whether somebody woke it."""

        wake = parker.wake

        def sleep(self, timeout):
            slept.append(parker.sleep(timeout))

    manager._engine.housekeeper._parker = Parker()
    eventually(lambda: len(slept) > 3)
    refusals.end()
    assert manager.wait_ready(PATIENCE)
    assert slept[1:4] == [False] * 3  # the first sleep may have begun before


@pytest.mark.slow
def test_a_program_whose_manager_could_not_be_made_does_not_wait_for_it_at_exit():
    done = run_python("""
        import tasker._pool.exit_and_fork
        start = threading.Thread.start
        def refuse(thread):
            if "-burst" in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)
        threading.Thread.start = refuse
        try:
            TaskManager(CONFIG)
        except RuntimeError as error:
            kept = error  # as an interactive session keeps the last error, and with it the frames that it came through
        print([engine.name for engine in tasker._pool.exit_and_fork._watched])
        tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = tasker._pool.exit_and_fork._EXIT_KILL_S = 1000.0  # waited for, this would be seen
    """)
    assert (done.stdout, done.returncode, done.stderr) == ("[]\n", 0, "")


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_stop_waits_for_an_on_destroy_that_takes_longer_than_create_timeout(
    new_manager, factory, broken
):
    destroying, gate = threading.Event(), threading.Event()

    def destroy(resource):
        destroying.set()
        gate.wait(PATIENCE)
        factory.destroy(resource)

    manager = new_manager(
        worker_count=1,
        max_worker_count=1,
        on_destroy=destroy,
        create_timeout=0.02,
        max_retries=0,
    )
    assert manager.wait_ready(PATIENCE)
    if broken:
        error = Sick()
        manager.submit(lambda resource: (_ for _ in ()).throw(error)).exception(PATIENCE)
    reports = []
    stopper = threading.Thread(target=lambda: reports.append(manager.stop()))
    stopper.start()
    assert destroying.wait(PATIENCE)
    ticks = []
    step = manager._engine.lifecycle.step
    manager._engine.lifecycle.step = lambda began: (ticks.append(1), step(began))[1]
    eventually(lambda: len(ticks) > 3 or reports)
    assert reports == []
    gate.set()
    stopper.join(PATIENCE)
    assert (reports[0].drained, reports[0].abandoned, factory.live) == (True, (), 0)


def test_a_thread_without_memory_for_it_is_made_good(new_manager, monkeypatch):
    manager = new_manager(worker_count=1)
    started, gate, called = (threading.Event() for _ in range(3))
    start, failed = threading.Thread.start, []

    def without_memory(thread):
        if thread.name.endswith("-aside") and not failed:
            failed.append(thread)
            raise MemoryError
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", without_memory)
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    manager.queue_task_with_callback(
        lambda resource: None, lambda result, error: called.set(), timeout=0.01
    )
    assert called.wait(PATIENCE)
    gate.set()
    closed = threading.Thread(target=manager.stop, daemon=True)
    closed.start()
    closed.join(PATIENCE)
    assert failed
    assert not closed.is_alive()


def test_the_callback_of_a_killed_task_is_called_although_its_thread_did_not_start_at_first(
    new_manager, factory, monkeypatch
):
    manager = new_manager(worker_count=1)
    started, gate, called = (threading.Event() for _ in range(3))
    start, failed = threading.Thread.start, []

    def not_at_first(thread):
        if thread.name.endswith("-aside") and not failed:
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    manager.queue_task_with_callback(
        lambda resource: (started.set(), gate.wait(PATIENCE)), lambda result, error: called.set()
    )
    assert started.wait(PATIENCE)
    monkeypatch.setattr(threading.Thread, "start", not_at_first)
    try:
        manager.kill(0.05)
        assert called.wait(PATIENCE)
    finally:
        gate.set()
    eventually(lambda: factory.live == 0)
    assert failed


# -- errors in the burst thread ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("error", [ZeroDivisionError("in a tick"), SystemExit("in a tick")])
@pytest.mark.parametrize(
    "where", ["crew.heal", "queue.compact", "runner.heal", "counters.sample", "counters.progress"]
)
def test_after_errors_in_its_ticks_the_burst_thread_still_scales_and_heals_and_closes(
    new_manager, log, monkeypatch, where, error
):
    monkeypatch.setattr(tasker._pool.scaling, "WINDOW_S", 0.05)  # idle workers are retired sooner
    manager = new_manager(
        worker_count=1, max_worker_count=2, burst_interval=0.01, burst_task_threshold=1
    )
    assert manager.wait_ready(PATIENCE)
    part, method = where.split(".")
    part, raised = getattr(manager._engine, part), []
    real = getattr(part, method)

    def fail_thrice(*args):
        if threading.current_thread() is manager._engine.housekeeper.thread and len(raised) < 3:
            raised.append(1)
            raise error
        return real(*args)

    setattr(part, method, fail_thrice)
    gate = threading.Event()
    tasks = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(4)]
    eventually(lambda: manager.stats().running_tasks == 2)  # hired
    gate.set()
    assert [task.result(PATIENCE) for task in tasks] == [True] * 4
    eventually(lambda: len(raised) == 3)
    eventually(lambda: manager.stats().active_workers == 1)  # retired
    lose_the_worker(manager)
    assert manager.queue_task(lambda resource: "replaced") == "replaced"
    assert manager.stop().drained
    assert len(log.telling(of="in a tick")) == 3


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize(
    "where", ["lifecycle.step", "crew.wake_all", "crew.join_gone", "runner.let_go"]
)
def test_errors_in_the_steps_of_closing_delay_it_by_some_ticks_and_that_is_all(
    new_manager, log, where, end
):
    manager = new_manager(worker_count=2, max_worker_count=2, burst_interval=0.01)
    futures = [manager.submit(lambda resource, x: x, i) for i in range(10)]
    assert manager.join(PATIENCE)
    part, method = where.split(".")
    part, raised = getattr(manager._engine, part), []
    real = getattr(part, method)

    def fail_twice(*args):
        if len(raised) < 2:
            raised.append(1)
            raise ZeroDivisionError("while closing")
        return real(*args)

    setattr(part, method, fail_twice)
    report = getattr(manager, end)()
    assert (report.completed, report.abandoned) == (10, ())
    assert report.drained is (end == "stop")
    assert [future.result(0) for future in futures] == list(range(10))
    assert len(log.telling(of="while closing")) == len(raised) > 0


# -- closing from any place --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stop", "kill"])
@pytest.mark.parametrize(
    "place",
    [
        "on_create",
        "check_health",
        "on_check",
        "on_reset",
        "logger",
        "record_arrival",
        "record_completion",
        "record_failure",
        "on_done",
    ],
)
def test_closing_from_any_hook_does_not_lock_up(new_manager, factory, method, place):
    """Tasks, callbacks, run_task and on_destroy are in test_shutdown."""
    managers, reports = [], []

    class Everything:
        """Logger and collector at once."""

        def __getattr__(self, name):
            return lambda *args: close(name if name.startswith("record") else "logger")

    def close(here, value=None):
        if here == place and managers and not reports:
            reports.append(getattr(managers[0], method)())
        return value

    def task(ctx, resource):
        ctx.on_done(lambda: close("on_done"))
        ctx.cancel()
        raise Sick

    def bad(result, error):
        raise ValueError("for the logger")

    started = threading.Event()
    manager = new_manager(
        worker_count=1,
        on_create=lambda: (started.wait(PATIENCE), close("on_create"), factory.create())[-1],
        check_health=lambda error: close("check_health", True),
        on_check=lambda resource: close("on_check"),
        keepalive=0.01,
        on_reset=lambda resource: close("on_reset"),
        logger=Everything(),
        collector=Everything(),
    )
    managers.append(manager)
    started.set()
    accepted = 0
    for submit in (
        lambda: manager.submit(task),
        lambda: manager.submit(lambda resource: 0),
        lambda: manager.queue_task_with_callback(lambda resource: 0, bad),
    ):
        try:
            submit()
            accepted += 1
        except TaskManagerShutdownError:
            pass
    eventually(lambda: reports)
    report = manager.stop()
    assert report.abandoned == ()
    assert report.completed + report.failed + report.cancelled >= accepted


# -- closing from a signal handler, wherever it interrupts -------------------------------------------------------------

OURS = os.path.dirname(tasker.__file__)


def interrupted_at(line, call):
    """Call with SIGTERM at the `line`th line of tasker's that this thread runs; whether there were so many lines."""
    lines = 0

    def trace(frame, event, arg):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            lines += 1
            if lines == line:
                signal.raise_signal(signal.SIGTERM)  # its handler runs here and now
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except (TaskManagerShutdownError, TaskManagerKilledError) as error:
        return error, lines >= line
    finally:
        sys.settrace(before)
    return None, lines >= line


SUBMISSIONS = {
    "submit": (0, lambda manager: manager.submit(len)),
    "submit with limits": (
        3,
        lambda manager: manager.submit(
            len, priority=True, once=True, timeout=1000, queue_timeout=1000
        ),
    ),
    "queue_task": (0, lambda manager: manager.queue_task(lambda resource: 0)),
    "queue_task_with_callback": (
        0,
        lambda manager: manager.queue_task_with_callback(len, lambda *_: None),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stop", "kill"])
@pytest.mark.parametrize("kind", SUBMISSIONS)
def test_a_signal_handler_may_close_at_every_line_of_a_submission(new_manager, kind, method):
    bound, submit = SUBMISSIONS[kind]
    handled = []

    def close(*_):
        gate.set()
        handled.append(getattr(manager, method)())
        # see the closing through, unless it needs a lock that the interrupted lines hold
        manager._engine.lifecycle.wait(0.02)

    previous = signal.signal(signal.SIGTERM, close)
    try:
        line, there = 0, True
        while there:
            line += 1
            gate = threading.Event()
            if kind == "queue_task":  # which waits for its turn
                gate.set()
            manager = new_manager(worker_count=1, max_worker_count=1, queue_size=bound)
            manager.submit(lambda resource, gate=gate: gate.wait(PATIENCE))
            manager.submit(len)  # the closing has something to take out of the lane
            error, there = interrupted_at(line, lambda manager=manager: submit(manager))
            gate.set()
            assert len(handled) == (line if there else line - 1)
            report = manager.stop()
            assert report.abandoned == (), line
            ended = report.completed + report.failed + report.cancelled
            assert ended == manager.metrics().total_tasks_arrived <= 3, line
            assert ended == 3 or isinstance(error, TaskManagerShutdownError), line
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert line > 20
