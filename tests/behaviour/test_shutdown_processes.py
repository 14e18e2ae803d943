"""How a manager ends with its process: signals, forgotten managers, exits, forks."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import threading
import weakref

import pytest

import tasker._pool.backoff
import tasker._pool.engine
import tasker._pool.lifecycle
from tasker import (
    Config,
    TaskManager,
    TaskManagerKilledError,
    TaskManagerShutdownError,
)
from tests.support.snippets import run_python
from tests.support.waiting import PATIENCE, eventually

# -- signals, forgotten managers, processes ----------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="signals to the own process")


@posix
@pytest.mark.parametrize("method", ["stop", "kill"])
@pytest.mark.parametrize("bound", [0, 5])
def test_closing_from_a_signal_handler_in_the_middle_of_submitting_does_not_lock_up(
    new_manager, method, bound
):
    manager, reports = new_manager(worker_count=1, queue_size=bound), []

    def submit_for_ever():
        while True:
            manager.submit(lambda resource: 0).result()

    previous = signal.signal(signal.SIGALRM, lambda *_: reports.append(getattr(manager, method)()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises((TaskManagerShutdownError, TaskManagerKilledError)):
            submit_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(reports) == 1
    assert manager.stop().abandoned == ()


@posix
def test_ctrl_c_in_a_blocked_call_raises_at_once_and_cancels_the_task(new_manager, ctrl_c):
    manager = new_manager(worker_count=1, max_worker_count=1)
    started, gate, ran = threading.Event(), threading.Event(), []
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))

    def interrupt_when_it_waits():
        eventually(lambda: started.is_set() and manager.stats().queued_tasks)
        ctrl_c.press()

    interrupting = threading.Thread(target=interrupt_when_it_waits)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        manager.queue_task(ran.append)
    interrupting.join()
    gate.set()
    assert manager.join(PATIENCE)
    assert ran == []
    assert manager.metrics().total_tasks_cancelled == 1


@pytest.mark.slow
@posix
@pytest.mark.usefixtures(
    "no_collection"
)  # Python loses an exception that a handler raises inside somebody's __del__
def test_ctrl_c_in_the_middle_of_submissions_strands_nothing_and_refuses_what_it_ends(
    new_manager, monkeypatch
):
    late = []  # interrupts of submissions whose task had been taken already: those return
    monkeypatch.setattr(tasker._pool.engine, "deliver_later", late.append)
    manager = new_manager(worker_count=2, max_worker_count=2)
    futures, interrupts, inside = [], 0, False

    def handler(*_):
        if inside:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        while interrupts < 50:
            try:
                inside = True
                while True:
                    futures.append(manager.submit(lambda resource: 0))
            except KeyboardInterrupt:
                inside = False
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not concurrent.futures.wait(futures, PATIENCE).not_done
    assert manager.join(PATIENCE)
    metrics = manager.metrics()
    assert metrics.total_tasks_completed == len(futures), (
        "accepted if and only if the submission returned"
    )
    assert (
        metrics.total_tasks_arrived == metrics.total_tasks_completed + metrics.total_tasks_cancelled
    )
    eventually(lambda: manager.stats().idle_workers == 2)


def test_a_forgotten_manager_is_stopped_and_collected(factory):
    manager = TaskManager(
        Config(
            on_create=factory.create,
            on_destroy=factory.destroy,
            worker_count=2,
            resource_pool_size=0,
        )
    )
    future = manager.submit(lambda resource: "finished")
    watch, engine = weakref.ref(manager), weakref.ref(manager._engine)
    del manager
    gc.collect()
    assert watch() is None
    assert future.result(PATIENCE) == "finished"
    eventually(lambda: factory.live == 0)
    del future

    def collected():
        gc.collect()
        return engine() is None

    eventually(collected, "the engine of a forgotten manager")


def test_a_closed_manager_keeps_nothing_of_its_tasks(new_manager):
    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing)
    manager = new_manager(worker_count=1)
    future = manager.submit(lambda resource, x: x, thing)
    manager.stop()
    del thing, future
    gc.collect()
    assert watch() is None


@pytest.mark.slow
def test_the_interpreter_exits_with_a_manager_nobody_stopped_and_finishes_its_tasks():
    done = run_python("""
        manager = TaskManager(CONFIG)
        for i in range(3):
            manager.submit(lambda resource, i: print("ran", i, flush=True), i)
    """)
    assert done.stdout.split("\n")[:-1] == ["created", "ran 0", "ran 1", "ran 2", "destroyed"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_interpreter_exits_with_a_stuck_task():
    done = run_python("""
        import tasker._pool.exit_and_fork
        tasker._pool.exit_and_fork.EXIT_TIMEOUT_S = 0.2
        manager = TaskManager(CONFIG)
        started = threading.Event()
        manager.submit(lambda resource: (started.set(), time.sleep(1000)))
        waiting = manager.submit(lambda resource: print("never"))
        waiting.add_done_callback(lambda future: print(type(future.exception()).__name__, flush=True))
        started.wait()
    """)
    assert done.stdout.split() == ["created", "TaskManagerKilledError"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_interpreter_exits_while_a_task_is_submitting():
    done = run_python("""
        manager = TaskManager(CONFIG)
        def again(resource):
            try:
                manager.submit(again)
            except TaskManagerShutdownError:
                print("refused", flush=True)
        manager.submit(again)
        time.sleep(0.1)
    """)
    assert done.stdout.split() == ["created", "refused", "destroyed"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_sys_exit_in_the_with_block_ends_the_process_with_its_status():
    done = run_python("""
        with TaskManager(CONFIG) as manager:
            manager.wait_ready()
            sys.exit(7)
    """)
    assert (done.returncode, done.stderr, done.stdout.split()) == (7, "", ["created", "destroyed"])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_and_exits_and_the_parent_is_unharmed():
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        manager = TaskManager(CONFIG)
        gate = threading.Event()
        running = manager.submit(lambda resource: gate.wait(30))
        waiting = manager.submit(lambda resource: "parent")
        while not running.running():
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            try:
                manager.submit(lambda resource: 0)
            except TaskManagerShutdownError as error:
                print("refused:", "fork" in str(error), flush=True)
            for future in (running, waiting):
                print(type(future.exception()).__name__, flush=True)
            print(manager.stop().drained, flush=True)
            sys.exit(3)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        gate.set()
        print(waiting.result(), manager.stop().drained, flush=True)
    """)
    lines = done.stdout.splitlines()
    assert lines.count("destroyed") == 1
    assert [line for line in lines if line not in ("created", "destroyed")] == [
        "refused: True",
        "TaskManagerShutdownError",
        "TaskManagerShutdownError",
        "False",
        "child 3",
        "parent True",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_an_on_destroy_that_never_returns_does_not_hold_up_kill(new_manager, factory):
    factory.any_thread = True
    gate = threading.Event()

    def destroy(resource):
        gate.wait(PATIENCE)
        factory.destroy(resource)

    manager = new_manager(
        worker_count=1, max_worker_count=1, resource_pool_size=1, on_destroy=destroy
    )
    assert manager.wait_ready(PATIENCE)
    report = manager.kill(0.05)
    assert not report.drained
    assert sorted(report.abandoned) == ["tasker-aside", "tasker-worker-1"]
    gate.set()
    eventually(lambda: factory.live == 0)


def test_a_kill_that_overtakes_a_stop_while_the_burst_thread_looks_fails_what_waits(
    new_manager, factory
):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, lifecycle, queue = threading.Event(), manager._engine.lifecycle, manager._engine.queue
    running = manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(running.running)
    waiting = manager.submit(lambda resource: "ran after kill() had returned")
    compact = queue.compact

    def compact_and_kill():
        compact()
        if manager._engine.is_stopping():
            lifecycle.request_kill(0)

    queue.compact = compact_and_kill  # what a step of a stop does first
    lifecycle.request_stop()
    assert lifecycle.wait(PATIENCE)
    done, drained = waiting.done(), lifecycle.report().drained
    gate.set()
    eventually(lambda: factory.live == 0)
    assert (done, drained) == (True, False)
