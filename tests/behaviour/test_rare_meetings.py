"""Moments that rarely meet. The soak found them; here each is forced."""

from __future__ import annotations

import contextlib
import sys
import threading

import pytest

from tasker import TaskManagerShutdownError
from tests.support.waiting import PATIENCE, eventually


@pytest.mark.parametrize("end", ["goes on", "stops"])
def test_a_submitter_whose_wake_up_got_lost_does_not_wait_for_ever(new_manager, end):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
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
    room.leave = (
        room._holders.discard
    )  # as who is interrupted between freeing a seat and giving it to the next
    manager._engine.queue.free_seat = room.leave
    gate.set()
    if end == "stops":
        manager.stop()
    assert submitted.wait(PATIENCE)


@pytest.mark.slow
def test_metrics_may_be_asked_by_a_signal_handler_that_interrupted_metrics(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)

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
    assert (
        0 < metrics.p95_execution_time <= metrics.p99_execution_time <= metrics.max_execution_time
    )


@pytest.mark.slow
def test_stop_does_not_return_before_a_timeout_has_settled_its_task(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
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


def test_metrics_in_a_signal_handler_that_interrupted_a_cancellation_does_not_wait_for_ever(
    new_manager,
):
    manager = new_manager(worker_count=1, queue_size=5)
    figures, queue = manager._engine.counters, manager._engine.queue
    asked, started, gate, waiting_new = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
        figures._waiting,
    )
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


@pytest.mark.slow
def test_stop_does_not_return_before_the_callbacks_of_a_timeout_have_run(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    engine = manager._engine
    started, gate, reached, go = (threading.Event() for _ in range(4))
    called = []
    manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    run_in_other_thread = engine.run_in_other_thread

    def slowly(
        jobs,
    ):  # the timer thread is descheduled between counting the failure and handing its callback over
        reached.set()
        go.wait(PATIENCE)
        run_in_other_thread(jobs)

    engine.run_in_other_thread = slowly
    manager.queue_task_with_callback(
        lambda resource: None, lambda result, error: called.append(error), timeout=0.01
    )
    assert reached.wait(PATIENCE)
    gate.set()
    engine.lifecycle.request_stop()
    closed_early = engine.lifecycle.wait(0.3)  # a second is what a count that is wrong may cost
    go.set()
    assert manager.stop().failed == 1
    assert len(called) == 1
    assert not closed_early
