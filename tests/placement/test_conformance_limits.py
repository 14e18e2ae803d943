"""Limits of time, and a context as the parent, are the same wherever resources live. Each test has its manager."""

from __future__ import annotations

import threading

import pytest

from tasker import (
    Processes,
    TaskTimeoutError,
    background,
    with_cancel,
    with_timeout,
    with_value,
)
from tests.support import deadly_tasks, remote_tasks
from tests.support.contexts import told_by
from tests.support.journal import assert_adds_up
from tests.support.placements import on_posix
from tests.support.processes import children
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


# -- a parent ----------------------------------------------------------------------------------------------------------


def test_a_task_sees_the_values_of_its_parent_and_behind_them_those_of_the_manager(placed_manager):
    manager = placed_manager(
        ctx=with_value(with_value(background(), "both", "manager's"), "manager", 1)
    )
    parent = with_value(with_value(background(), "both", "parent's"), "given", 2)
    lock = with_value(parent, "lock", threading.Lock())  # which stays where it cannot be sent
    seen = [
        manager.submit(remote_tasks.context_value, key, ctx=lock).result(PATIENCE)
        for key in ("both", "manager", "given", "none")
    ]
    assert seen == ["parent's", 1, 2, None]
    assert manager.queue_task(remote_tasks.context_value, "both") == "manager's"
    assert manager.queue_task(remote_tasks.context_value, "given") is None


def test_a_task_sees_the_earliest_deadline(placed_manager):
    manager = placed_manager()
    parent = with_timeout(background(), 1000)
    assert manager.queue_task(remote_tasks.remaining, ctx=with_cancel(background())) is None
    assert 900 < manager.queue_task(remote_tasks.remaining, ctx=parent) <= 1000
    assert manager.queue_task(remote_tasks.remaining, ctx=parent, timeout=500) <= 500
    assert manager.queue_task(remote_tasks.remaining, ctx=parent, run_timeout=400) <= 400
    assert manager.queue_task(remote_tasks.remaining, run_timeout=400, timeout=300) <= 300
    eventually(lambda: not told_by(parent).dependants)
    parent.cancel()


def test_a_parent_that_is_cancelled_cancels_what_waits_and_tells_what_runs(
    placed_manager, journal, gate
):
    manager, parent = placed_manager(), with_cancel(background())
    running = manager.submit(remote_tasks.hold, gate, ctx=parent)
    gate.await_reached()
    waiting = manager.submit(remote_tasks.note, "waiting", ctx=parent)
    parent.cancel()
    assert waiting.cancelled()
    assert running.result(PATIENCE) == "ContextCancelledError"
    assert manager.submit(remote_tasks.note, "late", ctx=parent).cancelled()
    assert manager.stop().drained
    assert journal.of("ran") == []
    assert_adds_up(manager, arrived=3, completed=1, cancelled=2)


def test_a_parent_whose_deadline_passes_fails_what_waits_and_what_runs(
    placed_manager, clock, journal, gate
):
    manager = placed_manager()
    manager.queue_task(remote_tasks.key)
    parent = with_timeout(background(), 25)
    running = manager.submit(remote_tasks.until_cancelled, gate, journal, ctx=parent)
    gate.await_reached()
    waiting = manager.submit(remote_tasks.note, "waiting", ctx=parent)
    clock.advance(25)
    assert type(running.exception(PATIENCE)) is TaskTimeoutError
    assert type(waiting.exception(PATIENCE)) is TaskTimeoutError
    assert manager.stop().drained
    assert journal.of("ran") == []
    [ended] = journal.of("ended")
    assert ended.startswith("True DeadlineExceededError ")
    assert_adds_up(manager, arrived=3, completed=1, failed=2)


# -- run_timeout -------------------------------------------------------------------------------------------------------


def test_a_task_that_runs_too_long_fails_and_is_told_and_keeps_its_resource(
    placed_manager, clock, journal, gate
):
    manager = placed_manager()
    key = manager.queue_task(remote_tasks.key)
    future = manager.submit(remote_tasks.until_cancelled, gate, journal, run_timeout=25)
    waiting = manager.submit(remote_tasks.key, run_timeout=1000)
    gate.await_reached()
    clock.advance(25)
    error = future.exception(PATIENCE)
    assert type(error) is TaskTimeoutError
    assert "run_timeout of 25 s ended while running" in str(error)
    assert waiting.result(PATIENCE) == key
    [ended] = journal.of("ended")
    assert ended.startswith("True DeadlineExceededError ")
    assert_adds_up(manager, arrived=3, completed=2, failed=1)


def test_each_attempt_has_its_run_timeout(placed_manager, journal):
    manager = placed_manager(timeout=1000, run_timeout=500)
    assert manager.queue_task(remote_tasks.sick_at_first, 2)[1] == 3
    assert manager.queue_task(remote_tasks.remaining) <= 500


@on_posix
@pytest.mark.parametrize("placement", [Processes(grace=0.1)])
@pytest.mark.parametrize("limit", ["run_timeout", "ctx"])
def test_a_deaf_task_is_ended_with_its_process(placed_manager, clock, journal, gate, limit):
    manager = placed_manager()
    value = 1000 if limit == "run_timeout" else with_timeout(background(), 1000)
    future = manager.submit(deadly_tasks.note_and_stand, gate, **{limit: value})
    process = gate.await_reached()
    clock.advance(1000)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    eventually(lambda: process not in children(), "the process to be gone")
    assert manager.queue_task(remote_tasks.process_of) != process
    assert future.attempts == len(journal.of("ran")) == 1
