"""The cost of `metrics()` after many tasks, and the growth of memory with them.

Only tasker has such a call. One manager has run few tasks and another has run many.
They are asked in turns. A call that has new tasks to look at costs more than one that
has none, so both are measured.
"""

from __future__ import annotations

import gc
from contextlib import ExitStack

from benchmarks.harness.machine import resident_bytes
from benchmarks.harness.results import Row
from benchmarks.harness.rivals import NO_OP, RIVALS, TASKER, Pool
from benchmarks.harness.rounds import interleave, ratios, seconds, spread, spreads
from benchmarks.harness.targets import Target

__all__ = ["metrics_cost"]

# So many tasks are submitted before the first is waited for. Waiting tasks take memory
# too, so there are few.
BATCH = 5_000
NEW_TASKS = 1_000
MEBIBYTE = 2**20


def metrics_cost(quick: bool) -> list[Row]:
    """`metrics()` and the memory of the process, after few tasks and after many."""
    few, many, rounds = (1_000, 20_000, 3) if quick else (10_000, 1_000_000, 31)
    (tasker,) = (rival for rival in RIVALS if rival.name == TASKER)

    with ExitStack() as stack:
        young, old = (stack.enter_context(tasker.open(4)) for _ in range(2))
        for pool in (young, old):
            _run(pool, few)
        before = _settled_memory(old)
        _run(old, many - few)
        after = _settled_memory(old)
        rows = [
            _compare("metrics", "metrics()", young, old, few, many, rounds, new=0),
            _compare(
                "metrics-new",
                f"metrics() with {NEW_TASKS:,} new",
                young,
                old,
                few,
                many,
                rounds,
                new=NEW_TASKS,
            ),
        ]

    if before is not None and after is not None:
        rows.append(
            Row(
                name="memory-growth",
                title=f"the process's memory, growth from {few:,} to {many:,} tasks",
                unit="MiB",
                figures=spreads({TASKER: [(after - before) / MEBIBYTE]}),
                target=Target("at most", 2, "MiB", of="tasker"),
                notes=(
                    f"resident set, {before / MEBIBYTE:.1f} MiB before;"
                    f" up to {BATCH:,} tasks waiting at a time",
                ),
            )
        )

    return rows


def _compare(
    name: str, title: str, young: Pool, old: Pool, few: int, many: int, rounds: int, *, new: int
) -> Row:
    def sampler(pool: Pool) -> float:
        pool.gather(NO_OP, new)
        return seconds(pool.pool.metrics) * 1e6

    early = f"after {few:,}"
    samples = interleave({TASKER: lambda: sampler(old), early: lambda: sampler(young)}, rounds)

    return Row(
        name=name,
        title=f"{title}, after {many:,} tasks",
        unit="µs",
        figures=spreads(samples),
        ratio=spread(ratios(samples[TASKER], samples[early])),
        meaning=f"of its cost after {few:,}",
        target=Target("at most", 1.5),
    )


def _run(pool: Pool, count: int) -> None:
    for begun in range(0, count, BATCH):
        pool.gather(NO_OP, min(BATCH, count - begun))


def _settled_memory(pool: Pool) -> int | None:
    pool.pool.metrics()
    gc.collect()
    return resident_bytes()
