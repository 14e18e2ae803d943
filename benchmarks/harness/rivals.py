"""The pools that are compared, each behind the same three methods.

The timed loops stand here, one of each kind for each library. So every library is
called as its documentation calls it, and none pays for a wrapper.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import tasker

__all__ = [
    "BASELINE",
    "NO_OP",
    "RIVALS",
    "TASKER",
    "Pool",
    "Rival",
    "Task",
    "TaskerPool",
    "installed",
    "open_drop_in",
    "open_executor",
    "open_pools",
    "open_tasker",
]

TASKER = "tasker"
BASELINE = "ThreadPoolExecutor"


class Task(NamedTuple):
    """One task: `plain` for pools without resources, `on_resource` for tasker.

    A task of tasker's may ask for its context as well.
    """

    plain: Callable[[], object]
    on_resource: Callable[..., object]


def _no_op() -> None: ...


def _no_op_on(resource: object) -> None: ...


NO_OP = Task(_no_op, _no_op_on)


class Pool:
    """A pool whose `submit` returns a `concurrent.futures.Future`."""

    def __init__(self, pool: Any, submit: Callable[..., Any]) -> None:
        self.pool = pool
        self.submit = submit

    def function(self, task: Task) -> Callable[..., object]:
        """The form of a task that `submit` takes."""
        return task.plain

    def gather(self, task: Task, count: int) -> None:
        """Submit all, then gather all."""
        submit, function = self.submit, self.function(task)
        futures = [submit(function) for _ in range(count)]
        [future.result() for future in futures]

    def calls(self, task: Task, count: int) -> None:
        """Blocking round trips, one after the other."""
        submit, function = self.submit, self.function(task)
        for _ in range(count):
            submit(function).result()


class TaskerPool(Pool):
    """tasker with the defaults of its `Config`; its resources are plain objects."""

    def function(self, task: Task) -> Callable[..., object]:
        return task.on_resource

    def calls(self, task: Task, count: int) -> None:
        call, function = self.pool.queue_task, self.function(task)
        for _ in range(count):
            call(function)

    def run_tasks(self, task: Task, count: int) -> None:
        """Tasks in the calling thread, one after the other."""
        run, function = self.pool.run_task, self.function(task)
        for _ in range(count):
            run(function)


class MultiprocessingPool(Pool):
    """`multiprocessing.pool.ThreadPool`: its `AsyncResult` has `get`."""

    def gather(self, task: Task, count: int) -> None:
        submit, function = self.submit, self.function(task)
        results = [submit(function) for _ in range(count)]
        [result.get() for result in results]

    def calls(self, task: Task, count: int) -> None:
        call, function = self.pool.apply, self.function(task)
        for _ in range(count):
            call(function)


class JoblibPool(Pool):
    """joblib's threading backend, which has neither futures nor a call for one task."""

    def gather(self, task: Task, count: int) -> None:
        delayed = self.submit(self.function(task))
        self.pool(delayed() for _ in range(count))


@dataclass(frozen=True)
class Rival:
    """A library: `statement` imports it, `open(workers)` opens a pool."""

    name: str
    distribution: str | None
    statement: str
    open: Callable[[int], AbstractContextManager[Pool]]
    has_futures: bool = True
    least_workers: int = 1

    def is_installed(self) -> bool:
        """Whether it can be imported."""
        return self.distribution is None or importlib.util.find_spec(self.distribution) is not None

    def version(self) -> str:
        """The version of the distribution; for tasker, that of the imported package."""
        if self.name == TASKER:
            return tasker.__version__
        return (
            importlib.metadata.version(self.distribution)
            if self.distribution
            else "standard library"
        )


@contextmanager
def open_tasker(workers: int, **options: Any) -> Iterator[Pool]:
    """A manager; `options` are further ones of its `Config`."""
    config = tasker.Config(
        on_create=object, on_destroy=lambda resource: None, worker_count=workers, **options
    )
    with tasker.TaskManager(config) as manager:
        manager.wait_ready()
        yield TaskerPool(manager, manager.submit)


@contextmanager
def open_executor(workers: int) -> Iterator[Pool]:
    """The standard library's, which all are compared with."""
    with ThreadPoolExecutor(workers) as executor:
        yield Pool(executor, executor.submit)


@contextmanager
def open_drop_in(workers: int) -> Iterator[Pool]:
    """tasker's class of the same name."""
    from tasker.threadpool import ThreadPoolExecutor as DropIn

    with DropIn(workers) as executor:
        yield Pool(executor, executor.submit)


@contextmanager
def _open_multiprocessing(workers: int) -> Iterator[Pool]:
    with ThreadPool(workers) as pool:
        yield MultiprocessingPool(pool, pool.apply_async)


@contextmanager
def _open_pebble(workers: int) -> Iterator[Pool]:
    import pebble

    with pebble.ThreadPool(max_workers=workers) as pool:
        yield Pool(pool, pool.schedule)


@contextmanager
def _open_futurist(workers: int) -> Iterator[Pool]:
    import futurist

    executor = futurist.ThreadPoolExecutor(max_workers=workers)

    try:
        yield Pool(executor, executor.submit)
    finally:
        # its threads look once a second whether they are to end
        executor.shutdown(wait=False)


@contextmanager
def _open_joblib(workers: int) -> Iterator[Pool]:
    import joblib

    with joblib.Parallel(n_jobs=workers, backend="threading") as parallel:
        yield JoblibPool(parallel, joblib.delayed)


RIVALS = (
    Rival(TASKER, None, "import tasker", open_tasker),
    Rival(BASELINE, None, "from concurrent.futures import ThreadPoolExecutor", open_executor),
    Rival(
        "multiprocessing",
        None,
        "from multiprocessing.pool import ThreadPool",
        _open_multiprocessing,
    ),
    Rival("pebble", "pebble", "from pebble import ThreadPool", _open_pebble),
    Rival("futurist", "futurist", "from futurist import ThreadPoolExecutor", _open_futurist),
    # with one worker joblib calls the function itself, without any thread
    Rival(
        "joblib",
        "joblib",
        "from joblib import Parallel, delayed",
        _open_joblib,
        has_futures=False,
        least_workers=2,
    ),
)


def installed(*, workers: int = 2, futures: bool = False) -> list[Rival]:
    """The rivals that can be measured here with that many workers.

    With `futures`, only those that have futures.
    """
    return [
        rival
        for rival in RIVALS
        if rival.is_installed()
        and workers >= rival.least_workers
        and (rival.has_futures or not futures)
    ]


def open_pools(stack: ExitStack, workers: int, *, futures: bool = False) -> dict[str, Pool]:
    """A pool of every rival, by name, open until the stack is."""
    rivals = installed(workers=workers, futures=futures)
    return {rival.name: stack.enter_context(rival.open(workers)) for rival in rivals}
