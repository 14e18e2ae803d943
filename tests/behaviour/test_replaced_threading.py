"""Others replace what `threading` makes after tasker was imported: lock profilers, tracers, gevent, tests.

The real libraries have their scenes in `clients`."""

from __future__ import annotations

import _threading_local
import asyncio
import concurrent.futures
import threading
from types import SimpleNamespace
from unittest import mock

import pytest

import tasker._sync.guard
import tasker._sync.timer
import tasker._tasks.current
import tasker._tasks.future
from tasker import ThreadPoolExecutor, background, current_resource, with_cancel
from tasker._pool.exit_and_fork import new_locks
from tasker._sync.locks import holds_lock
from tasker._sync.threads import _Thread, new_thread
from tests.support.waiting import PATIENCE, eventually

real_lock, real_rlock = threading.Lock, threading.RLock


class Traced:
    """What a lock profiler puts in the place of a lock: it does what a lock is documented to do, and is none."""

    def __init__(self, new_manager=real_lock):
        self._lock = new_manager()

    def acquire(self, blocking=True, timeout=-1):
        return self._lock.acquire(blocking, timeout)

    def release(self):
        self._lock.release()

    def locked(self):
        return self._lock.locked()

    def __enter__(self):
        return self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


class Honest(Traced):
    """One that tells who holds it."""

    def _is_owned(self):
        return self._lock._is_owned()


@pytest.fixture(
    params=["locks", "locks and reentrant ones", "reentrant ones that know their owner"]
)
def traced(request, monkeypatch):
    if "reentrant" in request.param:
        kind = Honest if "owner" in request.param else Traced
        monkeypatch.setattr(threading, "RLock", lambda: kind(real_rlock))
    monkeypatch.setattr(threading, "Lock", Traced)


def test_every_wait_for_a_manager_ends_although_locks_are_of_another_type(new_manager, traced):
    manager = new_manager(worker_count=2, max_worker_count=2, queue_size=2)
    assert manager.wait_ready(PATIENCE)
    assert manager.queue_task(lambda _: 42) == 42
    assert manager.submit(lambda _: 42).result(PATIENCE) == 42
    assert manager.queue_task(lambda _: manager.submit(lambda _: 42).result()) == 42
    assert list(manager.map(lambda _, n: n, range(20))) == [*range(20)]
    futures = [manager.submit(lambda _, n: n, n) for n in range(20)]
    assert {future.result() for future in concurrent.futures.as_completed(futures, PATIENCE)} == {
        *range(20)
    }
    assert manager.queue_task(lambda ctx, _: ctx.wait(0.001)) is False

    async def wait():
        return await manager.submit(lambda _: 42)

    assert asyncio.run(wait()) == 42
    assert manager.join(PATIENCE)
    assert manager.stop(PATIENCE).drained


def test_the_drop_in_works_although_locks_are_of_another_type(traced):
    with ThreadPoolExecutor(2) as executor:
        assert list(executor.map(pow, range(9), [2] * 9)) == [n * n for n in range(9)]
        assert executor.submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize("end", ["by its worker", "by cancel", "by its timeout", "by kill"])
def test_an_error_as_a_sleeper_is_woken_leaves_none_asleep(new_manager, monkeypatch, end):
    """The first wake-up of each fails, as it may for want of memory."""

    class Failing(Traced):
        failed = False

        def release(self):
            if not self.failed:
                self.failed = True
                raise MemoryError
            super().release()

    def new_sleep_lock():
        sleeper = Failing()
        sleeper.acquire()
        return sleeper

    def wait():
        try:
            future.result()
        finally:
            woken.append(future.done())

    monkeypatch.setattr(tasker._tasks.future, "new_sleep_lock", new_sleep_lock)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    manager = new_manager(worker_count=1, max_worker_count=1)
    gate, woken = threading.Event(), []
    manager.submit(lambda _: gate.wait(PATIENCE))
    future = manager.submit(lambda _: True, timeout=0.1 if end == "by its timeout" else None)
    waiters = [threading.Thread(target=wait) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    eventually(lambda: future.done() or len(future._waiting or ()) >= 3, "the sleepers")
    if end == "by its worker":
        gate.set()
    elif end == "by cancel":
        with pytest.raises(MemoryError):
            future.cancel()
    elif end == "by kill":
        manager._engine.lifecycle.request_kill(PATIENCE)
    for waiter in waiters:
        waiter.join(PATIENCE)
    gate.set()
    assert woken == [True] * 3


def test_an_error_as_a_context_ends_leaves_none_asleep():
    class Failing:
        def release(self):
            raise MemoryError

    context, lock = with_cancel(background()), threading.Lock()
    lock.acquire()
    for sleeper in (Failing(), lock, Failing()):
        context._add_sleeper(sleeper)
    with pytest.raises(MemoryError):
        context.cancel()
    assert lock.acquire(timeout=PATIENCE)


def test_a_lock_is_known_by_what_it_can_do():
    part = SimpleNamespace(
        lock=threading.Lock(),
        traced=Traced(),
        honest=Honest(real_rlock),
        theirs=mock.Mock(),
        name="part",
    )
    assert not holds_lock(part)
    with part.honest:
        assert holds_lock(part)
    before = dict(vars(part))
    new_locks(part)
    assert {name for name, value in vars(part).items() if value is not before[name]} == {
        "lock",
        "traced",
        "honest",
    }


def test_what_is_local_to_threads_is_so_to_what_threads_are_now(new_manager, monkeypatch):
    monkeypatch.setattr(tasker._tasks.current, "thread_state", tasker._tasks.current.thread_state)
    monkeypatch.setattr(tasker._sync.guard, "thread_state", tasker._sync.guard.thread_state)
    monkeypatch.setattr(tasker._sync.timer, "runner", tasker._sync.timer.runner)
    monkeypatch.setattr(tasker._sync.timer, "_timer", tasker._sync.timer._timer)
    monkeypatch.setattr(threading, "local", _threading_local.local)
    manager = new_manager(worker_count=1)
    assert isinstance(tasker._tasks.current.thread_state, _threading_local.local)
    assert isinstance(tasker._sync.guard.thread_state, _threading_local.local)
    here, timer = tasker._tasks.current.thread_state, tasker._sync.timer._timer
    assert manager.queue_task(lambda resource: current_resource() is resource)
    with pytest.raises(RuntimeError, match="outside of a task"):
        current_resource()
    new_manager(worker_count=1)
    assert (tasker._tasks.current.thread_state, tasker._sync.timer._timer) == (
        here,
        timer,
    )  # as long as threads are what they were


def test_a_thread_is_what_threads_are_now(monkeypatch):
    class Green(threading.Thread):
        def start(self):
            started.append(self)
            super().start()

    started = []
    monkeypatch.setattr(threading, "Thread", Green)
    thread = new_thread(lambda: None, "green")
    assert isinstance(thread, Green)
    assert isinstance(thread, _Thread)
    assert type(thread) is type(new_thread(lambda: None, "another"))
    thread.start()
    thread.join(PATIENCE)
    assert thread in started  # beside a thread of an earlier test's that comes late


def test_threads_are_real_where_a_test_has_replaced_those_of_its_program(monkeypatch):
    monkeypatch.setattr(threading, "Thread", mock.MagicMock())
    assert type(new_thread(lambda: None, "real")) is _Thread
