"""`run_task`: at once, in the calling thread, on a pooled or a temporary resource."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasker import Config, ResourceCreationError, TaskManager, TaskManagerShutdownError
from tasker._pool.lifecycle import Lifecycle
from tasker._sync.parking import gil_enabled
from tests.support.errors import Sick
from tests.support.snippets import run_python
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def pooled(new_manager, factory):
    """A manager whose single worker never gets a resource, so that every resource seen belongs to `run_task`."""
    factory.any_thread = True

    def make_pooled(**options):
        return new_manager(worker_count=1, max_worker_count=1, **options)

    return make_pooled


def test_it_runs_in_the_calling_thread_and_returns_the_result(pooled):
    manager = pooled()
    assert manager.run_task(lambda resource, x: (threading.get_ident(), x), 5) == (
        threading.get_ident(),
        5,
    )


def test_size_zero_makes_uses_and_destroys_in_the_calling_thread(new_manager, factory):
    manager = new_manager(worker_count=1, max_worker_count=1, resource_pool_size=0)
    resource = manager.run_task(lambda resource: resource)
    assert not resource.alive
    assert resource.thread == threading.get_ident()
    assert manager.stats().available_resources == 0


def test_size_none_keeps_resources_made_when_first_needed(pooled, factory):
    manager = pooled(resource_pool_size=None)
    assert manager.wait_ready(PATIENCE)
    assert len(factory.created) == 1
    first = manager.run_task(lambda resource: resource)
    assert manager.run_task(lambda resource: resource) is first
    assert manager.stats().available_resources == 1


def test_a_number_makes_that_many_in_the_constructor(pooled, factory):
    made = []

    def create():
        made.append(threading.get_ident())
        return factory.create()

    manager = pooled(resource_pool_size=3, on_create=create)
    assert made[:3] == [threading.get_ident()] * 3
    assert manager.stats().available_resources == 3
    manager.run_task(lambda resource: 0)
    assert manager.stats().available_resources == 3


def test_a_constructor_that_fails_at_the_second_creation_leaks_nothing(new_manager, factory):
    factory.any_thread = True
    down = OSError("down")
    before = threading.active_count()

    def create():
        if factory.created:
            raise down
        return factory.create()

    with pytest.raises(ResourceCreationError) as caught:
        new_manager(resource_pool_size=2, on_create=create)
    assert caught.value.__cause__ is down
    assert factory.live == 0
    assert threading.active_count() == before


def test_a_temporary_resource_is_made_when_all_are_out(pooled, factory):
    manager = pooled(resource_pool_size=1)

    def nest(resource, depth):
        return [resource] + (manager.run_task(nest, depth - 1) if depth else [])

    seen = manager.run_task(nest, 3)
    assert len({id(resource) for resource in seen}) == 4
    assert sum(resource.alive for resource in seen) == 1
    assert manager.stats().available_resources == 1


def test_it_never_waits_behind_the_queue(pooled):
    manager = pooled(queue_size=1)
    gate = threading.Event()
    first = manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(first.running)
    manager.submit(lambda resource: 0)
    assert manager.run_task(lambda resource: "at once") == "at once"
    gate.set()


def test_a_broken_resource_is_not_put_back(pooled):
    manager = pooled(resource_pool_size=1)
    seen = []

    def fail(resource, error):
        seen.append(resource)
        raise error

    with pytest.raises(ValueError, match="healthy"):
        manager.run_task(fail, ValueError("healthy"))
    assert seen[0].alive
    with pytest.raises(Sick):
        manager.run_task(fail, Sick())
    assert seen[1] is seen[0]
    assert not seen[0].alive
    assert manager.stats().available_resources == 0
    assert manager.run_task(lambda resource: resource.alive)
    metrics = manager.metrics()
    assert (
        metrics.total_tasks_completed,
        metrics.total_tasks_failed,
        metrics.total_tasks_retried,
    ) == (1, 2, 0)


def test_a_creation_that_fails_is_raised_and_counted(pooled, factory):
    manager = pooled()
    assert manager.wait_ready(PATIENCE)
    factory.fail_always = OSError("down")
    with pytest.raises(ResourceCreationError) as caught:
        manager.run_task(lambda resource: 0)
    assert caught.value.__cause__ is factory.fail_always
    factory.fail_always = None
    metrics = manager.metrics()
    assert (metrics.total_tasks_arrived, metrics.total_tasks_failed) == (1, 1)


def test_two_threads_never_share_a_resource(pooled, factory):
    manager = pooled(resource_pool_size=2)
    task = factory.use(lambda resource: None)

    def many():
        for _ in range(300):
            manager.run_task(task)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert manager.metrics().total_tasks_completed == 1200
    assert manager.stats().available_resources == 2


@pytest.mark.parametrize("size", [0, 1])
def test_stop_waits_for_resources_that_are_out_and_they_are_destroyed(pooled, factory, size):
    manager = pooled(resource_pool_size=size)
    started, gate = threading.Event(), threading.Event()

    def task(ctx, resource):
        started.set()
        gate.wait(PATIENCE)
        return ctx.cancelled(), ctx.stopping()

    results, reports = [], []
    runner = threading.Thread(target=lambda: results.append(manager.run_task(task)))
    runner.start()
    assert started.wait(PATIENCE)
    stopper = threading.Thread(target=lambda: reports.append(manager.stop()))
    stopper.start()
    eventually(lambda: manager._engine.is_stopping() and not manager._engine.crew.members)
    assert not reports
    with pytest.raises(TaskManagerShutdownError):
        manager.run_task(lambda resource: 0)
    gate.set()
    runner.join(PATIENCE)
    stopper.join(PATIENCE)
    assert results == [(False, True)]
    assert reports[0].drained
    assert factory.live == 0


def test_kill_cancels_the_contexts_of_run_task(pooled):
    manager = pooled()
    started, results = threading.Event(), []

    def task(ctx, resource):
        started.set()
        return ctx.wait(PATIENCE)

    runner = threading.Thread(target=lambda: results.append(manager.run_task(task)))
    runner.start()
    assert started.wait(PATIENCE)
    report = manager.kill()
    runner.join(PATIENCE)
    assert results == [True]
    assert report.abandoned == ()


def test_it_works_inside_a_task_of_the_same_manager(pooled):
    manager = pooled()
    assert (
        manager.queue_task(lambda resource: manager.run_task(lambda inner: inner is not resource))
        is True
    )


def test_run_task_is_refused_as_soon_as_stop_has_been_called(new_manager, monkeypatch):
    noticed, step = threading.Event(), Lifecycle.step
    monkeypatch.setattr(
        Lifecycle, "step", lambda self, began: noticed.is_set() and step(self, began)
    )
    manager = new_manager(worker_count=1, max_worker_count=1)
    manager.queue_task(lambda resource: manager.stop())
    try:
        with pytest.raises(TaskManagerShutdownError):
            manager.run_task(lambda resource: 0)
    finally:
        noticed.set()
        manager.stop()


# -- resources that are bound to their thread --------------------------------------------------------------------------


@pytest.fixture
def sqlite(log):
    """`sqlite(**options)`: a manager of connections as `sqlite3` makes them, each for one thread."""

    def make_sqlite(**options):
        connections = []

        def connect():
            connections.append(sqlite3.connect(":memory:"))
            return connections[-1]

        options = {"worker_count": 4, "burst_interval": 0, "logger": log, **options}
        manager = TaskManager(
            Config(on_create=connect, on_destroy=sqlite3.Connection.close, **options)
        )
        manager.connections = connections
        return manager

    return make_sqlite


def select(connection):
    return connection, *connection.execute("select 1").fetchone()


def is_open(connection):
    try:
        connection.total_changes  # noqa: B018  # which any thread may ask for, of an open one
    except sqlite3.ProgrammingError as error:
        return "closed" not in str(error)
    return True


def test_sqlite_connections_serve_several_threads_and_the_main_thread_and_are_closed(sqlite, log):
    with sqlite() as manager:
        assert manager.wait_ready(PATIENCE)
        barrier = threading.Barrier(3)

        def calls():
            barrier.wait(PATIENCE)
            return [manager.run_task(select)[0] for _ in range(20)]

        with ThreadPoolExecutor(3) as pool:
            used = [future.result(PATIENCE) for future in [pool.submit(calls) for _ in range(3)]]
        assert [len(set(connections)) for connections in used] == [
            1,
            1,
            1,
        ]  # kept, each for its own thread
        assert manager.stats().available_resources == 0  # closed when their threads ended
        mine = {manager.run_task(select)[0] for _ in range(20)}
        assert len(mine) == manager.stats().available_resources == 1
        report = manager.stop()
    assert (report.drained, report.destroy_errors) == (True, 0)
    assert log.loud() == []
    assert not any(map(is_open, manager.connections))


def test_a_thread_for_each_call_keeps_no_connection(sqlite, log):
    with sqlite(worker_count=1) as manager:
        pool = manager._engine.pool
        shelves = len(pool._shelves)
        for _ in range(10):
            thread = threading.Thread(target=manager.run_task, args=(select,))
            thread.start()
            thread.join(PATIENCE)
        assert (manager.stats().available_resources, pool.out, len(pool._shelves)) == (
            0,
            0,
            shelves,
        )
        assert manager.stop().destroy_errors == 0
    assert log.loud() == []


def test_no_more_are_kept_than_the_size_and_a_thread_that_finds_none_makes_its_own(sqlite, log):
    with sqlite(worker_count=2) as manager:
        barrier = threading.Barrier(5)

        def calls():
            manager.run_task(select)
            barrier.wait(PATIENCE)
            for _ in range(5):
                manager.run_task(select)
            barrier.wait(PATIENCE)
            barrier.wait(PATIENCE)

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(calls) for _ in range(4)]
            for _ in range(2):
                barrier.wait(PATIENCE)
            assert manager.stats().available_resources == 2
            barrier.wait(PATIENCE)
        for future in futures:
            future.result(PATIENCE)
        assert manager.stop().destroy_errors == 0
    assert log.loud() == []


def test_what_a_thread_keeps_that_goes_on_is_destroyed_elsewhere_and_the_reason_is_told(
    sqlite, log
):
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        manager = sqlite()
        manager.wait_ready(PATIENCE)
        pool.submit(manager.run_task, select).result(PATIENCE)  # which makes the last connection
        closed = pool.submit(lambda: release.wait(PATIENCE) and manager.connections[-1].close())
        report = manager.stop()
        release.set()
        closed.result(PATIENCE)
    assert (report.drained, report.destroy_errors) == (True, 1)
    (said,) = log.loud()
    assert "in another thread than the one that made the resource for run_task" in said
    assert "resource_pool_size=0" in said


@pytest.mark.slow
@pytest.mark.parametrize("end", ["with", "async with", "exit"])
def test_a_thread_destroys_its_own_however_it_stops_the_manager(end):
    done = run_python(f"""
        import asyncio, sqlite3
        config = Config(
            on_create=lambda: sqlite3.connect(":memory:"), on_destroy=sqlite3.Connection.close, worker_count=1)

        def select(connection):
            return connection.execute("select 1").fetchone()

        async def main():
            async with TaskManager(config) as manager:
                print(manager.run_task(select))
            print(manager.stop().destroy_errors)

        end = "{end}"
        if end == "async with":
            asyncio.run(main())
        elif end == "with":
            with TaskManager(config) as manager:
                print(manager.run_task(select))
            print(manager.stop().destroy_errors)
        else:
            manager = TaskManager(config)
            print(manager.run_task(select))
            print(0)
    """)
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", ["(1,)", "0"])


def test_a_number_says_that_threads_may_share(pooled, factory):
    manager = pooled(resource_pool_size=1)
    with ThreadPoolExecutor(1) as pool:
        assert (
            pool.submit(manager.run_task, lambda resource: resource).result(PATIENCE)
            is factory.created[0]
        )
    assert manager.run_task(lambda resource: resource) is factory.created[0]
    assert manager.stats().available_resources == 1


def test_a_connection_that_breaks_is_destroyed_by_its_thread_and_the_next_one_kept(sqlite, log):
    with sqlite(check_health=lambda error: False) as manager:
        with pytest.raises(ZeroDivisionError):
            manager.run_task(lambda connection: 1 / 0)
        assert manager.stats().available_resources == 0
        assert manager.run_task(select)[0] is manager.run_task(select)[0]
        assert manager.stop().destroy_errors == 0
    assert log.loud() == []


def test_stopping_waits_for_a_thread_that_destroys_what_it_kept_as_it_ends(pooled, factory):
    leaving, gate = threading.Event(), threading.Event()

    def destroy(resource):
        if threading.current_thread() is caller:  # to the last
            leaving.set()
            assert gate.wait(PATIENCE)
        factory.destroy(resource)

    manager = pooled(resource_pool_size=None, on_destroy=destroy)
    caller = threading.Thread(target=manager.run_task, args=(lambda resource: None,))
    caller.start()
    assert leaving.wait(PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(manager.stop)
        eventually(manager._engine.is_stopping)
        assert not stopping.done()
        gate.set()
        assert stopping.result(PATIENCE).drained
    caller.join(PATIENCE)
    assert factory.live == 0


def test_a_thread_that_goes_on_keeps_neither_a_closed_manager_nor_a_resource():
    class Thing:
        pass

    manager = TaskManager(Config(on_create=Thing, on_destroy=bool, worker_count=1))
    thing = weakref.ref(manager.run_task(lambda resource: resource))
    pool = weakref.ref(manager._engine.pool)
    assert manager.stop().drained
    assert thing() is None
    del manager
    gc.collect()
    if not gil_enabled():
        # The thread that made an object may be the one that frees it, later.
        eventually(lambda: gc.collect() >= 0 and pool() is None)
    assert pool() is None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_forked_child_what_other_threads_keep_is_left_to_the_parent():
    done = run_python("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        parent = os.getpid()

        class Resource:
            def __del__(self):
                if os.getpid() != parent:
                    print("freed by the child", flush=True)

        def destroy(resource):
            os.write(1, b"destroyed by its own\\n" if os.getpid() == parent else b"destroyed by the child\\n")

        manager = TaskManager(Config(on_create=Resource, on_destroy=destroy, worker_count=2, burst_interval=0))
        manager.wait_ready()
        kept, gate = threading.Event(), threading.Event()

        def keep():
            manager.run_task(bool)
            kept.set()
            gate.wait()

        thread = threading.Thread(target=keep)
        thread.start()
        kept.wait()
        manager.run_task(bool)
        child = os.fork()
        if child == 0:
            sys.exit(manager.stop().destroy_errors)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        gate.set()
        thread.join()
        print(manager.stats().available_resources, "left", flush=True)
        manager.stop()
    """)
    assert done.stdout.splitlines() == [
        "child 0",
        "destroyed by its own",
        "1 left",
        *["destroyed by its own"] * 3,
    ]
    assert (done.returncode, done.stderr) == (0, "")


# -- interrupts ----------------------------------------------------------------------------------------------------


class Interrupted:
    """Collector, logger and hooks at once; a signal handler raises while `place` is called."""

    def __init__(self, factory, place):
        self.factory, self.place, self.called = factory, place, []

    def __getattr__(self, name):
        return lambda *args: self.call(name)

    def call(self, name):
        if threading.current_thread() is not threading.main_thread():
            return
        self.called.append(name)
        if name == self.place:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(PATIENCE)  # until the handler raises

    def destroy(self, resource):
        self.factory.destroy(resource)
        self.call("on_destroy")

    def check(self, error):
        self.call("check_health")
        return not isinstance(error, Sick)


@pytest.mark.skipif(os.name != "posix", reason="signals to the own process")
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "place", ["on_destroy", "check_health", "record_arrival", "record_completion", "record_failure"]
)
def test_what_a_signal_handler_raises_in_code_of_the_users_is_raised_when_the_books_are_right(
    pooled, factory, error, place
):
    def handler(*_):
        raise error

    user = Interrupted(factory, place)
    manager = pooled(
        resource_pool_size=0,
        on_destroy=user.destroy,
        check_health=user.check,
        collector=user,
        logger=user,
    )
    fails = place in ("check_health", "record_failure")
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(type(error)) as caught:
            manager.run_task(lambda resource: 1 / 0 if fails else resource)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert caught.value is error
    assert manager._engine.pool.out == 0
    end = "record_failure" if fails else "record_completion"
    assert [name for name in user.called if name.startswith("record")] == ["record_arrival", end]
    assert "on_destroy" in user.called
    report = manager.stop()
    assert (report.completed + report.failed, report.abandoned) == (1, ())
    assert report.destroy_errors == (place == "on_destroy")
