"""`map` over no-op items.

tasker takes them a window at a time. An executor takes all of them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, TASKER, open_tasker
from benchmarks.harness.rounds import interleave, ratios, spread, spreads
from benchmarks.harness.samplers import map_sampler
from benchmarks.harness.targets import Target, on_3_11, this_build

__all__ = ["mapped_items"]

WORKERS = 4
CHUNK = 100

Mapped = Callable[[Iterable[int]], Iterator[object]]


def _no_op(item: int) -> None: ...


def _no_op_on(resource: object, item: int) -> None: ...


def mapped_items(quick: bool) -> list[Row]:
    """All results taken and dropped; the workers are there before."""
    count, rounds = (1_000, 2) if quick else (200_000, 7)
    with ExitStack() as stack:
        tasker = stack.enter_context(open_tasker(WORKERS)).pool
        executor = stack.enter_context(ThreadPoolExecutor(WORKERS))
        pool = stack.enter_context(ThreadPool(WORKERS))
        ways: dict[str, Mapped] = {
            TASKER: lambda items: tasker.map(_no_op_on, items),
            BASELINE: lambda items: executor.map(_no_op, items),
            "multiprocessing": lambda items: pool.imap(_no_op, items),
            "ordered=False": lambda items: tasker.map(_no_op_on, items, ordered=False),
            f"chunksize={CHUNK}": lambda items: tasker.map(_no_op_on, items, chunksize=CHUNK),
        }
        samples = interleave(
            {name: map_sampler(mapped, count) for name, mapped in ways.items()}, rounds
        )

    return [
        Row(
            name="map",
            title=f"map over {count:,} no-op items, {WORKERS} workers",
            unit="µs an item",
            figures=spreads(samples),
            ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
            meaning="times as fast",
            target=on_3_11(this_build(), Target("at least", 5)),
            notes=(f"{rounds} rounds; multiprocessing: imap",),
        )
    ]
