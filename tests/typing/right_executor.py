"""Programs with executors, and with what a task sees of itself, that both type checkers must accept; see `right.py`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ParamSpec, TypeVar, assert_type

from tasker import Config, Context, TaskManager, ThreadPoolExecutor, background, current_context

P = ParamSpec("P")
T = TypeVar("T")


class Connection:
    """The resource of these programs."""

    def ping(self) -> int:
        return 1

    def close(self) -> None:
        pass


class Counter:
    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, step: int = 1) -> int:
        return self.start + step

    def times(self, number: int) -> float:
        return float(self.start * number)


def answer() -> int:
    return 42


def nothing() -> None:
    pass


def power(base: int, exponent: int = 2, *, scale: float = 1.0) -> float:
    return scale * float(base) ** exponent


def join(*words: str, by: str = " ") -> str:
    return by.join(words)


def identity(item: T) -> T:
    return item


def logged(fn: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)

    return wrapper


@logged
def decorated(number: int, text: str = "") -> str:
    return text * number


def prepare(name: str, level: int) -> None:
    pass


# -- the view of a manager -------------------------------------------------------------------------------------------


def submit_to_a_view(m: TaskManager[Connection]) -> None:
    m.executor(timeout=60, run_timeout=30, priority=True, once=True, ctx=background())
    with m.executor() as view:
        assert_type(view.submit(answer).result(timeout=30), int)
        assert_type(view.submit(nothing).result(), None)
        assert_type(view.submit(power, 3).result(), float)
        assert_type(view.submit(power, 3, 4, scale=0.5).result(), float)
        assert_type(view.submit(power, base=3, exponent=4).result(), float)
        assert_type(view.submit(join, "a", "b", by="-").result(), str)
        assert_type(view.submit(identity, "a").result(), str)
        assert_type(view.submit(decorated, 2, text="a").result(), str)
        assert_type(view.submit(Counter(2)).result(), int)
        assert_type(view.submit(Counter(2), step=3).result(), int)
        assert_type(view.submit(Counter(2).times, 3).result(), float)
        assert_type(view.submit(functools.partial(power, exponent=3), 2).result(), float)
        assert_type(view.submit(lambda: 1).result(), int)
        assert_type(view.submit(Counter, 3).result(), Counter)


def map_of_a_view(m: TaskManager[Connection]) -> None:
    with m.executor() as view:
        assert_type(view.map(power, [1, 2, 3]), Iterator[float])
        assert_type(
            list(view.map(power, [1, 2], [3, 4], timeout=30, chunksize=2, buffersize=4)),
            list[float],
        )
        assert_type(list(view.map(decorated, [1, 2], ["a", "b"])), list[str])
        assert_type(
            list(view.map(Counter(2).times, range(3), timeout=None, buffersize=None)), list[float]
        )


def view_is_a_standard_executor(m: TaskManager[Connection]) -> None:
    def run(executor: concurrent.futures.Executor) -> list[float]:
        futures = [executor.submit(power, number) for number in range(3)]
        return [future.result() for future in concurrent.futures.as_completed(futures)]

    def most(executor: concurrent.futures.ThreadPoolExecutor) -> int:
        return executor._max_workers

    view = m.executor()
    assert_type(run(view), list[float])
    assert_type(most(view), int)
    assert_type(view.shutdown(), None)
    assert_type(view.shutdown(wait=False, cancel_futures=True), None)


def view_in_asyncio(m: TaskManager[Connection]) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        with m.executor() as view:
            loop = asyncio.get_running_loop()
            assert_type(await loop.run_in_executor(view, answer), int)
            assert_type(await loop.run_in_executor(view, power, 3), float)
            assert_type(await asyncio.wrap_future(view.submit(answer)), int)

    return main()


# -- what a task sees of itself --------------------------------------------------------------------------------------


def resource_of_the_call(m: TaskManager[Connection]) -> None:
    def ping_twice() -> int:
        db = m.current_resource()
        assert_type(db, Connection)
        return db.ping() + m.current_resource().ping()

    with m.executor() as view:
        assert_type(view.submit(ping_twice).result(), int)


def resource_of_any_manager(m: TaskManager[Connection]) -> None:
    def resource(manager: TaskManager[T]) -> T:
        return manager.current_resource()

    assert_type(m.queue_task(lambda db: resource(m)), Connection)


def context_of_the_call(m: TaskManager[Connection]) -> None:
    def left(number: int) -> float | None:
        ctx = current_context()
        assert_type(ctx, Context)
        return ctx.remaining()

    assert_type(m.executor().submit(left, 1).result(), float | None)
    assert_type(m.queue_task(lambda db: current_context().cancelled()), bool)


def config_without_context_variables(m: TaskManager[Connection]) -> None:
    config = Config(
        on_create=Connection,
        on_destroy=Connection.close,
        worker_count=1,
        propagate_contextvars=False,
        name="plain",
    )
    assert_type(config, Config[Connection])
    assert_type(config.propagate_contextvars, bool)


# -- the drop-in -----------------------------------------------------------------------------------------------------


def drop_in(m: TaskManager[Connection]) -> None:
    with ThreadPoolExecutor(max_workers=2) as executor:
        assert_type(executor, ThreadPoolExecutor)
        assert_type(executor.submit(power, 3, scale=2.0).result(timeout=30), float)
        assert_type(executor.submit(time.monotonic).result(), float)
        futures: dict[concurrent.futures.Future[str], int] = {executor.submit(decorated, 2, "a"): 2}
        for future in concurrent.futures.as_completed(futures):
            assert_type(future.result(), str)
            assert_type(futures[future], int)
        assert_type(list(executor.map(power, range(3), timeout=30, chunksize=2)), list[float])
        assert_type(list(executor.map(power, range(3), range(3), buffersize=2)), list[float])


def drop_in_with_every_argument(m: TaskManager[Connection]) -> None:
    for executor in (
        ThreadPoolExecutor(),
        ThreadPoolExecutor(2, "worker", prepare, ("name", 3)),
        ThreadPoolExecutor(
            max_workers=None, thread_name_prefix="x", initializer=nothing, initargs=[]
        ),
    ):
        executor.shutdown(wait=True, cancel_futures=False)


def drop_in_where_the_standard_one_is_wanted(
    m: TaskManager[Connection],
) -> Coroutine[Any, Any, None]:
    def total(executor: concurrent.futures.ThreadPoolExecutor) -> float:
        return sum(executor.map(power, range(3)))

    async def main() -> None:
        executor: concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor(2)
        assert_type(total(executor), float)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        assert_type(await loop.run_in_executor(None, answer), int)
        assert_type(await asyncio.to_thread(power, 3, exponent=3), float)

    return main()


def the_standard_librarys_idiom(m: TaskManager[Connection]) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = {pool.submit(len, word): word for word in ("a", "ab")}
        for future in concurrent.futures.as_completed(futures):
            assert_type(future.result(), int)
            assert len(futures[future]) == future.result()
