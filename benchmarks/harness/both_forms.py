"""Both forms of a task in the same rounds: with its resource, and with its context too.

Each measurement gives three rows: either form against ThreadPoolExecutor, and the cost
of the context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import BASELINE, NO_OP, TASKER, Pool, Task, open_pools, open_tasker
from benchmarks.harness.rounds import Spread, ratios, spread, spreads
from benchmarks.harness.targets import Target, both_forms_target, this_build

__all__ = [
    "WITH_CONTEXT",
    "Compare",
    "Samples",
    "open_both_forms",
    "rows_of_both_forms",
    "times_as_fast",
]

WITH_CONTEXT = "tasker, with its context"
WITHOUT = "without"

Samples = Mapping[str, Sequence[float]]

# The ratio of ThreadPoolExecutor to tasker, and how to read it.
Compare = Callable[[Samples], tuple[Spread, str]]


def _no_op_with_context(ctx: object, resource: object) -> None: ...


NO_OP_WITH_CONTEXT = Task(NO_OP.plain, _no_op_with_context)


def open_both_forms(
    stack: ExitStack, workers: int, *, futures: bool = False
) -> dict[str, tuple[Pool, Task]]:
    """Return a pool and its task of every rival, by name.

    tasker has two, one for each form.
    """
    pools = {
        name: (pool, NO_OP) for name, pool in open_pools(stack, workers, futures=futures).items()
    }
    return pools | {WITH_CONTEXT: (stack.enter_context(open_tasker(workers)), NO_OP_WITH_CONTEXT)}


def rows_of_both_forms(
    name: str,
    title: str,
    unit: str,
    samples: Samples,
    compare: Compare,
    note: str,
    *,
    cost: Target | None = None,
) -> list[Row]:
    """Return the rows of both forms, and of the cost of the context.

    `cost` bounds it. `samples` has those of `open_both_forms`, and perhaps others.
    """
    others = {
        each: values for each, values in samples.items() if each not in (TASKER, WITH_CONTEXT)
    }
    target = both_forms_target(name, this_build())
    rows: list[Row] = []

    def add(
        form: str, words: str, shown: Samples, compared: tuple[Spread, str], target: Target | None
    ) -> None:
        ratio, meaning = compared
        rows.append(
            Row(
                f"{name}{form}",
                f"{title}{words}",
                unit,
                spreads(shown),
                ratio,
                meaning,
                target,
                (note,),
            )
        )

    without = {TASKER: samples[TASKER], **others}
    add("", "", without, compare(without), target)
    asking = {TASKER: samples[WITH_CONTEXT], **others}
    add("-context", ", with the context", asking, compare(asking), target)
    both = {TASKER: samples[WITH_CONTEXT], WITHOUT: samples[TASKER]}
    times = spread(ratios(both[TASKER], both[WITHOUT]))
    add("-cost", ", what the context costs", both, (times, "of its time without the context"), cost)

    return rows


def times_as_fast(samples: Samples) -> tuple[Spread, str]:
    """The whole time of ThreadPoolExecutor, divided by that of tasker."""
    return spread(ratios(samples[BASELINE], samples[TASKER])), "times as fast"
