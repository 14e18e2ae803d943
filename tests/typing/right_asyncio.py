"""Programs in asyncio that both type checkers must accept; see `right.py`. `amap` is in `right_map.py`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar, assert_type, overload

from tasker import Config, Context, TaskFuture, TaskManager, TaskTimeoutError, background

P = ParamSpec("P")
T = TypeVar("T")


class Base:
    def name(self) -> str:
        return type(self).__name__


class Connection(Base):
    """The resource of these programs."""

    def ping(self) -> int:
        return 1

    def fetch(self, query: str, limit: int = 10) -> list[str]:
        return [query][:limit]

    def close(self) -> None:
        pass


class Row(NamedTuple):
    number: int
    text: str


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, db: Connection) -> int:
        return self.factor * db.ping()

    def times(self, db: Connection, number: int) -> int:
        return self.factor * number * db.ping()

    def until_done(self, ctx: Context, db: Connection, seconds: float) -> bool:
        return ctx.wait(seconds)


def ping(db: Connection) -> int:
    return db.ping()


def nothing(db: Connection) -> None:
    pass


def of_base(db: Base) -> str:
    return db.name()


def fetch(db: Connection, query: str, limit: int = 10) -> list[str]:
    return db.fetch(query, limit)


def row(db: Connection, number: int, text: str) -> Row:
    return Row(number, text)


def first(db: Connection, items: list[T]) -> T:
    return items[0]


def watch(ctx: Context, db: Connection) -> bool:
    return ctx.stopping()


def watch_row(ctx: Context, db: Connection, number: int, text: str) -> Row:
    ctx.raise_if_done()
    return Row(number, text)


@overload
def either(db: Connection) -> int: ...
@overload
def either(db: Connection, text: str) -> str: ...
def either(db: Connection, text: str | None = None) -> int | str:
    return db.ping() if text is None else text


def logged(fn: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)

    return wrapper


@logged
def decorated(db: Connection, number: int) -> str:
    return str(number)


@contextmanager
def connected() -> Generator[Connection, None, None]:
    yield Connection()


# -- asubmit ---------------------------------------------------------------------------------------------------------


def functions(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(await m.asubmit(ping), int)
        assert_type(await m.asubmit(nothing), None)
        assert_type(await m.asubmit(of_base), str)
        assert_type(await m.asubmit(repr), str)
        assert_type(await m.asubmit(row, 1, "one"), Row)
        assert_type(await m.asubmit(fetch, "select"), list[str])
        assert_type(await m.asubmit(fetch, "select", 3), list[str])
        assert_type(await m.asubmit(first, [1, 2]), int)
        assert_type(await m.asubmit(either), int)
        assert_type(await m.asubmit(decorated, 3), str)

    return main()


def functions_with_a_context(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(await m.asubmit(watch), bool)
        assert_type(await m.asubmit(watch_row, 1, "one"), Row)
        assert_type(await m.asubmit(Multiplier(2).until_done, 0), bool)
        assert_type(await m.asubmit(lambda ctx, db: (ctx.err(), db.ping())[1]), int)
        assert_type(await m.asubmit(lambda ctx, db, n: (ctx.err(), db.ping() + n)[1], 2), int)

    return main()


def other_callables(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(await m.asubmit(lambda db: db.ping()), int)
        assert_type(await m.asubmit(lambda db, number: db.ping() + number, 7), int)
        assert_type(await m.asubmit(Connection.fetch, "select"), list[str])
        assert_type(await m.asubmit(Multiplier(2).times, 3), int)
        assert_type(await m.asubmit(Multiplier(2)), int)
        assert_type(await m.asubmit(functools.partial(fetch, limit=2), "select"), list[str])

    return main()


def options(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(
            await m.asubmit(ping, priority=True, once=True, timeout=30, queue_timeout=0.5), int
        )
        assert_type(await m.asubmit(watch, timeout=None, queue_timeout=None), bool)
        assert_type(await m.asubmit(row, 1, "one", once=True, timeout=30.0), Row)
        assert_type(await m.asubmit(row, 1, "one", run_timeout=30, ctx=background()), Row)
        assert_type(await m.asubmit(watch_row, 1, "one", priority=False, queue_timeout=0), Row)

    return main()


def together(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        number, text = await asyncio.gather(m.asubmit(ping), m.asubmit(of_base))
        assert_type(number, int)
        assert_type(text, str)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(m.asubmit(row, n, "text")) for n in range(3)]
        assert_type([task.result() for task in tasks], list[Row])
        assert_type(await asyncio.wait_for(m.asubmit(ping), 30), int)

    return main()


def handed_on(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def run(manager: TaskManager[Connection], work: Callable[[Connection], T]) -> T:
        return await manager.asubmit(work)

    async def main() -> None:
        assert_type(await run(m, ping), int)

    return main()


# -- futures ---------------------------------------------------------------------------------------------------------


def futures_that_are_awaited(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(await m.queue_task_async(ping), int)
        assert_type(await m.queue_task_once_async(watch), bool)
        assert_type(await m.queue_task_with_priority_async(row, 1, "one"), Row)
        assert_type(
            await m.queue_task_with_priority_once_async(watch_row, 1, "one", timeout=30), Row
        )
        assert_type(await m.queue_task_async(lambda db: db.ping()), int)
        future = m.queue_task_async(fetch, "select")
        assert_type(future, TaskFuture[list[str]])
        assert_type(await future, list[str])
        assert_type(await asyncio.gather(*[m.queue_task_async(ping) for _ in range(3)]), list[int])
        try:
            await m.queue_task_async(ping, timeout=30)
        except TaskTimeoutError as error:
            assert_type(error, TaskTimeoutError)

    return main()


# -- managers --------------------------------------------------------------------------------------------------------


def manager_as_an_async_context_manager(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        async with TaskManager(
            Config(on_create=Connection, on_destroy=Connection.close, worker_count=1)
        ) as other:
            assert_type(other, TaskManager[Connection])
            assert_type(await other.asubmit(ping), int)
        async with TaskManager(Config.from_context_manager(connected, worker_count=1)) as other:
            assert_type(other, TaskManager[Connection])

    return main()


def manager_on_a_stack(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        config = Config(on_create=Connection, on_destroy=Connection.close, worker_count=1)
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(TaskManager(config))
            assert_type(other, TaskManager[Connection])
            assert_type(await other.queue_task_async(ping), int)

    return main()
