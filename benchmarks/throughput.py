"""How many tasks a second: no-op tasks through few workers, sleeping tasks through many."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.results import Row
from benchmarks.rivals import BASELINE, TASKER, Pool, Task, installed, open_drop_in, open_executor
from benchmarks.rounds import Sampler, interleave, ratios, seconds, spread
from benchmarks.targets import Target, on_3_11, submit_target, this_build

__all__ = ["NO_OP", "drop_in", "open_pools", "sleeping_tasks", "submit_all", "workers_in_words"]


def _no_op() -> None: ...


def _no_op_on(resource: object) -> None: ...


def _sleep() -> None:
    time.sleep(0.001)


def _sleep_on(resource: object) -> None:
    time.sleep(0.001)


NO_OP = Task(_no_op, _no_op_on)
SLEEP = Task(_sleep, _sleep_on)


def open_pools(stack: ExitStack, workers: int, *, futures: bool = False) -> dict[str, Pool]:
    """A pool of every rival, by name, open until the stack is."""
    rivals = installed(workers=workers, futures=futures)
    return {rival.name: stack.enter_context(rival.open(workers)) for rival in rivals}


def submit_all(quick: bool) -> list[Row]:
    """Submit all, gather all, with 1 and with 4 workers."""
    target = submit_target(this_build())
    return _rows("submit", "submit all, gather all, no-op tasks", open_pools, target, quick)


def drop_in(quick: bool) -> list[Row]:
    """As `submit_all`, with tasker's own ThreadPoolExecutor in the place of a manager."""

    def pools(stack: ExitStack, workers: int) -> dict[str, Pool]:
        opened = {TASKER: open_drop_in(workers), BASELINE: open_executor(workers)}
        return {name: stack.enter_context(pool) for name, pool in opened.items()}

    target = on_3_11(this_build(), Target("at least", 4))
    return _rows("drop-in", "tasker.ThreadPoolExecutor: submit all, gather all", pools, target, quick)


def _rows(
    name: str,
    title: str,
    open_all: Callable[[ExitStack, int], dict[str, Pool]],
    target: Target | None,
    quick: bool,
) -> list[Row]:
    count, rounds = (500, 3) if quick else (20_000, 11)
    rows: list[Row] = []
    for workers in (1, 4):
        with ExitStack() as stack:
            samples = _gather(open_all(stack, workers), NO_OP, count, rounds)
        rows.append(
            Row(
                name=f"{name}-{workers}",
                title=f"{title}, {workers_in_words(workers)}",
                unit="µs a task",
                samples=samples,
                ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
                meaning="times as fast",
                target=target,
                notes=(f"{count:,} tasks, {rounds} rounds",),
            )
        )
    return rows


def sleeping_tasks(quick: bool) -> list[Row]:
    """Many workers, tasks that sleep."""
    workers, count, rounds = (64, 1_000, 2) if quick else (64, 20_000, 5)
    with ExitStack() as stack:
        pools = open_pools(stack, workers)
        samples = _gather(pools, SLEEP, count, rounds)
        at_the_end = pools[TASKER].pool.stats().active_workers
    return [
        Row(
            name="sleep-64",
            title=f"{count:,} tasks that sleep 1 ms, {workers} workers",
            unit="µs a task",
            samples=samples,
            ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
            meaning="times as fast",
            target=Target("at least", 1),
            notes=(f"{rounds} rounds; tasker, which hires, had {at_the_end} workers at the end",),
        )
    ]


def _gather(pools: dict[str, Pool], task: Task, count: int, rounds: int) -> dict[str, list[float]]:
    def sampler(pool: Pool) -> Sampler:
        return lambda: seconds(lambda: pool.gather(task, count)) / count * 1e6

    return interleave({name: sampler(pool) for name, pool in pools.items()}, rounds)


def workers_in_words(count: int) -> str:
    """For titles."""
    return f"{count} worker{'s' * (count != 1)}"
