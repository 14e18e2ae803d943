"""A task that does not listen is aborted where its resource lives."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tasker import ContextCancelledError, TaskTimeoutError, WorkerLostError
from tasker.testing import ManualClock
from tests.support import remote_tasks
from tests.support.errors import Sick
from tests.support.journal import assert_adds_up, assert_destroyed_once
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def aborter(gate, journal):
    return remote_tasks.Aborter(gate, journal)


def was_aborted(journal, key):
    """Whether that one resource was aborted: once, where it lives, in another thread than the task's."""
    return journal.of("aborted") == [f"{key} True True"]


@pytest.mark.parametrize("kind", [remote_tasks.Aborter, remote_tasks.RaisingAborter])
def test_a_timeout_aborts_a_deaf_task_which_keeps_its_resource(placed_manager, journal, gate, kind):
    manager = placed_manager(on_abort=kind(gate, journal))
    key = manager.queue_task(remote_tasks.key)
    with ManualClock() as clock:
        future = manager.submit(remote_tasks.pass_deaf, gate, timeout=1000)
        gate.await_reached()
        clock.advance(1000)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    assert manager.queue_task(remote_tasks.key) == key
    assert was_aborted(journal, key)
    assert_adds_up(manager, arrived=3, completed=2, failed=1)


def test_a_cancel_aborts_a_deaf_task_whose_result_counts(placed_manager, journal, gate, aborter):
    manager = placed_manager(on_abort=aborter)
    key = manager.queue_task(remote_tasks.key)
    future = manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    assert not future.cancel()
    assert future.result(PATIENCE) == "passed"
    assert manager.queue_task(remote_tasks.key) == key
    assert was_aborted(journal, key)


def test_a_task_that_cancels_its_own_context_is_aborted(placed_manager, journal, gate, aborter):
    manager = placed_manager(on_abort=aborter)
    assert manager.queue_task(remote_tasks.cancel_and_pass_deaf, gate) == "passed"
    assert was_aborted(journal, manager.queue_task(remote_tasks.key))


def test_a_kill_aborts_a_deaf_task(placed_manager, journal, gate, aborter):
    manager = placed_manager(on_abort=aborter)
    key = manager.queue_task(remote_tasks.key)
    future = manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    assert manager.kill(PATIENCE).abandoned == ()
    assert future.result(0) == "passed"
    assert was_aborted(journal, key)


def test_a_kill_aborts_a_deaf_run_task(placed_manager, journal, gate, aborter):
    manager, returned = placed_manager(on_abort=aborter), []
    caller = threading.Thread(
        target=lambda: returned.append(manager.run_task(remote_tasks.pass_deaf, gate))
    )
    caller.start()
    gate.await_reached()
    manager.kill(PATIENCE)
    caller.join(PATIENCE)
    assert returned == ["passed"]
    assert len(journal.of("aborted")) == 1


def test_what_waits_and_what_has_returned_is_not_aborted(placed_manager, journal, gate, aborter):
    manager = placed_manager(on_abort=aborter)
    done = manager.submit(remote_tasks.square, 6, timeout=600)
    assert done.result(PATIENCE) == 36
    running = manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    waiting = manager.submit(remote_tasks.square, 7, timeout=0.01)
    assert type(waiting.exception(PATIENCE)) is TaskTimeoutError
    assert not done.cancel()
    gate.open()
    assert running.result(PATIENCE) == "passed"
    assert manager.stop().drained
    assert journal.of("aborted") == []


# -- what an abort leaves behind ---------------------------------------------------------------------------------------


def abort_one(manager, journal):
    """Have a task that stands on a resource cancelled, which breaks that. Returns the task's error."""
    before = len(journal.of("stands"))
    future = manager.submit(remote_tasks.stand_until_broken)
    eventually(lambda: len(journal.of("stands")) > before, "the task")
    future.cancel()
    return future.exception(PATIENCE)


def test_an_aborted_resource_is_checked_before_its_next_task(
    placed_manager, journal, gate, aborter
):
    manager = placed_manager(on_abort=aborter, on_check=remote_tasks.check, check_after=600)
    key = manager.queue_task(remote_tasks.key)
    future = manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    future.cancel()
    assert future.result(PATIENCE) == "passed"
    assert journal.of("checked") == []
    assert [manager.queue_task(remote_tasks.key) for _ in range(2)] == [key] * 2
    assert journal.of("checked") == [f"{key} True"]


def test_a_task_that_ends_by_itself_leaves_no_check_behind(placed_manager, journal, gate, aborter):
    manager = placed_manager(on_abort=aborter, on_check=remote_tasks.check, check_after=600)
    gate.open()
    for _ in range(3):
        manager.submit(remote_tasks.pass_deaf, gate, timeout=600).result(PATIENCE)
    assert journal.of("checked") == []


def test_an_aborted_resource_of_run_task_is_checked_before_its_next_call(
    placed_manager, journal, gate, aborter
):
    manager = placed_manager(
        on_abort=aborter, on_check=remote_tasks.check, check_after=600, resource_pool_size=1
    )
    key = manager.run_task(remote_tasks.key)
    assert manager.run_task(remote_tasks.cancel_and_pass_deaf, gate) == "passed"
    assert journal.of("checked") == []
    assert [manager.run_task(remote_tasks.key) for _ in range(2)] == [key] * 2
    assert journal.of("checked") == [f"{key} True"]


@pytest.mark.usefixtures("endless_pauses")
def test_a_new_resource_that_an_abort_breaks_has_not_failed(placed_manager, journal, log):
    manager = placed_manager(on_abort=remote_tasks.abort_by_breaking)
    for _ in range(3):
        assert type(abort_one(manager, journal)) is Sick
    assert manager.queue_task(remote_tasks.square, 6) == 36
    assert log.loud() == []
    manager.stop()
    assert_destroyed_once(journal, 4)


def test_a_resource_that_an_abort_breaks_says_nothing_about_others(placed_manager, journal, log):
    manager = placed_manager(
        worker_count=3, on_abort=remote_tasks.abort_by_breaking, resource_pool_size=0
    )
    assert manager.wait_ready(PATIENCE)
    for _ in range(3):
        abort_one(manager, journal)
        with pytest.raises(Sick):
            manager.run_task(remote_tasks.cancel_and_stand_until_broken)
        assert not any(worker.is_suspect() for worker in manager._engine.crew.members)
    manager.stop()
    assert log.telling("within a second") == []


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize(
    ("grace", "on_abort", "error"),
    [(0.1, None, ContextCancelledError), (600, remote_tasks.abort_fatally, WorkerLostError)],
    ids=["killed", "aborted"],
)
def test_a_new_place_that_ends_with_its_task_has_not_failed(
    placement, is_remote, placed_manager, journal, grace, on_abort, error
):
    if not is_remote:
        pytest.skip("a thread does not end with its task")
    manager = placed_manager(
        placement=replace(placement, grace=grace), worker_count=2, on_abort=on_abort
    )
    assert manager.wait_ready(PATIENCE)
    for _ in range(3):
        assert type(abort_one(manager, journal)) is error
        assert not any(worker.is_suspect() for worker in manager._engine.crew.members)
    assert manager.queue_task(remote_tasks.square, 6) == 36
