"""How a manager ends: stop, kill, both at once, from anywhere, and at the end of its process."""

from __future__ import annotations

import concurrent.futures
import gc
import threading

import pytest

import tasker._pool.backoff
import tasker._pool.closing
import tasker._pool.engine
import tasker._pool.lifecycle
from tasker import (
    Config,
    ContextCancelledError,
    TaskManager,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    background,
    with_cancel,
)
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually

METHODS = [
    f"queue_task{kind}{form}"
    for kind in ("", "_once", "_with_priority", "_with_priority_once")
    for form in ("", "_async", "_with_callback")
]


# -- stop ------------------------------------------------------------------------------------------------------------


def test_stop_runs_every_accepted_task_and_its_callbacks(new_manager, factory):
    manager = new_manager(worker_count=2)
    gate, called = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))
    futures = [manager.submit(lambda resource, x: x, i, priority=i % 2 == 0) for i in range(200)]
    manager.queue_task_with_callback(
        lambda resource: "called", lambda result, error: called.append(result)
    )
    threading.Timer(0.01, gate.set).start()
    report = manager.stop()
    assert all(future.done() for future in futures)
    assert [future.result(0) for future in futures] == list(range(200))
    assert called == ["called"]
    assert report.drained
    assert (report.completed, report.failed, report.cancelled, report.never_started) == (
        202,
        0,
        0,
        0,
    )
    assert report.abandoned == ()
    assert factory.live == 0


def test_after_stop_every_variant_refuses(new_manager):
    manager = new_manager()
    manager.stop()
    called = []
    for name in METHODS:
        args = (lambda result, error: called.append(result),) if name.endswith("callback") else ()
        with pytest.raises(TaskManagerShutdownError) as caught:
            getattr(manager, name)(lambda resource: 0, *args)
        assert isinstance(caught.value, RuntimeError)
    for method in (manager.submit, manager.run_task):
        with pytest.raises(TaskManagerShutdownError):
            method(lambda resource: 0)
    assert called == []
    assert manager.join(0)
    assert manager.wait_ready(0) is False
    assert manager.metrics().total_tasks_arrived == 0


@pytest.mark.slow
def test_stop_drains_retries(new_manager):
    manager = new_manager(worker_count=2, max_worker_count=2)
    gate, tries = threading.Event(), []

    def flaky(resource):
        gate.wait(PATIENCE)
        tries.append(resource)
        if len(tries) < 3:
            raise Sick
        return "drained"

    future = manager.submit(flaky)
    eventually(future.running)
    manager._engine.lifecycle.request_stop()
    eventually(lambda: len(manager._engine.crew.members) == 1, "the idle worker has left")
    gate.set()
    assert manager.stop().drained
    assert future.result(0) == "drained"


def test_draining_tasks_run_with_a_live_context_that_says_stopping(new_manager):
    manager = new_manager(worker_count=1)
    started, gate, seen = threading.Event(), threading.Event(), []

    def task(ctx, resource):
        started.set()
        gate.wait(PATIENCE)
        seen.append((ctx.stopping(), ctx.cancelled()))

    manager.submit(task)
    started.wait(PATIENCE)
    assert seen == []
    manager._engine.lifecycle.request_stop()
    gate.set()
    assert manager.stop().drained
    assert seen == [(True, False)]


@pytest.mark.usefixtures("endless_pauses")
def test_stop_returns_during_an_outage(new_manager, factory):
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=3)
    assert manager.stop().drained
    assert factory.created == []


def test_stop_during_an_outage_with_tasks_waiting_ends_after_create_timeout(
    new_manager, factory, log, monkeypatch
):
    monkeypatch.setattr(tasker._pool.backoff, "LONGEST_PAUSE_S", 0.02)
    factory.fail_always = OSError("down")
    manager = new_manager(worker_count=2, create_timeout=0.1)
    eventually(log.loud)  # a creation has failed: what waits fails by it
    future = manager.submit(lambda resource: 0)
    assert manager.stop().failed == 1
    assert future.exception(0).__cause__ is factory.fail_always


def test_a_creation_that_finishes_after_the_closing_began_is_destroyed(new_manager, factory):
    gate, creating = threading.Event(), threading.Event()

    def create():
        creating.set()
        gate.wait(PATIENCE)
        return factory.create()

    manager = new_manager(worker_count=1, on_create=create)
    assert creating.wait(PATIENCE)
    manager._engine.lifecycle.request_stop()
    gate.set()
    assert manager.stop().drained
    assert len(factory.created) == len(factory.destroyed) == 1


def test_a_creation_that_never_returns_does_not_hold_up_a_stop_for_ever(new_manager, factory):
    gate, creating = threading.Event(), threading.Event()

    def create():
        creating.set()
        gate.wait(PATIENCE)
        return factory.create()

    manager = new_manager(worker_count=1, on_create=create, create_timeout=0.05)
    assert creating.wait(PATIENCE)
    report = manager.stop()
    assert report.drained
    assert report.abandoned == ("tasker-worker-1",)
    gate.set()
    eventually(lambda: factory.destroyed)


@pytest.mark.slow
def test_a_worker_that_is_about_to_leave_is_not_taken_for_one_that_cannot_create(
    new_manager, factory, monkeypatch
):
    manager = new_manager(
        worker_count=1, max_worker_count=1, resource_pool_size=0, create_timeout=30.0
    )
    engine, gate, leaving = manager._engine, threading.Event(), threading.Event()
    worker = engine.crew.members[0]
    employed = worker._employed

    def look_late():
        if factory.destroyed and not leaving.is_set():
            leaving.set()
            assert gate.wait(PATIENCE)
        return employed()

    monkeypatch.setattr(worker, "_employed", look_late)
    manager.queue_task(id)
    engine.lifecycle.request_stop()
    assert leaving.wait(PATIENCE)
    eventually(lambda: engine.lifecycle._closing_since is not None)
    engine.lifecycle._closing_since -= 60.0  # it took long to drain
    ticks = engine.housekeeper._beats
    eventually(lambda: engine.housekeeper._beats > ticks + 3)
    gate.set()
    assert manager.stop().abandoned == ()


def test_stop_with_a_timeout_goes_on_as_kill(new_manager, factory, monkeypatch):
    monkeypatch.setattr(tasker._pool.closing, "KILL_TIMEOUT_S", 0.05)
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate = threading.Event()
    stuck = manager.submit(lambda resource: gate.wait(PATIENCE))
    waiting = manager.submit(lambda resource: 0)
    eventually(stuck.running)
    report = manager.stop(timeout=0.01)
    assert not report.drained
    assert report.abandoned == ("tasker-worker-1",)
    assert isinstance(waiting.exception(0), TaskManagerKilledError)
    assert isinstance(stuck.exception(0), TaskManagerKilledError)
    gate.set()
    eventually(lambda: factory.live == 0)


def test_leaving_the_with_block_stops(factory):
    with TaskManager(
        Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=2)
    ) as manager:
        futures = [manager.submit(lambda resource, x: x, i) for i in range(50)]
    assert [future.result(0) for future in futures] == list(range(50))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_the_with_block_by_an_interrupt_kills(factory, error):
    started, futures = threading.Event(), []

    def leave():
        with TaskManager(
            Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)
        ) as manager:
            futures.append(
                manager.submit(lambda ctx, resource: (started.set(), ctx.wait(PATIENCE)))
            )
            futures.extend(
                manager.submit(lambda ctx, resource: ctx.wait(PATIENCE)) for _ in range(5)
            )
            started.wait(PATIENCE)
            raise error

    with pytest.raises(error):
        leave()
    assert futures[0].result(0) == (None, True)
    assert any(isinstance(future.exception(0), TaskManagerKilledError) for future in futures[1:])


def test_cancelling_the_parent_context_drains_and_leaves_no_caller_waiting(new_manager):
    ctx = with_cancel(background())
    manager = new_manager(ctx=ctx, worker_count=1)
    gate, seen = threading.Event(), []
    first = manager.submit(lambda ctx, resource: (gate.wait(PATIENCE), ctx.cancelled()))
    callers = [
        threading.Thread(target=lambda i=i: seen.append(manager.queue_task(lambda resource: i)))
        for i in range(5)
    ]
    for caller in callers:
        caller.start()
    eventually(lambda: manager.stats().queued_tasks == 5)
    ctx.cancel()
    with pytest.raises(TaskManagerShutdownError):
        manager.submit(lambda resource: 0)
    gate.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert sorted(seen) == list(range(5))
    assert first.result(0) == (True, False)
    assert manager.stop().drained
    assert ctx._followers is None


def test_a_manager_on_a_cancelled_context_refuses_at_once(new_manager):
    ctx = with_cancel(background())
    ctx.cancel()
    manager = new_manager(ctx=ctx)
    with pytest.raises(TaskManagerShutdownError):
        manager.submit(lambda resource: 0)
    assert manager.stop().drained


# -- kill ------------------------------------------------------------------------------------------------------------


def test_kill_fails_what_waits_and_signals_what_runs(new_manager, factory):
    manager = new_manager(worker_count=2, max_worker_count=2)
    started = threading.Barrier(3)

    def task(ctx, resource):
        started.wait(PATIENCE)
        return ctx.wait(PATIENCE), type(ctx.err()), type(ctx.cause())

    running = [manager.submit(task) for _ in range(2)]
    started.wait(PATIENCE)
    waiting = [manager.submit(lambda resource: 0, priority=i % 2 == 0) for i in range(20)]
    report = manager.kill()
    assert [f.result(0) for f in running] == [
        (True, ContextCancelledError, TaskManagerKilledError)
    ] * 2
    for future in waiting:
        assert isinstance(future.exception(0), TaskManagerKilledError)
        assert isinstance(future.exception(0), concurrent.futures.CancelledError)
        assert future.attempts == 0
    assert not report.drained
    assert (report.completed, report.cancelled, report.never_started, report.abandoned) == (
        2,
        20,
        20,
        (),
    )
    metrics = manager.metrics()
    assert metrics.total_tasks_arrived == 22


def test_kill_leaves_stuck_threads_behind_and_names_them(new_manager, factory):
    manager = new_manager(worker_count=2, max_worker_count=2)
    gate = threading.Event()
    stuck = manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(stuck.running)
    report = manager.kill(0.02)
    assert isinstance(stuck.exception(0), TaskManagerKilledError)
    assert len(report.abandoned) == 1
    assert factory.live == 1
    gate.set()
    eventually(lambda: factory.live == 0)
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_failed,
        metrics.total_tasks_completed,
        metrics.total_tasks_arrived,
    ) == (1, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in on_destroy", "after its last resource"])
def test_a_kill_without_time_names_no_worker_that_only_has_to_leave(
    new_manager, factory, monkeypatch, where
):
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", PATIENCE)  # however slow the machine is
    gate, leaving, reports = threading.Event(), threading.Event(), []

    def hold(here):
        if here == where:
            leaving.set()
            assert gate.wait(PATIENCE)

    def destroy(resource):
        hold("in on_destroy")
        factory.destroy(resource)

    manager = new_manager(worker_count=1, max_worker_count=1, on_destroy=destroy)
    engine = manager._engine
    eventually(lambda: manager.stats().idle_workers == 1)
    worker = engine.crew.members[0]
    leave = worker._leave
    monkeypatch.setattr(
        worker, "_leave", lambda worker: (hold("after its last resource"), leave(worker))
    )
    killer = threading.Thread(target=lambda: reports.append(manager.kill(0)))
    killer.start()
    assert leaving.wait(PATIENCE)
    ticks = engine.housekeeper._beats
    eventually(lambda: engine.housekeeper._beats > ticks + 3 or reports)
    gate.set()
    killer.join(PATIENCE)
    assert reports[0].abandoned == ()
    assert factory.live == 0


def test_kill_wakes_blocked_callers_and_standard_waiters(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, outcomes = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))
    futures = [manager.submit(lambda resource: 0) for _ in range(3)]

    def call():
        try:
            manager.queue_task(lambda resource: 0)
        except TaskManagerKilledError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    threads.append(
        threading.Thread(target=lambda: outcomes.append(concurrent.futures.wait(futures, PATIENCE)))
    )
    for thread in threads:
        thread.start()
    eventually(lambda: manager.stats().queued_tasks == 6 and all(f._standard for f in futures))
    threading.Timer(0.05, gate.set).start()
    manager.kill()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(outcomes) == 4


def test_callbacks_of_killed_tasks_run_but_not_inside_kill(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, names = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))

    def callback(result, error):
        names.append((threading.current_thread().name, type(error)))

    for _ in range(5):
        manager.queue_task_with_callback(lambda resource: 0, callback)
    threading.Timer(0.05, gate.set).start()
    assert manager.kill(PATIENCE).abandoned == ()
    assert names == [("tasker-aside", TaskManagerKilledError)] * 5


@pytest.mark.slow
@pytest.mark.parametrize("pauses", ["no_pauses", "short_pauses"])
def test_a_retry_that_races_with_kill_is_settled(new_manager, request, pauses):
    request.getfixturevalue(pauses)
    for _ in range(20):
        manager = new_manager(worker_count=2, max_worker_count=2, max_retries=10**6)

        def task(resource):
            raise Sick

        futures = [manager.submit(task) for _ in range(4)]
        eventually(lambda m=manager: m.metrics().total_tasks_retried > 3)
        manager.kill()
        for future in futures:
            assert future.exception(0) is not None
        metrics = manager.metrics()
        assert (
            metrics.total_tasks_arrived
            == 4
            == metrics.total_tasks_failed + metrics.total_tasks_cancelled
        )


def test_kill_overtakes_a_stop_and_repeated_closes_agree(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    started, reports = threading.Event(), []
    running = manager.submit(lambda ctx, resource: (started.set(), ctx.wait(PATIENCE)))
    manager.submit(lambda resource: 0)
    started.wait(PATIENCE)
    stoppers = [threading.Thread(target=lambda: reports.append(manager.stop())) for _ in range(3)]
    for stopper in stoppers:
        stopper.start()
    eventually(manager._engine.is_stopping)
    assert not reports
    reports.append(manager.kill())
    for stopper in stoppers:
        stopper.join(PATIENCE)
    reports += [manager.stop(), manager.kill()]
    assert len({repr(report) for report in reports}) == 1
    assert running.result(0) == (None, True)
    assert not reports[0].drained


def test_nothing_is_created_or_run_after_close_returned(new_manager, factory):
    manager = new_manager(worker_count=2, max_worker_count=8, burst_interval=0.01)
    for _ in range(500):
        manager.submit(lambda resource: 0)
    manager.kill()
    created, done = len(factory.created), manager.metrics().total_tasks_completed
    gc.collect()
    assert (len(factory.created), manager.metrics().total_tasks_completed) == (created, done)
    assert manager.stats().active_workers == 0


# -- from inside -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stop", "kill"])
def test_closing_from_a_task_does_not_lock_up(new_manager, method):
    manager = new_manager(worker_count=1)
    report = manager.submit(lambda resource: getattr(manager, method)()).result(PATIENCE)
    assert not report.drained
    assert manager.stop().abandoned == ()


@pytest.mark.parametrize("method", ["stop", "kill"])
def test_closing_from_a_callback_does_not_lock_up(new_manager, method):
    manager = new_manager(worker_count=1)
    reports = []
    manager.queue_task_with_callback(
        lambda resource: 0, lambda *_: reports.append(getattr(manager, method)())
    )
    assert manager.stop().abandoned == ()
    assert len(reports) == 1
    assert not reports[0].drained


@pytest.mark.parametrize("method", ["stop", "kill"])
def test_closing_from_the_callback_of_a_timeout_does_not_lock_up(new_manager, method):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, reports = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))
    future = manager.submit(lambda resource: 0, timeout=0.01)
    called = threading.Event()
    future.add_done_callback(
        lambda done: (reports.append(getattr(manager, method)()), called.set())
    )
    assert called.wait(PATIENCE)
    gate.set()
    assert manager.stop().abandoned == ()
    assert not reports[0].drained


@pytest.mark.parametrize("method", ["stop", "kill"])
def test_closing_from_run_task_or_from_on_destroy_does_not_lock_up(new_manager, factory, method):
    managers = []

    def destroy(resource):
        factory.destroy(resource)
        getattr(managers[0], method)()

    managers.append(new_manager(worker_count=1, on_destroy=destroy))
    assert managers[0].run_task(lambda resource: getattr(managers[0], method)()).drained is False
    assert managers[0].stop().abandoned == ()


def test_a_function_in_run_task_may_stop_another_manager_and_wait_for_it(new_manager):
    inner, outer = new_manager(), new_manager()
    assert outer.run_task(lambda resource: inner.stop()).drained


def test_a_submission_refused_while_it_waited_for_room_is_not_counted(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    release, refused = threading.Event(), []
    first = manager.queue_task_async(lambda resource: release.wait(PATIENCE))
    eventually(first.running)
    manager.queue_task_async(lambda resource: None)  # fills the queue

    def submit():
        with pytest.raises(TaskManagerShutdownError) as error:
            manager.queue_task_async(lambda resource: None)
        refused.append(error)

    submitter = threading.Thread(target=submit)
    submitter.start()
    eventually(lambda: manager._engine.queue.room._line)
    stopper = threading.Thread(target=manager.stop)
    stopper.start()
    submitter.join(PATIENCE)
    release.set()
    stopper.join(PATIENCE)
    report = manager.stop()
    assert len(refused) == 1
    assert (report.completed, report.cancelled, report.never_started) == (2, 0, 0)


def test_a_task_may_stop_another_manager_and_wait_for_it(new_manager):
    inner, outer = new_manager(), new_manager()
    assert outer.queue_task(lambda resource: inner.stop()).drained is True
    assert outer.run_task(lambda resource: inner.kill()).drained is True


def test_a_callback_may_submit(new_manager):
    manager = new_manager(worker_count=1)
    futures = []
    manager.queue_task_with_callback(
        lambda resource: 0, lambda *_: futures.append(manager.submit(lambda resource: 5))
    )
    eventually(lambda: futures)
    assert futures[0].result(PATIENCE) == 5


def test_a_task_that_submits_while_the_manager_drains_is_refused(new_manager):
    manager = new_manager(worker_count=1)
    started, gate = threading.Event(), threading.Event()

    def task(resource):
        started.set()
        gate.wait(PATIENCE)
        return manager.submit(lambda resource: 0)

    future = manager.submit(task)
    started.wait(PATIENCE)
    manager._engine.lifecycle.request_stop()
    gate.set()
    assert manager.stop().drained
    assert isinstance(future.exception(0), TaskManagerShutdownError)


def test_submitters_that_wait_for_room_are_refused_when_it_closes(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1, queue_size=1)
    gate, errors = threading.Event(), []
    manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(lambda: manager.stats().running_tasks == 1)
    manager.submit(lambda resource: 0)

    def submit():
        try:
            manager.submit(lambda resource: 0)
        except TaskManagerShutdownError as error:
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(manager._engine.queue.room._line) == 3)
    manager._engine.lifecycle.request_stop()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(errors) == 3
    gate.set()
    assert manager.stop().completed == 2


@pytest.mark.slow
def test_submitting_while_closing_is_either_accepted_and_finished_or_refused(new_manager):
    for close in ("stop", "kill") * 10:
        manager = new_manager(worker_count=2)
        accepted, refused = [], []
        begin = threading.Barrier(4)

        def submit(manager=manager, accepted=accepted, refused=refused, begin=begin):
            begin.wait(PATIENCE)
            try:
                while True:
                    accepted.append(manager.submit(lambda resource: 0))
            except TaskManagerShutdownError:
                refused.append(1)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        begin.wait(PATIENCE)
        eventually(lambda accepted=accepted: len(accepted) > 20)
        getattr(manager, close)()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(refused) == 3
        assert all(future.done() for future in accepted)
        assert close == "kill" or all(future.exception(0) is None for future in accepted)
        metrics = manager.metrics()
        ended = (
            metrics.total_tasks_completed
            + metrics.total_tasks_failed
            + metrics.total_tasks_cancelled
        )
        assert metrics.total_tasks_arrived == ended
