# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: F841
"""Programs with `tasker.testing` that both type checkers must reject; see `wrong.py`."""

from __future__ import annotations

from tasker import Config, TaskManager
from tasker.testing import DummyResource, ManualClock, ResourceFactory, leak_check


class Connection:
    def ping(self) -> int:
        return 1

    def close(self) -> None:
        pass


class Browser:
    def quit(self) -> None:
        pass


def ping(db: Connection) -> int:
    return db.ping()


def add(db: Connection, number: int) -> int:
    return db.ping() + number


def clocks() -> None:
    ManualClock(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ManualClock().advance("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ManualClock().advance()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ManualClock().advance(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ManualClock().now().upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    ManualClock().deadlines()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    ManualClock().deadlines = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    ManualClock().wait_for_deadlines(timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ManualClock().wait_for_deadlines("two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ManualClock().sleep(5)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def factories(m: TaskManager[Connection], factory: ResourceFactory[Connection]) -> None:
    ResourceFactory(Connection, Browser.quit)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    ResourceFactory(Connection())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    ResourceFactory(free=Connection.close)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    ResourceFactory(Connection, Connection.close, True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    other: ResourceFactory[Browser] = ResourceFactory(Connection)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    dummies: ResourceFactory[Connection] = ResourceFactory()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    browser: Browser = factory.create()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    factory.create(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    factory.destroy(Browser())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    factory.record(Browser())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    factory.record(Connection()).resource.quit()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    factory.using(Browser())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    factory.live()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    factory.fail_create("refused")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    factory.fail_create(OSError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    factory.fail_create(OSError(), 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    factory.fail_destroy(OSError(), times="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    factory.use("ping")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.queue_task(factory.use(ping), 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(factory.use(add), "2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(factory.use(Browser.quit))  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Config(on_create=factory.create, on_destroy=Browser.quit, worker_count=1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    config: Config[Browser] = Config(on_create=factory.create, on_destroy=factory.destroy, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]  # fmt: skip
    DummyResource()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    DummyResource(1).ping()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def leaks() -> None:
    leak_check(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    leak_check().__enter__().append("x")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    with leak_check:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
