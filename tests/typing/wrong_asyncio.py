# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: F841
"""Programs in asyncio that both type checkers must reject; see `wrong.py`."""

from __future__ import annotations

from tasker import Config, Context, TaskFuture, TaskManager


class Connection:
    def ping(self) -> int:
        return 1

    def fetch(self, query: str, limit: int = 10) -> list[str]:
        return [query][:limit]


class Browser:
    def quit(self) -> None:
        pass


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


async def asubmits(m: TaskManager[Connection]) -> None:
    # the resource
    await m.asubmit(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(Browser.quit)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(lambda db: db.quit())  # type: ignore[attr-defined, call-arg]  # pyright: ignore[reportAttributeAccessIssue]
    # the arguments
    await m.asubmit(ping, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(add)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(add, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(add, 1, "2")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(add, 1, 2, 3)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(watch, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(watch_for)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(watch_for, "soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(Connection.fetch, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(context_last)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(needs_keyword)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(lambda: 1)  # type: ignore[arg-type, call-arg, misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # keywords are tasker's, not the task's
    await m.asubmit(add, left=1, right=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await m.asubmit(fn=ping)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    # no task at all
    await m.asubmit()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await m.asubmit("ping")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(ping(Connection()))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # the options
    await m.asubmit(ping, timeout="5")  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(ping, priority="high")  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(ping, queue_timeout=[1])  # type: ignore[call-arg, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.asubmit(ping, retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await m.asubmit(ping, max_in_flight=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def results(m: TaskManager[Connection]) -> None:
    text: str = await m.asubmit(ping)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    flag: str = await m.asubmit(watch)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    future: TaskFuture[int] = await m.asubmit(ping)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    (await m.asubmit(ping)).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    number: int = m.asubmit(ping)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    m.asubmit(ping).result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    name: str = await m.queue_task_async(ping)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAssignmentType]
    (await m.queue_task_async(ping)).upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def managers(m: TaskManager[Connection], config: Config[Connection]) -> None:
    async with config:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with m.executor():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with m.queue_task_async(ping):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    await (await m.__aenter__()).asubmit(browse)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await m.stop()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    await m.join()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    await TaskManager(config)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
