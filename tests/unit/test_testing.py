"""`tasker.testing`, used as its users would: a clock that stands still, recorded resources, and what is left behind."""

from __future__ import annotations

import functools
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import tasker._pool.lifecycle
import tasker._sync.clock
import tasker._sync.timer
import tasker.testing
import tasker.testing.clock
import tasker.testing.leaks
from tasker import (
    Config,
    ConfigError,
    DeadlineExceededError,
    TaskManager,
    TaskTimeoutError,
    background,
    with_cancel,
    with_deadline,
    with_timeout,
)
from tasker.testing import ManualClock, leak_check
from tests.support.placements import on_posix
from tests.support.waiting import PATIENCE, eventually

ROOT = Path(tasker.testing.__file__).parents[2]


# -- the manual clock ----------------------------------------------------------------------------------------------


def test_a_context_ends_when_the_clock_reaches_its_deadline_and_not_before(clock):
    ctx = with_timeout(background(), 60)
    child = with_cancel(ctx)
    clock.advance(59)
    assert not ctx.cancelled()
    clock.advance(1)
    assert isinstance(ctx.err(), DeadlineExceededError)
    assert child.err() is ctx.err()


def test_seconds_and_tenths_of_seconds_add_up(monkeypatch):
    for began in (0.1, 8162.496, 1e6 / 3):
        monkeypatch.setattr(tasker.testing.clock, "monotonic", lambda began=began: began)
        clock = ManualClock()
        monkeypatch.undo()
        with clock:
            ctx = with_timeout(background(), 90)
            assert ctx.remaining() == 90
            for _ in range(600):
                clock.advance(0.1)
            clock.advance(29)
            assert not ctx.cancelled()
            clock.advance(1)
            assert ctx.cancelled()


def test_a_deadline_is_a_time_of_the_clock(clock):
    clock.advance(1000)
    ctx = with_deadline(background(), clock.now() + 5)
    clock.advance(4.5)
    assert ctx.remaining() == pytest.approx(0.5)
    clock.advance(0.5)
    assert ctx.cancelled()


def test_deadlines_pass_in_their_order_each_at_its_own_time(clock):
    begin, passed = clock.now(), []
    for seconds in (3, 1, 2, 1, 9):
        clock.at(
            begin + seconds, lambda seconds=seconds: passed.append((seconds, clock.now() - begin))
        )
    clock.advance(5)
    assert passed == [(s, pytest.approx(s)) for s in (1, 1, 2, 3)]
    assert clock.now() == pytest.approx(begin + 5)
    clock.advance(4)
    assert passed[-1] == (9, pytest.approx(9))


def test_what_a_deadline_calls_back_runs_in_a_thread_of_its_own(clock):
    ran, threads = threading.Event(), []
    ctx = with_timeout(background(), 1)
    ctx.on_done(lambda: (threads.append(threading.current_thread()), ran.set()))
    clock.advance(1)
    assert ran.wait(PATIENCE)
    assert threads != [threading.current_thread()]


def test_a_callback_that_blocks_holds_up_no_other_though_the_clock_stands_still(clock):
    gate, ran = threading.Event(), threading.Event()
    contexts = [with_timeout(background(), 1), with_timeout(background(), 2)]
    contexts[0].on_done(lambda: gate.wait(PATIENCE))
    contexts[1].on_done(ran.set)
    clock.advance(2)
    assert ran.wait(PATIENCE)
    gate.set()


def test_a_task_that_waits_longer_than_its_timeout_never_starts(new_manager, clock):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate = threading.Event()
    first = manager.submit(lambda resource: gate.wait(PATIENCE))
    second = manager.submit(pytest.fail, timeout=30)
    clock.advance(29)
    assert not second.done()
    clock.advance(1)
    assert second.done()  # now, not soon
    gate.set()
    assert first.result(PATIENCE)
    with pytest.raises(TaskTimeoutError, match=r"timeout of 30 s ended while queued"):
        second.result()


def test_a_task_that_runs_longer_than_its_timeout_has_its_context_cancelled(new_manager, clock):
    clock.advance(3600)
    started, ended = threading.Event(), threading.Event()

    def task(ctx, resource):
        assert ctx.remaining() == 30
        started.set()
        if ctx.wait():
            ended.set()

    future = new_manager().submit(task, timeout=30)
    assert started.wait(PATIENCE)
    clock.advance(30)
    assert ended.wait(PATIENCE)
    with pytest.raises(TaskTimeoutError, match=r"timeout of 30 s ended while running"):
        future.result()


def test_a_task_that_ends_in_time_takes_its_deadline_out(new_manager, clock):
    assert new_manager().submit(lambda resource: 1, timeout=30).result(PATIENCE) == 1
    eventually(lambda: clock.deadlines == 0)
    clock.advance(100)


def test_a_task_that_sleeps_wakes_when_the_clock_is_advanced(new_manager, clock):
    laps = []

    def task(ctx, resource):
        for lap in range(3):
            assert ctx.wait(10) is False
            laps.append(lap)

    future = new_manager().submit(task)
    for lap in range(3):
        clock.wait_for_deadlines(1)
        assert len(laps) == lap
        clock.advance(9.5)
        assert clock.deadlines == 1
        clock.advance(0.5)
    future.result(PATIENCE)
    assert laps == [0, 1, 2]


def test_a_task_that_sleeps_wakes_when_it_is_cancelled(new_manager, clock):
    future = new_manager().submit(lambda ctx, resource: ctx.wait(10))
    clock.wait_for_deadlines(1)
    assert future.cancel() is False
    assert future.result(PATIENCE) is True
    assert clock.deadlines == 0


def test_no_time_at_all_is_not_slept(clock):
    assert background().wait(0) is False
    assert with_timeout(background(), 0).wait(10) is True


def test_who_waits_for_deadlines_waits_until_they_are_there(clock):
    seen = []

    def wait():
        clock.wait_for_deadlines(2)
        seen.append(clock.deadlines)

    thread = threading.Thread(target=wait)
    thread.start()
    for seconds in (1, 2):
        eventually(lambda: clock._changed._waiters)
        with_timeout(background(), seconds)
    thread.join(tasker.testing.clock.PATIENCE_S / 2)  # it gives up later than that
    assert seen == [2]
    with pytest.raises(AssertionError, match=r"2 deadlines were set within 0\.01 s, not 3"):
        clock.wait_for_deadlines(3, timeout=0.01)


def test_a_cancelled_deadline_is_none(clock):
    with with_timeout(background(), 1) as ctx:
        assert clock.deadlines == 1
    assert clock.deadlines == 0
    clock.advance(2)
    assert not isinstance(ctx.err(), DeadlineExceededError)


def test_a_deadline_that_is_set_too_late_passes_at_once(clock):
    passed = threading.Event()
    before = clock.now() + 1
    clock.advance(2)  # in another thread, between looking at the time and setting the deadline
    clock.at(before, passed.set)
    assert passed.wait(PATIENCE)


def test_deadlines_that_outlive_the_block_pass_by_the_real_clock():
    with ManualClock() as clock:
        clock.advance(3600)
        ctx = with_timeout(background(), 0.02)
        never = with_timeout(background(), 3600)
        gone = with_timeout(background(), 0.01)
        gone.cancel()
    assert ctx.wait(PATIENCE)
    late = threading.Event()
    clock.at(clock.now() + 0.01, late.set)  # by a thread that still has the clock in its hands
    assert late.wait(PATIENCE)
    assert not never.cancelled()
    never.cancel()


def test_deadlines_of_before_the_block_pass_by_the_real_clock():
    ctx = with_timeout(background(), 0.02)
    with ManualClock():
        assert ctx.wait()


def test_there_is_one_clock_at_a_time_and_the_real_one_comes_back(clock):
    with pytest.raises(RuntimeError, match="active already"), ManualClock():
        pass
    assert tasker._sync.timer.clock is clock
    clock.__exit__(None, None, None)
    assert (tasker._sync.timer.clock, tasker._sync.timer.now) == (
        None,
        tasker._sync.clock.monotonic,
    )
    with pytest.raises(KeyError), ManualClock():
        raise KeyError
    assert (tasker._sync.timer.clock, tasker._sync.timer.now) == (
        None,
        tasker._sync.clock.monotonic,
    )


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "1", None, True])
def test_the_clock_is_advanced_by_a_finite_time_that_is_not_negative(clock, seconds):
    now = clock.now()
    with pytest.raises(ConfigError, match="seconds must be a number of seconds"):
        clock.advance(seconds)
    assert clock.now() == now


# -- what is left behind -------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Gives what is left behind next to no time to end."""
    monkeypatch.setattr(tasker.testing.leaks, "PATIENCE_S", 0.2)
    monkeypatch.setattr(tasker._pool.lifecycle, "_JOIN_S", 0.01)


def left_behind(block):
    """What `leak_check` says of `block()`, line by line."""
    with pytest.raises(AssertionError) as caught, leak_check():
        block()
    head, *left = str(caught.value).split("\n  ")
    assert head == "left behind:"
    return left


class Service:
    """Has a manager, whose hooks are its methods."""

    def __init__(self, kind=TaskManager, **options):
        self.manager = kind(
            Config(
                **{
                    "on_create": dict,
                    "on_destroy": dict.clear,
                    "worker_count": 1,
                    **self.hooks(),
                    **options,
                }
            )
        )

    def hooks(self):
        return {"on_create": self.connect, "on_destroy": self.close}

    def connect(self):
        return {}

    def close(self, resource):
        pass

    def __repr__(self):
        return "<a service>"


class Judge(Service):
    def hooks(self):
        return {"check_health": functools.partial(lambda service, error: True, self)}


class Checker(Service):
    def hooks(self):
        return {"on_check": self.close}


class Resetter(Service):
    def hooks(self):
        return {"on_reset": self.close}


class Aborter(Service):
    def hooks(self):
        return {"on_abort": self.close}


class Inheriting(Service):
    def hooks(self):
        return {"ctx": tasker.with_value(tasker.background(), "service", self)}


class Elsewhere(Service):
    def hooks(self):
        return {"placement": tasker.Processes(environment=self.environment)}

    def environment(self, slot):
        return {}


class Deep(Service):
    def hooks(self):
        return {"on_destroy": lambda resource, of=[{"service": [self]}]: None}


class InPool(Service):
    def __init__(self):
        self.pool = tasker.ThreadPoolExecutor(1, "pool", self.connect)
        self.pool.submit(int).result()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Service, "its on_create, <bound method Service.connect of <a service>>, refers to it"),
        (Judge, "its check_health, functools.partial"),
        (Deep, "its on_destroy, <function"),
        (Checker, "its on_check, <bound method Service.close"),
        (Resetter, "its on_reset, <bound method Service.close"),
        (Aborter, "its on_abort, <bound method Service.close"),
        (Inheriting, "its ctx, <"),
        pytest.param(Elsewhere, "its placement, Processes(", marks=on_posix),
        (InPool, "its on_create, functools.partial(<function _initialize"),
    ],
)
def test_a_forgotten_manager_whose_config_refers_to_it_is_left_open_and_that_is_said(
    impatient, kind, says
):
    (left,) = left_behind(kind)
    assert "open: 1 worker" in left
    assert f"it is not stopped when it is forgotten, as {says}" in left


def test_a_manager_that_is_left_open_for_another_reason_is_not_said_to_keep_itself(impatient):
    kept = []

    def create():
        return threading  # and so all modules, and their variables

    for log in (None, logging.getLogger("tasker")):
        options = {} if log is None else {"logger": log}
        (left,) = left_behind(
            lambda options=options: kept.append(
                TaskManager(Config(on_create=create, on_destroy=id, worker_count=1, **options))
            )
        )
        assert "forgotten" not in left


def test_a_forgotten_manager_whose_hooks_do_not_refer_to_it_is_stopped(impatient):
    class Static(Service):
        def hooks(self):
            return {"on_create": Tools().make}

    class Tools:
        def make(self):
            return {}

    with leak_check():
        Static()
        gc.collect()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_leaves_nothing_behind_costs_no_garbage_collection(
    new_manager, factory, monkeypatch, end
):
    factory.any_thread = True
    with leak_check():
        manager = new_manager(resource_pool_size=None)
        manager.submit(lambda resource: 1).result(PATIENCE)
        manager.run_task(lambda resource: 1)
        getattr(manager, end)()
        eventually(
            lambda: tasker.testing.leaks._is_gone(manager._engine), "the end of the last threads"
        )
        monkeypatch.setattr(gc, "collect", None)  # would cost more than all the rest


def test_a_manager_left_open_is_named_with_what_it_does_and_then_killed(
    new_manager, factory, impatient
):
    factory.any_thread = True
    gate, started = threading.Event(), threading.Event()
    managers = []

    def block():
        manager = new_manager(worker_count=1, max_worker_count=1, name="open", resource_pool_size=2)
        managers.append(manager)
        manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
        assert started.wait(PATIENCE)
        manager.submit(lambda resource: 1)
        manager.submit(lambda resource: 1, priority=True)

    (left,) = left_behind(block)
    assert left.startswith(
        "manager 'open', open: 1 worker (open-worker-1, which runs <TaskFuture at 0x"
    )
    assert left.endswith(
        "state=running>), 2 tasks waiting, 1 task running, 2 resources of run_task"
    )
    assert "being killed" in repr(managers[0]) or managers[0].closed
    gate.set()
    eventually(lambda: factory.live == 0)


def test_each_manager_is_named(new_manager):
    left = left_behind(lambda: [new_manager(worker_count=1, name=name) for name in ("a", "b")])
    assert sorted(line.partition(",")[0] for line in left) == ["manager 'a'", "manager 'b'"]


@pytest.mark.usefixtures("no_collection")
def test_a_manager_that_was_dropped_is_given_the_time_to_close(factory):
    def block():
        config = Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)
        manager = TaskManager(config)
        manager.itself = manager  # only a collection finds it
        manager.submit(lambda resource: 1)

    with leak_check():
        block()
    eventually(lambda: factory.live == 0)


def test_a_manager_that_is_closing_is_given_the_time_to_close(new_manager):
    gate = threading.Event()
    with leak_check():
        manager = new_manager(worker_count=1)
        manager.submit(lambda resource: gate.wait(PATIENCE))
        lifecycle = manager._engine.lifecycle
        lifecycle.request_stop()
        wait = lifecycle.wait
        lifecycle.wait = lambda timeout: gate.set() or wait(timeout)


@pytest.mark.slow
def test_a_worker_that_was_abandoned_is_named(new_manager, factory, impatient):
    gate, started = threading.Event(), threading.Event()

    def block():
        manager = new_manager(worker_count=1, name="stuck")
        manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
        assert started.wait(PATIENCE)
        assert manager.kill(0.01).abandoned == ("stuck-worker-1",)

    assert left_behind(block) == ["worker stuck-worker-1 of the closed manager 'stuck'"]
    gate.set()
    eventually(lambda: factory.live == 0)


@pytest.mark.slow
def test_a_resource_that_run_task_has_is_named(new_manager, factory, impatient):
    gate, started = threading.Event(), threading.Event()

    def block():
        manager = new_manager(worker_count=1, name="lent")
        task = lambda resource: (started.set(), gate.wait(PATIENCE))  # noqa: E731
        threading.Thread(target=manager.run_task, args=(task,)).start()
        assert started.wait(PATIENCE)
        manager.kill(0.01)

    assert left_behind(block) == [
        "1 resource that run_task has not handed back, of the closed manager 'lent'"
    ]
    gate.set()
    eventually(lambda: factory.live == 0)


@pytest.mark.slow
def test_a_callback_that_runs_is_named(new_manager, impatient):
    gate, started = threading.Event(), threading.Event()

    def block():
        manager = new_manager(worker_count=1, max_worker_count=1, name="called")
        manager.submit(lambda ctx, resource: (started.set(), ctx.wait(PATIENCE)))
        assert started.wait(PATIENCE)
        manager.submit(lambda resource: 1).add_done_callback(lambda _: gate.wait(PATIENCE))
        manager.kill(0.01)

    assert left_behind(block) == [
        "thread called-aside, which runs a callback, of the closed manager 'called'"
    ]
    gate.set()


@pytest.mark.slow
def test_a_future_without_an_outcome_is_named(new_manager, impatient):
    kept = []

    def block():
        manager = new_manager(worker_count=1, name="lossy")
        gate, started = threading.Event(), threading.Event()
        manager.submit(lambda resource: (started.set(), gate.wait(PATIENCE)))
        assert started.wait(PATIENCE)
        kept.append(manager.submit(lambda resource: 1))
        kept[0]._take_start()  # so that nobody runs it, and nobody says so
        manager._engine.counters.never_taken()
        gate.set()
        manager.stop()

    assert left_behind(block) == ["1 future without an outcome, of the closed manager 'lossy'"]
    assert not kept[0].done()
    kept[0]._expire()  # or it would be this test's
    assert kept[0].exception(PATIENCE) is not None


def test_managers_of_before_are_no_concern(new_manager):
    manager = new_manager()
    with leak_check():
        manager.submit(lambda resource: 1)


def test_an_error_of_the_block_goes_on(new_manager):
    def block():
        new_manager()
        raise KeyError

    with pytest.raises(KeyError), leak_check():
        block()


# -- as a pytest fixture -------------------------------------------------------------------------------------------

TESTS = """
import pytest
import sqlite3
import threading

from tasker import Config, TaskManager
from tasker.testing import ManualClock, ResourceFactory

factory = ResourceFactory()
kept = []

def make(name="m"):
    return TaskManager(Config(name=name, on_create=object, on_destroy=id, worker_count=1))

@pytest.fixture(scope="module")
def shared():
    with make("shared") as manager:
        yield manager

@pytest.fixture
def own():
    with make("own") as manager:
        yield manager

def test_clean():
    with make() as manager:
        assert manager.queue_task(lambda resource: 1) == 1

def test_fixtures(shared, own):
    assert own.submit(lambda resource: 1).result() + shared.submit(lambda resource: 1).result() == 2

def test_leaky():
    kept.append(make("leaky"))

def test_after_it():
    assert kept[0].closed
"""


def run_python(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "conftest",
    ["from tasker.testing import no_leaks as no_leaks", 'pytest_plugins = ["tasker.testing"]'],
)
def test_the_fixture_fails_the_test_that_leaks_and_no_other(tmp_path, conftest):
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(TESTS)
    ran = run_python(
        "-m", "pytest", "-p", "no:randomly", "-W", "error", "--strict-markers", "-rE", cwd=tmp_path
    )
    assert "4 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "ERROR test_it.py::test_leaky" in ran.stdout
    assert (
        "manager 'leaky', open: 1 worker (leaky-worker-1), 0 tasks waiting, 0 tasks running"
        in ran.stdout
    )


@pytest.mark.slow
def test_without_pytest_everything_but_the_fixture_works(tmp_path):
    program = """
        import sys
        sys.modules["pytest"] = None  # as if it were not installed
        import tasker
        assert "tasker.testing" not in sys.modules
        from tasker.testing import ManualClock, ResourceFactory, leak_check
        with leak_check(), ManualClock() as clock, tasker.with_timeout(tasker.background(), 5) as ctx:
            clock.advance(5)
            assert ctx.cancelled()
        ResourceFactory().check()
        try:
            from tasker.testing import no_leaks
        except ImportError as error:
            print(error)
        import tasker.testing
        assert not hasattr(tasker.testing, "no_such_thing")
    """
    ran = run_python("-c", textwrap.dedent(program), cwd=tmp_path)
    assert ran.stderr == ""
    assert (
        ran.stdout == "tasker.testing.no_leaks is a pytest fixture, and pytest is not installed\n"
    )
