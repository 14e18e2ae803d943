"""The pools of processes that are compared, called as their documentation calls them.

A pool may leave open how its processes are started. Then the platform's default
applies: on Linux a fork of this process before Python 3.14. So those pools are opened
first, and started at once, before there are many threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.harness.rivals import TASKER, MultiprocessingPool, Pool, Rival, Task, TaskerPool
from tasker import Config, Processes, TaskManager

__all__ = ["NO_OP", "PROCESS_BASELINE", "PROCESS_RIVALS", "open_process_pools", "open_processes"]

PROCESS_BASELINE = "ProcessPoolExecutor"


def _no_op() -> None: ...


def _no_op_on(resource: object) -> None: ...


NO_OP = Task(_no_op, _no_op_on)


@contextmanager
def open_processes(workers: int, **options: Any) -> Iterator[Pool]:
    """A manager whose resources live in child processes; it does not hire.

    The resources are plain objects.
    """
    hooks: dict[str, Any] = {"on_create": object, "on_destroy": _no_op_on}
    config = Config(
        worker_count=workers, max_worker_count=workers, placement=Processes(), **(hooks | options)
    )
    with TaskManager(config) as manager:
        manager.wait_ready()
        yield TaskerPool(manager, manager.submit)


@contextmanager
def _open_executor(workers: int) -> Iterator[Pool]:
    with ProcessPoolExecutor(workers) as executor:
        yield Pool(executor, executor.submit)


@contextmanager
def _open_loky(workers: int) -> Iterator[Pool]:
    import loky

    with loky.ProcessPoolExecutor(workers) as executor:
        yield Pool(executor, executor.submit)


@contextmanager
def _open_pebble(workers: int) -> Iterator[Pool]:
    import pebble

    with pebble.ProcessPool(max_workers=workers) as pool:
        yield Pool(pool, pool.schedule)


@contextmanager
def _open_mpire(workers: int) -> Iterator[Pool]:
    from mpire.pool import WorkerPool

    with WorkerPool(n_jobs=workers) as pool:
        yield MultiprocessingPool(pool, pool.apply_async)


PROCESS_RIVALS = (
    Rival(TASKER, None, "import tasker", open_processes),
    Rival(
        PROCESS_BASELINE, None, "from concurrent.futures import ProcessPoolExecutor", _open_executor
    ),
    Rival("loky", "loky", "import loky", _open_loky),
    Rival("pebble", "pebble", "from pebble import ProcessPool", _open_pebble),
    Rival("mpire", "mpire", "from mpire import WorkerPool", _open_mpire),
)


def open_process_pools(
    stack: ExitStack, workers: int, names: tuple[str, ...] | None = None
) -> dict[str, Pool]:
    """Return a pool of every installed rival among `names`, by name.

    The pools have their processes and are open until the stack closes. tasker's is
    opened last: it has a thread for each child, and others fork.
    """
    rivals = [
        rival
        for rival in PROCESS_RIVALS
        if rival.is_installed() and (names is None or rival.name in names)
    ]
    opened: dict[str, Pool] = {}
    for rival in reversed(rivals):
        opened[rival.name] = stack.enter_context(rival.open(workers))
        opened[rival.name].gather(NO_OP, workers)

    return {rival.name: opened[rival.name] for rival in rivals}
