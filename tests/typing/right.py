"""Programs that both type checkers must accept, with the types that they must see.

`tests/project/test_typing.py` has the checkers read this file, and runs every function of it whose only parameter is
`m`, so that what the types promise is what happens: whether a context comes first is decided by the overloads and at
run time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import (
    Any,
    Generic,
    NamedTuple,
    Never,
    ParamSpec,
    Protocol,
    TypeVar,
    assert_type,
    overload,
)

from tasker import (
    Config,
    Context,
    ContextCancelledError,
    DeadlineExceededError,
    QueueFullError,
    ResourceCreationError,
    StopReport,
    TaskerError,
    TaskFuture,
    TaskManager,
    TaskManagerShutdownError,
    TaskMetrics,
    TaskStats,
    TaskTimeoutError,
    background,
    with_cancel,
    with_deadline,
    with_timeout,
    with_value,
)

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


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


class Row(NamedTuple):
    number: int
    text: str


class Report:
    """A class as a task: constructing it is the work."""

    def __init__(self, db: Connection, title: str = "untitled") -> None:
        self.pings = db.ping()
        self.title = title


class Multiplier:
    """A callable object, and the owner of bound methods."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, db: Connection) -> int:
        return self.factor * db.ping()

    def times(self, db: Connection, number: int) -> int:
        return self.factor * number * db.ping()

    def until_done(self, ctx: Context, db: Connection) -> bool:
        return ctx.cancelled()

    def until_done_times(self, ctx: Context, db: Connection, number: float) -> float:
        return self.factor * number

    @classmethod
    def of_class(cls, db: Connection) -> str:
        return cls.__name__

    @staticmethod
    def of_nobody(db: Connection, text: str) -> str:
        return text


class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content

    def get(self, db: Connection) -> T:
        return self.content


def ping(db: Connection) -> int:
    return db.ping()


def nothing(db: Connection) -> None:
    pass


def of_base(db: Base) -> str:
    return db.name()


def of_anything(thing: object) -> str:
    return repr(thing)


def fetch(db: Connection, query: str, limit: int = 10) -> list[str]:
    return db.fetch(query, limit)


def with_keyword(db: Connection, *, limit: int = 3) -> int:
    return limit


def with_many(db: Connection, *numbers: int) -> int:
    return sum(numbers)


def maybe(db: Connection, number: int) -> str | None:
    return str(number) if number else None


def row(db: Connection, number: int, text: str) -> Row:
    return Row(number, text)


def never(db: Connection) -> Never:
    raise LookupError("nothing")


def first(db: Connection, items: list[T]) -> T:
    return items[0]


def pair(db: Connection, left: T, right: U) -> tuple[T, U]:
    return left, right


def watch(ctx: Context, db: Connection) -> bool:
    return ctx.stopping()


def watch_for(ctx: Context, db: Connection, seconds: float) -> bool:
    return ctx.wait(seconds)


def watch_row(ctx: Context, db: Connection, number: int, text: str) -> Row:
    ctx.raise_if_done()
    return Row(number, text)


def watch_with_default(ctx: Context, db: Connection, number: int = 7) -> int:
    return number


def watch_annotated(c: Context, db: Connection) -> bool:
    return c.cancelled()


def resource_called_context(context: Connection, query: str = "select") -> list[str]:
    return context.execute(query)


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


def listed(fn: Callable[P, T]) -> Callable[P, list[T]]:
    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [fn(*args, **kwargs)]

    return wrapper


@logged
def decorated(db: Connection, number: int) -> str:
    return str(number)


@listed
@logged
def decorated_twice(db: Connection) -> int:
    return db.ping()


@logged
def decorated_watch(ctx: Context, db: Connection) -> bool:
    return ctx.cancelled()


class Query(Protocol):
    def __call__(self, db: Connection, /) -> int: ...


# -- functions -------------------------------------------------------------------------------------------------------


def function(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(ping), int)


def function_without_result(m: TaskManager[Connection]) -> None:
    assert_type(m.submit(nothing), TaskFuture[None])


def function_of_a_base_class(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(of_base), str)


def function_of_anything(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(of_anything), str)


def builtin_function(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(repr), str)
    assert_type(m.queue_task(id), int)


def function_with_arguments(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(row, 1, "one"), Row)


def function_with_a_default_that_is_given(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(fetch, "select", 3), list[str])


def function_with_a_default_that_is_not_given(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(fetch, "select"), list[str])


def function_with_a_keyword_that_has_a_default(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(with_keyword), int)


def function_with_any_number_of_arguments(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(with_many), int)
    assert_type(m.queue_task(with_many, 1, 2, 3), int)


def function_with_an_optional_result(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(maybe, 0), str | None)


def function_that_never_returns(m: TaskManager[Connection]) -> None:
    future = m.submit(never)
    assert isinstance(future.exception(), LookupError)


def generic_function(m: TaskManager[Connection]) -> None:
    words = ["a", "b"]
    assert_type(m.queue_task(first, words), str)


def function_generic_in_two_types(m: TaskManager[Connection]) -> None:
    number, text = 1, "one"
    assert_type(m.queue_task(pair, number, text), tuple[int, str])


def overloaded_function(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(either), int)
    future: TaskFuture[str] = m.submit(either, "text")
    assert future.result() == "text"


def integer_for_a_float(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(watch_for, 0), bool)


# -- functions that take a context first -----------------------------------------------------------------------------


def context_first(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(watch), bool)


def context_first_with_an_argument(m: TaskManager[Connection]) -> None:
    assert_type(m.submit(watch_for, 0.0), TaskFuture[bool])


def context_first_with_arguments(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(watch_row, 1, "one"), Row)


def context_first_with_a_default(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(watch_with_default), int)


def context_first_by_its_annotation(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(watch_annotated), bool)


def resource_first_whatever_it_is_called(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(resource_called_context), list[str])
    assert_type(m.queue_task(resource_called_context, "insert"), list[str])


def context_first_in_a_lambda(m: TaskManager[Connection]) -> None:
    assert_type(
        m.queue_task(lambda ctx, db: (ctx.remaining(), db.ping())), tuple[float | None, int]
    )


def context_first_in_a_lambda_with_an_argument(m: TaskManager[Connection]) -> None:
    assert_type(
        m.submit(lambda ctx, db, number: (ctx.err(), db.ping() + number)[1], 2), TaskFuture[int]
    )


def context_first_in_a_bound_method(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Multiplier(2).until_done), bool)


def context_first_in_a_bound_method_with_an_argument(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Multiplier(2).until_done_times, 1.5), float)


def context_first_in_a_decorated_function(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(decorated_watch), bool)


# -- lambdas ---------------------------------------------------------------------------------------------------------


def lambda_of_the_resource(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(lambda db: db.ping()), int)


def lambda_that_calls_with_arguments(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(lambda db: db.execute("select", 1)), list[str])


def lambda_with_an_argument(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(lambda db, number: db.ping() + number, 7), int)


def lambda_with_arguments(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(lambda db, number, text: Row(number, text), 7, "seven"), Row)


def lambda_with_a_closure(m: TaskManager[Connection]) -> None:
    limit = 3
    assert_type(m.submit(lambda db: db.fetch("select", limit)), TaskFuture[list[str]])


# -- methods and other callables -------------------------------------------------------------------------------------


def method_of_the_resource(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Connection.ping), int)


def method_of_the_resource_with_arguments(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Connection.execute, "select", 1, 2.0), list[str])


def method_of_the_resource_with_a_default(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Connection.fetch, "select"), list[str])
    assert_type(m.queue_task(Connection.fetch, "select", 2), list[str])


def bound_method(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Multiplier(2).times, 3), int)


def bound_method_of_a_generic_object(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Box("content").get), str)


def class_method(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Multiplier.of_class), str)


def static_method(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Multiplier.of_nobody, "text"), str)


def callable_object(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Multiplier(3)), int)


def class_as_a_callable(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(Report), Report)
    assert_type(m.queue_task(Report, "title"), Report)


def partial_of_a_function(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(functools.partial(fetch, query="select", limit=2)), list[str])


def partial_with_an_argument(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(functools.partial(fetch, limit=2), "select"), list[str])


def decorated_function(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(decorated, 3), str)


def function_decorated_twice(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(decorated_twice), list[int])


def function_in_a_variable(m: TaskManager[Connection]) -> None:
    work: Callable[[Connection], int] = ping
    assert_type(m.queue_task(work), int)


def function_of_a_protocol(m: TaskManager[Connection]) -> None:
    def run(work: Query) -> int:
        return m.queue_task(work)

    assert_type(run(ping), int)


def function_handed_on(m: TaskManager[Connection]) -> None:
    def run(work: Callable[[Connection], T]) -> T:
        return m.queue_task(work)

    assert_type(run(ping), int)


def untyped_callable(m: TaskManager[Connection]) -> None:
    work: Any = ping
    m.queue_task(work)
    m.submit(work, timeout=5).result()


# -- the ways of submitting ------------------------------------------------------------------------------------------


def submit_with_every_option(m: TaskManager[Connection]) -> None:
    assert_type(
        m.submit(ping, priority=True, once=True, timeout=5, queue_timeout=0.5), TaskFuture[int]
    )
    assert_type(m.submit(watch, priority=True, timeout=None, queue_timeout=None), TaskFuture[bool])
    assert_type(m.submit(row, 1, "one", once=True, timeout=5.0), TaskFuture[Row])
    assert_type(m.submit(row, 1, "one", run_timeout=5, ctx=background()), TaskFuture[Row])
    assert_type(m.submit(watch, run_timeout=None, ctx=None), TaskFuture[bool])
    minute = timedelta(minutes=1)
    assert_type(
        m.submit(ping, timeout=minute, run_timeout=minute, queue_timeout=minute), TaskFuture[int]
    )
    assert_type(m.run_task(ping, queue_timeout=minute), int)
    assert_type(m.queue_task_async(ping, timeout=minute).result(minute), int)
    assert_type(with_timeout(background(), minute).wait(minute), bool)
    assert_type(m.join(minute), bool)
    assert_type(m.wait_ready(minute), bool)
    assert_type(m.submit(watch_row, 1, "one", priority=False, queue_timeout=0), TaskFuture[Row])


def blocking_methods(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task(ping, timeout=5), int)
    assert_type(m.queue_task(ping, run_timeout=5, ctx=background()), int)
    assert_type(m.queue_task_once(watch, timeout=5.0, queue_timeout=1), bool)
    assert_type(m.queue_task_with_priority(row, 1, "one", timeout=5), Row)
    assert_type(m.queue_task_with_priority_once(watch_row, 1, "one", queue_timeout=1), Row)
    assert_type(m.queue_task_with_priority(lambda db, low: db.ping() + low, 7), int)


def async_methods(m: TaskManager[Connection]) -> None:
    assert_type(m.queue_task_async(ping, timeout=5), TaskFuture[int])
    assert_type(m.queue_task_async(ping, run_timeout=5, ctx=background()), TaskFuture[int])
    assert_type(m.queue_task_once_async(watch, timeout=5.0, queue_timeout=1), TaskFuture[bool])
    assert_type(m.queue_task_with_priority_async(row, 1, "one", timeout=5), TaskFuture[Row])
    assert_type(
        m.queue_task_with_priority_once_async(watch_row, 1, "one", queue_timeout=1), TaskFuture[Row]
    )
    assert_type(
        m.queue_task_async(lambda ctx, db: ctx.stopping() and db.ping() > 0, timeout=30),
        TaskFuture[bool],
    )


def callback_methods(m: TaskManager[Connection]) -> None:
    def on_int(result: int | None, error: BaseException | None) -> None:
        assert (result, error) == (1, None)

    def on_bool(result: bool | None, error: BaseException | None) -> str:
        return "a callback may return what it likes"

    def on_row(result: Row | None, error: BaseException | None, note: str = "") -> None:
        assert result is not None
        assert result.number == 1

    def on_anything(result: object, error: object) -> None:
        assert error is None

    m.queue_task_with_callback(ping, on_int, timeout=5)
    m.queue_task_with_callback(ping, on_int, run_timeout=5, ctx=background())
    m.queue_task_once_with_callback(watch, on_bool, timeout=5.0, queue_timeout=1)
    m.queue_task_with_priority_with_callback(row, on_row, 1, "one", timeout=5)
    m.queue_task_with_priority_once_with_callback(watch_row, on_row, 1, "one", queue_timeout=1)
    m.queue_task_with_callback(ping, on_anything)
    m.queue_task_with_callback(lambda db: db.ping(), on_int)
    m.queue_task_with_callback(lambda ctx, db: ctx.stopping() or db.ping() > 9, on_bool)
    m.queue_task_with_callback(lambda db, number: Row(number, db.name()), on_row, 1)
    assert m.join(30)


def callback_as_a_lambda(m: TaskManager[Connection]) -> None:
    results: list[int | None] = []
    m.queue_task_with_callback(ping, lambda result, error: results.append(result))
    m.queue_task_with_callback(lambda db: db.ping(), lambda result, error: results.append(result))
    m.queue_task_with_callback(nothing, lambda result, error: print(end=str(error or "")))
    assert m.join(30)
    assert results == [1, 1]


def run_task(m: TaskManager[Connection]) -> None:
    assert_type(m.run_task(ping), int)
    assert_type(m.run_task(watch), bool)
    assert_type(m.run_task(row, 1, "one"), Row)
    assert_type(m.run_task(row, 1, "one", queue_timeout=1), Row)
    assert_type(m.run_task(watch_row, 1, "one"), Row)
    assert_type(m.run_task(lambda db: db.ping()), int)
    assert_type(m.run_task(lambda ctx, db: (ctx.err(), db.ping())[1]), int)
    assert_type(m.run_task(lambda db, number: db.ping() + number, 2), int)


def method_in_a_variable(m: TaskManager[Connection]) -> None:
    run = m.queue_task
    assert_type(run(ping), int)
    assert_type(run(row, 1, "one"), Row)


def results_in_a_list(m: TaskManager[Connection]) -> None:
    futures = [m.queue_task_async(row, number, "text") for number in range(3)]
    assert_type([future.result() for future in futures], list[Row])


def futures_in_a_dictionary(m: TaskManager[Connection]) -> None:
    pending: dict[TaskFuture[int], str] = {m.queue_task_async(ping): "first"}
    pending[m.queue_task_async(lambda db, n: db.ping() * n, 2)] = "second"
    assert sorted(future.result() for future in pending) == [1, 2]


# -- futures ---------------------------------------------------------------------------------------------------------


def future(m: TaskManager[Connection]) -> None:
    f = m.submit(ping)
    assert_type(f.result(), int)
    assert_type(f.result(timeout=1.5), int)
    assert_type(f.exception(), BaseException | None)
    assert_type(f.cancel(), bool)
    assert_type(f.done() and f.running() and f.cancelled(), bool)
    assert_type(f.attempts, int)


def future_is_a_standard_future(m: TaskManager[Connection]) -> None:
    f: concurrent.futures.Future[int] = m.submit(ping)
    done, _ = concurrent.futures.wait([f, m.submit(ping)], timeout=30)
    assert_type(sum(each.result() for each in done), int)
    for each in concurrent.futures.as_completed([m.submit(row, 1, "one")], timeout=30):
        assert_type(each.result(), Row)


def future_with_callbacks(m: TaskManager[Connection]) -> None:
    def on_done(future: concurrent.futures.Future[int]) -> None:
        assert_type(future.result(), int)

    m.submit(ping).add_done_callback(on_done)
    m.submit(ping).add_done_callback(lambda future: print(end="" if future.result() else "no"))


def future_that_is_awaited(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(await m.queue_task_async(ping), int)
        assert_type(await m.submit(watch_row, 1, "one"), Row)
        one, two = await asyncio.gather(m.submit(ping), m.submit(row, 2, "two"))
        assert_type(one, int)
        assert_type(two, Row)
        assert_type(await asyncio.wrap_future(m.submit(ping)), int)
        assert_type(await asyncio.wait_for(m.submit(ping), 30), int)
        work: Awaitable[int] = m.submit(ping)
        assert_type(await work, int)

    return main()


# -- contexts --------------------------------------------------------------------------------------------------------


def contexts(m: TaskManager[Connection]) -> None:
    root = background()
    with with_timeout(root, 5) as limited, with_cancel(limited) as ctx:
        assert_type(ctx, Context)
        assert_type(ctx.deadline(), float | None)
        assert_type(ctx.remaining(), float | None)
        assert_type(ctx.err(), ContextCancelledError | DeadlineExceededError | None)
        assert_type(ctx.cause(), BaseException | None)
        assert_type(with_value(ctx, "user", 7).value("user"), object)
        assert_type(with_deadline(ctx, 0.0).wait(), bool)
        take_back = ctx.on_done(lambda: None)
        assert_type(take_back(), bool)
        ctx.cancel(ValueError("enough"))
        assert_type(ctx.wait(0.5), bool)
        assert_type(ctx.cancelled(), bool)


# -- managers --------------------------------------------------------------------------------------------------------


def manager(m: TaskManager[Connection]) -> None:
    with TaskManager(
        Config(on_create=Connection, on_destroy=Connection.close, worker_count=1)
    ) as other:
        assert_type(other, TaskManager[Connection])
        assert_type(other.wait_ready(timeout=30), bool)
        assert_type(other.join(), bool)
        assert_type(other.stop(timeout=30), StopReport)
        report = other.kill(timeout=0.5)
        assert_type(report.drained, bool)
        assert_type(report.abandoned, tuple[str, ...])


def snapshots(m: TaskManager[Connection]) -> None:
    stats, metrics = m.stats(), m.metrics()
    assert_type(stats, TaskStats)
    assert_type(m.closed, bool)
    assert_type(stats.queued_tasks + stats.priority_tasks, int)
    assert_type(metrics, TaskMetrics)
    assert_type(metrics.average_wait_time + metrics.success_rate, float)
    assert_type(metrics.total_tasks_arrived, int)


def errors(m: TaskManager[Connection]) -> None:
    try:
        m.queue_task(ping, timeout=30)
    except (TaskTimeoutError, QueueFullError, ResourceCreationError) as error:
        assert_type(error, TaskTimeoutError | QueueFullError | ResourceCreationError)
    builtin: tuple[TimeoutError, RuntimeError] = TaskTimeoutError(), TaskManagerShutdownError()
    ours: list[TaskerError] = [TaskTimeoutError(), TaskManagerShutdownError()]
    assert len(builtin) == len(ours)


def manager_as_a_parameter(m: TaskManager[Connection]) -> None:
    def pings(manager: TaskManager[Connection], count: int) -> list[int]:
        return [
            future.result() for future in [manager.queue_task_async(ping) for _ in range(count)]
        ]

    assert_type(pings(m, 2), list[int])


def manager_of_any_resource(m: TaskManager[Connection]) -> None:
    def describe(manager: TaskManager[T], what: Callable[[T], str]) -> str:
        return manager.queue_task(what)

    assert_type(describe(m, of_base), str)


def manager_behind_a_class(m: TaskManager[Connection]) -> None:
    class Store(Generic[T]):
        def __init__(self, manager: TaskManager[T]) -> None:
            self.manager = manager

        def get(self, read: Callable[[T, str], U], key: str) -> U:
            return self.manager.queue_task(read, key)

        def start(self, work: Callable[[Context, T], U]) -> TaskFuture[U]:
            return self.manager.queue_task_async(work)

    assert_type(Store(m).get(Connection.fetch, "key"), list[str])
    assert_type(Store(m).start(watch), TaskFuture[bool])


def manager_in_an_async_program(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    @asynccontextmanager
    async def managed() -> AsyncGenerator[TaskManager[Connection], None]:
        yield m

    async def main() -> None:
        async with managed() as manager:
            assert_type(await manager.queue_task_async(lambda db: db.ping()), int)

    return main()
