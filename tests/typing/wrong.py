# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: B018, F841
"""Programs that both type checkers must reject: one statement a line, never run.

Each line names the error that each checker reports. An ignore that is not needed is itself an error (mypy's
`--warn-unused-ignores`, pyright's `reportUnnecessaryTypeIgnoreComment`), so a wrong program that is accepted fails.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator

from tasker import (
    Config,
    Context,
    Logger,
    MetricsCollector,
    Slot,
    TaskFuture,
    TaskLifecycleTimestamps,
    TaskManager,
    TaskMetrics,
    TaskStats,
    background,
    current_slot,
    unhealthy_on,
    with_cancel,
    with_deadline,
    with_timeout,
    with_value,
)


class Connection:
    def ping(self) -> int:
        return 1

    def fetch(self, query: str, limit: int = 10) -> list[str]:
        return [query][:limit]

    def close(self) -> None:
        pass


class Connections:
    def __enter__(self) -> Connection:
        return Connection()

    def __exit__(self, *_: object) -> None:
        pass


class Browser:
    def quit(self) -> None:
        pass


def of_name(name: str) -> Connection:
    return Connection()


def of_two(slot: Slot, name: str) -> Connection:
    return Connection()


def is_open(error: Exception, browser: Browser) -> bool:
    return True


def ping(db: Connection) -> int:
    return db.ping()


def add(db: Connection, left: int, right: int) -> int:
    return left + right


def browse(browser: Browser) -> None:
    pass


def watch(ctx: Context, db: Connection) -> bool:
    return ctx.stopping()


def watch_for(ctx: Context, db: Connection, seconds: float) -> bool:
    return ctx.wait(seconds)


def context_last(db: Connection, ctx: Context) -> None:
    pass


def needs_keyword(db: Connection, *, limit: int) -> int:
    return limit


def on_int(result: int | None, error: BaseException | None) -> None:
    pass


def on_bare_int(result: int, error: BaseException | None) -> None:
    pass


def on_str(result: str | None, error: BaseException | None) -> None:
    pass


def on_result_alone(result: int | None) -> None:
    pass


def on_str_future(future: concurrent.futures.Future[str]) -> None:
    pass


def connections() -> Iterator[Connection]:
    yield Connection()


def tasks(m: TaskManager[Connection]) -> None:
    # the resource
    m.queue_task(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(Browser.quit)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(lambda db: db.quit())  # type: ignore[attr-defined, call-arg]  # pyright: ignore[reportAttributeAccessIssue]
    m.queue_task(lambda ctx, db: db.quit())  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportAttributeAccessIssue]
    m.queue_task(lambda db, number: db.quit(number), 1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    # the number of arguments
    m.queue_task(lambda: 1)  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(lambda a, b, c: 1)  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(ping, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(add)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(add, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(add, 1, 2, 3)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(watch, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(watch_for)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(Connection.fetch)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(Connection.fetch, "select", 1, 2)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(needs_keyword)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # the types of arguments
    m.queue_task(add, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(watch_for, "soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(Connection.fetch, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(context_last)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(context_last, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # keywords are tasker's, not the task's
    m.queue_task(add, left=1, right=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.queue_task(fn=ping)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    # no task at all
    m.queue_task()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.queue_task("ping")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(ping(Connection()))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # the options
    m.queue_task(ping, timeout="5")  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(ping, timout=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.queue_task(ping, priority=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.queue_task_async(ping, once=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.run_task(ping, timeout=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.submit(ping, priority="high")  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.submit(ping, run_timeout="5")  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.submit(ping, ctx=5)  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.submit(ping, queue_timeout=[1])  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.submit(ping, retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def every_method(m: TaskManager[Connection]) -> None:
    m.submit(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.run_task(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_async(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(browse, on_int)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_once(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_once_async(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_once_with_callback(browse, on_int)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_priority(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_priority_async(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_priority_with_callback(browse, on_int)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_priority_once(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_priority_once_async(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_priority_once_with_callback(browse, on_int)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.submit(add, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.run_task(add, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_once(add, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_async(add, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(add, on_int, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]


def results(m: TaskManager[Connection]) -> None:
    text: str = m.queue_task(ping)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    flag: str = m.run_task(watch)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    number: int = m.submit(ping)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    future: TaskFuture[str] = m.submit(ping)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    standard: concurrent.futures.Future[str] = m.submit(ping)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    m.submit(ping).result().upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.submit(ping).result(timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.submit(ping).add_done_callback(on_str_future)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.submit(ping).attempt  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.queue_task(lambda db: db.ping()).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.queue_task_async(lambda ctx, db: db.ping()).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.queue_task_with_callback(ping, on_int).result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    [future.result().upper() for future in [m.submit(ping)]]  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def awaited(m: TaskManager[Connection]) -> None:
    text: str = await m.submit(ping)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    await m.queue_task(ping)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    await m.queue_task_with_callback(ping, on_int)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def callbacks(m: TaskManager[Connection]) -> None:
    m.queue_task_with_callback(ping)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.queue_task_with_callback(on_int, ping)  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(ping, on_str)  # type: ignore[call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(ping, on_bare_int)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(ping, on_result_alone)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(ping, lambda result: None)  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.queue_task_with_callback(ping, callback=on_int)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.queue_task_with_callback(ping, lambda result, error: result.upper())  # type: ignore[call-arg, union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    m.queue_task_with_priority_once_with_callback(watch, on_str)  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]


class NoError:
    def debug(self, msg: str, /, *args: object) -> None: ...
    def info(self, msg: str, /, *args: object) -> None: ...
    def warning(self, msg: str, /, *args: object) -> None: ...


class NoArguments(NoError):
    def error(self, msg: str, /) -> None: ...


class NoRetries:
    def record_arrival(self) -> None: ...
    def record_completion(self, stamps: TaskLifecycleTimestamps) -> None: ...
    def record_failure(self, stamps: TaskLifecycleTimestamps) -> None: ...
    def metrics(self) -> None: ...


class WrongFigures:
    def record_arrival(self) -> None: ...
    def record_completion(self, stamps: TaskLifecycleTimestamps) -> None: ...
    def record_failure(self, stamps: TaskLifecycleTimestamps) -> None: ...
    def record_retry(self) -> None: ...
    def metrics(self) -> dict[str, float]:
        return {}


def configs(
    c: Callable[[], Connection], d: Callable[[Connection], None], config: Config[Connection]
) -> None:
    Config(c, d, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config(on_create=c, on_destroy=d)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config(on_create=c, worker_count=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config(on_create=c, on_destroy=Browser.quit, worker_count=1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Config(on_create=Connection(), on_destroy=d, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=lambda: None, worker_count=1)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    Config(on_create=of_name, on_destroy=d, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=of_two, on_destroy=d, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    index: str = current_slot().index  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    current_slot(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    current_slot().index = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Config(on_create=c, on_destroy=d, worker_count="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, workers=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config(on_create=c, on_destroy=d, worker_count=1, check_health=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, check_health=lambda: True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, check_health=lambda error, db, more: True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, check_health=is_open)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Config.from_context_manager(Connections, worker_count=1, check_health=is_open)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, burst_interval="0.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, max_retries=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, ctx=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, logger=NoError())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, logger=NoArguments())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, logger=print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, collector=NoRetries())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, collector=WrongFigures())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config[Browser](on_create=c, on_destroy=d, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    config.worker_count = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    other: Config[Browser] = config  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    Config.from_context_manager(c, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config.from_context_manager(Connections(), worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config.from_context_manager(connections, worker_count=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config.from_context_manager(Connections)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config.from_context_manager(Connections, worker_count=1, workers=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Config.from_context_manager(Connections, worker_count=1, max_retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config.from_context_manager(Connections, worker_count=1, on_create=c)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def managers(m: TaskManager[Connection], config: Config[Connection]) -> None:
    TaskManager()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    TaskManager(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TaskManager(config, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    other: TaskManager[Browser] = TaskManager(config)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    m.stop("now")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.kill(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.stop().undrained  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.closed = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    m.stats().running_tasks = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    m.metrics().p50_execution_time  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.start()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    TaskStats(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def contexts(ctx: Context) -> None:
    with_timeout(5)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    with_timeout(ctx, "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_deadline(ctx, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_cancel()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with_cancel(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_value(ctx, "key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.cancel("reason")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.cancel(ValueError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.remaining() + 1  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand, reportUnusedExpression]
    ctx.on_done(lambda error: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    ctx.on_done()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    background().value("user").name  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def verdicts() -> None:
    unhealthy_on("OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unhealthy_on(OSError())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unhealthy_on([OSError])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unhealthy_on(OSError, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


logger: Logger = NoError()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
collector: MetricsCollector = NoRetries()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
metrics = TaskMetrics(total_tasks_arrived="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
