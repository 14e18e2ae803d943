"""Configurations that both type checkers must accept, with the types that they must see: see `right.py`."""

from __future__ import annotations

import dataclasses
import io
import logging
import sqlite3
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from typing import (
    assert_type,
)

from tasker import (
    Config,
    Logger,
    MetricsCollector,
    Reason,
    Slot,
    TaskLifecycleTimestamps,
    TaskManager,
    TaskMetrics,
    background,
    current_slot,
    unhealthy_on,
    with_cancel,
)


class Base:
    def name(self) -> str:
        return type(self).__name__


class Connection(Base):
    """The resource of these programs."""

    def ping(self) -> int:
        return 1

    def execute(self, query: str, *parameters: object) -> list[str]:
        return [query, *map(str, parameters)]

    def fetch(self, query: str, limit: int = 10) -> list[str]:
        return [query][:limit]

    def close(self) -> None:
        pass


def ping(db: Connection) -> int:
    return db.ping()


def of_base(db: Base) -> str:
    return db.name()


def connect() -> Connection:
    return Connection()


@contextmanager
def connected() -> Generator[Connection, None, None]:
    yield Connection()


def connect_in(slot: Slot) -> Connection:
    assert_type(slot.index, int)
    assert_type(slot.worker, str)
    assert_type(slot.generation, int)
    assert_type(slot.reason, Reason)
    return Connection()


class Numbered(Connection):
    def __init__(self, slot: Slot) -> None:
        self.number = slot.index


@contextmanager
def connected_in(slot: Slot) -> Generator[Connection, None, None]:
    yield connect_in(slot)


class Session(AbstractContextManager["Session"]):
    def __exit__(self, *_: object) -> None:
        pass


class Recorder:
    """A collector that satisfies the protocol without inheriting from it."""

    def __init__(self) -> None:
        self.arrivals = 0
        self.waited = 0.0

    def record_arrival(self) -> None:
        self.arrivals += 1

    def record_completion(self, stamps: TaskLifecycleTimestamps) -> None:
        self.waited += stamps.started_at - stamps.queued_at

    def record_failure(self, stamps: TaskLifecycleTimestamps) -> float:
        return stamps.finished_at

    def record_retry(self) -> None:
        pass

    def metrics(self) -> TaskMetrics:
        return TaskMetrics(total_tasks_arrived=self.arrivals)


class SilentRecorder(MetricsCollector):
    """One that inherits, and leaves the figures to tasker."""

    def record_arrival(self) -> None:
        pass

    def record_completion(self, stamps: TaskLifecycleTimestamps, /) -> None:
        pass

    def record_failure(self, stamps: TaskLifecycleTimestamps, /) -> None:
        pass

    def record_retry(self) -> None:
        pass

    def metrics(self) -> None:
        return None


class Lines:
    """A logger that satisfies the protocol without inheriting from it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _add(self, msg: str, *args: object) -> None:
        self.lines.append(msg % args)

    debug = info = warning = error = _add


class Prefixed(Logger):
    def debug(self, msg: str, /, *args: object) -> None:
        pass

    def info(self, msg: str, /, *args: object) -> None:
        pass

    def warning(self, msg: str, /, *args: object) -> None:
        print("warning:", msg % args)

    def error(self, msg: str, /, *args: object, exc_info: bool = False) -> None:
        print("error:", msg % args)


def config_of_functions(m: TaskManager[Connection]) -> None:
    assert_type(
        Config(on_create=connect, on_destroy=Connection.close, worker_count=1), Config[Connection]
    )


def config_of_a_class(m: TaskManager[Connection]) -> None:
    assert_type(
        Config(on_create=Connection, on_destroy=Connection.close, worker_count=1),
        Config[Connection],
    )


def config_of_lambdas(m: TaskManager[Connection]) -> None:
    config = Config(
        on_create=lambda: Connection(), on_destroy=lambda db: db.close(), worker_count=1
    )
    assert_type(config, Config[Connection])


def config_of_a_library(m: TaskManager[Connection]) -> None:
    config = Config(
        on_create=lambda: sqlite3.connect(":memory:"),
        on_destroy=sqlite3.Connection.close,
        worker_count=1,
        check_health=unhealthy_on(sqlite3.InterfaceError),
    )
    assert_type(config, Config[sqlite3.Connection])
    with TaskManager(config) as other:
        assert_type(other, TaskManager[sqlite3.Connection])
        other.queue_task(lambda db: db.execute("create table t (x)"))
        rows = other.queue_task_with_priority(
            lambda db, low: db.execute("select ?", (low,)).fetchall(), 7
        )
        assert rows == [(7,)]
        assert_type(other.metrics().p95_execution_time, float)


def config_whose_destructor_takes_a_base_class(m: TaskManager[Connection]) -> None:
    config: Config[Connection] = Config(on_create=Connection, on_destroy=of_base, worker_count=1)
    assert config.worker_count == 1


def config_with_every_field(m: TaskManager[Connection]) -> None:
    config = Config(
        on_create=Connection,
        on_destroy=Connection.close,
        worker_count=1,
        name="every",
        ctx=with_cancel(background()),
        check_health=lambda error: not isinstance(error, ConnectionError),
        max_worker_count=2,
        burst_interval=timedelta(seconds=1),
        max_retries=0,
        create_timeout=timedelta(seconds=5),
        resource_pool_size=None,
        logger=logging.getLogger("every"),
        collector=Recorder(),
        burst_task_threshold=0,
        burst_worker_count=1,
        queue_size=10,
    )
    assert_type(config, Config[Connection])
    assert_type(dataclasses.replace(config, worker_count=2), Config[Connection])


def config_with_loggers_and_collectors(m: TaskManager[Connection]) -> None:
    loggers: list[Logger] = [
        Lines(),
        Prefixed(),
        logging.getLogger(),
        logging.LoggerAdapter(logging.getLogger(), {}),
    ]
    collectors: list[MetricsCollector] = [Recorder(), SilentRecorder()]
    for logger in loggers:
        Config(on_create=Connection, on_destroy=Connection.close, worker_count=1, logger=logger)
    for collector in collectors:
        Config(
            on_create=Connection, on_destroy=Connection.close, worker_count=1, collector=collector
        )


def config_from_a_context_manager(m: TaskManager[Connection]) -> None:
    config = Config.from_context_manager(connected, worker_count=1)
    assert_type(config, Config[Connection])
    with TaskManager(config) as other:
        assert_type(other.queue_task(ping), int)


def config_from_other_context_managers(m: TaskManager[Connection]) -> None:
    assert_type(
        Config.from_context_manager(connected, worker_count=1, max_retries=0), Config[Connection]
    )
    assert_type(
        Config.from_context_manager(Session, worker_count=1, logger=Lines()), Config[Session]
    )
    assert_type(
        Config.from_context_manager(lambda: closing(Connection()), worker_count=1),
        Config[Connection],
    )
    assert_type(
        Config.from_context_manager(lambda: io.StringIO("text"), worker_count=1),
        Config[io.StringIO],
    )


def is_whole(error: Exception, db: Connection) -> bool:
    return db.ping() == 1


def is_fatal(error: Exception, kind: type[Exception] = OSError) -> bool:
    return isinstance(error, kind)


def checks_that_take_the_resource(m: TaskManager[Connection]) -> None:
    config = Config(
        on_create=Connection,
        on_destroy=Connection.close,
        worker_count=1,
        check_health=lambda error, db: not isinstance(error, OSError) and db.ping() == 1,
    )
    assert_type(config, Config[Connection])
    config = Config(
        on_create=Connection,
        on_destroy=lambda db: db.close(),
        worker_count=1,
        check_health=is_whole,
    )
    assert_type(config, Config[Connection])
    config = Config(
        on_create=Connection, on_destroy=Connection.close, worker_count=1, check_health=is_fatal
    )
    assert_type(config, Config[Connection])
    # mypy infers the resource from such a lambda alone, so it is to be named where nothing else has a type
    config = Config[Connection](
        on_create=lambda: Connection(),
        on_destroy=lambda db: db.close(),
        worker_count=1,
        check_health=lambda error, db: db.ping() == 1,
    )
    assert_type(
        Config.from_context_manager(connected, worker_count=1, check_health=is_whole),
        Config[Connection],
    )
    entered: Config[Connection] = Config.from_context_manager(
        connected, worker_count=1, check_health=lambda error, db: db.ping() == 1
    )
    for each in (config, entered):
        with TaskManager(each) as other:
            assert_type(other.queue_task(ping), int)


def verdicts(m: TaskManager[Connection]) -> None:
    assert_type(unhealthy_on(OSError, sqlite3.Error)(OSError()), bool)
    verdict: Callable[[Exception], bool] = unhealthy_on(ConnectionError)
    kinds: tuple[type[Exception], ...] = (ValueError, KeyError)
    assert verdict(ValueError())
    assert not unhealthy_on(*kinds)(KeyError())


def a_resource_knows_its_slot() -> None:
    assert_type(
        Config(on_create=connect_in, on_destroy=Connection.close, worker_count=1),
        Config[Connection],
    )
    assert_type(
        Config(on_create=Numbered, on_destroy=Numbered.close, worker_count=1), Config[Numbered]
    )
    by_lambda = Config(
        on_create=lambda slot: Numbered(slot), on_destroy=Numbered.close, worker_count=1
    )
    assert_type(by_lambda, Config[Numbered])
    assert_type(Config.from_context_manager(connected_in, worker_count=1), Config[Connection])
    assert_type(current_slot(), Slot)
    assert_type(current_slot().reason == "call", bool)
