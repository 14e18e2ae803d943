"""dask computes on the drop-in."""

from __future__ import annotations

import threading

import pytest

from tasker import ThreadPoolExecutor

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


def test_dask_computes_on_the_drop_in():
    with ThreadPoolExecutor(3, "ours") as pool:
        result, threads = total(pool)
    assert result == 2470
    assert threads <= {"ours_0", "ours_1", "ours_2"}
