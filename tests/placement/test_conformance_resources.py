"""What becomes of resources is the same wherever they live. Each test has its manager."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest

from tasker import (
    Config,
    QueueFullError,
    ResourceCreationError,
    TaskManager,
)
from tasker._pool.usercode import UserCode
from tasker.placement.remote.proxy import ResourceProxy
from tasker.testing import ManualClock
from tests.support import remote_tasks
from tests.support.errors import Sick
from tests.support.journal import Gate, Session, assert_adds_up, assert_destroyed_once
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

# -- resources -------------------------------------------------------------------------------------------------------


def test_a_resource_is_used_by_many_tasks_and_destroyed_once(placed_manager, journal):
    manager = placed_manager()
    assert [manager.queue_task(remote_tasks.count_uses) for _ in range(5)] == [1, 2, 3, 4, 5]
    report = manager.stop()
    assert (report.drained, report.completed, report.abandoned, report.destroy_errors) == (
        True,
        5,
        (),
        0,
    )
    assert_destroyed_once(journal, 1)
    assert_adds_up(manager, arrived=5, completed=5)


def test_an_unhealthy_error_replaces_the_resource_and_the_task_is_tried_again(
    placed_manager, journal
):
    manager = placed_manager()
    first = manager.queue_task(remote_tasks.key)
    future = manager.submit(remote_tasks.sick_at_first, 2)
    last, attempts = future.result(PATIENCE)
    assert (attempts, future.attempts) == (3, 3)
    assert len({first, last, *journal.of("attempt")}) == 3
    manager.stop()
    assert_destroyed_once(journal, 3)
    assert_adds_up(manager, arrived=2, completed=2, retried=2)


def test_a_retry_runs_on_a_resource_that_was_made_after_the_failure(placed_manager, journal):
    manager = placed_manager(worker_count=3)
    assert manager.wait_ready(PATIENCE)
    for sick in (1, 3):  # the attempts before are counted
        assert manager.queue_task(remote_tasks.count_uses) >= 1
        older = {*journal.of("created")}
        last, attempts = manager.submit(remote_tasks.sick_at_first, sick).result(PATIENCE)
        assert attempts == sick + 1
        assert last not in older


@pytest.mark.usefixtures("endless_pauses")
def test_a_resource_that_breaks_at_its_first_use_is_not_replaced_at_once(placed_manager, journal):
    manager = placed_manager(worker_count=1)
    worker = manager._engine.crew.members[0]
    assert (
        type(manager.submit(remote_tasks.sick_at_first, 99, once=True).exception(PATIENCE)) is Sick
    )
    eventually(lambda: worker.pausing, "the pause")
    for _ in range(10):
        manager._engine.crew.wake_all(manager._engine.queue.idle)
    assert worker.pausing
    assert len(journal.of("created")) == len(journal.of("destroyed")) == 1


@pytest.mark.usefixtures("short_pauses")
def test_in_an_outage_one_worker_tries_and_the_others_follow(
    placed_manager, journal, gate, monkeypatch
):
    create, lock = UserCode.create, threading.Lock()
    known, trying, together = set(), set(), []

    def watched_create(*args):
        me = threading.current_thread()
        with lock:
            if me in known:  # the first wave tries at once
                trying.add(me)
                together.append(len(trying))
            known.add(me)
        try:
            create(*args)
        finally:
            trying.discard(me)

    monkeypatch.setattr(UserCode, "create", watched_create)
    manager = placed_manager(worker_count=3, on_create=partial(journal.create_when_open, gate))
    eventually(lambda: len(together) > 3, "attempts of the outage")
    gate.open()
    assert manager.wait_ready(PATIENCE)
    assert together[:4] == [1, 1, 1, 1]
    manager.stop()
    assert_destroyed_once(journal, 3)


def test_a_resource_on_which_tasks_fail_that_succeed_on_others_is_replaced(
    placed_manager, journal, log
):
    manager = placed_manager(worker_count=3, on_create=journal.create_bad_at_first, eject_after=5)
    assert manager.wait_ready(PATIENCE)
    bad = journal.of("created")[0]
    for _ in range(1000):
        futures = [manager.submit(remote_tasks.fail_if_bad) for _ in range(9)]
        for future in futures:
            future.exception(PATIENCE)
        if bad in journal.of("destroyed"):
            break
    assert journal.of("destroyed") == [bad]
    assert manager.wait_ready(PATIENCE)
    for future in [manager.submit(remote_tasks.fail_if_bad) for _ in range(30)]:
        assert future.exception(PATIENCE) is None
    assert [line for line in log.loud() if "eject_after" in line] == log.loud()
    manager.stop()
    assert_destroyed_once(journal, 4)


def test_a_context_manager_is_exited_with_the_error_that_broke_its_resource(
    placed_manager, journal
):
    opened = Config.from_context_manager(partial(Session, journal), worker_count=1)
    hooks_of = {"on_create": opened.on_create, "on_destroy": opened.on_destroy}
    manager = placed_manager(max_retries=0, **hooks_of)
    for make_error in (partial(Sick, "half", "done"), partial(ValueError, "healthy")):
        error = manager.submit(remote_tasks.raise_made, make_error).exception(PATIENCE)
        assert isinstance(error, make_error.func)
    report = manager.stop()
    assert (report.drained, report.destroy_errors) == (True, 0)
    assert journal.of("exited") == ["Sick ('half', 'done')", "None None"]

    manager = placed_manager(**hooks_of)
    assert manager.wait_ready(PATIENCE)
    manager.kill(PATIENCE)
    assert journal.of("exited")[2:] == ["TaskManagerKilledError tasker was killed"]


def test_an_on_create_that_returns_a_context_manager_which_nobody_has_entered_is_told_of_once(
    placed_manager, log
):
    manager = placed_manager(
        worker_count=2,
        on_create=remote_tasks.create_unentered,
        on_destroy=remote_tasks.call_nothing,
    )
    assert manager.wait_ready(PATIENCE)
    manager.stop()
    (told,) = log.loud()
    assert "Config.from_context_manager" in told


def test_a_hook_that_returns_a_coroutine_has_failed(placed_manager, log, capfd):
    manager = placed_manager(on_create=dict, on_destroy=remote_tasks.close_later)
    assert manager.wait_ready(PATIENCE)
    assert manager.stop().destroy_errors == 1
    assert any("on_destroy returned a coroutine" in line for line in log.loud())

    manager = placed_manager(
        on_create=remote_tasks.connect_later, on_destroy=remote_tasks.call_nothing
    )
    eventually(
        lambda: any("on_create returned a coroutine" in line for line in log.loud()), "the failure"
    )
    manager.kill()
    assert "never awaited" not in capfd.readouterr().err


def test_after_the_last_attempt_its_error_is_the_outcome(placed_manager, journal):
    manager = placed_manager(max_retries=1)
    future = manager.submit(remote_tasks.sick_at_first, 99)
    error = future.exception(PATIENCE)
    assert type(error) is Sick
    assert error.args == ("attempt 2",)
    assert error.__notes__ == ["tasker: the last of 2 attempts, each on another resource"]
    manager.stop()
    assert_destroyed_once(journal, len(journal.of("created")))
    assert_adds_up(manager, arrived=1, failed=1, retried=1)


def test_a_once_task_is_not_tried_again(placed_manager, journal):
    manager = placed_manager()
    with pytest.raises(Sick):
        manager.queue_task_once(remote_tasks.sick_at_first, 99)
    assert len(journal.of("attempt")) == 1
    manager.stop()
    assert_destroyed_once(journal, len(journal.of("created")))


def test_a_retry_waits_for_a_new_resource_though_another_has_just_answered(
    placed_manager, journal, tmp_path
):
    held, made = Gate(tmp_path / "held"), Gate(tmp_path / "made")
    with ManualClock():
        manager = placed_manager(
            on_create=partial(remote_tasks.create_two_at_once, made, journal), worker_count=2
        )
        assert manager.wait_ready(PATIENCE)
        other = manager.submit(remote_tasks.pass_deaf, held)
        held.await_reached()
        retried = manager.submit(remote_tasks.sick_at_first, 1)
        made.await_reached()
        held.open()
        assert other.result(PATIENCE) == "passed"
        assert manager.queue_task(remote_tasks.key) in journal.of("created")
        assert not retried.done()
        made.open()
        last, attempts = retried.result(PATIENCE)
    assert attempts == 2
    assert journal.of("created")[2:] == [last]


def test_a_chunk_whose_resource_broke_goes_on_with_the_item_that_failed(placed_manager, journal):
    manager = placed_manager()
    results = list(
        manager.map(partial(remote_tasks.sick_at_item, journal=journal), range(6), chunksize=6)
    )
    assert results == list(range(6))
    assert journal.of("item") == ["0", "1", "2", "3", "3", "4", "5"]


def test_errors_of_on_destroy_are_counted(placed_manager, journal, log):
    manager = placed_manager(on_destroy=journal.destroy_badly, worker_count=2)
    assert manager.wait_ready(PATIENCE)
    report = manager.stop()
    assert (report.drained, report.destroy_errors) == (True, 2)
    assert_destroyed_once(journal, 2)
    assert len(log.telling(of="will not close")) == 2


def test_a_creation_that_fails_is_tried_again(placed_manager, journal, log):
    manager = placed_manager(on_create=journal.create_at_second)
    assert manager.queue_task(remote_tasks.give, "made") == "made"
    assert len(journal.of("tried")) == 2
    assert any("OSError: down" in line for line in log.loud())


def test_tasks_fail_when_no_resource_can_be_made(placed_manager, log, monkeypatch):
    create = ResourceProxy.create
    monkeypatch.setattr(  # or the time of the attempt itself would be over
        ResourceProxy, "create", lambda proxy, setup, timeout: create(proxy, setup, PATIENCE)
    )
    manager = placed_manager(on_create=remote_tasks.cannot_create, create_timeout=0.1)
    eventually(log.loud, "a creation that has failed")
    error = manager.submit(remote_tasks.give, 1).exception(PATIENCE)
    assert type(error) is ResourceCreationError
    assert type(error.__cause__) is OSError
    assert error.__cause__.args == ("down for ever",)
    report = manager.stop()
    assert (report.drained, report.failed, report.abandoned) == (True, 1, ())


def test_a_slow_creation_is_waited_for(placed_manager, gate):
    manager = placed_manager(on_create=gate.create, on_destroy=remote_tasks.forget)
    future = manager.submit(remote_tasks.give, "at last")
    gate.await_reached()
    stats = manager.stats()
    assert (stats.creating_workers, stats.queued_tasks, future.done()) == (1, 1, False)
    gate.open()
    assert future.result(PATIENCE) == "at last"


def test_a_resource_whose_creation_ends_after_a_stop_began_is_destroyed(
    placed_manager, journal, gate
):
    manager = placed_manager(on_create=partial(remote_tasks.create_behind, gate, journal))
    gate.await_reached()
    manager._engine.lifecycle.request_stop()
    gate.open()
    assert manager.stop().drained
    assert_destroyed_once(journal, 1)


def test_a_backlog_hires_a_worker_with_a_resource_of_its_own(placed_manager, journal, tmp_path):
    manager = placed_manager(worker_count=1, max_worker_count=2, burst_interval=0.02)
    gates = [Gate(tmp_path / f"gate{number}") for number in range(2)]
    futures = [manager.submit(remote_tasks.pass_deaf, gate) for gate in gates]
    for gate in gates:
        gate.await_reached()
    assert manager.stats().burst_workers == 1
    for gate in gates:
        gate.open()
    assert [future.result(PATIENCE) for future in futures] == ["passed"] * 2
    assert manager.stop().drained
    assert_destroyed_once(journal, len(journal.of("created")))


def test_a_full_queue_refuses(placed_manager, gate):
    manager = placed_manager(queue_size=1)
    manager.submit(remote_tasks.pass_deaf, gate)
    gate.await_reached()
    waiting = manager.submit(remote_tasks.square, 6)
    with pytest.raises(QueueFullError):
        manager.submit(remote_tasks.square, 7, queue_timeout=0)
    gate.open()
    assert waiting.result(PATIENCE) == 36


def test_resources_of_context_managers_are_entered_and_left(placement, journal):
    config = Config.from_context_manager(
        partial(remote_tasks.entered, journal),
        worker_count=1,
        placement=placement,
        resource_pool_size=0,
    )
    with TaskManager(config) as manager:
        assert manager.queue_task(remote_tasks.give, "inside") == "inside"
        assert len(journal.of("entered")) == 1
        assert journal.of("left") == []
    assert journal.of("left") == journal.of("entered")


def test_errors_are_judged_and_told_here(placed_manager):
    here, told = threading.get_ident(), []
    lock = threading.Lock()  # which could not be sent anywhere

    def check_health(error):
        with lock:
            told.append((os.getpid(), threading.get_ident() != here, error.args))
        return True

    manager = placed_manager(check_health=check_health)
    with pytest.raises(Sick):
        manager.queue_task(remote_tasks.fail, Sick(1))
    assert told == [(os.getpid(), True, (1,))]


def test_a_check_health_that_takes_the_resource_is_asked_where_that_lives(placed_manager, journal):
    manager = placed_manager(check_health=remote_tasks.is_whole)
    with pytest.raises(ValueError, match="whole"):
        manager.queue_task(remote_tasks.fail, ValueError("whole"))
    first = manager.queue_task(remote_tasks.key)
    future = manager.submit(remote_tasks.break_at_first, 1)
    last = future.result(PATIENCE)
    assert (future.attempts, journal.of("attempt")) == (2, [first, last])
    assert journal.of("asked") == ["True ValueError", "True Lossy"]
    manager.stop()
    assert_destroyed_once(journal, 2)
    assert_adds_up(manager, arrived=3, completed=2, failed=1, retried=1)


def test_a_check_health_that_takes_the_resource_is_asked_for_run_task_and_for_items_of_a_chunk(
    placed_manager, journal
):
    manager = placed_manager(check_health=remote_tasks.is_whole, resource_pool_size=1)
    key = manager.run_task(remote_tasks.key)
    with pytest.raises(Exception, match="seven"):
        manager.run_task(remote_tasks.break_at_first, 1)
    assert journal.of("destroyed") == [key]
    results = list(
        manager.map(partial(remote_tasks.break_at_item, journal=journal), range(6), chunksize=6)
    )
    assert results == list(range(6))
    assert journal.of("item") == ["0", "1", "2", "3", "3", "4", "5"]
    assert journal.of("asked") == ["True Lossy"] * 2


def test_a_check_health_that_takes_the_resource_and_raises_replaces_it_and_is_logged_here(
    placed_manager, journal, log
):
    manager = placed_manager(check_health=remote_tasks.cannot_judge, max_retries=0)
    key = manager.queue_task(remote_tasks.key)
    with pytest.raises(Sick, match="mine"):
        manager.queue_task(remote_tasks.fail, Sick("mine"))
    assert manager.queue_task(remote_tasks.key) != key
    (told,) = [line for line in log.loud() if "check_health raised" in line]
    assert f"cannot ask {key}" in told


def test_a_check_health_that_takes_the_resource_is_not_asked_about_what_is_no_exception(
    placed_manager, journal
):
    manager = placed_manager(check_health=remote_tasks.cannot_judge)
    key = manager.queue_task(remote_tasks.key)
    with pytest.raises(SystemExit):
        manager.queue_task(remote_tasks.fail, SystemExit())
    assert manager.queue_task(remote_tasks.key) == key


# -- run_task --------------------------------------------------------------------------------------------------------


def test_run_task_without_a_pool_makes_and_destroys_a_resource_for_each_call(
    placed_manager, journal
):
    manager = placed_manager(resource_pool_size=0)
    assert manager.wait_ready(PATIENCE)
    keys = [manager.run_task(remote_tasks.key) for _ in range(2)]
    assert len(set(keys)) == 2
    assert sorted(journal.of("destroyed")) == sorted(keys)
    manager.stop()
    assert_destroyed_once(journal, 3)


def test_run_task_with_a_pool_finds_its_resources_made_and_replaces_a_broken_one(
    placed_manager, journal
):
    manager = placed_manager(resource_pool_size=2)
    assert manager.stats().available_resources == 2
    key = manager.run_task(remote_tasks.key)
    with pytest.raises(Sick):
        manager.run_task(remote_tasks.fail, Sick())
    assert journal.of("destroyed") == [key]
    assert manager.run_task(remote_tasks.key) != key
    assert manager.wait_ready(PATIENCE)
    manager.stop()
    assert_destroyed_once(journal, 3)
    assert_adds_up(manager, arrived=3, completed=2, failed=1)


def test_run_task_says_when_no_resource_can_be_made(placed_manager):
    manager = placed_manager(on_create=remote_tasks.cannot_create)
    with pytest.raises(ResourceCreationError) as caught:
        manager.run_task(remote_tasks.give, 1)
    assert caught.value.__cause__.args == ("down for ever",)
    with pytest.raises(ResourceCreationError):
        placed_manager(on_create=remote_tasks.cannot_create, resource_pool_size=1)
