"""How tasks and managers are ended is the same wherever resources live. Each test has its manager."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from tasker import (
    Processes,
    Ray,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
    Threads,
    background,
    with_value,
)
from tasker.testing import ManualClock
from tests.support import remote_tasks
from tests.support.errors import Sick
from tests.support.journal import assert_adds_up, assert_destroyed_once
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

# -- contexts --------------------------------------------------------------------------------------------------------


def test_a_task_sees_the_values_of_the_managers_context(placed_manager):
    outer = with_value(background(), "tenant", "red")
    manager = placed_manager(
        ctx=with_value(outer, "tenant", ("blue", 7))
    )  # the nearest value of a key counts
    assert manager.queue_task(remote_tasks.context_value, "tenant") == ("blue", 7)
    assert manager.queue_task(remote_tasks.context_value, "unknown") is None


def test_a_timeout_fails_the_future_and_tells_the_task_which_keeps_its_resource(
    placed_manager, journal, gate
):
    manager = placed_manager()
    key = manager.queue_task(remote_tasks.key)
    with ManualClock() as clock:
        future = manager.submit(remote_tasks.until_cancelled, gate, journal, timeout=25)
        gate.await_reached()
        clock.advance(25)
    assert type(future.exception(PATIENCE)) is TaskTimeoutError
    assert manager.queue_task(remote_tasks.key) == key
    [ended] = journal.of("ended")
    assert ended.startswith("True DeadlineExceededError ")
    assert_adds_up(manager, arrived=3, completed=2, failed=1)


def test_a_cancelled_task_is_told_and_its_result_counts(placed_manager, gate):
    manager = placed_manager()
    future = manager.submit(remote_tasks.hold, gate)
    gate.await_reached()
    assert not future.cancel()
    assert future.result(PATIENCE) == "ContextCancelledError"
    assert_adds_up(manager, arrived=1, completed=1)


def test_a_cancelled_task_is_not_tried_again(placed_manager, gate):
    manager = placed_manager()
    future = manager.submit(remote_tasks.hold_and_be_sick, gate)
    gate.await_reached()
    future.cancel()
    assert type(future.exception(PATIENCE)) is Sick
    assert future.attempts == 1


def test_callbacks_of_a_context_run_beside_the_task(placed_manager, journal, gate):
    manager = placed_manager()
    future = manager.submit(remote_tasks.call_on_done, gate)
    gate.await_reached()
    future.cancel()
    assert future.result(PATIENCE) is None
    eventually(lambda: journal.of("told"), "the callback")
    assert len(journal.of("told")) == 1


def test_a_waiting_task_that_is_cancelled_never_runs(placed_manager, journal, gate):
    manager = placed_manager()
    manager.submit(remote_tasks.hold, gate)
    gate.await_reached()
    waiting = manager.submit(remote_tasks.note, "cancelled")
    late = manager.submit(remote_tasks.note, "late", timeout=0.05)
    manager.submit(remote_tasks.note, "second")
    first = manager.submit(remote_tasks.note, "first", priority=True)
    assert waiting.cancel()
    assert type(late.exception(PATIENCE)) is TaskTimeoutError
    gate.open()
    assert manager.stop().drained
    assert first.done()
    assert journal.of("ran") == ["first", "second"]
    assert_adds_up(manager, arrived=5, completed=3, failed=1, cancelled=1)


# -- the end ---------------------------------------------------------------------------------------------------------


def test_stop_runs_what_was_accepted_and_refuses_the_rest(placed_manager, journal):
    manager = placed_manager(worker_count=2)
    futures = [manager.submit(remote_tasks.square, number) for number in range(50)]
    report = manager.stop()
    assert (report.drained, report.completed, report.never_started) == (True, 50, 0)
    assert [future.result(0) for future in futures] == [number * number for number in range(50)]
    for method in (manager.submit, manager.run_task, manager.queue_task):
        with pytest.raises(TaskManagerShutdownError):
            method(remote_tasks.square, 1)
    assert_destroyed_once(journal, len(journal.of("created")))


def test_a_draining_task_sees_that_its_manager_stops(placed_manager, gate):
    manager = placed_manager()
    future = manager.submit(remote_tasks.looks_stopping, gate)
    gate.await_reached()
    assert manager.stop().drained
    assert future.result(0) == (False, False)


def test_leaving_the_with_block_stops_and_by_an_interrupt_kills(placed_manager, journal, gate):
    with placed_manager() as manager:
        future = manager.submit(remote_tasks.square, 6)
    assert future.result(0) == 36
    with pytest.raises(KeyboardInterrupt), placed_manager() as manager:  # noqa: PT012
        future = manager.submit(remote_tasks.until_cancelled, gate, journal)
        gate.await_reached()
        raise KeyboardInterrupt
    assert future.done()
    assert journal.of("ended") == ["True ContextCancelledError TaskManagerKilledError"]
    assert_destroyed_once(journal, 2)


def test_kill_ends_the_contexts_of_running_tasks_and_fails_waiting_ones(
    placed_manager, journal, gate
):
    manager = placed_manager()
    running = manager.submit(remote_tasks.until_cancelled, gate, journal)
    gate.await_reached()
    waiting = manager.submit(remote_tasks.note, "waited")
    report = manager.kill(PATIENCE)
    assert (report.drained, report.abandoned, report.completed, report.cancelled) == (
        False,
        (),
        1,
        1,
    )
    assert running.result(0) is None
    assert type(waiting.exception(0)) is TaskManagerKilledError
    assert journal.of("ended") == ["True ContextCancelledError TaskManagerKilledError"]
    assert journal.of("ran") == []
    assert_destroyed_once(journal, 1)
    assert_adds_up(manager, arrived=2, completed=1, cancelled=1)


def test_a_stop_whose_time_ends_kills(placed_manager, journal, gate):
    manager = placed_manager()
    running = manager.submit(remote_tasks.until_cancelled, gate, journal)
    gate.await_reached()
    report = manager.stop(timeout=0.05)
    assert (report.drained, report.abandoned) == (False, ())
    assert running.done()
    assert_destroyed_once(journal, 1)


def test_a_manager_that_is_forgotten_stops(placed_manager, placement, journal):
    import gc
    import weakref

    from tests.support.placements import manager_on

    manager = manager_on(placement, journal)
    future = manager.submit(remote_tasks.square, 6)
    engine = weakref.ref(manager._engine)
    del manager
    gc.collect()
    assert future.result(PATIENCE) == 36
    eventually(lambda: journal.of("destroyed"), "the resource to be destroyed")
    eventually(lambda: engine() is None or engine().lifecycle.has_ended(), "the end")


def test_a_cancelled_context_stops_the_manager(placed_manager, journal):
    from tasker import with_cancel

    context = with_cancel(background())
    manager = placed_manager(ctx=context)
    future = manager.submit(remote_tasks.square, 6)
    context.cancel()
    assert manager._engine.lifecycle.wait(PATIENCE)
    assert future.result(0) == 36
    assert_destroyed_once(journal, len(journal.of("created")))


def test_several_threads_submit_and_each_gets_its_own(placed_manager):
    manager = placed_manager(worker_count=2)
    wrong = []

    def ask(number):
        wrong.extend(
            i for i in range(30) if manager.queue_task(remote_tasks.add_up, number, i) != number + i
        )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert_adds_up(manager, arrived=120, completed=120)


@pytest.mark.parametrize("placement", [Threads(), Processes(), Ray(address=None)], ids=repr)
def test_a_placement_says_what_it_is(placement):
    assert repr(placement).startswith(
        ("Threads()", "Processes(grace=0.5, ", "Ray(address=None, grace=0.5, ")
    )
    assert placement == dataclasses.replace(placement)
    assert len({placement, dataclasses.replace(placement)}) == 1
    assert placement != Processes(grace=7)
