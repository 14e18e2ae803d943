"""Memory: what a task was made of is freed with its future, at once and without the help of the garbage collector.

The collector is off in these tests, so whatever dies, dies because nobody refers to it.

Free-threaded builds differ in two things. Functions of modules and classes are counted by the collector alone there, so
what is watched are instances. And an object that one thread made and another lets go of last is freed when the first
runs again: `freed` wakes the threads that may sleep with such a debt, the workers and the timer.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

from tasker import (
    Config,
    QueueFullError,
    TaskManager,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    TaskTimeoutError,
    ThreadPoolExecutor,
)
from tasker._sync import timer
from tasker._sync.parking import gil_enabled
from tasker.testing import ManualClock
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("no_collection")


class Sentinel:
    """Something that a weak reference can watch."""


class Failure(Exception):
    pass


class Watch:
    """Weak references to all that a task was made of."""

    def __init__(self):
        self.references = []

    def of(self, name, thing):
        self.references.append((name, weakref.ref(thing)))
        return thing

    def names(self):
        return {name for name, _ in self.references}

    def alive(self, *but):
        return [
            name
            for name, reference in self.references
            if reference() is not None and name not in but
        ]


class Task:
    """A task of which every part is watched. `does` says what happens in each attempt; "wait" waits for the gate."""

    def __init__(self, watch, *does, gate=None):
        watch.of("function", self)
        self.watch = watch
        self.does = list(does)
        self.gate = gate or threading.Event()
        self.started = threading.Event()

    def __call__(self, resource, argument):
        return self.run(argument)

    def run(self, argument):
        local = self.watch.of("frame", Sentinel())
        self.started.set()
        what = self.does.pop(0)
        if what == "wait":
            assert self.gate.wait(PATIENCE)
            what = "return"
        if what == "return":
            return self.watch.of("result", Sentinel())
        raise self.watch.of("exception", (Sick if what == "sick" else Failure)(argument, local))


class TaskWithContext(Task):
    def __call__(self, ctx, resource, argument):
        self.watch.of("context", ctx)
        return self.run(argument)


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def gate():
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture(params=[Task, TaskWithContext], ids=["without context", "with context"])
def kind(request):
    return request.param


def argument(watch):
    return watch.of("argument", Sentinel())


def block(manager, gate):
    """Keep the only worker busy until the gate opens."""
    started = threading.Event()
    manager.queue_task_with_callback(
        lambda resource: (started.set(), gate.wait(PATIENCE)), lambda result, error: None
    )
    assert started.wait(PATIENCE)


def expire(future):
    """As if the task's timeout had come."""
    timer.at(time.monotonic(), future._expire)
    assert isinstance(future.exception(PATIENCE), TaskTimeoutError)


def freed(manager, watch, *but):
    """Whether all dies as soon as the manager's threads have turned to something else."""
    engine = manager._engine

    def at_rest():
        if not gil_enabled():
            timer._timer._parker.wake()
            for _ in () if engine.is_stopping() else engine.crew.members:
                manager.queue_task_with_callback(lambda resource: None, lambda result, error: None)
        return engine.runner.idle() and all(worker.parker.parked for worker in engine.crew.members)

    assert {"function", "argument"} <= watch.names(), "the test watches nothing"
    try:
        eventually(lambda: at_rest() and not watch.alive(*but))
    finally:
        assert watch.alive(*but) == []


# -- futures ---------------------------------------------------------------------------------------------------------

# Each submits, brings about an outcome, and lets go of the future when it returns. What is held by a traceback of the
# test's own frames would be the test's own doing: exceptions are looked at with `exception()`.


def success(manager, watch, kind, gate):
    future = manager.submit(kind(watch, "return"), argument(watch))
    assert type(future.result(PATIENCE)) is Sentinel


def failure(manager, watch, kind, gate):
    future = manager.submit(kind(watch, "fail"), argument(watch))
    assert type(future.exception(PATIENCE)) is Failure


def raised_failure(manager, watch, kind, gate):
    with pytest.raises(Failure):
        manager.submit(kind(watch, "fail"), argument(watch)).result(PATIENCE)


def unseen_failure(manager, watch, kind, gate):
    future = manager.submit(kind(watch, "fail"), argument(watch))
    eventually(future.done)


def retry_and_success(manager, watch, kind, gate):
    future = manager.submit(kind(watch, "sick", "sick", "return"), argument(watch))
    assert type(future.result(PATIENCE)) is Sentinel
    assert future.attempts == 3


def retry_and_failure(manager, watch, kind, gate):
    future = manager.submit(kind(watch, "sick", "sick", "sick"), argument(watch))
    assert type(future.exception(PATIENCE)) is Sick
    assert future.attempts == 3


def cancelled_while_queued(manager, watch, kind, gate):
    block(manager, gate)
    assert manager.submit(kind(watch, "return"), argument(watch)).cancel()
    gate.set()


def cancelled_while_running(manager, watch, kind, gate):
    task = kind(watch, "wait", gate=gate)
    future = manager.submit(task, argument(watch))
    assert task.started.wait(PATIENCE)
    assert not future.cancel()
    gate.set()
    future.result(PATIENCE)


def timed_out_while_queued(manager, watch, kind, gate):
    block(manager, gate)
    expire(manager.submit(kind(watch, "return"), argument(watch), timeout=100 * PATIENCE))
    gate.set()


def timed_out_while_running(manager, watch, kind, gate):
    task = kind(watch, "wait", gate=gate)
    future = manager.submit(task, argument(watch), timeout=100 * PATIENCE)
    assert task.started.wait(PATIENCE)
    expire(future)
    gate.set()


def killed_while_queued(manager, watch, kind, gate):
    block(manager, gate)
    future = manager.submit(kind(watch, "return"), argument(watch))
    assert manager.kill(0).abandoned
    assert isinstance(future.exception(PATIENCE), TaskManagerKilledError)
    gate.set()


def killed_while_running(manager, watch, kind, gate):
    task = kind(watch, "wait", gate=gate)
    future = manager.submit(task, argument(watch))
    assert task.started.wait(PATIENCE)
    assert manager.kill(0).abandoned
    assert isinstance(future.exception(PATIENCE), TaskManagerKilledError)
    gate.set()


def refused_by_a_closed_manager(manager, watch, kind, gate):
    manager.stop()
    with pytest.raises(TaskManagerShutdownError):
        manager.submit(kind(watch, "return"), argument(watch))


def refused_by_a_full_queue(manager, watch, kind, gate):
    block(manager, gate)
    manager.submit(lambda resource: None)
    with pytest.raises(QueueFullError):
        manager.submit(kind(watch, "return"), argument(watch), queue_timeout=0)
    gate.set()


def refused_for_its_arguments(manager, watch, kind, gate):
    with pytest.raises(TypeError):
        manager.submit(kind(watch, "return"), argument(watch), argument(watch), argument(watch))


OUTCOMES = [
    success,
    failure,
    raised_failure,
    unseen_failure,
    retry_and_success,
    retry_and_failure,
    cancelled_while_queued,
    cancelled_while_running,
    timed_out_while_queued,
    timed_out_while_running,
    killed_while_queued,
    killed_while_running,
    refused_by_a_closed_manager,
    refused_by_a_full_queue,
    refused_for_its_arguments,
]


# What has tasks called by the supervisor.
SUPERVISED = {"on_abort": id, "abandon_after": 100 * PATIENCE}


@pytest.mark.slow
@pytest.mark.parametrize("hooks", [{}, SUPERVISED], ids=["", "supervised"])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.__name__)
def test_all_of_a_task_is_freed_with_its_future(new_manager, watch, kind, gate, outcome, hooks):
    manager = new_manager(worker_count=1, max_retries=2, queue_size=1, **hooks)
    outcome(manager, watch, kind, gate)
    freed(manager, watch)


@pytest.mark.slow
def test_a_kept_future_keeps_its_result_and_nothing_else(new_manager, watch, kind):
    manager = new_manager(worker_count=1, max_retries=2)
    future = manager.submit(kind(watch, "sick", "return"), argument(watch))
    assert type(future.result(PATIENCE)) is Sentinel
    freed(manager, watch, "result")
    assert watch.alive() == ["result"]


@pytest.mark.parametrize("end", ["cancelled", "timed out", "killed"])
def test_a_kept_future_of_a_task_that_never_ran_keeps_nothing_of_it(
    new_manager, watch, kind, gate, end
):
    manager = new_manager(worker_count=1)
    block(manager, gate)
    future = manager.submit(kind(watch, "return"), argument(watch), timeout=100 * PATIENCE)
    if end == "cancelled":
        assert future.cancel()
    elif end == "timed out":
        expire(future)
    else:
        manager.kill(0)
    gate.set()
    freed(manager, watch)
    assert future.done()


@pytest.mark.slow
def test_a_kept_failure_keeps_its_exception_and_what_its_traceback_holds(new_manager, watch):
    """The frames of the task, that is. The exception once taken out of its traceback, nothing."""
    manager = new_manager(worker_count=1, max_retries=1)
    future = manager.submit(TaskWithContext(watch, "sick", "sick"), argument(watch))
    future.exception(PATIENCE).args = ()
    future.exception().__traceback__ = None
    freed(manager, watch, "exception")
    assert watch.alive() == ["exception"]  # the last one: that of the first attempt is nobody's
    assert future.exception(0).__notes__


def test_a_task_that_nobody_waited_for_keeps_no_context(new_manager, watch):
    manager = new_manager(worker_count=1)
    future = manager.submit(TaskWithContext(watch, "return"), argument(watch))
    assert manager.join(PATIENCE)
    eventually(lambda: watch.alive() == ["result"])
    assert future.done()


@pytest.mark.parametrize(
    "hooks", [{}, SUPERVISED, {"on_check": bool, "check_after": 0, "on_reset": id}]
)
def test_a_worker_that_has_just_parked_holds_nothing(new_manager, watch, kind, hooks):
    manager = new_manager(worker_count=1, **hooks)
    (worker,) = manager._engine.crew.members
    future = manager.submit(kind(watch, "return"), argument(watch))
    future.result(PATIENCE)
    eventually(lambda: worker.parker.parked)
    assert worker.task is None
    assert watch.alive() == [
        "result"
    ]  # which is the future's, and what goes with it now is not the worker's doing
    del future
    if gil_enabled():
        assert watch.alive() == []


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("where", ["worker", "run_task"])
@pytest.mark.parametrize("aborts", [{}, {"on_abort": id}])
def test_what_a_check_and_a_reset_have_raised_is_freed_with_their_resource(
    new_manager, factory, watch, where, aborts
):
    factory.any_thread = True
    failing = ["check", "reset"]

    def fail(hook):
        if failing and failing[0] == hook:
            raise watch.of(failing.pop(0), Failure())

    manager = new_manager(
        worker_count=1,
        resource_pool_size=1,
        on_check=lambda resource: fail("check"),
        check_after=0,
        on_reset=lambda resource: fail("reset"),
        **aborts,
    )
    (worker,) = manager._engine.crew.members
    call = manager.queue_task if where == "worker" else manager.run_task
    for _ in range(4):
        eventually(lambda: worker.parker.parked)
        call(lambda resource: None)
    assert watch.names() == {"check", "reset"}
    eventually(lambda: call(lambda resource: True) and not watch.alive())


@pytest.mark.parametrize("aborts", [{}, {"on_abort": id}])
def test_what_a_check_for_keepalive_has_raised_is_freed_with_its_resource(
    new_manager, factory, watch, aborts
):
    factory.any_thread = True

    def check(resource):
        if resource.number == 0:
            raise watch.of("check", Failure())

    with ManualClock() as clock:
        new_manager(worker_count=1, resource_pool_size=1, on_check=check, keepalive=30, **aborts)
        clock.advance(30)
        eventually(lambda: not factory.created[0].alive)
        eventually(lambda: not watch.alive())


# -- the other forms -------------------------------------------------------------------------------------------------


class Callback:
    """A callback that remembers what kind of outcome it was told, and not which."""

    def __init__(self, watch, told):
        watch.of("callback", self)
        self.told = told

    def __call__(self, result, error):
        self.told.append((type(result).__name__, type(error).__name__))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "told"),
    [
        (["return"], ("Sentinel", "NoneType")),
        (["fail"], ("NoneType", "Failure")),
        (["sick", "return"], ("Sentinel", "NoneType")),
        (["sick", "sick", "sick"], ("NoneType", "Sick")),
    ],
    ids=["success", "failure", "retry and success", "retry and failure"],
)
def test_all_of_a_task_is_freed_once_its_callback_has_run(new_manager, watch, kind, does, told):
    manager = new_manager(worker_count=1, max_retries=2)
    was_told = []
    manager.queue_task_with_callback(kind(watch, *does), Callback(watch, was_told), argument(watch))
    eventually(lambda: was_told == [told])
    freed(manager, watch)


@pytest.mark.parametrize("end", ["killed", "timed out"])
def test_callbacks_of_what_was_ended_from_outside_are_freed(new_manager, watch, kind, gate, end):
    manager = new_manager(worker_count=1)
    block(manager, gate)
    told = []
    timeout, error = (
        (0.001, "TaskTimeoutError") if end == "timed out" else (None, "TaskManagerKilledError")
    )
    manager.queue_task_with_callback(
        kind(watch, "return"), Callback(watch, told), argument(watch), timeout=timeout
    )
    if end == "killed":
        manager.kill(0)
    eventually(lambda: told == [("NoneType", error)])
    gate.set()
    freed(manager, watch)


def test_all_of_a_task_is_freed_with_the_result_of_a_blocking_call(new_manager, watch, kind):
    manager = new_manager(worker_count=1)
    result = manager.queue_task(kind(watch, "return"), argument(watch))
    freed(manager, watch, "result")
    assert watch.alive() == ["result"]
    del result
    freed(manager, watch)


@pytest.mark.slow
def test_all_of_a_task_is_freed_with_the_exception_of_a_blocking_call(new_manager, watch, kind):
    manager = new_manager(worker_count=1, max_retries=1)
    with pytest.raises(Failure):
        manager.queue_task(kind(watch, "fail"), argument(watch))
    with pytest.raises(Sick):
        manager.queue_task(kind(watch, "sick", "sick"), argument(watch))
    freed(manager, watch)


@pytest.mark.parametrize("hooks", [{}, SUPERVISED], ids=["", "supervised"])
@pytest.mark.parametrize("size", [0, 1])
def test_all_of_a_task_is_freed_after_run_task(new_manager, watch, kind, factory, size, hooks):
    factory.any_thread = True
    manager = new_manager(worker_count=1, resource_pool_size=size, **hooks)
    assert type(manager.run_task(kind(watch, "return"), argument(watch))) is Sentinel
    assert watch.alive() == []
    for does, error in (("fail", Failure), ("sick", Sick)):
        with pytest.raises(error):
            manager.run_task(kind(watch, does), argument(watch))
        assert watch.alive() == []


def test_all_of_a_task_is_freed_after_it_was_awaited(new_manager, watch, kind):
    manager = new_manager(worker_count=1)

    async def program():
        assert type(await manager.submit(kind(watch, "return"), argument(watch))) is Sentinel
        with pytest.raises(Failure):
            await manager.submit(kind(watch, "fail"), argument(watch))

    asyncio.run(program())
    freed(manager, watch)


# -- managers --------------------------------------------------------------------------------------------------------


class Hooks:
    """The functions of a configuration, as methods of something that can be watched."""

    def create(self):
        return Sentinel()

    def destroy(self, resource):
        pass

    def is_healthy(self, error):
        return True


@pytest.mark.parametrize("end", ["stopped", "killed", "forgotten"])
def test_a_manager_that_is_dropped_is_freed_with_all_that_it_was_given(watch, end):
    hooks = watch.of("hooks", Hooks())
    manager = TaskManager(
        Config(
            on_create=hooks.create,
            on_destroy=hooks.destroy,
            check_health=hooks.is_healthy,
            worker_count=2,
        )
    )
    manager.queue_task(Task(watch, "return"), argument(watch))
    manager.run_task(Task(watch, "return"), argument(watch))
    for name in ("queue", "crew", "housekeeper", "lifecycle", "pool", "counters", "runner"):
        watch.of(name, getattr(manager._engine, name))
    watch.of("engine", manager._engine)
    facade = weakref.ref(manager)
    if end == "stopped":
        manager.stop()
    elif end == "killed":
        manager.kill()
    del manager, hooks
    assert (
        facade() is None
    )  # which needs no collector, or nobody would stop a forgotten one in time

    def collected():
        gc.collect()  # the parts of an engine know each other
        return not watch.alive()

    eventually(collected, "the end of the engine")


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("kind", ["manager", "pool"])
def test_one_that_has_closed_is_freed_although_its_hooks_refer_to_it(end, kind):
    class Service:
        """It has a manager, and its methods are the hooks."""

        def __init__(self):
            if kind == "manager":
                config = Config(on_create=self.connect, on_destroy=repr, worker_count=1)
                self.pool = TaskManager(config)
            else:
                self.pool = ThreadPoolExecutor(1, initializer=self.connect)

        def connect(self):
            return Sentinel()

    service = Service()
    if kind == "manager":
        service.pool.run_task(repr)
        service.pool.queue_task(repr)
        getattr(service.pool, end)()
    else:
        service.pool.submit(int).result(PATIENCE)
        service.pool.shutdown(cancel_futures=end == "kill")
    reference = weakref.ref(service)
    del service

    eventually(lambda: gc.collect() >= 0 and reference() is None, "the end of the service")


def test_a_stopped_manager_that_is_kept_holds_no_resource_and_no_task(
    new_manager, watch, kind, gate
):
    manager = new_manager(
        worker_count=2,
        on_create=lambda: watch.of("resource", Sentinel()),
        on_destroy=lambda resource: None,
    )
    for _ in range(3):
        manager.submit(kind(watch, "return"), argument(watch))
    manager.stop()
    freed(manager, watch)
