"""dask computes on the drop-in and on a manager's view, as many tasks at once as their `_max_workers` says."""

from __future__ import annotations

import threading

import pytest

dask = pytest.importorskip("dask")


def total(pool) -> tuple[int, set[str]]:
    """A sum that dask computes on a pool, and the threads that have worked on it."""
    threads = set()

    @dask.delayed
    def square(number):
        threads.add(threading.current_thread().name)
        return number * number

    with dask.config.set(pool=pool):
        return dask.delayed(sum)([square(number) for number in range(20)]).compute(), threads


def test_dask_computes_on_executors_of_ours(executor):
    result, threads = total(executor)
    assert result == 2470
    assert threads <= {thread.name for thread in executor._threads}
