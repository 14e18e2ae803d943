"""The gain of a second worker where there is no GIL.

Tasks of pure Python are submitted one by one, and mapped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, TASKER, open_executor, open_tasker
from benchmarks.harness.rounds import Sampler, interleave, ratios, seconds, spread, spreads
from benchmarks.harness.targets import Target, this_build

__all__ = ["second_workers", "steps_of"]

ALONE = "1 worker"

Mapped = Callable[[Callable[..., object], Iterable[int]], Iterable[object]]


def compute(steps: int) -> int:
    """Compute in pure Python, with no shared objects: threads would wait for these."""
    total = 0
    for number in range(steps):
        total = (total * 31 + number) & 0xFFFF
    return total


def compute_on(resource: object, steps: int) -> int:
    """The same, as tasker calls it."""
    return compute(steps)


def steps_of(microseconds: float) -> int:
    """Return how many steps take so long at best, on this machine."""
    steps = 1_000
    once = min(seconds(partial(compute, steps)) for _ in range(51)) * 1e6
    return max(1, round(steps * microseconds / once))


def second_workers(size: int, quick: bool) -> list[Row]:
    """Measure two workers against one, with tasks of so many microseconds.

    There are no rows where the GIL lets only one thread run at a time.
    """
    if not this_build().free_threaded:
        return []

    amount, rounds = (3_000, 2) if quick else (120_000, 15)  # microseconds of work
    steps, count = steps_of(size), amount // size
    rows: list[Row] = []

    for way, words in (("submit", "one by one"), ("map", "by map")):
        with ExitStack() as stack:
            samples = interleave(_samplers(stack, way, steps, count), rounds)
        title = f"tasks of {size} µs of pure Python {words}, 2 workers"
        note = f"{count:,} tasks, {rounds} rounds"
        rows.append(
            _row(f"cores-{way}-{size}", title, TASKER, samples, Target("at least", 1.9), note)
        )
        rows.append(
            _row(
                f"cores-{way}-{size}-baseline",
                f"{title}: {BASELINE}",
                BASELINE,
                samples,
                None,
                note,
            )
        )

    return rows


def _samplers(stack: ExitStack, way: str, steps: int, count: int) -> dict[str, Sampler]:
    samplers: dict[str, Sampler] = {}
    for workers, suffix in ((2, ""), (1, f", {ALONE}")):
        own = stack.enter_context(open_tasker(workers, max_worker_count=workers))
        other = stack.enter_context(open_executor(workers))
        for name, pool, function in ((TASKER, own, compute_on), (BASELINE, other, compute)):
            run = partial(_submit, pool.submit) if way == "submit" else partial(_map, pool.pool.map)
            samplers[name + suffix] = _sampler(partial(run, function, steps, count), count)

    return samplers


def _submit(
    submit: Callable[..., Any], function: Callable[..., object], steps: int, count: int
) -> None:
    futures = [submit(function, steps) for _ in range(count)]
    [future.result() for future in futures]


def _map(mapped: Mapped, function: Callable[..., object], steps: int, count: int) -> None:
    deque(mapped(function, [steps] * count), maxlen=0)


def _sampler(run: Callable[[], object], count: int) -> Sampler:
    return lambda: seconds(run) / count * 1e6


def _row(
    name: str,
    title: str,
    pool: str,
    samples: dict[str, list[float]],
    target: Target | None,
    note: str,
) -> Row:
    alone = f"{pool}, {ALONE}"
    shown = {each: samples[each] for each in (pool, alone)}
    return Row(
        name=name,
        title=title,
        unit="µs a task",
        figures=spreads(shown),
        ratio=spread(ratios(samples[alone], samples[pool])),
        meaning="times as fast as with one worker",
        target=target,
        notes=(note,),
    )
