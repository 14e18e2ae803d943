"""A resource is checked and reset where it lives, and what these hooks do costs no task. Each test has its manager."""

from __future__ import annotations

import dataclasses
import math
import threading
from functools import partial

import pytest

import tasker._pool.lifecycle
import tasker.placement.remote.backend
from tasker import Config, ConfigError, Ray
from tasker.placement.remote.proxy import ResourceProxy
from tasker.slot import Reason
from tests.support import remote_tasks
from tests.support.errors import Lossy
from tests.support.journal import Session, assert_adds_up, assert_destroyed_once
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def hasty(placement, is_remote):
    """The placement, which soon ends what does not end by itself."""
    return dataclasses.replace(placement, grace=0.1) if is_remote else placement


def is_idle(manager):
    eventually(lambda: manager.stats().idle_workers == 1, "an idle worker")


def spoiled(manager, clock):
    """The key of the manager's resource, which is broken and was idle for long."""
    key = manager.queue_task(remote_tasks.spoil)
    is_idle(manager)
    clock.advance(2)
    return key


# -- checks ------------------------------------------------------------------------------------------------------------


def test_an_idle_resource_is_checked_where_it_lives(placed_manager, journal, clock):
    manager = placed_manager(on_check=remote_tasks.check)
    first = manager.queue_task(remote_tasks.key)
    assert journal.of("checked") == []
    is_idle(manager)
    clock.advance(2)
    assert manager.queue_task(remote_tasks.key) == first
    assert journal.of("checked") == [f"{first} True"]
    manager.stop()
    assert_destroyed_once(journal, 1)


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize("on_check", ["check", "check_lossily"])
def test_a_failed_check_replaces_the_resource_and_costs_the_task_no_attempt(
    placed_manager, journal, clock, log, on_check
):
    manager = placed_manager(on_check=getattr(remote_tasks, on_check), max_retries=0)
    broken = spoiled(manager, clock)
    future = manager.submit(remote_tasks.key)
    assert future.result(PATIENCE) != broken
    assert future.attempts == 1
    assert manager._engine.crew.members[0]._reason is Reason.CHECK
    (told,) = log.loud()
    assert "did not pass its check and is replaced" in told
    manager.stop()
    assert_destroyed_once(journal, 2)
    assert_adds_up(manager, arrived=2, completed=2)


def test_a_context_manager_is_exited_with_what_its_check_raised(placed_manager, journal, clock):
    opened = Config.from_context_manager(partial(Session, journal), worker_count=1)
    manager = placed_manager(
        on_create=opened.on_create,
        on_destroy=opened.on_destroy,
        on_check=partial(remote_tasks.fail, error=OSError("gone")),
    )
    is_idle(manager)
    clock.advance(2)
    assert manager.queue_task(remote_tasks.give, 1) == 1
    assert manager.stop().destroy_errors == 0
    assert journal.of("exited") == ["OSError gone", "None None"]


def test_a_check_that_hangs_is_ended_with_its_place(
    placed_manager, is_remote, journal, clock, gate, log
):
    manager = placed_manager(on_check=partial(remote_tasks.check_behind, gate), max_retries=0)
    first = manager.queue_task(remote_tasks.key)
    is_idle(manager)
    clock.advance(2)
    future = manager.submit(remote_tasks.key)
    gate.await_reached()
    clock.advance(5)
    if not is_remote:
        gate.open()
    assert future.result(PATIENCE) != first
    assert future.attempts == 1
    assert manager._engine.crew.members[0]._reason is Reason.CHECK
    eventually(lambda: log.telling(of="(check_timeout)"), "the log")
    assert manager.stop().drained
    assert len(journal.of("created")) == 2


def test_a_check_that_ends_its_place_costs_the_task_no_attempt(
    placed_manager, is_remote, journal, clock
):
    if not is_remote:
        pytest.skip("it would end this process")
    manager = placed_manager(on_check=remote_tasks.check_fatally, max_retries=0)
    broken = spoiled(manager, clock)
    future = manager.submit(remote_tasks.key)
    assert future.result(PATIENCE) != broken
    assert future.attempts == 1


def test_run_task_checks_and_resets_its_resource_too(placed_manager, journal, clock):
    manager = placed_manager(
        resource_pool_size=1, on_check=remote_tasks.check, on_reset=remote_tasks.reset
    )
    kept = manager.run_task(remote_tasks.key)
    assert journal.of("reset") == [f"{kept} 0 True"]
    assert manager.run_task(remote_tasks.spoil) == kept
    clock.advance(2)
    assert manager.run_task(remote_tasks.key) != kept
    assert journal.of("checked") == [f"{kept} True"]
    manager.stop()
    assert_destroyed_once(journal, 3)


# -- what run_task keeps -----------------------------------------------------------------------------------------------


@pytest.fixture
def kept(placed_manager, clock):
    """`kept(**options)`: a manager with one resource for `run_task`, in slot 0, which is due after 30 s to the second.

    That of its worker is never due: a check that meets a clock that moves on may be late."""

    def kept(**options):
        manager = placed_manager(resource_pool_size=1, keepalive=30, **options)
        is_idle(manager)
        [worker] = manager._engine.crew.members
        worker._proved_at = math.inf
        return manager

    return kept


def of_pool(manager):
    return manager._engine.pool


def test_what_run_task_keeps_is_checked_while_it_is_idle(kept, journal, clock):
    manager = kept(on_check=remote_tasks.check)
    key = manager.run_task(remote_tasks.key)
    clock.advance(30)
    eventually(lambda: f"{key} True" in journal.of("checked"), "the check")
    eventually(lambda: of_pool(manager).available == 1, "its return")
    assert manager.run_task(remote_tasks.key) == key
    manager.stop()
    assert_destroyed_once(journal, 2)


@pytest.mark.parametrize("on_check", ["check", "check_lossily", "check_fatally"])
def test_what_run_task_keeps_is_destroyed_if_it_does_not_pass(
    kept, is_remote, journal, clock, log, on_check
):
    if on_check == "check_fatally" and not is_remote:
        pytest.skip("it would end this process")
    manager = kept(on_check=getattr(remote_tasks, on_check))
    broken = manager.run_task(remote_tasks.spoil)
    clock.advance(30)
    eventually(lambda: (of_pool(manager).available, of_pool(manager).out) == (0, 0), "its end")
    assert "did not pass its check and is replaced" in log.loud()[0]
    assert manager.run_task(remote_tasks.key) != broken
    assert manager.stop().drained


def test_a_check_of_what_run_task_keeps_that_hangs_is_ended_with_its_place_or_given_up(
    kept, is_remote, journal, clock, gate
):
    manager = kept(on_check=partial(remote_tasks.check_behind_if_broken, gate))
    broken = manager.run_task(remote_tasks.spoil)
    clock.advance(30)
    gate.await_reached()
    assert manager.run_task(remote_tasks.key) != broken
    clock.advance(5)
    if not is_remote:
        assert of_pool(manager).given_up() == ("tasker-keepalive",)
        gate.open()
    eventually(lambda: (of_pool(manager).given_up(), of_pool(manager).out) == ((), 0), "its end")
    report = manager.stop()
    assert (report.drained, report.abandoned) == (True, ())


def test_kill_ends_a_check_of_what_run_task_keeps(kept, hasty, is_remote, clock, gate):
    behind = partial(remote_tasks.check_behind_if_broken, gate)
    manager = kept(on_check=behind, placement=hasty)
    manager.run_task(remote_tasks.spoil)
    clock.advance(30)
    gate.await_reached()
    report = in_another_thread(lambda: manager.kill(PATIENCE if is_remote else 0))
    assert report.abandoned == (() if is_remote else ("tasker-keepalive",))


# -- resets ------------------------------------------------------------------------------------------------------------


def test_a_resource_is_reset_after_each_task_where_it_lives(placed_manager, journal):
    manager = placed_manager(on_reset=remote_tasks.reset)
    key = manager.queue_task(remote_tasks.key)
    futures = [manager.submit(remote_tasks.count_uses) for _ in range(3)]
    assert [future.result(PATIENCE) for future in futures] == [1, 1, 1]
    assert type(manager.submit(remote_tasks.fail, Lossy(7, "x")).exception(PATIENCE)) is not None
    manager.stop()
    assert journal.of("reset") == [f"{key} {uses} True" for uses in (0, 1, 1, 1, 0)]
    assert_destroyed_once(journal, 1)


@pytest.mark.parametrize(
    ("on_reset", "reason"), [("reset_lossily", Reason.BROKEN), ("reset_fatally", Reason.LOST)]
)
def test_a_failed_reset_replaces_the_resource_and_the_outcome_stands(
    placed_manager, is_remote, journal, on_reset, reason
):
    if on_reset == "reset_fatally" and not is_remote:
        pytest.skip("it would end this process")
    manager = placed_manager(on_reset=getattr(remote_tasks, on_reset), max_retries=0)
    broken = manager.queue_task(remote_tasks.spoil)
    future = manager.submit(remote_tasks.key)
    assert future.result(PATIENCE) != broken
    assert future.attempts == 1
    assert manager._engine.crew.members[0]._reason is reason
    manager.stop()
    assert len(journal.of("created")) == 2


def test_a_reset_that_hangs_is_ended_with_its_place(
    placed_manager, is_remote, journal, gate, log, monkeypatch
):
    if not is_remote:
        pytest.skip("no thread can be ended")
    reset = ResourceProxy.reset
    monkeypatch.setattr(ResourceProxy, "reset", lambda proxy, timeout: reset(proxy, timeout / 60))
    manager = placed_manager(on_reset=partial(remote_tasks.reset_behind, gate), max_retries=0)
    broken = manager.queue_task(remote_tasks.spoil)
    future = manager.submit(remote_tasks.key)
    assert future.result(PATIENCE) != broken
    assert future.attempts == 1
    assert log.telling(of="on_reset has not returned within 0.5 s (create_timeout)")


def stuck_in(hook, placed_manager, gate, clock, **options):
    """A manager whose only worker is in that hook."""
    behind = {"on_check": remote_tasks.check_behind, "on_reset": remote_tasks.reset_behind}[hook]
    manager = placed_manager(**{hook: partial(behind, gate)}, **options)
    if hook == "on_reset":
        manager.queue_task(remote_tasks.spoil)
    else:
        is_idle(manager)
        clock.advance(2)
        manager.submit(remote_tasks.key)
    gate.await_reached()
    return manager


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
@pytest.mark.parametrize("seconds", [0, PATIENCE])
def test_kill_ends_the_place_of_a_hook_that_hangs(
    placed_manager, hasty, is_remote, gate, clock, monkeypatch, hook, seconds
):
    if seconds and not is_remote:
        pytest.skip("no thread can be ended")
    # What has only to leave may take as long as it likes.
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", 10 * PATIENCE)
    monkeypatch.setattr(tasker.placement.remote.backend, "_LEAVE_S", PATIENCE)
    manager = stuck_in(hook, placed_manager, gate, clock, placement=hasty)
    report = in_another_thread(lambda: manager.kill(seconds))
    assert report.abandoned == (() if is_remote else ("tasker-worker-1",))


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
def test_kill_aborts_a_hook_that_hangs_or_ends_its_place(
    placed_manager, hasty, is_remote, journal, gate, clock, hook
):
    aborter = remote_tasks.Aborter(gate, journal)
    manager = stuck_in(hook, placed_manager, gate, clock, placement=hasty, on_abort=aborter)
    assert manager.kill(PATIENCE).abandoned == ()
    [key] = journal.of("created")
    assert journal.of("aborted") == ([] if is_remote else [f"{key} True True"])


# -- what cannot be sent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
def test_a_hook_that_cannot_be_sent_is_named(placed_manager, is_remote, hook):
    lock = threading.Lock()
    if not is_remote:
        placed_manager(**{hook: partial(remote_tasks.give, lock)})
        return
    with pytest.raises(ConfigError, match=f"{hook} cannot be sent to another process"):
        placed_manager(**{hook: partial(remote_tasks.give, lock)})


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["on_check", "on_reset"])
def test_an_interrupt_of_run_task_in_a_hook_costs_the_resource(
    placed_manager, placement, journal, gate, clock, ctrl_c, hook
):
    if isinstance(placement, Ray):
        pytest.skip("its wait for an answer goes on")
    behind = {"on_check": remote_tasks.check_behind, "on_reset": remote_tasks.reset_behind}[hook]
    manager = placed_manager(resource_pool_size=1, **{hook: partial(behind, gate)})

    def interrupt():
        gate.await_reached()
        ctrl_c.press()

    thread = threading.Thread(target=interrupt)
    thread.start()
    clock.advance(2)
    with pytest.raises(KeyboardInterrupt):
        manager.run_task(remote_tasks.spoil)
    thread.join()
    assert manager._engine.pool.out == manager._engine.pool.available == 0
    gate.open()
    assert manager.run_task(remote_tasks.give, 1) == 1
    manager.stop()
    assert len(journal.of("created")) == 3
