"""The memory of a queued task."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, NO_OP, TASKER, Pool, Task, installed
from benchmarks.harness.rounds import interleave, ratios, spread, spreads
from benchmarks.harness.targets import Target

__all__ = ["queued_tasks"]

# Some pools move their queue from one place to another, which takes a moment.
SETTLE_S = 0.2


def queued_tasks(quick: bool) -> list[Row]:
    """Bytes of a queued no-op task, as tracemalloc sees them.

    Only the queue keeps the futures.
    """
    count, rounds = (1_000, 1) if quick else (20_000, 3)
    samplers = {rival.name: _sampler(rival.open, count) for rival in installed(futures=True)}
    samples = interleave(samplers, rounds, warm_ups=0)

    return [
        Row(
            name="queued-bytes",
            title="a queued no-op task",
            unit="bytes",
            figures=spreads(samples),
            ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
            meaning="times as small",
            target=Target("at most", 500, "bytes", of="tasker"),
            notes=(f"tracemalloc over {count:,} tasks",),
        )
    ]


def _sampler(
    open_pool: Callable[[int], AbstractContextManager[Pool]], count: int
) -> Callable[[], float]:
    def sample() -> float:
        gate = threading.Event()
        with open_pool(1) as pool:
            submit, function = pool.submit, pool.function(NO_OP)
            # tasker may hire a second worker while tasks wait. The second of these
            # tasks is for that worker.
            for _ in range(2):
                submit(pool.function(Task(gate.wait, lambda resource: gate.wait())))
            tracemalloc.start()

            try:
                before, _ = tracemalloc.get_traced_memory()
                for _ in range(count):
                    submit(function)
                time.sleep(SETTLE_S)
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
                gate.set()

        return (after - before) / count

    return sample
