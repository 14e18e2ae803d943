"""Tasks and hooks that do not listen, and are ended with their process: at a deadline, by a cancel, by a kill."""

from __future__ import annotations

import threading

import pytest

from tasker import ContextCancelledError, Processes, TaskManagerKilledError, TaskTimeoutError
from tasker._pool import lifecycle
from tasker._sync import timer
from tasker.placement.remote.backend import RemoteBackend
from tests.support import deadly_tasks, remote_tasks
from tests.support.errors import Sick
from tests.support.placements import on_posix
from tests.support.processes import children
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, on_posix]


@pytest.fixture
def placement():
    return Processes(grace=0.1)


# -- tasks that do not listen ----------------------------------------------------------------------------------------


def test_a_deaf_task_is_ended_at_its_deadline_with_its_process(
    placed_manager, clock, journal, gate
):
    manager = placed_manager()
    future = manager.submit(deadly_tasks.note_and_stand, gate, timeout=1000)
    process = gate.await_reached()
    clock.advance(1000)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    eventually(lambda: process not in children(), "the process to be gone")
    assert manager.queue_task(remote_tasks.process_of) != process
    assert future.attempts == len(journal.of("ran")) == 1
    assert journal.of("destroyed") == []
    metrics = manager.metrics()
    assert (metrics.total_tasks_failed, metrics.total_tasks_retried) == (1, 0)


def test_the_owner_of_a_deaf_task_is_not_abandoned(placed_manager, clock, gate):
    manager = placed_manager(abandon_after=0.01)
    future = manager.submit(deadly_tasks.note_and_stand, gate, timeout=1000)
    gate.await_reached()
    clock.advance(1000)
    clock.advance(1)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    assert manager.queue_task(remote_tasks.square, 6) == 36
    assert manager.stats().abandoned_workers == 0
    assert manager.stop().drained


def test_a_task_that_holds_the_gil_is_ended_at_its_deadline(placed_manager, clock, gate):
    manager = placed_manager()
    future = manager.submit(deadly_tasks.hold_the_gil, gate, timeout=1000)
    process = gate.await_reached()
    clock.advance(1000)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    eventually(lambda: process not in children(), "the process to be gone")
    assert manager.queue_task(remote_tasks.square, 6) == 36


def test_a_deaf_task_that_is_cancelled_is_ended_and_not_tried_again(placed_manager, journal, gate):
    manager = placed_manager()
    future = manager.submit(deadly_tasks.note_and_stand, gate)
    gate.await_reached()
    assert not future.cancel()
    error = future.exception(PATIENCE)
    assert type(error) is ContextCancelledError
    assert "was killed" in str(error)
    assert future.attempts == len(journal.of("ran")) == 1
    assert manager.queue_task(remote_tasks.square, 6) == 36


def test_a_check_health_that_does_not_answer_is_ended_with_its_process_when_the_task_is_cancelled(
    placed_manager, journal, gate
):
    manager = placed_manager(check_health=gate.judge)
    future = manager.submit(remote_tasks.fail, Sick())
    process = gate.await_reached()
    assert not future.cancel()
    assert type(future.exception(PATIENCE)) is ContextCancelledError
    assert manager.queue_task(remote_tasks.process_of) != process
    assert len(journal.of("created")) == 2


def test_a_task_that_listens_keeps_its_process(placed_manager, journal, gate):
    manager = placed_manager(placement=Processes(grace=PATIENCE))
    future = manager.submit(remote_tasks.until_cancelled, gate, journal)
    process = gate.await_reached()
    future.cancel()
    assert future.result(PATIENCE) is None
    assert manager.queue_task(remote_tasks.process_of) == process


def test_with_a_long_grace_a_deaf_task_ends_by_itself_after_its_timeout(
    placed_manager, clock, gate
):
    manager = placed_manager(placement=Processes(grace=PATIENCE))
    future = manager.submit(remote_tasks.pass_deaf, gate, timeout=1000)
    process = gate.await_reached()
    clock.advance(1000)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    gate.open()
    assert manager.queue_task(remote_tasks.process_of) == process


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [600.0, 0.0])
def test_kill_ends_a_deaf_task_and_its_process(placed_manager, gate, timeout):
    manager = placed_manager()
    future = manager.submit(remote_tasks.pass_deaf, gate)
    process = gate.await_reached()
    report = manager.kill(timeout)
    assert (report.drained, report.abandoned, report.failed) == (False, (), 1)
    assert type(future.exception(0)) is TaskManagerKilledError
    assert process not in children()


def test_kill_ends_a_deaf_run_task(placed_manager, gate):

    manager, errors = placed_manager(resource_pool_size=1), []

    def call():
        try:
            manager.run_task(remote_tasks.pass_deaf, gate)
        except BaseException as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    process = gate.await_reached()
    assert manager.kill(PATIENCE).abandoned == ()
    caller.join(PATIENCE)
    assert [type(error) for error in errors] == [TaskManagerKilledError]
    assert process not in children()


@pytest.mark.parametrize("timeout", [600.0, 0.0])
def test_kill_ends_a_child_whose_creation_blocks_for_ever(placed_manager, gate, log, timeout):
    manager = placed_manager(on_create=gate.create, on_destroy=remote_tasks.forget)
    waiting = manager.submit(remote_tasks.square, 6)
    process = gate.await_reached()
    report = manager.kill(timeout)
    assert (report.abandoned, report.cancelled) == ((), 1)
    assert log.loud() == []  # nobody's failure, and nothing is tried again
    assert type(waiting.exception(0)) is TaskManagerKilledError
    assert process not in children()


@pytest.mark.parametrize("timeout", [600.0, 0.0])
def test_kill_ends_a_child_whose_destruction_blocks_for_ever(placed_manager, gate, timeout):
    manager = placed_manager(on_destroy=gate.destroy)
    assert manager.queue_task(remote_tasks.square, 6) == 36
    manager._engine.lifecycle.request_stop()
    process = gate.await_reached()
    report = manager.kill(timeout)
    assert report.abandoned == ()
    assert process not in children()


def test_whose_place_is_ended_by_a_kill_is_waited_for_until_he_has_noticed(
    placed_manager, gate, monkeypatch
):
    monkeypatch.setattr(lifecycle, "_JOIN_S", 0.0)  # the time that others get
    manager = placed_manager(on_destroy=gate.destroy, worker_count=2)
    deaf = manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    assert manager.kill(0.0).abandoned == ()
    assert type(deaf.exception(0)) is TaskManagerKilledError


def test_a_stop_ends_a_creation_that_blocks_for_ever_and_waits_for_its_worker(
    placed_manager, gate, monkeypatch
):
    setup = RemoteBackend._setup

    def patient(backend, *place):  # or its own time would be over in the same moment
        backend._create_timeout = 600.0
        return setup(backend, *place)

    monkeypatch.setattr(RemoteBackend, "_setup", patient)
    manager = placed_manager(
        on_create=gate.create, on_destroy=remote_tasks.forget, create_timeout=0.5
    )
    process = gate.await_reached()
    report = manager.stop()
    assert report.abandoned == ()
    assert process not in children()


def test_a_stop_whose_time_ends_kills_deaf_tasks(placed_manager, gate):
    manager = placed_manager()
    future = manager.submit(remote_tasks.pass_deaf, gate)
    process = gate.await_reached()
    report = manager.stop(timeout=0.05)
    assert (report.drained, report.abandoned) == (False, ())
    assert type(future.exception(0)) is TaskManagerKilledError
    assert process not in children()


def test_a_creation_that_takes_longer_than_create_timeout_is_given_up_and_tried_again(
    placed_manager, journal, gate, log, monkeypatch
):
    after, entries = timer.after, []
    monkeypatch.setattr(timer, "after", lambda *given: entries.append(after(*given)) or entries[-1])
    block = deadly_tasks.BlockFirst(gate, journal)
    manager = placed_manager(on_create=block, on_destroy=remote_tasks.forget)
    process = gate.await_reached()
    [overdue] = [entry for entry in entries if entry.is_set()]
    overdue.fire()
    eventually(lambda: process not in children(), "the process to be gone")
    eventually(lambda: manager.stats().idle_workers == 1, "the second creation")
    assert manager.queue_task(remote_tasks.process_of) != process
    assert any("create_timeout" in line for line in log.loud())
