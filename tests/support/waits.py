"""All the ways to wait for a task inside of a task."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed

UNTIL = (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION)
STANDARD = {
    "as_completed": lambda futures: [future.result() for future in as_completed(futures)],
    **{
        until: lambda futures, until=until: concurrent.futures.wait(futures, return_when=until)
        for until in UNTIL
    },
}
WAITS = {
    "result": lambda manager, fn: manager.queue_task_async(fn).result(),
    "exception": lambda manager, fn: manager.queue_task_async(fn).exception(),
    "blocking": lambda manager, fn: manager.queue_task(fn),
    "map": lambda manager, fn: list(manager.map(lambda resource, item: 1, range(3))),
    "unordered map": lambda manager, fn: list(
        manager.map(lambda resource, item: 1, range(3), ordered=False)
    ),
    "executor": lambda manager, fn: list(manager.executor().map(leaf, range(3))),
    **{
        name: lambda manager, fn, wait=wait: wait([manager.queue_task_async(fn) for _ in range(2)])
        for name, wait in STANDARD.items()
    },
}
ONE = {"worker_count": 1, "max_worker_count": 1}


def leaf(_):
    return "done"
