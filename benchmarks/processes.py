"""Resources in child processes: the cost of calls and large data, the gain of a core.

Children run functions from the top level of modules, where they find them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cache, partial
from statistics import median
from typing import Any

from benchmarks.harness.process_rivals import (
    NO_OP,
    PROCESS_BASELINE,
    PROCESS_RIVALS,
    open_process_pools,
    open_processes,
)
from benchmarks.harness.results import Row, workers_in_words
from benchmarks.harness.rivals import TASKER, Pool, Task
from benchmarks.harness.rounds import Sampler, interleave, ratios, seconds, spread, spreads
from benchmarks.harness.samplers import callers_sampler, map_sampler, round_trip_sampler
from benchmarks.harness.targets import Target

__all__ = [
    "process_callers",
    "process_map",
    "process_payloads",
    "process_round_trips",
    "processor_time",
]

WORKERS = 4
LARGE_BYTES = 10_000_000
CHUNK = 100
# The steps of a loop that only computes. They take some hundredths of a second.
STEPS = 2_000_000
BOTH = (TASKER, PROCESS_BASELINE)


# -- in the children ------------------------------------------------------------------


def _measured(data: bytes) -> int:
    return len(data)


def _measured_on(resource: object, data: bytes) -> int:
    return len(data)


@cache
def _large() -> bytes:
    return b"x" * LARGE_BYTES


def _large_on(resource: object) -> bytes:
    return _large()


def _item(item: int) -> None: ...


def _item_on(resource: object, item: int) -> None: ...


def _compute() -> None:
    for _ in range(STEPS):
        pass


def _compute_on(resource: object) -> None:
    _compute()


# -- measurements ----------------------------------------------------------------------


def process_round_trips(quick: bool) -> list[Row]:
    """One caller, 4 workers."""
    count, rounds = (50, 2) if quick else (500, 21)
    with ExitStack() as stack:
        pools = open_process_pools(stack, WORKERS)
        samplers = {name: round_trip_sampler(pool, NO_OP, count) for name, pool in pools.items()}
        samples = interleave(samplers, rounds)

    title = f"processes: blocking round trip, one caller, {workers_in_words(WORKERS)}"
    return _compared(
        "processes-round-trip", title, samples, f"{count:,} round trips, {rounds} rounds"
    )


def process_callers(quick: bool) -> list[Row]:
    """As many callers as workers."""
    count, rounds = (20, 2) if quick else (200, 15)
    with ExitStack() as stack:
        pools = open_process_pools(stack, WORKERS)
        samplers = {
            name: callers_sampler(pool, NO_OP, WORKERS, count) for name, pool in pools.items()
        }
        samples = interleave(samplers, rounds)

    title = f"processes: {WORKERS} blocking callers, {workers_in_words(WORKERS)}"
    return _compared(
        "processes-callers", title, samples, f"{WORKERS} x {count:,} round trips, {rounds} rounds"
    )


def _compared(name: str, title: str, samples: dict[str, list[float]], note: str) -> list[Row]:
    """A row against the standard library, and one against the fastest other rival."""
    missing = [rival.name for rival in PROCESS_RIVALS if rival.name not in samples]
    notes = (note, *([f"not installed: {', '.join(missing)}"] if missing else []))
    rows = [_row(name, title, "µs a task", samples, Target("at least", 2), *notes)]
    others = sorted(set(samples) - set(BOTH), key=lambda other: median(samples[other]))
    if others:
        best = others[0]
        rows.append(
            Row(
                name=f"{name}-others",
                title=f"{title}: the fastest of the others",
                unit="µs a task",
                figures=spreads({TASKER: samples[TASKER], best: samples[best]}),
                ratio=spread(ratios(samples[best], samples[TASKER])),
                meaning=f"times as fast as {best}",
                target=Target("at least", 1),
                notes=notes,
            )
        )

    return rows


def process_map(quick: bool) -> list[Row]:
    """`map` over no-op items, one a message and many."""
    rows = []
    with ExitStack() as stack:
        own, other = (pool.pool for pool in open_process_pools(stack, WORKERS, BOTH).values())
        for chunk, count, rounds in (
            ((1, 200, 2), (CHUNK, 1_000, 2)) if quick else ((1, 2_000, 9), (CHUNK, 50_000, 9))
        ):
            ways: dict[str, Callable[[Iterable[int]], Iterable[Any]]] = {
                TASKER: partial(own.map, _item_on, chunksize=chunk),
                PROCESS_BASELINE: partial(other.map, _item, chunksize=chunk),
            }
            samples = interleave(
                {name: map_sampler(mapped, count) for name, mapped in ways.items()}, rounds
            )
            title = (
                f"processes: map over {count:,} no-op items, chunksize={chunk},"
                f" {workers_in_words(WORKERS)}"
            )
            rows.append(
                _row(
                    f"processes-map-{chunk}", title, "µs an item", samples, None, f"{rounds} rounds"
                )
            )

    return rows


def process_payloads(quick: bool) -> list[Row]:
    """A large argument, and a large result."""
    count, rounds = (1, 2) if quick else (3, 21)
    rows = []

    with ExitStack() as stack:
        pools = open_process_pools(stack, 1, BOTH)
        own, other = pools[TASKER].submit, pools[PROCESS_BASELINE].submit
        ways: dict[str, dict[str, Callable[[], Any]]] = {
            "argument": {
                TASKER: partial(own, _measured_on, _large()),
                PROCESS_BASELINE: partial(other, _measured, _large()),
            },
            "result": {TASKER: partial(own, _large_on), PROCESS_BASELINE: partial(other, _large)},
        }

        for name, ways_of in ways.items():
            samples = interleave(
                {each: _call_sampler(submit, count) for each, submit in ways_of.items()}, rounds
            )
            title = f"processes: {name} of {LARGE_BYTES // 1_000_000} MB"
            note = f"bytes, {count} calls, {rounds} rounds"
            rows.append(
                _row(f"processes-{name}", title, "ms", samples, Target("at least", 1), note)
            )

    return rows


def processor_time(quick: bool) -> list[Row]:
    """Tasks that only compute, on two workers and on one."""
    count, rounds = (4, 2) if quick else (16, 21)
    one, two = f"{TASKER}, one worker", f"{PROCESS_BASELINE}, two workers"
    task = Task(_compute, _compute_on)

    with ExitStack() as stack:
        pools = open_process_pools(stack, 2, BOTH)
        pools = {
            TASKER: pools[TASKER],
            one: stack.enter_context(open_processes(1)),
            two: pools[PROCESS_BASELINE],
        }
        samples = interleave(
            {name: _gather_sampler(pool, task, count) for name, pool in pools.items()}, rounds
        )

    return [
        Row(
            name="processes-cpu",
            title=f"processes: {count} tasks that only compute, 2 workers",
            unit="ms a task",
            figures=spreads(samples),
            ratio=spread(ratios(samples[one], samples[TASKER])),
            meaning="times as fast as with one worker",
            target=Target("at least", 1.9),
            notes=(f"{rounds} rounds; what else the machine does is in the figure",),
        )
    ]


# -- the pieces ------------------------------------------------------------------------


def _row(
    name: str,
    title: str,
    unit: str,
    samples: dict[str, list[float]],
    target: Target | None,
    *notes: str,
) -> Row:
    return Row(
        name=name,
        title=title,
        unit=unit,
        figures=spreads(samples),
        ratio=spread(ratios(samples[PROCESS_BASELINE], samples[TASKER])),
        meaning=f"times as fast as {PROCESS_BASELINE}",
        target=target,
        notes=notes,
    )


def _gather_sampler(pool: Pool, task: Task, count: int) -> Sampler:
    return lambda: seconds(lambda: pool.gather(task, count)) / count * 1e3


def _call_sampler(submit: Callable[[], Any], count: int) -> Sampler:
    def call() -> None:
        for _ in range(count):
            submit().result()

    return lambda: seconds(call) / count * 1e3
