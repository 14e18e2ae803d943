"""A task that does not listen is aborted where its resource lives."""

from __future__ import annotations

import threading

import pytest

from tasker import TaskTimeoutError
from tests.support import remote_tasks
from tests.support.journal import assert_adds_up
from tests.support.waiting import PATIENCE

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
    future = manager.submit(remote_tasks.pass_deaf, gate, timeout=1.0)
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
