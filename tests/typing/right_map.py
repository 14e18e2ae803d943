"""Programs with `map` and `amap` that both type checkers must accept; see `right.py`."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from typing import Any, ParamSpec, TypeVar, assert_type, overload

from tasker import Context, TaskManager, TaskStream, background

P = ParamSpec("P")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741


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


class Report:
    """A class as a function: constructing it is the work."""

    def __init__(self, db: Connection, title: str) -> None:
        self.title = title


class Multiplier:
    """A callable object, and the owner of bound methods."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, db: Connection, number: int) -> int:
        return self.factor * number * db.ping()

    def times(self, db: Connection, number: int) -> float:
        return float(self.factor * number)

    def until_done(self, ctx: Context, db: Connection, number: int) -> bool:
        return ctx.cancelled()


def double(db: Connection, number: int) -> int:
    return 2 * number * db.ping()


def of_base(db: Base, number: int) -> str:
    return f"{db.name()} {number}"


def of_anything(thing: object, number: object) -> str:
    return f"{thing} {number}"


def of_float(db: Connection, number: float) -> float:
    return number / 2


def maybe(db: Connection, number: int) -> str | None:
    return str(number) if number else None


def nothing(db: Connection, number: int) -> None:
    pass


def pair(db: Connection, item: T) -> tuple[T, T]:
    return item, item


def total(db: Connection, numbers: tuple[int, int]) -> int:
    return sum(numbers)


def with_default(db: Connection, number: int, factor: int = 3) -> int:
    return factor * number


def item_with_default(db: Connection, number: int = 0) -> int:
    return number


def with_keyword(db: Connection, number: int, *, factor: int = 3) -> int:
    return factor * number


def with_many(db: Connection, *numbers: int) -> int:
    return sum(numbers)


def watch(ctx: Context, db: Connection, number: int) -> bool:
    ctx.raise_if_done()
    return number > 1


def watch_with_default(ctx: Context, db: Connection, number: int, factor: int = 3) -> str:
    return str(factor * number)


@overload
def either(db: Connection, item: int) -> int: ...
@overload
def either(db: Connection, item: str) -> str: ...
def either(db: Connection, item: int | str) -> int | str:
    return item


def logged(fn: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)

    return wrapper


@logged
def decorated(db: Connection, number: int) -> str:
    return str(number)


@logged
def decorated_watch(ctx: Context, db: Connection, number: int) -> bool:
    return ctx.cancelled()


# -- the function ----------------------------------------------------------------------------------------------------


def function(m: TaskManager[Connection]) -> None:
    assert_type(m.map(double, [1, 2]), TaskStream[int])
    assert_type(list(m.map(double, [1, 2])), list[int])


def function_without_result(m: TaskManager[Connection]) -> None:
    assert_type(m.map(nothing, [1]), TaskStream[None])


def function_with_an_optional_result(m: TaskManager[Connection]) -> None:
    assert_type(m.map(maybe, range(2)), TaskStream[str | None])


def function_of_a_base_class(m: TaskManager[Connection]) -> None:
    assert_type(m.map(of_base, [1]), TaskStream[str])
    assert_type(m.map(of_anything, [1]), TaskStream[str])


def function_of_a_wider_item(m: TaskManager[Connection]) -> None:
    assert_type(m.map(of_float, [1, 2]), TaskStream[float])
    assert_type(m.map(of_anything, ["a", "b"]), TaskStream[str])


def function_with_a_default(m: TaskManager[Connection]) -> None:
    assert_type(m.map(with_default, [1, 2]), TaskStream[int])
    assert_type(m.map(item_with_default, [1, 2]), TaskStream[int])
    assert_type(m.map(with_keyword, [1, 2]), TaskStream[int])
    assert_type(m.map(with_many, [1, 2]), TaskStream[int])
    for work in (with_default, item_with_default, with_keyword, with_many):
        assert set(m.map(work, [1, 2], chunksize=2)) in ({3, 6}, {1, 2})


def generic_function(m: TaskManager[Connection]) -> None:
    words = ["a", "b"]
    assert_type(m.map(pair, words), TaskStream[tuple[str, str]])


def overloaded_function(m: TaskManager[Connection]) -> None:
    stream: TaskStream[int] = m.map(either, [1, 2])
    assert list(stream) == [1, 2]


def context_first(m: TaskManager[Connection]) -> None:
    assert_type(m.map(watch, [1, 2]), TaskStream[bool])
    assert_type(m.map(watch_with_default, [1, 2]), TaskStream[str])
    assert_type(m.map(decorated_watch, [1, 2]), TaskStream[bool])
    assert_type(m.map(Multiplier(2).until_done, [1]), TaskStream[bool])
    assert list(m.map(watch, [1, 2])) == list(m.map(watch, [1, 2], chunksize=2)) == [False, True]


def lambda_of_the_resource_and_an_item(m: TaskManager[Connection]) -> None:
    assert_type(m.map(lambda db, number: db.ping() + number, [1, 2]), TaskStream[int])
    assert_type(m.map(lambda db, text: db.fetch(text.upper()), ["a"]), TaskStream[list[str]])


def lambda_with_a_context(m: TaskManager[Connection]) -> None:
    assert_type(
        m.map(lambda ctx, db, number: (ctx.remaining(), db.ping() + number)[1], [1, 2]),
        TaskStream[int],
    )


def method_of_the_resource(m: TaskManager[Connection]) -> None:
    assert_type(m.map(Connection.fetch, ["select 1", "select 2"]), TaskStream[list[str]])


def bound_method(m: TaskManager[Connection]) -> None:
    assert_type(m.map(Multiplier(2).times, [1, 2]), TaskStream[float])


def callable_object(m: TaskManager[Connection]) -> None:
    assert_type(m.map(Multiplier(2), [1, 2]), TaskStream[int])


def class_as_a_callable(m: TaskManager[Connection]) -> None:
    assert_type(m.map(Report, ["a"]), TaskStream[Report])


def partial(m: TaskManager[Connection]) -> None:
    assert_type(m.map(functools.partial(with_default, factor=2), [1, 2]), TaskStream[int])
    assert_type(m.map(functools.partial(watch_with_default, factor=2), [1, 2]), TaskStream[str])
    assert list(m.map(functools.partial(watch_with_default, factor=2), [1, 2])) == ["2", "4"]


def decorated_function(m: TaskManager[Connection]) -> None:
    assert_type(m.map(decorated, [1, 2]), TaskStream[str])


def function_handed_on(m: TaskManager[Connection]) -> None:
    def run(
        manager: TaskManager[Connection], work: Callable[[Connection, I], T], items: Iterable[I]
    ) -> list[T]:
        return list(manager.map(work, items))

    assert_type(run(m, double, [1, 2]), list[int])


def untyped_callable(m: TaskManager[Connection]) -> None:
    work: Any = double
    assert list(m.map(work, [1, 2])) == [2, 4]


# -- the items -------------------------------------------------------------------------------------------------------


def items_of_any_kind(m: TaskManager[Connection]) -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    assert_type(list(m.map(double, range(3))), list[int])
    assert_type(list(m.map(double, {1, 2})), list[int])
    assert_type(list(m.map(double, {1: "one"})), list[int])
    assert_type(list(m.map(double, (n for n in range(3)))), list[int])
    assert_type(list(m.map(total, zip([1, 2], [3, 4], strict=True))), list[int])
    assert_type(list(m.map(total, {1: 2}.items())), list[int])
    with m.map(double, endless()) as stream:
        assert_type(next(stream), int)


def items_in_a_lambda(m: TaskManager[Connection]) -> None:
    pairs = [(1, "a"), (2, "b")]
    assert_type(list(m.map(lambda db, pair: db.fetch(pair[1], pair[0]), pairs)), list[list[str]])


# -- the options -----------------------------------------------------------------------------------------------------


def every_option(m: TaskManager[Connection]) -> None:
    assert_type(
        m.map(
            double,
            [1],
            max_in_flight=4,
            ordered=False,
            timeout=30,
            chunksize=2,
            priority=True,
            once=True,
        ),
        TaskStream[int],
    )
    assert_type(m.map(watch, [1], max_in_flight=None, timeout=None, ordered=True), TaskStream[bool])
    assert_type(m.map(watch, [1], run_timeout=5, ctx=background()), TaskStream[bool])


def exceptions_that_are_raised(m: TaskManager[Connection]) -> None:
    assert_type(m.map(double, [1], return_exceptions=False), TaskStream[int])
    assert_type(m.map(watch, [1], return_exceptions=False, chunksize=2), TaskStream[bool])


def exceptions_that_are_returned(m: TaskManager[Connection]) -> None:
    assert_type(m.map(double, [1], return_exceptions=True), TaskStream[int | BaseException])
    assert_type(
        m.map(watch, [1], return_exceptions=True, ordered=False), TaskStream[bool | BaseException]
    )
    assert_type(
        m.map(lambda db, n: db.ping() + n, [1], return_exceptions=True),
        TaskStream[int | BaseException],
    )
    for result in m.map(double, [1, 2], return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        assert_type(result, int)


def exceptions_as_somebody_decides(m: TaskManager[Connection]) -> None:
    def run(return_exceptions: bool) -> list[int | BaseException]:
        return list(m.map(double, [1, 2], return_exceptions=return_exceptions))

    assert_type(run(False), list[int | BaseException])


# -- the stream ------------------------------------------------------------------------------------------------------


def stream(m: TaskManager[Connection]) -> None:
    with m.map(double, [1, 2, 3]) as results:
        assert_type(results, TaskStream[int])
        assert_type(next(results), int)
        assert_type(next(results, None), int | None)
        for result in results:
            assert_type(result, int)
    assert_type(results.close(), None)


def stream_as_an_iterator(m: TaskManager[Connection]) -> None:
    def first(results: Iterator[int]) -> int:
        return next(results)

    assert_type(first(m.map(double, [1])), int)
    assert_type(dict(zip([1, 2], m.map(double, [1, 2]), strict=True)), dict[int, int])
    assert_type(deque(m.map(double, [1]), maxlen=1), deque[int])
    assert_type(sum(m.map(double, [1, 2])), int)
    assert_type([n + 1 for n in m.map(double, [1, 2])], list[int])
    results: Iterable[float] = m.map(of_float, [1, 2])
    assert max(results) == 1


def stream_behind_a_function(m: TaskManager[Connection]) -> None:
    def doubled(manager: TaskManager[Connection], numbers: Iterable[int]) -> TaskStream[int]:
        return manager.map(double, numbers)

    def of_any(manager: TaskManager[T], what: Callable[[T, int], str]) -> TaskStream[str]:
        return manager.map(what, range(3))

    assert_type(list(doubled(m, [1])), list[int])
    assert_type(list(of_any(m, of_base)), list[str])


# -- in asyncio ------------------------------------------------------------------------------------------------------


async def numbers() -> AsyncGenerator[int, None]:
    for number in range(3):
        yield number


def async_function(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type([n async for n in m.amap(double, [1, 2])], list[int])
        assert_type([n async for n in m.amap(watch, (1, 2))], list[bool])
        assert_type([n async for n in m.amap(maybe, range(2))], list[str | None])
        assert_type([n async for n in m.amap(with_default, [1])], list[int])
        assert_type([n async for n in m.amap(Multiplier(2).times, [1])], list[float])
        assert_type([n async for n in m.amap(Connection.fetch, ["a"])], list[list[str]])
        assert_type([n async for n in m.amap(decorated, [1])], list[str])
        assert_type(
            [n async for n in m.amap(functools.partial(with_default, factor=2), [1])], list[int]
        )
        assert_type([n async for n in m.amap(lambda db, n: db.ping() + n, [1])], list[int])
        assert_type(
            [n async for n in m.amap(lambda ctx, db, n: (ctx.err(), db.ping() + n)[1], [1])],
            list[int],
        )
        async for result in m.amap(double, [1]):
            assert_type(result, int)

    return main()


def async_items(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type([n async for n in m.amap(double, numbers())], list[int])
        assert_type([n async for n in m.amap(watch, numbers())], list[bool])
        assert_type([n async for n in m.amap(lambda db, n: db.ping() + n, numbers())], list[int])
        iterable: AsyncIterable[int] = numbers()
        assert_type([n async for n in m.amap(of_float, iterable)], list[float])
        iterator: AsyncIterator[int] = numbers()
        assert_type([n async for n in m.amap(pair, iterator)], list[tuple[int, int]])

    return main()


def async_options(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        assert_type(
            m.amap(
                double,
                [1],
                max_in_flight=4,
                ordered=False,
                timeout=30,
                chunksize=2,
                priority=True,
                once=True,
            ),
            AsyncGenerator[int, None],
        )
        assert_type(m.amap(double, [1], return_exceptions=False), AsyncGenerator[int, None])
        assert_type(
            m.amap(double, [1], return_exceptions=True), AsyncGenerator[int | BaseException, None]
        )
        assert_type(
            m.amap(watch, numbers(), return_exceptions=True),
            AsyncGenerator[bool | BaseException, None],
        )

    return main()


def async_exceptions_as_somebody_decides(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def run(return_exceptions: bool) -> list[int | BaseException]:
        return [
            result async for result in m.amap(double, [1, 2], return_exceptions=return_exceptions)
        ]

    async def main() -> None:
        assert await run(True) == await run(False) == [2, 4]

    return main()


def async_results_as_an_iterator(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def first(results: AsyncIterator[int]) -> int:
        return await anext(results)

    async def main() -> None:
        results = m.amap(double, [1, 2])
        assert_type(await first(results), int)
        assert_type(await anext(results), int)
        assert_type(await results.aclose(), None)

    return main()


def the_length_of_results(m: TaskManager[Connection]) -> None:
    assert len(m.map(double, [1, 2])) == 2
