"""Tasks a second: no-op tasks on few workers, sleeping tasks on many."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.harness.both_forms import open_both_forms, rows_of_both_forms, times_as_fast
from benchmarks.harness.results import Row, workers_in_words
from benchmarks.harness.rivals import (
    BASELINE,
    NO_OP,
    TASKER,
    Pool,
    Task,
    open_drop_in,
    open_executor,
    open_pools,
)
from benchmarks.harness.rounds import interleave, ratios, spread, spreads
from benchmarks.harness.samplers import gather_sampler
from benchmarks.harness.targets import Target, on_3_11, this_build

__all__ = ["drop_in", "sleeping_tasks", "submit_all"]


def _sleep() -> None:
    time.sleep(0.001)


def _sleep_on(resource: object) -> None:
    time.sleep(0.001)


SLEEP = Task(_sleep, _sleep_on)


def submit_all(workers: int, quick: bool) -> list[Row]:
    """Submit all, gather all."""
    count, rounds = (500, 3) if quick else (20_000, 11)
    with ExitStack() as stack:
        samples = _gather(open_both_forms(stack, workers), count, rounds)
    title = f"submit all, gather all, no-op tasks, {workers_in_words(workers)}"
    note = f"{count:,} tasks, {rounds} rounds"
    cost = Target("at most", 1.25, goal=1.1)

    return rows_of_both_forms(
        f"submit-{workers}", title, "µs a task", samples, times_as_fast, note, cost=cost
    )


def drop_in(quick: bool) -> list[Row]:
    """The same with tasker's own ThreadPoolExecutor in the place of a manager."""
    count, rounds = (500, 3) if quick else (20_000, 11)
    rows: list[Row] = []

    for workers in (1, 4):
        with ExitStack() as stack:
            own, other = (
                stack.enter_context(open_pool(workers))
                for open_pool in (open_drop_in, open_executor)
            )
            samples = _gather({TASKER: (own, NO_OP), BASELINE: (other, NO_OP)}, count, rounds)

        ratio, meaning = times_as_fast(samples)
        rows.append(
            Row(
                name=f"drop-in-{workers}",
                title="tasker.ThreadPoolExecutor: submit all, gather all,"
                f" {workers_in_words(workers)}",
                unit="µs a task",
                figures=spreads(samples),
                ratio=ratio,
                meaning=meaning,
                target=on_3_11(this_build(), Target("at least", 4)),
                notes=(f"{count:,} tasks, {rounds} rounds",),
            )
        )

    return rows


def sleeping_tasks(quick: bool) -> list[Row]:
    """Many workers, tasks that sleep."""
    workers, count, rounds = (64, 1_000, 2) if quick else (64, 20_000, 5)
    with ExitStack() as stack:
        pools = open_pools(stack, workers)
        samples = _gather({name: (pool, SLEEP) for name, pool in pools.items()}, count, rounds)
        at_the_end = pools[TASKER].pool.stats().active_workers

    return [
        Row(
            name="sleep-64",
            title=f"{count:,} tasks that sleep 1 ms, {workers} workers",
            unit="µs a task",
            figures=spreads(samples),
            ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
            meaning="times as fast",
            target=Target("at least", 1),
            notes=(f"{rounds} rounds; tasker, which hires, had {at_the_end} workers at the end",),
        )
    ]


def _gather(
    pools: Mapping[str, tuple[Pool, Task]], count: int, rounds: int
) -> dict[str, list[float]]:
    return interleave(
        {name: gather_sampler(pool, task, count) for name, (pool, task) in pools.items()}, rounds
    )
