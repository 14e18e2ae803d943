"""Programs with `tasker.testing` that both type checkers must accept; see `right.py`."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import assert_type

from tasker import Config, Context, Slot, TaskManager, background, with_timeout
from tasker.testing import DummyResource, ManualClock, ResourceFactory, ResourceRecord, leak_check


class Connection:
    """The resource of these programs."""

    def ping(self) -> int:
        return 1

    def close(self) -> None:
        pass


def ping(db: Connection) -> int:
    return db.ping()


def add(db: Connection, number: int) -> int:
    return db.ping() + number


def on_gpu(slot: Slot) -> Connection:
    return Connection()


def watch(ctx: Context, db: Connection) -> bool:
    return ctx.cancelled()


# -- the clock -------------------------------------------------------------------------------------------------------


def clock(m: TaskManager[Connection]) -> None:
    with ManualClock() as clock, with_timeout(background(), 60) as ctx:
        assert_type(clock, ManualClock)
        assert_type(clock.now(), float)
        assert_type(clock.deadlines, int)
        assert_type(clock.wait_for_deadlines(), None)
        clock.wait_for_deadlines(1, timeout=30)
        assert_type(clock.advance(59.5), None)
        clock.advance(1)
        assert ctx.cancelled()


# -- the factory -----------------------------------------------------------------------------------------------------


def factory_of_dummies(m: TaskManager[Connection]) -> None:
    factory = ResourceFactory()
    assert_type(factory, ResourceFactory[DummyResource])
    config = Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)
    assert_type(config, Config[DummyResource])
    with TaskManager(config) as other:
        assert_type(other.queue_task(lambda resource: resource.number), int)
    assert_type(factory.created[0].alive, bool)
    factory.check()


def factory_of_real_resources(m: TaskManager[Connection]) -> None:
    assert_type(ResourceFactory(Connection), ResourceFactory[Connection])
    assert_type(
        ResourceFactory(Connection, Connection.close, any_thread=True), ResourceFactory[Connection]
    )
    databases = ResourceFactory(lambda: sqlite3.connect(":memory:"), sqlite3.Connection.close)
    assert_type(databases, ResourceFactory[sqlite3.Connection])
    assert_type(ResourceFactory(on_gpu, Connection.close), ResourceFactory[Connection])
    with TaskManager(
        Config(on_create=databases.create, on_destroy=databases.destroy, worker_count=1)
    ) as other:
        assert_type(other, TaskManager[sqlite3.Connection])
        assert_type(other.queue_task(lambda db: db.total_changes), int)


def records(m: TaskManager[Connection]) -> None:
    factory = ResourceFactory(Connection)
    resource = factory.create()
    assert_type(resource, Connection)
    with factory.using(resource) as used:
        assert_type(used, Connection)
    record = factory.record(resource)
    assert_type(record, ResourceRecord[Connection])
    assert_type(record.resource, Connection)
    assert_type(record.made_in, threading.Thread)
    assert_type(record.used_in, dict[threading.Thread, int])
    assert_type(record.users, list[threading.Thread])
    assert_type(record.destroyed_in, threading.Thread | None)
    factory.destroy(resource)
    assert_type(factory.created, list[Connection])
    assert_type(factory.destroyed, list[Connection])
    assert_type(factory.misuses, list[str])
    assert_type(factory.live, int)
    assert_type(factory.any_thread, bool)
    assert_type(factory.check(), None)


def tasks_of_a_factory(m: TaskManager[Connection]) -> None:
    factory = ResourceFactory(Connection, Connection.close)
    with TaskManager(
        Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)
    ) as other:
        assert_type(other.queue_task(factory.use(ping)), int)
        assert_type(other.queue_task(factory.use(add), 2), int)
        assert_type(other.queue_task(factory.use(watch)), bool)
        assert_type(other.queue_task(factory.use(Connection.ping)), int)
    factory.check()


def failures(m: TaskManager[Connection]) -> None:
    factory = ResourceFactory()
    factory.fail_create(OSError("refused"))
    factory.fail_create(OSError("refused"), nth=2, times=None)
    factory.fail_destroy(KeyboardInterrupt(), times=3)
    factory.fail_destroy(None)


# -- leaks -----------------------------------------------------------------------------------------------------------


def leaks(m: TaskManager[Connection]) -> None:
    with leak_check() as nothing:
        assert_type(nothing, None)

    @leak_check()
    def tested(number: int) -> str:
        return str(number)

    assert_type(tested(1), str)
    work: Callable[[int], str] = tested
    assert work(2) == "2"


def fixture(m: TaskManager[Connection]) -> None:
    from tasker.testing import no_leaks

    assert no_leaks is not None
