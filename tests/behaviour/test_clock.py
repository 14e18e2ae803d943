"""The clock that tests cannot stop: what has a limit ends in time although `time.monotonic` stands still or jumps."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import tasker._pool.closing
import tasker._sync.clock
from tasker import (
    QueueFullError,
    ResourceCreationError,
    TaskTimeoutError,
    ThreadPoolExecutor,
    background,
    with_deadline,
    with_timeout,
)
from tasker.testing import ManualClock
from tests.support.waiting import PATIENCE, eventually

BEGINNINGS = [0.0, 1.7e9]  # seconds; long before what the real clock says, and long after it


@pytest.fixture(params=BEGINNINGS)
def stopped(request, monkeypatch):
    """`time.monotonic` stands still, at this time."""
    monkeypatch.setattr(time, "monotonic", lambda: request.param)
    return request.param


@pytest.fixture
def stuck(new_manager):
    """A manager whose only worker runs a task that does not listen, and that takes one task more."""
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    gate, running = threading.Event(), threading.Event()
    manager.submit(lambda _: (running.set(), gate.wait(PATIENCE)))
    assert running.wait(PATIENCE)
    (worker,) = manager._engine.crew.members
    yield manager
    gate.set()
    manager.stop(PATIENCE)
    worker.thread.join(PATIENCE)  # of one that was given up


@pytest.mark.slow
def test_a_kill_gives_up_what_does_not_listen(stuck, stopped):
    assert len(stuck.kill(0.05).abandoned) == 1


@pytest.mark.slow
def test_a_stop_becomes_a_kill_when_its_time_is_over(stuck, stopped, monkeypatch):
    monkeypatch.setattr(tasker._pool.closing, "KILL_TIMEOUT_S", 0.05)
    assert len(stuck.stop(0.05).abandoned) == 1


@pytest.mark.slow
def test_a_task_ends_with_its_timeout_and_a_submission_with_its_queue_timeout(stuck, stopped):
    assert isinstance(stuck.submit(id, timeout=0.05).exception(PATIENCE), TaskTimeoutError)
    waiting = stuck.submit(id)
    with pytest.raises(QueueFullError):
        stuck.submit(id, queue_timeout=0.05)
    assert waiting.cancel()


@pytest.mark.slow
def test_what_waits_for_a_state_or_an_outcome_is_back_in_time(stuck, stopped):
    waiting = stuck.submit(id)
    assert not stuck.join(0.05)
    assert concurrent.futures.wait([waiting], 0.05).not_done == {waiting}
    with pytest.raises(TimeoutError):
        waiting.result(0.05)
    assert waiting.cancel()


@pytest.mark.slow
def test_tasks_do_not_wait_for_a_resource_for_ever(new_manager, factory, stopped):
    gate = threading.Event()
    manager = new_manager(
        on_create=lambda: gate.wait(PATIENCE) and factory.create(),
        worker_count=1,
        create_timeout=0.05,
    )
    try:
        assert not manager.wait_ready(0.05)
        assert isinstance(manager.submit(lambda _: 1).exception(PATIENCE), ResourceCreationError)
    finally:
        gate.set()


def test_the_results_of_a_map_are_late_in_time(stopped):
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        results = executor.map(gate.wait, [PATIENCE], timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        gate.set()


@pytest.mark.slow
def test_a_context_ends_with_its_timeout_and_at_its_deadline(stopped):
    assert with_timeout(background(), 0.05).wait(PATIENCE)
    assert with_deadline(background(), time.monotonic() + 0.05).wait(PATIENCE)


def test_a_deadline_is_a_time_of_the_clock_that_its_user_reads(stopped):
    context = with_deadline(background(), time.monotonic() + 60)
    assert 0 < context.remaining() <= 60
    assert 0 < context.deadline() - time.monotonic() <= 60
    assert with_deadline(background(), time.monotonic()).cancelled()
    with ManualClock() as clock:
        context = with_deadline(background(), clock.now() + 60)
        assert (context.deadline(), context.remaining()) == (clock.now() + 60, 60)


def test_where_nobody_has_stopped_the_clock_a_deadline_is_what_was_given():
    for deadline in (time.monotonic() + 60, 1e9 / 3):
        context = with_deadline(background(), deadline)
        assert context.deadline() == deadline
        context.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1e6, -1e6])
def test_nothing_is_late_because_the_clock_jumps(new_manager, log, monkeypatch, seconds):
    manager = new_manager(worker_count=1, max_worker_count=1, create_timeout=100.0)
    gate, beats = threading.Event(), manager._engine.housekeeper._beats
    futures = [manager.submit(lambda _: gate.wait(PATIENCE), timeout=1000.0) for _ in range(3)]
    context = with_timeout(background(), 1000.0)
    jumped = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: jumped)
    manager._engine.housekeeper.wake()
    eventually(lambda: manager._engine.housekeeper._beats > beats + 3, "some ticks")
    assert with_timeout(background(), 0.001).wait(PATIENCE)  # the timer has looked at all deadlines
    assert not context.cancelled()
    assert not any(future.done() for future in futures)
    gate.set()
    assert [future.result(PATIENCE) for future in futures] == [True] * 3
    context.cancel()
    assert manager.stop(PATIENCE).drained
    assert log.loud() == []


@pytest.mark.slow
def test_a_tasker_that_is_imported_while_the_clock_stands_still_goes_by_the_real_one():
    program = """
        import time
        from unittest import mock
        before = time.monotonic()
        with mock.patch("time.monotonic", lambda: -1.0):
            from tasker import Config, TaskManager
            from tasker._sync.clock import monotonic
            manager = TaskManager(Config(on_create=object, on_destroy=lambda r: None, worker_count=1))
            assert before <= monotonic()
            assert manager.queue_task(lambda r: 1) == 1
        assert before <= monotonic() <= time.monotonic()
        print(manager.stop().drained)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
