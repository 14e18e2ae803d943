# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: F841
"""Programs with executors, and with what a task sees of itself, that both checkers must reject; see `wrong.py`."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

from tasker import Config, Context, TaskManager, ThreadPoolExecutor, current_context


class Connection:
    def ping(self) -> int:
        return 1


class Browser:
    def quit(self) -> None:
        pass


def answer() -> int:
    return 42


def power(base: int, exponent: int = 2, *, scale: float = 1.0) -> float:
    return scale * float(base) ** exponent


def ping(db: Connection) -> int:
    return db.ping()


def views(m: TaskManager[Connection]) -> None:
    # the arguments
    m.executor(timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().submit(answer, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit(power)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit(power, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().submit(power, 3, 4, 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit(power, 3, scale="large")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().submit(power, 3, size=4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit(power, 3, timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit(ping)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit(ping, Browser())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().submit(lambda db: 1)  # type: ignore[arg-type, misc]  # pyright: ignore[reportCallIssue]
    # no call at all
    m.executor().submit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().submit("answer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.executor().submit(answer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # the result
    text: str = m.executor().submit(answer).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    future: concurrent.futures.Future[str] = m.executor().submit(answer)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    m.executor().submit(answer).result().upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    # the rest
    m.executor().map(power, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().map(power, [1], chunksize="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().map(power, [1], timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().map(power, [1], ordered=False)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    texts: list[str] = list(m.executor().map(power, [1]))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    m.executor().shutdown("now")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    m.executor().shutdown(True, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.executor().stats()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.executor(4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def drop_ins() -> None:
    ThreadPoolExecutor("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor(workers=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor(4, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor(initializer=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor(initializer=answer, initargs=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor().submit(power)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ThreadPoolExecutor().submit(power, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor().submit(power, 3, priority=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ThreadPoolExecutor().submit(answer).result().upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    ThreadPoolExecutor().map(power, [1], buffersize="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPoolExecutor().shutdown(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ThreadPoolExecutor().stats()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    processes: concurrent.futures.ProcessPoolExecutor = ThreadPoolExecutor()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def inside_of_tasks(m: TaskManager[Connection]) -> None:
    browser: Browser = m.current_resource()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    m.current_resource().quit()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.current_resource(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    current_context(m)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    current_context().quit()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    name: str = current_context()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    maybe: Callable[[], Context] = m.current_resource  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    number: int = current_context().remaining()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def configs(c: Callable[[], Connection], d: Callable[[Connection], None]) -> None:
    Config(on_create=c, on_destroy=d, worker_count=1, propagate_contextvars="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, propagate_contextvars=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Config(on_create=c, on_destroy=d, worker_count=1, propagate_context=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
