"""The cost of showing tasks the context variables of their submitter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from benchmarks.harness.results import Row, workers_in_words
from benchmarks.harness.rivals import NO_OP, TASKER, open_tasker
from benchmarks.harness.rounds import interleave, ratios, spread, spreads
from benchmarks.harness.samplers import gather_sampler
from benchmarks.harness.targets import Target, on_3_11, this_build

__all__ = ["a_few_set", "propagated_variables"]

FEW = 5
VARIABLES = [ContextVar[str](f"variable {number}") for number in range(FEW)]


@contextmanager
def a_few_set() -> Iterator[None]:
    """As in a web application: some variables have values where tasks are submitted."""
    tokens = [variable.set("a value") for variable in VARIABLES]
    try:
        yield
    finally:
        for variable, token in zip(VARIABLES, tokens, strict=True):
            variable.reset(token)


def propagated_variables(quick: bool) -> list[Row]:
    """Submit all, gather all, with `propagate_contextvars`, the default, or without."""
    count, rounds = (500, 3) if quick else (20_000, 21)
    rows: list[Row] = []

    for workers in (1, 4):
        with ExitStack() as stack:
            stack.enter_context(a_few_set())
            pools = {
                TASKER: stack.enter_context(open_tasker(workers)),
                "without": stack.enter_context(open_tasker(workers, propagate_contextvars=False)),
                "with retries": stack.enter_context(open_tasker(workers, check_health=_is_healthy)),
            }
            samples = interleave(
                {name: gather_sampler(pool, NO_OP, count) for name, pool in pools.items()}, rounds
            )

        rows.append(
            Row(
                name=f"contextvars-{workers}",
                title=f"submit all, gather all, {FEW} context variables set,"
                f" {workers_in_words(workers)}",
                unit="µs a task",
                figures=spreads(samples),
                ratio=spread(ratios(samples[TASKER], samples["without"])),
                meaning="of its time without context variables",
                target=on_3_11(this_build(), Target("at most", 1.2)),
                notes=(
                    f"{count:,} tasks, {rounds} rounds",
                    "with retries: each attempt gets a copy of its own",
                ),
            )
        )

    return rows


def _is_healthy(error: Exception) -> bool:
    return True
