"""The samplers that several measurements share, for `interleave`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from benchmarks.harness.rivals import Pool, Task
from benchmarks.harness.rounds import Sampler, seconds

__all__ = [
    "callers_sampler",
    "calls_sampler",
    "gather_sampler",
    "map_sampler",
    "round_trip_sampler",
]


def gather_sampler(pool: Pool, task: Task, count: int) -> Sampler:
    """Microseconds a task: all are submitted, then all are gathered."""
    return lambda: seconds(lambda: pool.gather(task, count)) / count * 1e6


def map_sampler(mapped: Callable[[Iterable[int]], Iterable[object]], count: int) -> Sampler:
    """Microseconds an item: all results are taken and dropped."""
    return lambda: seconds(lambda: deque(mapped(range(count)), maxlen=0)) / count * 1e6


def round_trip_sampler(pool: Pool, task: Task, count: int) -> Sampler:
    """Microseconds of a round trip."""
    return calls_sampler(lambda calls: pool.calls(task, calls), count)


def calls_sampler(calls: Callable[[int], object], count: int) -> Sampler:
    """Microseconds of a call; one function makes so many of them."""
    return lambda: seconds(lambda: calls(count)) / count * 1e6


def callers_sampler(pool: Pool, task: Task, callers: int, count: int) -> Sampler:
    """Microseconds a task, while so many callers make blocking calls.

    The time begins when all callers are let go, and ends with the last of them.
    """

    def sample() -> float:
        gate = threading.Barrier(callers + 1)

        def call() -> None:
            gate.wait()
            pool.calls(task, count)

        threads = [threading.Thread(target=call) for _ in range(callers)]
        for thread in threads:
            thread.start()

        def run() -> None:
            gate.wait()
            for thread in threads:
                thread.join()

        return seconds(run) / (callers * count) * 1e6

    return sample
