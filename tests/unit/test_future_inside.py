"""What workers, timers, closings and forks do with a `TaskFuture`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

import tasker._tasks.future
from tasker import ContextCancelledError, DeadlineExceededError, TaskTimeoutError, background
from tasker._tasks import deadlock
from tasker._tasks.current import thread_state
from tasker._tasks.future import TaskFuture
from tasker._tasks.parent import Tie
from tests.support.futures import VALUES
from tests.support.snippets import needs_fork, printed_by
from tests.support.threads import in_another_thread
from tests.support.waiting import PATIENCE, eventually


def test_starts_are_counted_and_times_are_those_of_the_last_one(owner):
    future = owner.future()
    assert future._stamps(9.0) == (1.0, 9.0, 9.0)
    assert future._start(2.0)
    assert future._stamps(9.0) == (1.0, 2.0, 9.0)
    assert future._requeue()
    assert future._start(5.0)
    assert future.attempts == 2
    assert future._stamps(9.0) == (1.0, 5.0, 9.0)


def test_a_task_that_was_asked_to_end_before_it_had_a_context_gets_an_ended_one(owner):
    future = owner.future()
    assert future._start(2.0)
    assert not future._make_context(VALUES).cancelled()
    future = owner.future()
    assert future._start(2.0)
    assert future.cancel() is False
    assert future._make_context(VALUES).cancelled()
    assert future._requeue() is False


def asked_by_a_kill(future, error, cause):
    future._ask_to_end(error, cause, [])


def asked_by_a_deadline(future, error, cause):
    future._fail_from_outside(cause, error)


def asked_by_its_parent(future, error, cause):
    Tie(background(), VALUES, future).parent_ended(error, cause, [], [])


@pytest.mark.parametrize("ask", [asked_by_a_kill, asked_by_a_deadline, asked_by_its_parent])
def test_a_context_that_is_made_too_late_has_ended_for_the_reason_that_was_given(owner, ask):
    future, error, cause = owner.future(), ContextCancelledError("ended"), KeyError("why")
    assert future._start(2.0)
    ask(future, error, cause)
    context = future._make_context(VALUES)
    assert (context.err(), context.cause()) == (error, cause)


@pytest.mark.parametrize("collector", [False, True])
@pytest.mark.parametrize("state", ["waiting", "running without a context", "running"])
def test_a_failure_from_outside_is_recorded_then_published_and_the_users_code_runs_elsewhere(
    owner, state, collector
):
    owner.has_collector = collector
    future, calls, error = owner.future(), [], KeyError("from outside")
    future.add_done_callback(lambda done: calls.append(("done", done.exception())))
    if state != "waiting":
        assert future._start(2.0)
    if state == "running":
        context = future._make_context(VALUES)
        context.on_done(lambda: calls.append("context"))
    assert future._fail_from_outside(error, ContextCancelledError("ended"))
    assert future._fail_from_outside(ValueError(), ContextCancelledError("again")) is False
    assert not future._waits_for_start()
    assert future._requeue() is False
    if state == "running":
        assert (str(context.err()), context.cause()) == ("ended", error)
    told = ["entry died"] * (state == "waiting") + [("failed", error, state == "waiting")]
    if state == "running without a context":  # which its worker is about to make
        assert future._make_context(VALUES).cancelled()
    if collector:  # which is the user's, and has to be told first
        assert not future.done()
        assert owner.told == told[:-1]
    else:
        assert future.exception(0) is error
        assert owner.told == told
    assert calls == []
    for job in owner.jobs:
        job()
    assert calls == [("done", error)] + ["context"] * (state == "running")
    assert owner.told == told
    assert future.exception(0) is error


def test_a_failure_from_outside_that_calls_nobody_back_needs_no_other_thread(owner):
    future = owner.future()
    assert future._fail_from_outside(TaskTimeoutError("late"), DeadlineExceededError("late"))
    assert owner.jobs == []
    assert isinstance(future.exception(), TaskTimeoutError)


def test_asking_a_running_task_to_end_ends_its_context_once_and_hands_its_callbacks_over(owner):
    future, calls, why = owner.future(), [], OSError()
    assert future._start(2.0)
    context = future._make_context(VALUES)
    context.on_done(lambda: calls.append(1))
    callbacks = future._ask_to_end(ContextCancelledError("killed"), why, [])
    assert (str(context.err()), context.cause()) == ("killed", why)
    assert calls == []
    assert len(callbacks) == 1
    assert future._ask_to_end(ContextCancelledError("again"), OSError(), []) == []
    assert not future.done()
    assert future._requeue() is False


def test_asking_a_task_to_end_that_is_settled_or_has_no_context_ends_nothing(owner):
    settled, bare = owner.future(), owner.future()
    assert settled.cancel()
    assert settled._ask_to_end(ContextCancelledError("killed"), OSError(), []) == []
    assert bare._start(2.0)
    assert bare._ask_to_end(ContextCancelledError("killed"), OSError(), []) == []
    assert bare._requeue() is False


def test_a_waiting_task_is_withdrawn_once_and_of_a_refused_one_nobody_is_told(owner):
    for refused in (False, True):
        owner.told.clear()
        future, calls = owner.future(), []
        future.add_done_callback(calls.append)
        if refused:
            assert future._take_start()
            future._count_refusal()
        else:
            assert future._withdraw() is True
        assert future._withdraw() is False
        assert future.cancelled()
        assert owner.told == ["entry died", "cancelled"]
        assert calls == [future] * (not refused)


def test_a_task_whose_outcome_somebody_else_is_about_to_write_is_not_withdrawn_but_never_starts(
    owner,
):
    future = owner.future()
    assert future._take_settle()  # a timeout, say
    assert future.cancel() is False
    assert not future._start(2.0)
    assert owner.told == ["entry died"]


def test_a_cancellation_that_meets_a_retry_takes_it_back(owner):
    class Retried(TaskFuture):
        def __setattr__(self, name, value):
            if name == "_cancel_asked":
                assert self._requeue() is True  # by its worker, after cancel() has seen it running
            super().__setattr__(name, value)

    future = owner.future()
    assert future._start(2.0)
    future.__class__ = Retried
    assert future.cancel() is True
    assert future.cancelled()
    assert owner.told == ["entry died", "cancelled"]


def test_a_task_that_its_worker_puts_back_while_it_is_settled_is_a_dead_entry(owner):
    future, error = owner.future(), KeyError()
    assert future._start(2.0)
    assert future._take_settle()  # a timeout, say
    future._may_start = True  # the worker announces a retry, and looks afterwards
    future._publish(error)
    assert owner.told == ["entry died"]
    assert not future._start(3.0)
    assert future.exception() is error


class Untouchable(TaskFuture):
    """One that must not be changed.

    CPython without the GIL may leave a task like this in a forked child: a change to it would wait for ever."""

    def __setattr__(self, name, value):
        raise AssertionError(f"{name} was set")

    def __delattr__(self, name):
        raise AssertionError(f"{name} was taken")

    @property
    def __dict__(self):
        raise AssertionError("its attributes were asked for")


@pytest.fixture(params=["waits", "runs", "is waited for", "is looked at by wait()"])
def orphan(owner, request):
    """A task that a forked child has inherited unsettled."""
    future, when = owner.future(), request.param
    if when == "runs":
        assert future._start(2.0)
    elif when == "is waited for":
        future.add_done_callback(lambda done: pytest.fail("a callback of the parent's was called"))
        future._announce(tasker._tasks.future.new_sleep_lock())
    elif when == "is looked at by wait()":
        # by a thread that is not here any more
        in_another_thread(future._condition.acquire)
    standard = future._standard
    future.__class__ = Untouchable
    owner.orphaned = OSError("forked")
    yield future
    # A later thread may get the number of the one that is not here any more, and would
    # seem to hold this lock.
    tasker._tasks.future._unnotified.discard(standard)


def test_in_a_forked_child_what_had_no_outcome_has_failed_and_is_never_changed(owner, orphan):
    called, error = [], owner.orphaned
    assert orphan.done()
    assert not orphan.running()
    assert not orphan.cancel()
    assert not orphan.cancelled()
    for timeout in (None, 0):
        assert orphan.exception(timeout) is error
        with pytest.raises(OSError, match="forked"):
            orphan.result(timeout)
    with pytest.raises(OSError, match="forked"):
        orphan.__await__().send(None)
    orphan.add_done_callback(called.append)
    assert called == [orphan]
    assert "raised OSError" in repr(orphan)
    assert orphan._get_snapshot() == (True, False, None, error)
    assert owner.told == []


def test_in_a_forked_child_the_standard_waits_leave_alone_what_has_failed(owner, orphan):
    own, futures = concurrent.futures.Future(), concurrent.futures
    assert in_another_thread(lambda: futures.wait([orphan], PATIENCE)).done == {orphan}
    assert in_another_thread(lambda: list(futures.as_completed([orphan], PATIENCE))) == [orphan]
    assert futures.wait([orphan, own], 0).done == {orphan}
    assert futures.wait([own, orphan], PATIENCE, futures.FIRST_EXCEPTION).done == {orphan}
    assert next(futures.as_completed([own, orphan])) is orphan
    assert not tasker._tasks.future._of_orphans.waiters
    assert asyncio.run(gathered(orphan)) == [owner.orphaned]


async def gathered(future):
    return await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)


def test_in_a_forked_child_what_had_an_outcome_keeps_it(owner):
    done, called = owner.future(), []
    assert done.cancel()
    owner.orphaned = OSError("forked")
    assert done.cancelled()
    done.add_done_callback(called.append)
    assert called == [done]


@pytest.mark.slow
@needs_fork
def test_a_forked_child_waits_for_tasks_of_its_own_whatever_another_thread_was_doing_in_the_parent():
    out = printed_by("""
        import os, signal, threading
        import tasker._tasks.future
        from tasker import Config, TaskManager
        held, release = threading.Event(), threading.Event()
        def begin_to_wait():
            with tasker._tasks.future._first_waiter:
                held.set()
                release.wait(20)
        thread = threading.Thread(target=begin_to_wait)
        thread.start()
        assert held.wait(20)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends it if it waits for ever
            called = threading.Event()
            with TaskManager(Config(on_create=list, on_destroy=list.clear, worker_count=1)) as manager:
                manager.submit(lambda resource: 0).add_done_callback(lambda done: called.set())
                os._exit(0 if called.wait(20) else 1)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        release.set()
    """)
    assert out.split() == ["child", "0"]


def test_a_wait_inside_of_a_wait_leaves_the_outer_one_announced(owner, monkeypatch):
    class Worker:
        """The worker in whose task all this happens."""

        name, holds_resource, task = "worker", False, None

    class Parker:
        """The outer one is made first."""

        def __init__(self):
            self.sleep = sleeps.pop(0)

        def wake(self):
            """Nobody sleeps here."""

    worker, announced = Worker(), []

    def settle(future):
        announced.extend(deadlock._announced.waits[worker].awaited._futures)
        assert future._take_settle()
        future._publish(None)

    def sleep_in_the_outer():
        inner.result()  # of a `__del__`, say
        settle(outer)

    sleeps = [sleep_in_the_outer, lambda: settle(inner)]
    monkeypatch.setattr(thread_state.running, "worker", worker)
    monkeypatch.setattr("tasker._tasks.future.Parker", Parker)
    outer, inner = owner.future(), owner.future()
    for future in (outer, inner):
        future._deadline = float("inf")  # no wait for it is a deadlock
    outer.result()
    assert announced == [inner, outer]
    assert worker not in deadlock._announced


def test_a_timeout_that_meets_the_worker_leaves_it_nothing_to_call(new_manager, monkeypatch):
    store, gate, judged = TaskFuture._store, threading.Event(), []
    manager = new_manager(worker_count=1, check_health=lambda error: judged.append(error) is None)
    worker = manager._engine.crew.members[0]

    def store_as_the_worker_looks(self, exception, *others, **named):
        store(self, exception, *others, **named)
        if isinstance(exception, TaskTimeoutError):
            gate.set()
            eventually(lambda: worker.parker.parked)

    monkeypatch.setattr(TaskFuture, "_store", store_as_the_worker_looks)
    manager.submit(lambda resource: gate.wait(PATIENCE))
    late = manager.submit(lambda resource: None, timeout=0.01)
    assert isinstance(late.exception(PATIENCE), TaskTimeoutError)
    assert manager.join(PATIENCE)
    assert late.attempts == 0
    assert judged == []
