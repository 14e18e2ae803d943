"""The cost of submitting other callables than plain functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import NO_OP, TASKER, Task, open_tasker
from benchmarks.harness.rounds import interleave, ratios, spread, spreads
from benchmarks.harness.samplers import gather_sampler
from benchmarks.harness.targets import Target

__all__ = ["KINDS", "kinds_of_callables"]


def _with_option(resource: object, option: int = 0) -> None: ...


def _decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **options: Any) -> Any:
        return fn(*args, **options)

    return wrapper


class _Callable:
    def __init__(self, resource: object = None) -> None: ...
    def __call__(self, resource: object) -> None: ...
    def method(self, resource: object) -> None: ...


KINDS: dict[str, Callable[..., object]] = {
    "a function with a default": _with_option,
    "a partial": functools.partial(_with_option, option=1),
    "a bound method": _Callable().method,
    "an object": _Callable(),
    "a class": _Callable,
    "a decorated function": _decorated(NO_OP.on_resource),
    "a cached function": functools.lru_cache(NO_OP.on_resource),
    "a builtin": id,
    "a method of a builtin type": object.__repr__,
}


def kinds_of_callables(quick: bool) -> list[Row]:
    """Submit all, gather all, one worker: each kind against a plain function.

    The call itself of a plain function may cost less.
    """
    count, rounds = (200, 3) if quick else (5_000, 15)
    rows: list[Row] = []

    with open_tasker(1) as pool:
        for number, (kind, fn) in enumerate(KINDS.items(), 1):
            tasks = {TASKER: Task(_nothing, fn), "a function": NO_OP}
            samples = interleave(
                {name: gather_sampler(pool, task, count) for name, task in tasks.items()}, rounds
            )
            rows.append(
                Row(
                    name=f"callables-{number}",
                    title=f"submit all, gather all, 1 worker: {kind}",
                    unit="µs a task",
                    figures=spreads(samples),
                    ratio=spread(ratios(samples[TASKER], samples["a function"])),
                    meaning="of a plain function's time",
                    target=Target("at most", 1.5),
                    notes=(f"{count:,} tasks, {rounds} rounds",),
                )
            )

    return rows


def _nothing() -> None: ...
