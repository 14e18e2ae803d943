"""`TaskFuture`: a standard future in every respect, whoever settles it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import signal
import sys
import threading
import weakref
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import ClassVar

import pytest

import tasker._tasks.future
from tasker import ConfigError, DeadlineExceededError, TaskTimeoutError
from tasker._sync.guarded_logger import GuardedLogger
from tasker._sync.parking import gil_enabled
from tasker._sync.threads import new_thread
from tasker._tasks.future import new_task
from tests.support.locks import HastyLock
from tests.support.waiting import PATIENCE, eventually


class Blocked:
    """A manager of one worker, which is kept busy until `release()`."""

    def __init__(self, new_manager, **options):
        self.gate = threading.Event()
        self.manager = new_manager(worker_count=1, max_worker_count=1, **options)
        self.blocker = self.manager.submit(lambda resource: self.gate.wait(PATIENCE))
        eventually(self.blocker.running)

    def release(self):
        self.gate.set()
        assert self.manager.join(PATIENCE)


@pytest.fixture
def blocked(new_manager):
    blocked = Blocked(new_manager)
    yield blocked
    blocked.gate.set()


def test_the_states_of_a_task_as_concurrent_futures_names_them(blocked):
    waiting = blocked.manager.submit(lambda resource: 1)
    assert (waiting.running(), waiting.done(), waiting.cancelled()) == (False, False, False)
    assert (blocked.blocker.running(), blocked.blocker.done()) == (True, False)
    assert repr(waiting) == f"<TaskFuture at {id(waiting):#x} state=pending>"
    assert "running" in repr(blocked.blocker)
    failed = blocked.manager.submit(lambda resource: {}[1])
    blocked.release()
    assert (waiting.running(), waiting.done()) == (False, True)
    assert "finished returned int" in repr(waiting)
    assert "finished raised KeyError" in repr(failed)
    assert isinstance(failed.exception(), KeyError)


def test_cancelling_a_waiting_task_means_it_never_runs(blocked):
    ran = []
    future = blocked.manager.submit(ran.append)
    assert future.cancel() is True
    assert future.cancel() is True
    assert future.cancelled()
    assert future.done()
    blocked.release()
    assert ran == []
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError):
            ask(0)
    metrics = blocked.manager.metrics()
    assert (metrics.total_tasks_cancelled, metrics.total_tasks_arrived) == (1, 2)


def test_cancelling_a_running_task_says_false_and_cancels_its_context(new_manager):
    manager = new_manager()
    started = threading.Event()

    def task(ctx, resource):
        started.set()
        return ctx.wait(PATIENCE)

    future = manager.submit(task)
    assert started.wait(PATIENCE)
    assert future.cancel() is False
    assert future.result(PATIENCE) is True
    assert future.cancel() is False


def test_cancelling_wakes_who_waits(blocked):
    future = blocked.manager.submit(lambda resource: 0)
    caught = []

    def wait():
        try:
            future.result()
        except CancelledError as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(future._waiting or ()) == 3)
    future.cancel()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(caught) == 3


def test_a_wait_that_times_out_leaves_the_task_alone(blocked):
    future = blocked.manager.submit(lambda resource: "fine")
    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            ask(0)
        with pytest.raises(TimeoutError):
            ask(0.001)
    assert not future._waiting
    blocked.release()
    assert future.result(0) == "fine"


def test_a_wait_without_a_timeout_is_a_wait_for_the_outcome_however_long_that_takes(
    owner, monkeypatch
):
    future, caught = owner.future(), []

    def wait():
        try:
            future.result()
        except BaseException as error:
            caught.append(type(error))

    monkeypatch.setattr(tasker._tasks.future, "new_sleep_lock", HastyLock)
    for timeout in (3600, float("inf")):
        with pytest.raises(TimeoutError):
            future.result(timeout)
    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: future._waiting or caught)
    future.cancel()
    thread.join(PATIENCE)
    assert caught == [CancelledError]


def test_a_negative_timeout_asks_for_the_outcome_without_waiting(owner):
    future = owner.future()
    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError, match="no outcome within -1 s"):
            ask(-1)


@pytest.mark.parametrize("timeout", [float("nan"), "1", True])
def test_a_wrong_timeout_is_refused_by_that_name_before_and_after_the_end(owner, timeout):
    waiting, ended = owner.future(), owner.future()
    assert ended._take_settle()
    ended._publish(None, "result")
    for future in (waiting, ended):
        for ask in (future.result, future.exception):
            with pytest.raises(ConfigError, match=r"^timeout must be"):
                ask(timeout)
    assert not waiting._waiting
    assert ended.result(float("inf")) == "result"
    assert ended.exception(float("inf")) is None


@pytest.mark.parametrize("callback", [None, 7, lambda: None])
def test_a_wrong_callback_is_refused_by_that_name(owner, callback):
    future = owner.future()
    with pytest.raises(TypeError, match=r"^fn must be .* called with the future"):
        future.add_done_callback(callback)
    assert not future._waiting


class Overtaken(list):
    """What waits for an outcome. `before` or `after` the next one is added, something happens in another thread."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.before, self.after = before, after

    def append(self, waiter):
        before, after, self.before, self.after = self.before, self.after, None, None
        if before is not None:
            before()
        super().append(waiter)
        if after is not None:
            after()


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_begins_to_wait_while_the_task_is_settled_does_not_sleep(owner, when):
    future = owner.future()
    future._waiting = Overtaken(**{when: future.cancel})
    with pytest.raises(CancelledError):
        future.result()
    assert future.cancelled()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_callback_that_is_added_while_the_task_is_settled_runs_once(owner, when):
    future, calls = owner.future(), []
    future._waiting = Overtaken(**{when: future.cancel})
    future.add_done_callback(calls.append)
    assert calls == [future]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_standard_wait_that_begins_while_the_task_is_settled_ends(owner, when):
    future = owner.future()
    future._waiting = Overtaken(**{when: future.cancel})
    assert concurrent.futures.wait([future], PATIENCE).done == {future}


def test_wait_and_as_completed_work(new_manager):
    manager = new_manager()
    futures = [manager.submit(lambda resource, x: x, i) for i in range(20)]
    done, not_done = concurrent.futures.wait(futures, PATIENCE)
    assert len(done) == 20
    assert not not_done
    more = [manager.submit(lambda resource, x: x, i) for i in range(20)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(more, PATIENCE)) == list(
        range(20)
    )


def test_as_completed_is_told_of_no_outcome_that_it_has_seen(new_manager):
    manager = new_manager(worker_count=3)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            futures = [manager.submit(lambda resource: 0) for _ in range(5)]
            assert len(list(concurrent.futures.as_completed(futures, PATIENCE))) == 5
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("how", ["result", "error", "cancel", "timeout"])
def test_wait_is_woken_by_every_kind_of_outcome(blocked, how):
    def fail(resource):
        raise KeyError

    task = fail if how == "error" else lambda resource: 0
    future = blocked.manager.submit(task, timeout=3600)
    woken = []

    def wait():
        woken.append(
            concurrent.futures.wait(
                [future], PATIENCE, return_when=concurrent.futures.FIRST_EXCEPTION
            ).done
        )

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: future._standard is not None and future._standard.waiters)
    if how == "cancel":
        future.cancel()
    elif how == "timeout":
        future._expire()
    else:
        blocked.release()
    thread.join(PATIENCE)
    assert woken == [{future}]
    if how == "error":
        assert isinstance(future.exception(), KeyError)


class Waiter:
    """Writes down what `concurrent.futures.wait` and `as_completed` are told."""

    def __init__(self, future):
        self.told = []
        with future._condition:
            future._waiters.append(self)

    def add_result(self, future):
        self.told.append(("result", future))

    def add_exception(self, future):
        self.told.append(("exception", future))

    def add_cancelled(self, future):
        self.told.append(("cancelled", future))


@pytest.mark.parametrize("how", ["result", "exception", "cancelled"])
def test_standard_waiters_are_told_once_of_the_right_kind_of_outcome(owner, how):
    future = owner.future()
    waiter = Waiter(future)
    future._announce(future._standard)  # as another thread might that came at the same time
    if how == "cancelled":
        assert future.cancel()
    else:
        assert future._take_settle()
        future._publish(KeyError() if how == "exception" else None)
    assert waiter.told == [(how, future)]
    assert future.done()
    assert isinstance(future.exception() if how == "exception" else KeyError(), KeyError)


def test_as_completed_yields_futures_that_finish_while_it_waits(new_manager):
    manager = new_manager(worker_count=5)
    gates = [threading.Event() for _ in range(4)]
    futures = [manager.submit(lambda resource, gate: gate.wait(PATIENCE), gate) for gate in gates]
    order = []
    waited_for = [futures[0], manager.submit(lambda resource: 0)]
    for future in concurrent.futures.as_completed(waited_for, PATIENCE):
        order.append(future)
        gates[0].set()
    assert len(order) == 2
    for gate in gates:
        gate.set()
    concurrent.futures.wait(futures, PATIENCE)


def test_callbacks_run_once_in_order_and_also_when_already_done(blocked):
    calls = []
    future = blocked.manager.submit(lambda resource: 7)
    for i in range(5):
        future.add_done_callback(lambda done, i=i: calls.append((i, done.result())))
    assert calls == []
    blocked.release()
    assert calls == [(i, 7) for i in range(5)]
    future.add_done_callback(lambda done: calls.append("late"))
    assert calls[5:] == ["late"]


def test_one_raising_callback_stops_neither_the_rest_nor_the_worker(blocked, log):
    calls = []

    def bad(done):
        raise SystemExit("from a callback")

    future = blocked.manager.submit(lambda resource: 0)
    future.add_done_callback(bad)
    future.add_done_callback(calls.append)
    blocked.release()
    assert calls == [future]
    assert any("from a callback" in line for line in log.loud())
    with pytest.raises(SystemExit):  # here in the main thread it may be that of a signal handler
        future.add_done_callback(bad)
    assert blocked.manager.queue_task(lambda resource: "alive") == "alive"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_interrupt_in_a_callback_is_raised_by_cancel_when_the_rest_has_run(blocked, log, error):
    calls = []

    def bad(done):
        raise error

    future = blocked.manager.submit(lambda resource: 0)
    for callback in (bad, calls.append, bad, calls.append):
        future.add_done_callback(callback)
    with pytest.raises(type(error)):
        future.cancel()
    assert calls == [future, future]
    assert future.cancelled()
    assert log.loud() == []


def test_callbacks_of_a_cancelled_task_run_in_the_thread_that_cancels(blocked):
    threads = []
    future = blocked.manager.submit(lambda resource: 0)
    future.add_done_callback(lambda done: threads.append(threading.current_thread()))
    future.cancel()
    assert threads == [threading.current_thread()]


def test_looking_for_a_callback_never_compares_users_objects(blocked):
    class Touchy:
        def __eq__(self, other):
            raise AssertionError("compared")

        __hash__ = None

        def __call__(self, done):
            calls.append(done)

    calls = []
    future = blocked.manager.submit(lambda resource: 0)
    future.add_done_callback(Touchy())
    with pytest.raises(TimeoutError):
        future.result(0.001)
    assert future.cancel()
    future.add_done_callback(Touchy())
    assert calls == [future, future]


@pytest.mark.parametrize("method", ["set_result", "set_exception"])
def test_nobody_else_settles_a_task(new_manager, method):
    future = new_manager().submit(lambda resource: 5)
    with pytest.raises(InvalidStateError):
        getattr(future, method)(None)
    assert future.result(PATIENCE) == 5
    with pytest.raises(InvalidStateError):
        getattr(future, method)(None)
    with pytest.raises(InvalidStateError):
        future.set_running_or_notify_cancel()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), StopIteration(4), MemoryError()]
)
def test_every_kind_of_exception_is_delivered_and_the_worker_lives(new_manager, error):
    manager = new_manager(worker_count=1)

    def fail(resource):
        raise error

    future = manager.submit(fail)
    assert future.exception(PATIENCE) is error
    with pytest.raises(type(error)):
        future.result()
    assert manager.queue_task(lambda resource: resource.number) == 0


def test_an_exception_that_cannot_print_itself_is_delivered(new_manager):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no")

        __repr__ = __str__

    def fail(resource):
        raise Mute

    manager = new_manager(check_health=lambda error: False, max_retries=1)
    assert isinstance(manager.submit(fail).exception(PATIENCE), Mute)


def test_a_traceback_begins_with_the_task(new_manager):
    def fail(resource):
        raise ValueError

    future = new_manager().submit(fail)
    assert future.exception(PATIENCE).__traceback__.tb_frame.f_code is fail.__code__


def test_a_timeout_ends_a_waiting_task_that_then_never_starts(blocked):
    ran = []
    future = blocked.manager.submit(ran.append, timeout=0.01)
    with pytest.raises(TaskTimeoutError, match=r"0\.01 s .*never started"):
        future.result(PATIENCE)
    blocked.release()
    assert ran == []
    assert future.attempts == 0
    metrics = blocked.manager.metrics()
    assert (metrics.total_tasks_failed, metrics.total_tasks_arrived) == (1, 2)


def test_a_timeout_ends_a_running_task_whose_worker_stays_busy_until_it_returns(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, contexts = threading.Event(), []

    def task(ctx, resource):
        contexts.append(ctx)
        gate.wait(PATIENCE)
        return "too late"

    future = manager.submit(task, timeout=3600)
    eventually(lambda: contexts)
    future._expire()
    with pytest.raises(TaskTimeoutError, match="context is cancelled"):
        future.result(PATIENCE)
    assert contexts[0].cancelled()
    assert isinstance(contexts[0].err(), DeadlineExceededError)
    assert "timeout" in str(contexts[0].err())
    assert contexts[0].cause() is future.exception()
    assert manager.stats().running_tasks == 1
    gate.set()
    assert manager.join(PATIENCE)
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_failed,
        metrics.total_tasks_completed,
        metrics.total_tasks_arrived,
    ) == (1, 0, 1)


def test_callbacks_of_a_timeout_run_on_no_thread_of_the_timer_or_the_manager(blocked):
    names, called = [], threading.Event()

    def callback(result, error):
        names.append(threading.current_thread().name)
        called.set()

    blocked.manager.queue_task_with_callback(lambda resource: 0, callback, timeout=0.01)
    assert called.wait(PATIENCE)
    assert "aside" in names[0]


@pytest.mark.slow
def test_a_finished_task_leaves_no_timer_behind(new_manager):
    import tasker._sync.timer

    manager = new_manager()
    for _ in range(3000):
        manager.queue_task(lambda resource: 0, timeout=1000)
    eventually(lambda: tasker._sync.timer._timer.waiting() < 1500)


def test_asyncio_can_wrap_futures_as_any_of_the_standard_library(new_manager):
    manager = new_manager()

    def fail(resource):
        raise KeyError("mine")

    async def main():
        with pytest.raises(KeyError):
            await asyncio.wrap_future(manager.submit(fail))
        futures = (manager.submit(lambda resource, x: x, i) for i in range(200))
        assert await asyncio.gather(*map(asyncio.wrap_future, futures)) == list(range(200))

    asyncio.run(main())


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit])
def test_an_exception_that_coroutines_cannot_be_thrown_neither_hangs_nor_ends_an_awaiter(
    new_manager, error
):
    """Wrapped, that is; tests/unit/aio awaits futures themselves."""
    manager = new_manager()

    def fail(resource):
        raise error(1)

    async def main():
        with pytest.raises(RuntimeError, match=error.__name__) as caught:
            await asyncio.wait_for(asyncio.wrap_future(manager.submit(fail)), PATIENCE)
        assert type(caught.value.__cause__) is error

    asyncio.run(main())


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit])
def test_who_asks_for_an_exception_in_a_coroutine_gets_the_tasks_own(owner, error):
    future, own = owner.future(), error(1)
    assert future._take_settle()
    future._publish(own)

    async def main():
        return [future.exception()]

    assert asyncio.run(main()) == [own]


def test_cancelling_a_wrapped_future_cancels_the_queued_task(blocked):
    async def main():
        future = blocked.manager.submit(lambda resource: 0)
        waiter = asyncio.ensure_future(asyncio.wrap_future(future))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return future

    assert asyncio.run(main()).cancelled()


def test_a_failure_that_nobody_looks_at_is_logged_once_it_is_collected(new_manager, log):
    manager = new_manager()

    def fail(resource):
        raise LookupError("unseen")

    futures = [manager.submit(fail) for _ in range(3)]
    assert manager.join(PATIENCE)
    futures[0].exception()
    with pytest.raises(LookupError):
        futures[1].result()
    del futures
    gc.collect()
    assert sum("unseen" in line for line in log.loud()) == 1


@pytest.mark.parametrize("how", ["wrap_future", "run_in_executor"])
def test_a_failure_that_a_coroutine_got_by_asyncio_is_not_logged(new_manager, log, how):
    manager = new_manager()

    def fail(resource=None):
        raise LookupError("the coroutine gets it")

    async def main():
        if how == "wrap_future":
            awaited = asyncio.wrap_future(manager.submit(fail))
        else:
            awaited = asyncio.get_running_loop().run_in_executor(manager.executor(), fail)
        with pytest.raises(LookupError):
            await awaited

    asyncio.run(main())
    gc.collect()
    assert log.loud() == []


@pytest.mark.parametrize("outcome", ["pending", "running", 7, KeyError("mine"), "cancelled"])
def test_the_snapshot_of_a_future_is_what_its_methods_say(owner, outcome):
    future = owner.future()
    if outcome == "running":
        assert future._start(1.0)
    elif outcome == "cancelled":
        assert future.cancel()
    elif outcome != "pending":
        assert future._take_start()
        assert future._take_settle()
        future._publish(*((outcome, None) if isinstance(outcome, KeyError) else (None, outcome)))
    snapshot = future._get_snapshot()
    assert snapshot[:2] == (future.done(), future.cancelled())
    if snapshot[:2] == (True, False):
        assert (future._result, future.exception()) == snapshot[2:]
    else:
        assert snapshot[2:] == (None, None)


@pytest.mark.parametrize("outcome", [7, KeyError("mine"), "cancelled"])
def test_a_coroutine_gets_an_outcome_that_standard_waiters_are_yet_to_be_told(owner, outcome):
    future = owner.future()
    with future._condition:
        assert future._waiters == []  # from here on it has some to tell
    assert future._take_settle()
    if outcome == "cancelled":
        assert future._take_start()
    # as _publish leaves it before it takes the waiters
    future._exception, future._result = (
        (outcome, None) if isinstance(outcome, KeyError) else (None, outcome)
    )
    future._final = CANCELLED_AND_NOTIFIED if outcome == "cancelled" else FINISHED

    async def main():
        wrapped = asyncio.wrap_future(future)
        await asyncio.wait([wrapped], timeout=PATIENCE)
        return "cancelled" if wrapped.cancelled() else wrapped.exception() or wrapped.result()

    assert asyncio.run(main()) == outcome
    assert future._tell_waiters() == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals to the own process")
@pytest.mark.skipif(
    not gil_enabled(), reason="without the GIL another thread may run the destructor, at any time"
)
def test_an_interrupt_that_comes_while_an_unseen_failure_is_logged_comes_a_moment_later(
    new_manager,
):
    """Python drops what a destructor raises."""

    class Interrupted:
        def __getattr__(self, name):
            return lambda *_: name == "error" and signal.raise_signal(signal.SIGINT)

    # what other tests left is not freed when the interrupt comes: there Python would drop it
    gc.collect()
    manager = new_manager(logger=Interrupted())
    future = manager.submit(lambda resource: 1 / 0)
    assert manager.join(PATIENCE)
    eventually(lambda: manager.stats().idle_workers)  # none of them holds the future any more
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        del future
        gc.collect()
        eventually(lambda: False)


def test_a_failure_that_nobody_looks_at_and_that_cannot_be_printed_costs_nothing(
    owner, monkeypatch
):
    class Mute(Exception):
        @property
        def __cause__(self):
            raise RuntimeError("no")

    gc.collect()  # of what other tests left
    trouble = []
    monkeypatch.setattr(sys, "unraisablehook", trouble.append)
    future = owner.future()
    assert future._take_settle()
    future._publish(Mute())
    del future
    gc.collect()
    assert trouble == []


def test_what_a_task_raises_after_it_was_asked_to_end_is_not_logged_but_a_timeout_is(
    new_manager, log
):
    manager = new_manager()
    started = threading.Event()

    def task(ctx, resource):
        started.set()
        ctx.wait(PATIENCE)
        raise LookupError("asked to end")

    future = manager.submit(task)
    assert started.wait(PATIENCE)
    future.cancel()
    assert manager.join(PATIENCE)
    del future
    gc.collect()
    assert not any("asked to end" in line for line in log.loud())
    manager.submit(task, timeout=0.01)
    assert manager.join(PATIENCE)

    def told():
        gc.collect()  # each time: its thread may hold it for a moment after it was settled
        return any("TaskTimeoutError" in line for line in log.loud())

    eventually(told)


def test_a_failure_that_a_service_thread_lets_go_of_is_logged_by_another(new_manager):
    threads = []

    class Log:
        def error(self, msg, /, *args):
            threads.append(threading.current_thread())

        debug = info = warning = error

    def fail(resource):
        raise ValueError

    manager = new_manager(worker_count=1, logger=Log())
    futures = [manager.submit(fail)]
    manager.join(PATIENCE)
    threads.clear()
    # The last reference to it.
    service = new_thread(futures.clear, "service", service=True)
    service.start()
    service.join(PATIENCE)

    def told():
        gc.collect()
        return threads

    eventually(told)
    assert service not in threads


def test_a_failure_may_be_collected_when_the_interpreter_has_emptied_the_module(log, monkeypatch):
    unseen = tasker._tasks.future._UnseenFailure(OSError("down"), GuardedLogger(log))
    monkeypatch.setattr(tasker._tasks.future, "sys", None)
    unseen.__del__()
    unseen.seen = True
    assert log.telling(of="down")


def test_cancelled_tasks_are_not_logged_as_failures(blocked, log):
    blocked.manager.submit(lambda resource: 0).cancel()
    blocked.manager.submit(lambda resource: 0)
    blocked.gate.set()
    blocked.manager.kill()
    gc.collect()
    assert not any("nobody asked" in line for line in log.loud())


class Thing:
    """Something that a weak reference can watch."""


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["result", "error", "retry", "cancel", "timeout"])
@pytest.mark.usefixtures("no_collection")
def test_arguments_result_and_exception_are_freed_with_the_future(new_manager, outcome):
    from tests.support.errors import Sick

    manager = new_manager(worker_count=1, max_worker_count=1)
    gate = threading.Event()
    try:
        thing = Thing()
        watch = weakref.ref(thing)

        def task(ctx, resource, thing):
            if outcome == "retry":
                raise Sick(thing)
            if outcome == "error":
                raise ValueError(thing)
            return [thing]

        if outcome in ("cancel", "timeout"):
            manager.submit(lambda resource: gate.wait(PATIENCE))
        future = manager.submit(task, thing, timeout=0.01 if outcome == "timeout" else None)
        if outcome == "cancel":
            future.cancel()
        else:
            concurrent.futures.wait([future], PATIENCE)
            if outcome != "result":
                assert future.exception() is not None
        gate.set()
        manager.join(PATIENCE)
        del future, thing, task
        if not gil_enabled():
            gc.collect()  # what one thread made and another lets go last is freed late there
        eventually(lambda: watch() is None)  # what the timer thread settles is let go of aside
    finally:
        gate.set()


def test_a_parked_worker_keeps_nothing_of_its_last_task(new_manager):
    manager = new_manager(worker_count=1)
    thing = Thing()
    watch = weakref.ref(thing)
    result = manager.queue_task(lambda ctx, resource, x: x, thing)
    assert result is thing
    manager.join(PATIENCE)
    del thing, result
    if not gil_enabled():
        gc.collect()
    assert watch() is None


def test_a_queued_task_is_small(blocked):
    import tracemalloc

    tracemalloc.start()
    try:
        task = lambda resource: None  # noqa: E731
        before = tracemalloc.get_traced_memory()[0]
        futures = [blocked.manager.queue_task_async(task) for _ in range(2000)]
        size = (tracemalloc.get_traced_memory()[0] - before) / 2000
    finally:
        tracemalloc.stop()
    assert size < 500
    for future in futures:
        future.cancel()


def test_mass_cancellation_empties_the_lane(blocked):
    futures = [blocked.manager.submit(lambda resource: 0) for _ in range(5000)]
    kept = blocked.manager.submit(lambda resource: "kept")
    for future in futures:
        assert future.cancel()
    eventually(
        lambda: blocked.manager.stats().queued_tasks == 1
    )  # fewer for a moment, during a compaction
    eventually(lambda: len(blocked.manager._engine.queue._main) == 1, "the compaction")
    blocked.release()
    assert kept.result(PATIENCE) == "kept"
    assert blocked.manager.metrics().total_tasks_cancelled == 5000


@pytest.mark.slow
def test_rights_are_taken_once_however_many_want_them(new_manager):
    class Owner:
        logger = None
        has_collector = False
        orphaned = None
        settling: ClassVar[set[object]] = set()

    for _ in range(300):
        future = new_task(Owner(), len, (), False, 0.0)
        barrier = threading.Barrier(4)
        won = []

        def race(future=future, barrier=barrier, won=won):
            barrier.wait(PATIENCE)
            if future._start(0.0):
                won.append(1)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert won == [1]
