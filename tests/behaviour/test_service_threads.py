"""The threads that serve everybody (housekeeper, timer) wait for nothing of the user's and look up often.

Loggers and collectors may block, a thread may take long to start, many thousands of tasks may wait: closing, healing,
scaling and deadlines come all the same, and what is urgent comes first.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import tasker._pool.closing
import tasker._pool.crew
import tasker._pool.housekeeper
import tasker._pool.lifecycle
import tasker._pool.queue
from tasker import (
    ResourceCreationError,
    TaskManagerKilledError,
    TaskTimeoutError,
    ThreadPoolExecutor,
    background,
    with_timeout,
)
from tasker._sync.threads import new_thread
from tasker._sync.timer import LATE_S
from tasker._tasks.future import TaskFuture
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


class Gate:
    """What blocks until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.shut = False
        self.threads: set[str] = set()

    def pass_through(self, *_: object) -> None:
        if self.shut:
            self.threads.add(threading.current_thread().name)
            self.reached.set()
            self.open.wait(5 * PATIENCE)


class BlockingLogger(Gate):
    debug = info = warning = error = Gate.pass_through


class BlockingCollector(Gate):
    record_completion = record_failure = Gate.pass_through

    def record_arrival(self) -> None:
        pass

    def record_retry(self) -> None:
        pass

    def metrics(self):
        return None


@pytest.fixture
def logger():
    logger = BlockingLogger()
    yield logger
    logger.open.set()


@pytest.fixture
def collector():
    collector = BlockingCollector()
    yield collector
    collector.open.set()


@pytest.fixture
def apart():
    """Calls a function in a thread and returns what that returns; it has to within PATIENCE."""

    def apart(function, *args):
        results = []
        thread = threading.Thread(target=lambda: results.append(function(*args)), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert results, f"{function} did not return"
        return results[0]

    return apart


def running(manager, count=1):
    """Tasks that run until their event is set."""
    gate = threading.Event()
    futures = [manager.submit(lambda _: gate.wait(PATIENCE)) for _ in range(count)]
    eventually(lambda: all(future.running() for future in futures), "the running tasks")
    return gate, futures


# -- loggers that block -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_logger_that_blocks_does_not_hold_up_scaling(new_manager, logger):
    manager = new_manager(worker_count=1, max_worker_count=4, burst_interval=0.01, logger=logger)
    manager.queue_task(lambda _: None)  # after which its worker has told that it is ready
    logger.shut = True
    gate, futures = running(manager)
    futures += [manager.submit(lambda _: gate.wait(PATIENCE)) for _ in range(20)]
    assert logger.reached.wait(PATIENCE)  # "hired"
    eventually(lambda: manager.stats().active_workers == 4, "all workers")
    gate.set()
    eventually(lambda: manager.stats().active_workers == 1, "their retirement")
    assert not logger.open.is_set()
    assert not any(name.endswith(("-burst", "-timer")) for name in logger.threads)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_logger_that_blocks_holds_up_neither_stop_nor_kill(
    new_manager, logger, end, apart, monkeypatch
):
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", 1.0)  # in which the worker leaves
    monkeypatch.setattr(tasker._pool.closing, "KILL_TIMEOUT_S", 0.2)
    manager = new_manager(worker_count=1, max_worker_count=4, burst_interval=0.01, logger=logger)
    manager.queue_task(lambda _: None)  # after which its worker has told that it is ready
    logger.shut = True
    gate, futures = running(manager)
    futures += [manager.submit(lambda _: gate.wait(PATIENCE)) for _ in range(20)]
    assert logger.reached.wait(PATIENCE)
    gate.set()
    # a stop kills at its end: what is logged is a job of the manager's own
    report = apart(manager.stop, 1.0) if end == "stop" else apart(manager.kill, 0.1)
    assert not logger.open.is_set()
    assert set(report.abandoned) == {f"{manager._engine.name}-aside"}
    assert all(future.done() for future in futures)


def test_a_logger_that_blocks_does_not_hold_up_the_replacement_of_workers(
    new_manager, logger, monkeypatch, no_pauses
):
    start, refusals = threading.Thread.start, []
    manager = new_manager(worker_count=2, max_worker_count=2, burst_interval=0.01, logger=logger)
    manager.queue_task(lambda _: None)  # after which its worker has told that it is ready
    logger.shut = True

    def refuse(thread):
        if "-worker-" in thread.name and len(refusals) < 3:
            refusals.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for worker in manager._engine.crew.members:
        worker.dismiss()
    eventually(lambda: len(refusals) == 3, "three refusals, each of which is logged")
    assert logger.reached.wait(PATIENCE)
    eventually(lambda: manager._engine.crew.holding() == 2, "two new workers")
    assert manager.queue_task(lambda _: 1) == 1
    assert not logger.open.is_set()
    assert not any(name.endswith(("-burst", "-timer")) for name in logger.threads)


def test_while_a_logger_blocks_an_error_of_a_tick_deadlines_are_kept(
    new_manager, logger, monkeypatch
):
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.01, logger=logger)
    manager.queue_task(lambda _: None)  # after which its worker has told that it is ready
    logger.shut = True
    housekeeper, failed = manager._engine.housekeeper, threading.Event()
    scale = housekeeper._scale

    def fail():
        if not failed.is_set():
            failed.set()
            raise MemoryError
        scale()

    monkeypatch.setattr(housekeeper, "_scale", fail)
    assert failed.wait(PATIENCE)
    assert logger.reached.wait(PATIENCE)
    beats = housekeeper._beats
    eventually(lambda: housekeeper._beats > beats + 2, "more ticks")
    with pytest.raises(TaskTimeoutError):
        manager.queue_task(lambda ctx, _: ctx.wait(PATIENCE), timeout=0.02)
    ended = threading.Event()
    with_timeout(background(), 0.01).on_done(ended.set)
    assert ended.wait(PATIENCE)
    assert not logger.open.is_set()


# -- collectors that block --------------------------------------------------------------------------------------------


def test_callers_are_told_although_a_collector_blocks(new_manager, collector):
    manager = new_manager(
        worker_count=3, max_worker_count=3, burst_interval=0.01, collector=collector
    )
    assert manager.wait_ready(PATIENCE)
    collector.shut = True
    called = threading.Event()
    good = manager.submit(lambda _: 1)
    good.add_done_callback(lambda _: called.set())
    bad = manager.submit(lambda _: 1 / 0)
    late = manager.submit(lambda ctx, _: ctx.wait(PATIENCE), timeout=0.02)
    assert good.result(PATIENCE) == 1
    assert isinstance(bad.exception(PATIENCE), ZeroDivisionError)
    assert isinstance(late.exception(PATIENCE), TaskTimeoutError)
    assert called.wait(PATIENCE)
    assert not collector.open.is_set()
    assert not any(name.endswith(("-burst", "-timer")) for name in collector.threads)


@pytest.mark.slow
def test_kill_returns_although_a_collector_blocks(new_manager, collector, apart):
    manager = new_manager(
        worker_count=1, max_worker_count=1, burst_interval=0.01, collector=collector
    )
    (worker,) = manager._engine.crew.members
    gate, futures = running(manager)
    collector.shut = True
    futures += [manager.submit(lambda _: 1) for _ in range(10)]
    report = apart(manager.kill, 0.05)
    gate.set()
    assert not collector.open.is_set()
    assert report.abandoned
    assert all(isinstance(future.exception(PATIENCE), TaskManagerKilledError) for future in futures)
    collector.open.set()
    worker.thread.join(PATIENCE)


def test_a_tick_does_not_finish_a_task_whose_outcome_is_not_stored_yet(new_manager, monkeypatch):
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.01)
    housekeeper = manager._engine.housekeeper
    store = TaskFuture._store

    def store_slowly(task, *args, **options):
        """The thread that settles gets its next turn late."""
        beats = housekeeper._beats
        eventually(lambda: housekeeper._beats > beats + 3, "some ticks")
        store(task, *args, **options)

    monkeypatch.setattr(TaskFuture, "_store", store_slowly)
    gate, (first,) = running(manager)
    waiting = manager.submit(lambda _: 1, timeout=0.02)
    with pytest.raises(TaskTimeoutError):
        waiting.result()
    gate.set()
    assert first.result(PATIENCE)


# -- kill with many tasks ---------------------------------------------------------------------------------------------

# so many tasks that a kill takes several slices, and few enough for a busy machine
MANY = 20_000


def test_kill_tells_running_tasks_before_it_fails_waiting_ones(new_manager, monkeypatch):
    manager = new_manager(worker_count=1, max_worker_count=1)
    order, began = [], threading.Event()

    def run(ctx, _):
        ctx.on_done(lambda: None)
        began.set()
        ctx.wait(PATIENCE)

    manager.submit(run)
    assert began.wait(PATIENCE)
    ask, fail = TaskFuture._ask_to_end, TaskFuture._fail_from_outside
    monkeypatch.setattr(
        TaskFuture, "_ask_to_end", lambda task, *args: (order.append("told"), ask(task, *args))[1]
    )
    monkeypatch.setattr(
        TaskFuture,
        "_fail_from_outside",
        lambda task, *args: (order.append("failed"), fail(task, *args))[1],
    )
    waiting = [manager.submit(lambda _: 1) for _ in range(50)]
    manager.kill(PATIENCE)
    assert order[0] == "told"
    assert order.count("failed") == 50
    assert all(future.done() for future in waiting)


class Clock:
    """A clock of which each look takes some time."""

    def __init__(self, step: float) -> None:
        self.now, self.step = time.monotonic(), step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def many(new_manager, factory):
    """A manager with many waiting tasks, and one that does not listen."""
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, _ = running(manager)
    (worker,) = manager._engine.crew.members
    waiting = [manager.submit(lambda _: 1) for _ in range(MANY)]
    yield SimpleNamespace(manager=manager, gate=gate, waiting=waiting)
    gate.set()
    worker.thread.join(PATIENCE)


@pytest.mark.slow
def test_kill_fails_waiting_tasks_in_slices(many, monkeypatch):
    engine = many.manager._engine
    looks, slices, asked = [], [], threading.Event()
    kill_waiting, cancel_running = engine.lifecycle._kill_waiting, engine.lifecycle._cancel_running

    def watched():
        before = engine.counters.totals().cancelled
        more = kill_waiting()
        slices.append(engine.counters.totals().cancelled - before)
        return more

    monkeypatch.setattr(
        tasker._pool.queue, "monotonic", Clock(tasker._pool.lifecycle._SLICE_S / 4)
    )  # looked at once for a batch
    monkeypatch.setattr(engine.lifecycle, "_kill_waiting", watched)

    def look():
        looks.append(engine.lifecycle._kill_at())
        assert len(looks) != 4 or asked.wait(PATIENCE)
        cancel_running()

    monkeypatch.setattr(engine.lifecycle, "_cancel_running", look)
    killer = threading.Thread(target=many.manager.kill, args=(PATIENCE,))
    killer.start()
    eventually(lambda: len(looks) > 3, "some slices")
    # a shorter one is noticed while tasks wait
    many.manager._engine.lifecycle.request_kill(PATIENCE / 2)
    asked.set()
    many.gate.set()
    killer.join(PATIENCE)
    assert max(slices) <= 6 * tasker._pool.queue._BATCH_LENGTH
    assert len(set(looks)) == 2
    assert all(future.cancelled() or future.exception() is not None for future in many.waiting)


@pytest.mark.slow
def test_a_kill_that_has_no_time_for_all_that_waits_returns_and_the_rest_fails_after_it(
    many, monkeypatch
):
    engine = many.manager._engine
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", 0.0)
    monkeypatch.setattr(
        tasker._pool.queue, "monotonic", Clock(tasker._pool.lifecycle._SLICE_S)
    )  # a batch is a slice
    go_on = threading.Event()
    finish = engine.lifecycle.finish
    monkeypatch.setattr(engine.lifecycle, "finish", lambda: go_on.wait(PATIENCE) and finish())
    report = many.manager.kill(0.0)
    left = sum(engine.queue.waiting())
    assert left > 0
    assert report.cancelled == report.never_started == MANY
    go_on.set()
    for future in many.waiting:
        assert isinstance(future.exception(PATIENCE), TaskManagerKilledError)
    eventually(lambda: not any(engine.queue.waiting()), "empty lanes")
    assert engine.lifecycle.report().cancelled == MANY


# -- hiring many ------------------------------------------------------------------------------------------------------


def test_many_workers_are_hired_in_slices_and_none_when_closing_begins(new_manager, monkeypatch):
    manager = new_manager(worker_count=1, max_worker_count=100, burst_interval=0.01)
    assert manager.wait_ready(PATIENCE)
    engine, start = manager._engine, threading.Thread.start
    clock, started = SimpleNamespace(now=0.0), []

    def start_slowly(thread):
        clock.now += 0.06  # of which a tick has room for two
        if "-worker-" in thread.name:
            started.append(engine.housekeeper._beats)
        start(thread)
        if len(started) == 19:  # in the middle of a slice
            engine.lifecycle.request_stop()

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    monkeypatch.setattr(tasker._pool.crew, "monotonic", lambda: clock.now)
    gate = threading.Event()
    futures = [manager.submit(lambda _: gate.wait(PATIENCE)) for _ in range(200)]
    eventually(lambda: engine.is_stopping(), "the stop")
    assert len(started) == 19
    ticks = [len(list(each)) for _, each in itertools.groupby(started)]
    assert max(ticks) <= 2
    gate.set()
    assert manager.stop(PATIENCE).drained
    assert all(future.result() for future in futures)


# -- replacing the housekeeper's thread -------------------------------------------------------------------------------


def test_a_burst_thread_that_ends_while_it_is_looked_at_is_not_replaced(new_manager):
    manager = new_manager()
    housekeeper = manager._engine.housekeeper
    manager.stop()
    housekeeper.join(PATIENCE)

    def end():
        housekeeper._has_ended = True
        return False

    housekeeper._has_ended = False
    housekeeper.thread = ending = SimpleNamespace(is_alive=end)
    housekeeper.ensure()
    assert housekeeper.thread is ending


def test_a_replacement_of_the_burst_thread_that_has_not_begun_is_not_waited_for():
    """Another thread may be starting it, or the code that a signal handler has interrupted."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    housekeeper = pool._task_engine.housekeeper
    housekeeper.thread = new_thread(housekeeper._run, "a replacement")
    pool.shutdown()


# -- time in which nobody could act -----------------------------------------------------------------------------------


@pytest.fixture
def housekeeper(new_manager, monkeypatch):
    """The burst thread's object of an open manager, whose ticks the test does, by a clock of its own."""
    manager = new_manager(worker_count=1, max_worker_count=1, create_timeout=50.0)
    assert manager.wait_ready(PATIENCE)
    housekeeper = manager._engine.housekeeper
    thread, housekeeper.thread = (
        housekeeper.thread,
        threading.current_thread(),
    )  # as if another had taken its place
    housekeeper.wake()
    thread.join(PATIENCE)
    housekeeper.clock = SimpleNamespace(now=housekeeper._began)
    monkeypatch.setattr(tasker._pool.housekeeper, "monotonic", lambda: housekeeper.clock.now)
    yield housekeeper
    monkeypatch.undo()
    housekeeper._replace()


def test_a_late_tick_puts_off_the_limits_of_others_but_not_twice_in_a_row(housekeeper):
    lifecycle, clock, excused = housekeeper._engine.lifecycle, housekeeper.clock, 0.0
    for late, counts in (
        (40.0, False),
        (40.0, True),
        (LATE_S / 2, True),
        (LATE_S * 2, False),
        (0.0, True),
    ):
        held_at = housekeeper._held_at
        clock.now += 0.1 + late
        housekeeper._excuse(0.1)
        excused += 0.0 if counts else late
        assert lifecycle._excused == pytest.approx(excused)
        assert housekeeper._held_at - held_at == pytest.approx(0.0 if counts else late)


@pytest.mark.parametrize(
    "when", ["in its sleep", "in its sleep, and woken", "in the middle of a tick"]
)
def test_a_process_that_is_stopped_does_not_fail_what_waits(housekeeper, monkeypatch, when):
    parts, clock = housekeeper._engine, housekeeper.clock
    (worker,) = parts.crew.members
    monkeypatch.setattr(worker, "holds_resource", False)  # as if it had just lost it
    monkeypatch.setattr(parts.backoff, "made_at", clock.now)
    stop = []

    def pass_time(*_):
        clock.now += 100.0 if stop else 0.1
        stop.clear()

    def sleep(patience):
        if "sleep" in when:
            pass_time()
        else:
            clock.now += patience
        return "woken" in when

    monkeypatch.setattr(housekeeper, "_parker", SimpleNamespace(sleep=sleep, wake=int))
    if "tick" in when:
        monkeypatch.setattr(housekeeper, "_finish_settling", pass_time)
    for tick in range(10):
        if tick == 5:
            stop.append(True)
        housekeeper._guarded_tick(0.1)
        assert not housekeeper.hopeless
    clock.now += 60.0
    housekeeper._was_late = True  # the machine is slow
    housekeeper._guarded_tick(0.1)
    assert housekeeper.hopeless


@pytest.mark.parametrize("when", ["between ticks", "in the middle of a tick"])
def test_a_process_that_is_stopped_leaves_running_tasks_the_time_of_a_kill(
    housekeeper, monkeypatch, when
):
    engine, clock = housekeeper._engine, housekeeper.clock
    monkeypatch.setattr(tasker._pool.lifecycle, "monotonic", lambda: clock.now)
    gate, running = threading.Event(), threading.Event()
    future = engine.submit(lambda _: (running.set(), gate.wait(PATIENCE)), (), {})
    assert running.wait(PATIENCE)
    engine.lifecycle.request_kill(5.0)
    cancel = engine.lifecycle._cancel_running

    def stop():
        clock.now += 100.0
        cancel()

    for tick in range(6):
        clock.now += 0.1
        with monkeypatch.context() as stopped:
            if tick == 3:
                stopped.setattr(engine.lifecycle, "_cancel_running", stop)
                clock.now += 100.0 if when == "between ticks" else 0.0
            if tick != 3 or when != "between ticks":
                housekeeper._guarded_tick(0.0)
        assert not future.done()
    gate.set()
    assert future.result(PATIENCE)


SUSPENDED = """
import sys, threading, time
from tasker import Config, TaskManager

down = threading.Event()

def create():
    if not down.is_set():
        raise OSError("down")
    return object()

manager = TaskManager(Config(on_create=create, on_destroy=id, worker_count=1, create_timeout=3.0, burst_interval=0.01))
future = manager.submit(lambda _: "up")
print("waits", flush=True)
sys.stdin.readline()
print(future.done(), flush=True)
down.set()
print(future.result(20), flush=True)
manager.stop()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_time_in_which_the_process_was_stopped_is_not_patience():
    with subprocess.Popen(
        [sys.executable, "-c", SUSPENDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "waits\n"
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(4.0)  # longer than create_timeout: that is what is tested
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.3)  # so that a tick may do what it should not
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.read().split() == ["False", "up"]
        finally:
            process.kill()


# -- what is said to have failed --------------------------------------------------------------------------------------


def failure(manager) -> str:
    with pytest.raises(ResourceCreationError) as caught:
        manager.queue_task(lambda _: 0)
    return str(caught.value)


def test_while_on_create_blocks_it_has_not_returned(new_manager, factory):
    gate = threading.Event()
    manager = new_manager(
        worker_count=1,
        create_timeout=0.05,
        on_create=lambda: (gate.wait(PATIENCE), factory.create())[1],
    )
    try:
        text = failure(manager)
    finally:
        gate.set()
    assert "on_create has not returned" in text
    assert "on_destroy" not in text


def test_while_on_destroy_blocks_it_is_that_which_has_not_returned(new_manager, factory):
    gate, reached = threading.Event(), threading.Event()

    def destroy(resource):
        reached.set()
        gate.wait(PATIENCE)
        factory.destroy(resource)

    def break_it(resource):
        raise Sick

    manager = new_manager(worker_count=1, create_timeout=0.05, max_retries=0, on_destroy=destroy)
    assert manager.wait_ready(PATIENCE)
    manager.submit(break_it).exception(PATIENCE)
    assert reached.wait(PATIENCE)
    try:
        text = failure(manager)
    finally:
        gate.set()
    assert "on_destroy has not returned" in text
    assert "on_create" not in text
