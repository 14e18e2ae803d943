"""Fault injection: whatever tasks, hooks, callbacks, logger and collector raise, each caller gets his own outcome.

What is tested elsewhere is not tested again: see `test_health` for verdicts and creation, `test_shutdown` for closing,
`test_aside` and `test_timer` for their threads. Threads that fail are in `test_faults_threads`, what happens to the
process in `test_faults_exit`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import random
import threading

import pytest

import tasker._pool.backoff
import tasker._pool.closing
from tasker import ResourceCreationError, TaskManagerKilledError, TaskMetrics, TaskTimeoutError
from tests.support.errors import Sick
from tests.support.stack import at_depth, room
from tests.support.waiting import PATIENCE, eventually


def outcome_of(call, *args):
    """What a call raises, told without `pytest.raises`, which would ask these exceptions for too much."""
    try:
        return call(*args)
    except BaseException as error:
        return error


def ends_exactly(manager, *, arrived):
    """At rest every task has been counted, once."""
    assert manager.join(PATIENCE)
    metrics = manager.metrics()
    ended = (
        metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    )
    assert (metrics.total_tasks_arrived, ended) == (arrived, arrived)
    return metrics


def lost_workers(log):
    """What is logged of workers that ended by an error: they are replaced, but no fault of the user's ends one."""
    return [line for line in log.loud() if "lost to an error" in line]


# -- what a task raises --------------------------------------------------------------------------------------------


def foul(*names, base=Exception):
    """An exception whose methods `names` raise, and do not even raise an `Exception`."""

    def refuse(self, *args):
        raise SystemExit("an exception's own method")

    return type("Foul", (base,), dict.fromkeys(names, refuse))


class NoTraceback(Exception):
    @property
    def __traceback__(self):
        raise SystemExit("reading the traceback")

    @__traceback__.setter
    def __traceback__(self, value):
        raise SystemExit("setting the traceback")


class Own(BaseException):
    """No Exception, nor one of the interpreter's."""


def raises(error):
    def task(resource):
        raise error

    return task


def recurses(resource):
    return recurses(resource)


def fails_to_construct(resource):
    raise foul("__init__")


ERRORS = {
    "Exception": raises(LookupError("mine")),
    "SystemExit": raises(SystemExit(3)),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "GeneratorExit": raises(GeneratorExit()),
    "StopIteration": raises(StopIteration(4)),
    "MemoryError": raises(MemoryError()),
    "RecursionError": recurses,
    "a BaseException of the user's": raises(Own()),
    "__init__ raises": fails_to_construct,
    "__str__ and __repr__ raise": raises(foul("__str__", "__repr__")()),
    "__reduce__ raises": raises(foul("__reduce__", "__reduce_ex__")()),
    "add_note raises": raises(foul("add_note")()),
    "__traceback__ raises": raises(NoTraceback()),
    "comparing raises": raises(foul("__eq__", "__hash__", "__bool__", "__len__")()),
    "a foul BaseException": raises(
        foul("__str__", "__repr__", "add_note", "__eq__", "__bool__", base=BaseException)()
    ),
}


def recorded(task, raised):
    """The task, with what it raises written down."""

    def record(resource):
        try:
            return task(resource)
        except BaseException as error:
            raised.append(error)
            raise

    return record


@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.usefixtures("no_pauses")
def test_whatever_a_task_raises_reaches_its_own_caller_as_it_is_and_the_next_task_runs(
    new_manager, log, what, healthy
):
    manager = new_manager(
        worker_count=1, max_worker_count=1, max_retries=1, check_health=lambda error: healthy
    )
    raised, called = [], []
    task = recorded(ERRORS[what], raised)
    manager.queue_task_with_callback(task, lambda result, error: called.append((result, error)))
    assert manager.join(PATIENCE)
    assert called[0][0] is None
    assert called[0][1] is raised[-1]

    future = manager.submit(task)
    assert future.exception(PATIENCE) is raised[-1]
    assert outcome_of(future.result) is raised[-1]
    retried = not healthy and isinstance(raised[-1], Exception)
    assert future.attempts == (2 if retried else 1)

    assert outcome_of(manager.queue_task, task) is raised[-1]
    assert manager.queue_task(lambda resource: resource.number) == (6 if retried else 0)
    metrics = ends_exactly(manager, arrived=4)
    assert (metrics.total_tasks_failed, metrics.total_tasks_completed) == (3, 1)
    assert lost_workers(log) == []


@pytest.mark.parametrize("what", ERRORS)
def test_run_task_raises_whatever_its_task_raises_and_goes_on(new_manager, what):
    manager = new_manager(worker_count=1)
    raised = []
    task = recorded(ERRORS[what], raised)
    assert outcome_of(manager.run_task, task) is raised[0]
    assert manager.run_task(lambda resource: "the next") == "the next"
    metrics = ends_exactly(manager, arrived=2)
    assert (metrics.total_tasks_failed, metrics.total_tasks_completed) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("hook", ["on_reset", "on_check"])
def test_near_the_recursion_limit_a_run_task_leaves_no_call_behind(new_manager, size, hook):
    hooks = {"on_create": lambda: object(), "on_destroy": id, hook: lambda resource: None}
    check_after = 0 if hook == "on_check" else None
    manager = new_manager(worker_count=1, resource_pool_size=size, check_after=check_after, **hooks)
    pool, depth = manager._engine.pool, room()
    for left in range(60):
        with contextlib.suppress(RecursionError, ResourceCreationError):
            at_depth(depth - left, functools.partial(manager.run_task, lambda resource: None))
        eventually(lambda: pool.out == 0, "the end of the call")
    assert manager.stop().drained


# -- on_create -------------------------------------------------------------------------------------------------------


def test_an_on_create_that_fails_now_and_then_costs_no_task(new_manager, factory, log, monkeypatch):
    monkeypatch.setattr(tasker._pool.backoff, "FIRST_PAUSE_S", 0.001)
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)

    def create():
        if chance.random() < 0.4:
            raise OSError("down")
        return factory.create()

    def flaky(resource, number):
        if resource.broken or number % 3:
            return number
        resource.broken = True
        if not chance.randrange(3):
            raise Sick
        return number

    manager = new_manager(worker_count=3, max_worker_count=3, on_create=create, max_retries=1000)
    futures = [manager.submit(factory.use(flaky), i) for i in range(100)]
    assert [future.result(PATIENCE) for future in futures] == list(range(100))
    assert manager.wait_ready(PATIENCE)
    assert ends_exactly(manager, arrived=100).total_tasks_completed == 100
    assert lost_workers(log) == []


class Blocks:
    """A hook that blocks until `gate` is opened."""

    def __init__(self, hook):
        self.hook, self.gate, self.entered = hook, threading.Event(), threading.Event()

    def __call__(self, *args):
        self.entered.set()
        self.gate.wait(PATIENCE)
        return self.hook(*args)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["nobody", "stop", "kill"])
def test_an_on_create_that_blocks_for_ever_holds_up_neither_callers_nor_stop_nor_kill(
    new_manager, factory, end
):
    create = Blocks(factory.create)
    manager = new_manager(
        worker_count=2, on_create=create, create_timeout=0.1 if end != "kill" else 1000.0
    )
    outcomes = []
    callers = [
        threading.Thread(target=lambda: outcomes.append(outcome_of(manager.queue_task, len)))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    future = manager.submit(len)
    eventually(lambda: manager.metrics().total_tasks_arrived == 4)
    report = {"nobody": lambda: None, "stop": manager.stop, "kill": lambda: manager.kill(0.02)}[
        end
    ]()
    for caller in callers:
        caller.join(PATIENCE)
    expected = TaskManagerKilledError if end == "kill" else ResourceCreationError
    assert [type(error) for error in [*outcomes, future.exception(PATIENCE)]] == [expected] * 4
    if report is not None:
        assert set(report.abandoned) >= {"tasker-worker-1", "tasker-worker-2"}
    workers = manager._engine.crew.members
    create.gate.set()
    if report is None:  # the workers come to life after all
        assert manager.wait_ready(PATIENCE)  # until then a tick may fail what waits
        assert manager.queue_task(lambda resource: "up") == "up"
    else:
        for worker in workers:  # what an abandoned one has made after all it destroys
            worker.thread.join(PATIENCE)


# -- on_destroy ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [OSError("cannot destroy"), SystemExit("cannot destroy"), Own("cannot destroy")]
)
def test_whatever_on_destroy_raises_is_counted_and_reported_and_the_resource_is_replaced(
    new_manager, factory, log, error
):
    def destroy(resource):
        factory.destroy(resource)
        raise error

    manager = new_manager(worker_count=1, max_worker_count=1, on_destroy=destroy, max_retries=1)
    assert isinstance(manager.submit(raises(Sick())).exception(PATIENCE), Sick)
    assert manager.queue_task(lambda resource: resource.number) == 2
    # a temporary one, destroyed in this thread, the main one: there it may be a signal handler that raises
    came = outcome_of(manager.run_task, lambda resource: resource.number)
    assert came == 3 if isinstance(error, Exception) else came is error
    report = manager.stop()
    assert report.drained
    assert report.destroy_errors == len(factory.created) == 4
    assert len(log.telling(of="cannot destroy")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_on_destroy_that_blocks_holds_up_neither_stop_with_a_timeout_nor_kill(
    new_manager, factory, monkeypatch, how
):
    monkeypatch.setattr(tasker._pool.closing, "KILL_TIMEOUT_S", 0.02)
    destroy = Blocks(factory.destroy)
    manager = new_manager(worker_count=1, max_worker_count=1, on_destroy=destroy)
    assert manager.queue_task(lambda resource: "done") == "done"
    report = getattr(manager, how)(0.02)
    assert report.abandoned == ("tasker-worker-1",)
    assert (report.completed, report.drained) == (1, False)
    destroy.gate.set()
    eventually(lambda: factory.live == 0)


def test_while_on_destroy_blocks_the_other_workers_run_the_tasks(new_manager, factory):
    destroy = Blocks(factory.destroy)
    # the other resource is a suspect: the retry waits for create_timeout
    manager = new_manager(
        worker_count=2, max_worker_count=2, on_destroy=destroy, max_retries=1, create_timeout=1
    )
    assert manager.wait_ready(PATIENCE)
    broke = []

    def breaks_once(resource):
        if not broke:
            broke.append(resource)
            raise Sick
        return "retried"

    future = manager.submit(breaks_once)
    assert destroy.entered.wait(PATIENCE)
    assert future.result(PATIENCE) == "retried"
    assert [manager.queue_task(lambda resource, x: x, i) for i in range(5)] == list(range(5))
    destroy.gate.set()


# -- check_health ----------------------------------------------------------------------------------------------------


class Undecided:
    def __bool__(self):
        raise SystemExit("no verdict")


def raise_(error):
    raise error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "healthy", "exits"),
    [
        pytest.param(
            lambda error: raise_(ValueError("no verdict")), False, False, id="raises an Exception"
        ),
        pytest.param(
            lambda error: raise_(SystemExit("no verdict")), False, True, id="raises SystemExit"
        ),
        pytest.param(lambda error: raise_(error), False, False, id="raises what it judges"),
        pytest.param(lambda error: Undecided(), False, True, id="its verdict cannot be read"),
        pytest.param(lambda error: None, False, False, id="None"),
        pytest.param(lambda error: "fine", True, False, id="a string"),
    ],
)
def test_a_check_health_without_a_clear_yes_costs_the_resource_and_nothing_else(
    new_manager, log, check, healthy, exits
):
    manager = new_manager(worker_count=1, max_worker_count=1, check_health=check, max_retries=1)
    error = LookupError("mine")
    future = manager.submit(raises(error))
    assert future.exception(PATIENCE) is error
    assert future.attempts == (1 if healthy else 2)
    assert manager.queue_task(lambda resource: resource.number) == (0 if healthy else 2)
    ends_exactly(manager, arrived=2)
    come = outcome_of(manager.run_task, raises(error))
    # in the main thread a SystemExit may be that of a signal handler, and is raised
    assert isinstance(come, SystemExit) if exits else come is error


# -- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("from a callback"), SystemExit("from a callback")])
def test_whatever_callbacks_raise_is_logged_and_the_other_callbacks_and_tasks_run(
    new_manager, log, caplog, error
):
    caplog.set_level(logging.DEBUG, "tasker")
    manager = new_manager(worker_count=1, max_worker_count=1)
    called = []

    def bad(*_):
        called.append("bad")
        raise error

    def good(*_):
        called.append("good")

    def start_task():
        started = threading.Event()

        def task(ctx, resource):
            ctx.on_done(bad)
            ctx.on_done(good)
            started.set()
            return ctx.wait(PATIENCE)

        future = manager.submit(task)
        future.add_done_callback(bad)
        future.add_done_callback(good)
        assert started.wait(PATIENCE)
        return future

    exits = not isinstance(
        error, Exception
    )  # in the main thread it may be that of a signal handler, and is raised
    future = start_task()
    # runs the context's callbacks in this thread, the worker runs the future's
    assert outcome_of(future.cancel) is (error if exits else False)
    assert future.result(PATIENCE) is True
    manager.queue_task_with_callback(lambda resource: 0, bad)
    assert manager.queue_task(lambda resource: "the next") == "the next"
    assert sorted(called) == ["bad"] * 3 + ["good"] * 2
    ends_exactly(manager, arrived=3)
    future = start_task()
    assert (
        manager.kill(PATIENCE).abandoned == ()
    )  # has the context's callbacks run by a thread of their own
    assert future.result(0) is True
    assert sorted(called) == ["bad"] * 5 + ["good"] * 4
    # a context's callbacks that its canceller runs are no manager's: the library's own logger is told
    told = log.telling(of="from a callback") + [record.getMessage() for record in caplog.records]
    assert sum("from a callback" in line for line in told) == 5 - exits


def test_a_done_callback_may_submit(new_manager):
    manager = new_manager(worker_count=1, max_worker_count=1)
    second = []
    manager.submit(lambda resource: 1).add_done_callback(
        lambda done: second.append(manager.submit(lambda resource, x: x + 1, done.result()))
    )
    eventually(lambda: second)
    assert second[0].result(PATIENCE) == 2


# -- logger and collector --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit("disk full")])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "every level"])
def test_a_logger_that_raises_costs_its_messages_and_nothing_else(
    new_manager, factory, monkeypatch, level, error
):
    monkeypatch.setattr(tasker._pool.backoff, "FIRST_PAUSE_S", 0.001)
    told = []

    class Logger:
        def __getattr__(self, name):
            def write(*args):
                told.append(name)
                if level in (name, "every level"):
                    raise error

            return write

    def destroy(resource):
        factory.destroy(resource)
        raise OSError("cannot destroy")

    factory.fail_next = [OSError("down")]
    options = {
        "logger": Logger(),
        "on_destroy": destroy,
        "burst_interval": 0.01,
        "burst_task_threshold": 1,
    }
    # what a logger raises in the main thread may be a signal handler's, and is raised there
    with concurrent.futures.ThreadPoolExecutor(1) as another:
        manager = another.submit(
            lambda: new_manager(worker_count=1, max_worker_count=2, **options)
        ).result(PATIENCE)
    gate = threading.Event()
    manager.queue_task_with_callback(lambda resource: 0, lambda result, error: raise_(ValueError))
    future = manager.submit(raises(Sick()))
    assert isinstance(future.exception(PATIENCE), Sick)
    manager.submit(raises(ValueError())).exception(PATIENCE)
    busy = [manager.submit(lambda resource: gate.wait(PATIENCE)) for _ in range(3)]
    eventually(
        lambda: sum(future.running() for future in busy) == 2
    )  # a worker was hired, which is told
    gate.set()
    assert manager.queue_task(lambda resource: "the next") == "the next"
    ends_exactly(manager, arrived=7)
    assert manager.stop().drained
    assert {"debug", "info", "warning", "error"} <= set(told)


METHODS = ["record_arrival", "record_completion", "record_failure", "record_retry"]


class BadCollector:
    """A user's collector of which one method raises."""

    def __init__(self, method, error):
        self.told = []

        def record(name):
            def tell(*args):
                self.told.append(name)
                if name == method:
                    raise error

            return tell

        for name in [*METHODS, "metrics"]:
            setattr(self, name, record(name))


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError("unreachable"), SystemExit("unreachable")])
@pytest.mark.parametrize("method", METHODS)
def test_a_collector_that_raises_loses_no_task_and_no_count_of_ours(
    new_manager, log, method, error
):
    collector = BadCollector(method, error)
    manager = new_manager(worker_count=1, max_worker_count=1, collector=collector, max_retries=1)
    gate = threading.Event()

    def use():
        assert manager.queue_task(lambda resource: "done") == "done"
        assert isinstance(manager.submit(raises(Sick())).exception(PATIENCE), Sick)
        late = manager.submit(
            lambda resource: gate.wait(PATIENCE), timeout=0.01
        )  # fails on a thread of its own
        assert isinstance(late.exception(PATIENCE), TaskTimeoutError)
        gate.set()
        assert manager.run_task(lambda resource: "here") == "here"
        assert isinstance(outcome_of(manager.run_task, raises(ValueError())), ValueError)
        assert manager.queue_task(lambda resource: "the next") == "the next"

    with concurrent.futures.ThreadPoolExecutor(
        1
    ) as another:  # in the main thread a SystemExit is raised
        another.submit(use).result(PATIENCE)
    metrics = ends_exactly(manager, arrived=6)
    assert (
        metrics.total_tasks_completed,
        metrics.total_tasks_failed,
        metrics.total_tasks_retried,
    ) == (3, 3, 1)
    assert [collector.told.count(name) for name in METHODS] == [6, 3, 3, 1]
    assert len(log.telling(of="unreachable")) == collector.told.count(method)
    assert len(log.loud()) == 1, "of those that come again and again one is told at once"
    assert manager.stop().drained


def test_metrics_are_the_built_in_figures_when_the_collectors_metrics_raises(new_manager, log):
    manager = new_manager(collector=BadCollector("metrics", OSError("unreachable")))
    assert manager.queue_task(lambda resource: "done") == "done"
    metrics = manager.metrics()
    assert type(metrics) is TaskMetrics
    assert metrics.total_tasks_completed == 1
    assert any("unreachable" in line for line in log.loud())


def test_a_base_exception_of_the_collectors_metrics_is_the_callers_and_harms_nothing_else(
    new_manager,
):
    """It runs in the caller's thread: a Ctrl-C in the middle of it must come through."""
    error = KeyboardInterrupt()
    manager = new_manager(collector=BadCollector("metrics", error))
    assert outcome_of(manager.metrics) is error
    assert manager.queue_task(lambda resource: "done") == "done"
    report = manager.stop()
    assert (report.drained, report.completed) == (True, 1)
