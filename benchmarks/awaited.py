"""No-op tasks that are awaited in asyncio, all at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, NO_OP, TASKER, open_drop_in, open_tasker
from benchmarks.harness.rounds import Sampler, interleave, ratios, seconds, spread, spreads
from benchmarks.harness.targets import Target, on_3_11, this_build

__all__ = ["awaited_tasks"]

WORKERS = 4

Call = Callable[[], Awaitable[object]]


def awaited_tasks(quick: bool) -> list[Row]:
    """Measure `asyncio.gather` over the awaitables of each way to submit."""
    count, rounds = (500, 2) if quick else (20_000, 11)
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner())
        tasker = stack.enter_context(open_tasker(WORKERS)).pool
        executor = stack.enter_context(ThreadPoolExecutor(WORKERS))
        drop_in = stack.enter_context(open_drop_in(WORKERS)).pool
        run_in_executor = loop.get_loop().run_in_executor
        ways: dict[str, Call] = {
            TASKER: lambda: tasker.queue_task_async(NO_OP.on_resource),
            BASELINE: lambda: run_in_executor(executor, NO_OP.plain),
            "asubmit": lambda: tasker.asubmit(NO_OP.on_resource),
            "run_in_executor on the drop-in": lambda: run_in_executor(drop_in, NO_OP.plain),
        }
        samples = interleave(
            {name: _sampler(loop, call, count) for name, call in ways.items()}, rounds
        )

    return [
        Row(
            name="asyncio",
            title=f"{count:,} no-op tasks and asyncio.gather, {WORKERS} workers",
            unit="µs a task",
            figures=spreads(samples),
            ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
            meaning="times as fast",
            target=on_3_11(this_build(), Target("at least", 1.5)),
            notes=(
                f"{rounds} rounds; tasker: queue_task_async,"
                " ThreadPoolExecutor: loop.run_in_executor",
            ),
        )
    ]


def _sampler(loop: asyncio.Runner, call: Call, count: int) -> Sampler:
    async def gather() -> None:
        await asyncio.gather(*[call() for _ in range(count)])

    return lambda: seconds(lambda: loop.run(gather())) / count * 1e6
