# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: B018, F841
"""Programs with `map` and `amap` that both type checkers must reject; see `wrong.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from tasker import Context, TaskManager, TaskStream


class Connection:
    def ping(self) -> int:
        return 1

    def fetch(self, query: str, limit: int = 10) -> list[str]:
        return [query][:limit]


class Browser:
    def quit(self, number: int) -> None:
        pass


def ping(db: Connection) -> int:
    return db.ping()


def double(db: Connection, number: int) -> int:
    return 2 * number


def add(db: Connection, left: int, right: int) -> int:
    return left + right


def browse(browser: Browser, number: int) -> None:
    pass


def watch(ctx: Context, db: Connection, number: int) -> bool:
    return ctx.stopping()


def watch_nothing(ctx: Context, db: Connection) -> bool:
    return ctx.stopping()


def context_last(db: Connection, number: int, ctx: Context) -> None:
    pass


def needs_keyword(db: Connection, number: int, *, limit: int) -> int:
    return limit


async def texts() -> AsyncIterator[str]:
    yield "a"


def maps(m: TaskManager[Connection]) -> None:
    # the resource
    m.map(browse, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(Browser.quit, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(lambda db, number: db.quit(number), [1])  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.map(lambda ctx, db, number: db.quit(number), [1])  # type: ignore[arg-type, misc]  # pyright: ignore[reportAttributeAccessIssue]
    # the items
    m.map(double, ["one"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, [1, None])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(watch, ["one"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(Connection.fetch, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, {"one": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, ping)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, texts())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(lambda db, number: number.upper(), [1])  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.map(double)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.map(double, [1], [2])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.map([1], double)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # the number of arguments
    m.map(ping, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(add, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(add, [(1, 2)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(watch_nothing, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(context_last, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(needs_keyword, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(lambda db: db.ping(), [1])  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue, reportCallIssue]
    m.map(lambda a, b, c, d: 1, [1])  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # no function at all
    m.map("double", [1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(None, [1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # the options
    m.map(double, [1], timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, [1], max_in_flight=2.5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, [1], ordered="no")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, [1], chunksize=None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, [1], return_exceptions=None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.map(double, [1], queue_timeout=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.map(double, [1], buffersize=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.map(double, [1], 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def results(m: TaskManager[Connection]) -> None:
    listed: list[int] = m.map(double, [1])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    stream: TaskStream[str] = m.map(double, [1])  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    iterator: Iterator[str] = m.map(watch, [1])  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    texts: list[str] = list(m.map(double, [1]))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    numbers: list[int] = list(m.map(double, [1], return_exceptions=True))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    m.map(double, [1])[0]  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    m.map(double, [1]).result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.map(double, [1]).send(None)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    next(m.map(double, [1])).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    next(m.map(double, [1], return_exceptions=True)).real  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
    ",".join(m.map(double, [1]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    TaskStream()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def async_maps(m: TaskManager[Connection]) -> None:
    m.amap(browse, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(lambda db, number: db.quit(number), [1])  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    m.amap(double, ["one"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(double, texts())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(watch, texts())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(double, texts)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(double, 3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(ping, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(add, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(double)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.amap(double, [1], timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    m.amap(double, [1], queue_timeout=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    m.amap(double, [1], return_exceptions=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    list(m.amap(double, [1]))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await m.amap(double, [1])  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    len(m.amap(double, [1]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    numbers: list[int] = [n async for n in m.amap(double, [1], return_exceptions=True)]  # type: ignore[misc]  # pyright: ignore[reportAssignmentType]
    names: list[str] = [n async for n in m.amap(double, [1])]  # type: ignore[misc]  # pyright: ignore[reportAssignmentType]
    asynchronous: AsyncIterator[str] = m.amap(double, [1])  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    with m.amap(double, [1]):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
