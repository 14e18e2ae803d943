"""Fault injection: what is rare and was wrong once, each with the test that shows it."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading

import pytest

from tasker import TaskManagerShutdownError, TaskMetrics
from tests.conftest import PATIENCE, Sick, eventually
from tests.test_faults_exit import FORKING, needs_fork
from tests.test_faults_threads import Refusals
from tests.test_shutdown import run_python

# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_thread_that_cannot_be_started_is_tried_again_at_the_next_tick_and_not_at_once(make, monkeypatch):
    refusals = Refusals(monkeypatch)
    refusals.begin("-worker-")
    manager = make(worker_count=1)
    seat, slept = manager._engine.burst._seat, []

    class Seat:
        """The burst thread's, which tells whether somebody woke it."""

        wake = seat.wake

        def sleep(self, timeout):
            slept.append(seat.sleep(timeout))

    manager._engine.burst._seat = Seat()
    eventually(lambda: len(slept) > 3)
    refusals.end()
    assert manager.wait_ready(PATIENCE)
    assert slept[1:4] == [False] * 3  # the first sleep may have begun before


def test_a_program_whose_manager_could_not_be_made_does_not_wait_for_it_at_exit():
    done = run_python("""
        import tasker.process
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
        print([engine.name for engine in tasker.process._watched])
        tasker.process.EXIT_TIMEOUT = tasker.process._EXIT_KILL = 1000.0  # waited for, this would be seen
    """)
    assert (done.stdout, done.returncode, done.stderr) == ("[]\n", 0, "")


@pytest.mark.parametrize("broken", [False, True])
def test_stop_waits_for_an_on_destroy_that_takes_longer_than_create_timeout(make, factory, broken):
    destroying, gate = threading.Event(), threading.Event()

    def destroy(resource):
        destroying.set()
        gate.wait(PATIENCE)
        factory.destroy(resource)

    manager = make(
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


# -- exceptions that cannot be read, and answers that are false --------------------------------------------------------


def refuse(self, *args):
    raise SystemExit("an exception that cannot be read")


class Unreadable(Exception):
    """Nothing about it can be printed."""

    __str__ = __repr__ = refuse
    __notes__ = __cause__ = __context__ = __traceback__ = property(refuse, refuse)


@pytest.mark.parametrize(
    "where",
    [
        "on_create",
        "on_destroy",
        "check_health",
        "task",
        "add_done_callback",
        "callback",
        "on_done",
        *(
            "record_arrival",
            "record_completion",
            "record_failure",
            "record_retry",
            "metrics",
        ),
        "burst thread",
    ],
)
def test_an_exception_that_cannot_be_read_is_reported_by_its_type_and_loses_nothing(
    make, factory, log, caplog, monkeypatch, where
):
    came_through, lost = None, []
    monkeypatch.setattr(threading, "excepthook", lambda args: lost.append(args.thread.name))
    try:
        meet_unreadable(make, factory, log, caplog, where)
    except (Unreadable, SystemExit) as error:  # pytest could not read it either
        # an interrupt that is raised again, a moment later, is of a type made for it
        came_through = SystemExit if isinstance(error, SystemExit) else Unreadable
    # told in this thread: in the main one a SystemExit may be that of a signal handler, and is raised
    assert came_through is (SystemExit if where in ("record_arrival", "metrics") else None)
    assert lost == []


def meet_unreadable(make, factory, log, caplog, where):
    told = set()

    def fail(here, value=None):
        if here == where and here not in told:
            told.add(here)
            raise Unreadable
        return value

    class Collector:
        def __getattr__(self, name):
            return lambda *args: fail(name)

    def task(ctx, resource):
        ctx.on_done(lambda: fail("on_done"))
        ctx.cancel()
        fail("task")
        raise Sick

    manager = make(
        worker_count=1,
        max_worker_count=1,
        max_retries=1,
        on_create=lambda: fail("on_create", True) and factory.create(),
        on_destroy=lambda resource: (factory.destroy(resource), fail("on_destroy")),
        check_health=lambda error: fail("check_health", not isinstance(error, Sick)),
        collector=Collector(),
    )
    heal = manager._engine.crew.heal
    manager._engine.crew.heal = lambda idle: (fail("burst thread"), heal(idle))
    called = []
    future = manager.submit(task)
    future.add_done_callback(lambda done: fail("add_done_callback"))
    future.add_done_callback(lambda done: called.append(1))
    manager.queue_task_with_callback(lambda resource: 0, lambda result, error: fail("callback"))
    assert type(future.exception(PATIENCE)) is (Unreadable if where == "task" else Sick)
    assert manager.queue_task(lambda resource: "the next") == "the next"
    assert manager.join(PATIENCE)
    assert called == [1]
    assert manager.metrics().total_tasks_arrived == 3
    eventually(lambda: manager.stats().active_workers == 1 and (where != "burst thread" or told))
    assert manager.stop().drained
    assert told == {where}
    del future
    if where != "task":  # its failure was seen
        lines = log.loud() + [record.getMessage() for record in caplog.records]
        assert sum("Unreadable" in line for line in lines) == 1
        assert not any("lost" in line for line in lines)


def test_an_unseen_failure_that_cannot_be_read_is_logged_by_its_type(make, log):
    def fail(resource):
        raise Unreadable

    manager = make()
    manager.submit(fail)
    assert manager.join(PATIENCE)
    gc.collect()
    eventually(lambda: any("Unreadable" in line for line in log.loud()))


@pytest.mark.parametrize("figures", [{}, 0, TaskMetrics()])
def test_what_the_collectors_metrics_returns_is_what_is_returned_unless_it_is_none(make, figures):
    class Collector:
        def __getattr__(self, name):
            return lambda *args: figures

    manager = make(collector=Collector())
    assert manager.metrics() is figures


# -- fork --------------------------------------------------------------------------------------------------------------

LOCKS = """
    def every_use():
        uses = [
            lambda: manager.submit(len), lambda: manager.queue_task(len), lambda: manager.run_task(len),
            manager.stats, manager.metrics, lambda: manager.join(0), lambda: manager.wait_ready(0),
            running.result, waiting.result, running.cancel, waiting.cancel, manager.stop, manager.kill,
        ]
        for use in uses:
            try:
                use()
            except (TaskManagerShutdownError, TaskManagerKilledError):
                pass
        return len(uses)

    engine, kinds = manager._engine, (type(threading.Lock()), type(threading.RLock()), threading.Condition)
    parts = dict(engine=engine, **{name: value for name, value in vars(engine).items() if hasattr(value, "__dict__")})
    locks = {
        f"{part}.{name}": value for part, it in parts.items() for name, value in vars(it).items()
        if isinstance(value, kinds)
    }
    for name, lock in locks.items():
        held, release = threading.Event(), threading.Event()
        def hold():
            with lock:
                held.set()
                release.wait()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        in_a_child(name, every_use)
        release.set()
        holder.join()
    gate.set()
    print(len(locks) > 5, waiting.result(), manager.stop().drained)
"""


@needs_fork
def test_in_a_forked_child_nothing_hangs_whatever_lock_another_thread_held():
    done = run_python(FORKING + LOCKS)
    *children, parent = done.stdout.splitlines()
    assert [line for line in children if not line.endswith(" int")] == []
    assert parent == "True the parent's True"
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_in_a_forked_child_a_task_that_another_thread_was_just_taking_or_sweeping_has_an_end():
    """Not in its lane any more, and its worker does not say yet that it runs."""
    done = run_python(
        FORKING
        + """
    from collections import deque
    taken, go_on = threading.Event(), threading.Event()

    class Slow(deque):
        def popleft(self):
            task = super().popleft()
            taken.set()
            go_on.wait()
            return task

    manager._engine.queue._main = Slow(manager._engine.queue._main)
    gate.set()
    taken.wait()
    in_a_child("result", waiting.result)
    in_a_child("exception", waiting.exception)
    go_on.set()
    print(waiting.result(), manager.stop().drained)
    """
    )
    assert done.stdout.splitlines() == [
        "result TaskManagerShutdownError",
        "exception TaskManagerShutdownError",
        "the parent's True",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_in_a_forked_child_the_standard_waits_see_inherited_futures_ended():
    done = run_python(
        FORKING
        + """
    from concurrent.futures import as_completed, wait
    in_a_child("wait", lambda: wait([running, waiting]))
    in_a_child("as_completed", lambda: list(as_completed([running, waiting])))
    gate.set()
    print(waiting.result(), manager.stop().drained)
    """
    )
    assert done.stdout.splitlines() == [
        "wait DoneAndNotDoneFutures",
        "as_completed list",
        "the parent's True",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_a_fork_looks_at_what_other_threads_use_before_it_forks_and_keeps_nothing_of_that():
    done = run_python(
        """
    from tasker import process
    from tasker.engine import Engine
    looks, look = [], Engine.unfinished
    Engine.unfinished = lambda engine: looks.append(os.getpid()) or look(engine)
    parent = os.getpid()
    """
        + FORKING
        + """
    in_a_child("wait", lambda: print(looks == [parent], vars(process._forking), running.done(), flush=True))
    print(looks == [parent], vars(process._forking), running.done())
    gate.set()
    print(waiting.result(), manager.stop().drained)
    """
    )
    assert done.stdout.splitlines() == ["True {} True", "wait NoneType", "True {} False", "the parent's True"]
    assert (done.returncode, done.stderr) == (0, "")


@needs_fork
def test_in_a_forked_child_run_task_is_refused_and_the_parents_resources_are_neither_used_nor_freed():
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        class Resource:
            def __del__(self):
                if os.getpid() != parent:
                    print("freed by the child", flush=True)

        parent = os.getpid()
        manager = TaskManager(Config(
            on_create=Resource, on_destroy=Resource.__del__, worker_count=1, resource_pool_size=1))
        manager.wait_ready()
        child = os.fork()
        if child == 0:
            try:
                print("used", manager.run_task(lambda resource: "by the child"), flush=True)
            except TaskManagerShutdownError as error:
                print("refused", flush=True)
            sys.exit(manager.stop().destroy_errors)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print(manager.run_task(lambda resource: "used by the parent"), flush=True)
    """)
    assert done.stdout.splitlines() == ["refused", "child 0", "used by the parent"]
    assert (done.returncode, done.stderr) == (0, "")


# -- found by the soak -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["goes on", "stops"])
def test_a_submitter_whose_wake_up_got_lost_does_not_wait_for_ever(make, end):
    manager = make(worker_count=1, max_worker_count=1, queue_size=1)
    started, gate = threading.Event(), threading.Event()
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    manager.submit(lambda resource: None)
    submitted = threading.Event()

    def submit():
        with contextlib.suppress(TaskManagerShutdownError):
            manager.submit(lambda resource: None)
        submitted.set()

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    room = manager._engine.queue.room
    eventually(lambda: room._line)
    room.leave = room._holders.discard  # as who is interrupted between freeing a slot and giving it to the next
    manager._engine.queue.free_slot = room.leave
    gate.set()
    if end == "stops":
        manager.stop()
    assert submitted.wait(PATIENCE)


def test_a_thread_without_memory_for_it_is_made_good(make, monkeypatch):
    manager = make(worker_count=1)
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
    manager.queue_task_with_callback(lambda resource: None, lambda result, error: called.set(), timeout=0.01)
    assert called.wait(PATIENCE)
    gate.set()
    closed = threading.Thread(target=manager.stop, daemon=True)
    closed.start()
    closed.join(PATIENCE)
    assert failed
    assert not closed.is_alive()


def test_the_callback_of_a_killed_task_is_called_although_its_thread_did_not_start_at_first(make, factory, monkeypatch):
    manager = make(worker_count=1)
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


def test_metrics_may_be_asked_by_a_signal_handler_that_interrupted_metrics(make):
    manager = make(worker_count=1, max_worker_count=1)

    def run(tasks):
        for future in [manager.submit(lambda resource: None) for _ in range(tasks)]:
            future.result(PATIENCE)
        assert manager.join(PATIENCE)

    lines = []

    def handler(frame, event, arg):  # a signal handler may run between any two of these lines
        if frame.f_code.co_filename.endswith(("sortedlist.py", "reservoir.py")):
            lines.append(1)
            if len(lines) < 300:
                run(5 if len(lines) % 2 else 2000)
                manager.metrics()
        return handler

    for tasks in (3000, 10):
        run(tasks)
        lines.clear()
        before = sys.gettrace()
        sys.settrace(handler)
        try:
            manager.metrics()
        finally:
            sys.settrace(before)
        assert lines
    metrics = manager.metrics()
    assert 0 < metrics.p95_execution_time <= metrics.p99_execution_time <= metrics.max_execution_time


def test_stop_does_not_return_before_a_timeout_has_settled_its_task(make):
    manager = make(worker_count=1, max_worker_count=1)
    engine = manager._engine
    started, gate, reached, go = (threading.Event() for _ in range(4))
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    died = engine.entry_died

    def slowly(future):  # the timer thread is descheduled between taking the task and settling it
        died(future)
        reached.set()
        go.wait(PATIENCE)

    engine.entry_died = slowly
    future = manager.submit(lambda resource: None, timeout=0.01)
    assert reached.wait(PATIENCE)
    gate.set()
    engine.lifecycle.request_stop()
    closed_early = engine.lifecycle.wait(0.3)  # a second is what a count that is wrong may cost
    done = future.done()
    go.set()
    assert manager.stop().failed == 1
    assert done or not closed_early


def test_metrics_in_a_signal_handler_that_interrupted_a_cancellation_does_not_wait_for_ever(make):
    manager = make(worker_count=1, queue_size=5)
    figures, queue = manager._engine.figures, manager._engine.queue
    asked, started, gate, waiting_new = threading.Event(), threading.Event(), threading.Event(), figures._waiting
    another = threading.Thread(target=manager.metrics, daemon=True)

    def ask():
        asked.set()
        return waiting_new()  # waits for the queue's lock

    class Interrupted(dict):
        """The counts of dead entries: one is counted under the queue's lock, where a signal handler may run."""

        def __setitem__(self, priority, count):
            super().__setitem__(priority, count)
            if not asked.is_set():
                figures._waiting = ask
                another.start()
                assert asked.wait(PATIENCE)
                manager.metrics()

    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    future = manager.submit(lambda resource: None)
    queue._dead = Interrupted(queue._dead)
    canceller = threading.Thread(target=future.cancel, daemon=True)
    canceller.start()
    canceller.join(PATIENCE)
    gate.set()
    assert not canceller.is_alive()
    another.join(PATIENCE)
    assert not another.is_alive()


def test_stop_does_not_return_before_the_callbacks_of_a_timeout_have_run(make):
    manager = make(worker_count=1, max_worker_count=1)
    engine = manager._engine
    started, gate, reached, go = (threading.Event() for _ in range(4))
    called = []
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    run_aside = engine.run_aside

    def slowly(jobs):  # the timer thread is descheduled between counting the failure and handing its callback over
        reached.set()
        go.wait(PATIENCE)
        run_aside(jobs)

    engine.run_aside = slowly
    manager.queue_task_with_callback(lambda resource: None, lambda result, error: called.append(error), timeout=0.01)
    assert reached.wait(PATIENCE)
    gate.set()
    engine.lifecycle.request_stop()
    closed_early = engine.lifecycle.wait(0.3)  # a second is what a count that is wrong may cost
    go.set()
    assert manager.stop().failed == 1
    assert len(called) == 1
    assert not closed_early
