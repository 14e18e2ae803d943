"""How long a caller waits: blocking round trips, and tasks in the caller's own thread.

One caller makes round trips alone, and eight make them at a time.

Where the platform allows it, the process is pinned to one CPU before any thread starts.
Across CPUs a round trip is mostly the time that the machine takes to wake one up.

No pool can beat two bare hand-overs of a raw lock between two threads. These are
measured in the same rounds and taken off.
"""

from __future__ import annotations

import _thread
import threading
from contextlib import ExitStack

from benchmarks.harness.both_forms import (
    Samples,
    open_both_forms,
    rows_of_both_forms,
    times_as_fast,
)
from benchmarks.harness.results import Row, workers_in_words
from benchmarks.harness.rivals import BASELINE, NO_OP, TASKER, TaskerPool, open_pools
from benchmarks.harness.rounds import Spread, interleave, ratios, spread, spreads
from benchmarks.harness.samplers import callers_sampler, calls_sampler, round_trip_sampler
from benchmarks.harness.targets import Target

__all__ = [
    "HAND_OVERS",
    "HandOvers",
    "above_hand_overs",
    "blocking_callers",
    "round_trips",
    "run_task",
]

HAND_OVERS = "two lock hand-overs"


class HandOvers:
    """A thread that answers: it waits for one raw lock and releases another."""

    def __init__(self) -> None:
        self._ask = _thread.allocate_lock()
        self._answer = _thread.allocate_lock()
        self._ask.acquire()
        self._answer.acquire()
        self._ended = False
        self._thread = threading.Thread(target=self._answer_all)

    def __enter__(self) -> HandOvers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._ask.release()
        self._thread.join()

    def calls(self, count: int) -> None:
        """Ask and wait for the answer: two hand-overs each."""
        ask, answer = self._ask.release, self._answer.acquire
        for _ in range(count):
            ask()
            answer()

    def _answer_all(self) -> None:
        wait, answer = self._ask.acquire, self._answer.release
        while not self._ended:
            wait()
            answer()


def round_trips(workers: int, quick: bool) -> list[Row]:
    """One caller."""
    count, rounds = (100, 3) if quick else (1_000, 31)
    with ExitStack() as stack:
        bare = stack.enter_context(HandOvers())
        samplers = {HAND_OVERS: calls_sampler(bare.calls, count)}
        for name, (pool, task) in open_both_forms(stack, workers, futures=True).items():
            samplers[name] = round_trip_sampler(pool, task, count)
        samples = interleave(samplers, rounds)

    title = f"blocking round trip, one caller, {workers_in_words(workers)}"
    note = f"{count:,} round trips, {rounds} rounds"

    return rows_of_both_forms(f"round-trip-{workers}", title, "µs", samples, above_hand_overs, note)


def above_hand_overs(samples: Samples) -> tuple[Spread, str]:
    """Return the ratio of the two pools' times, and how to read it.

    Each is the time above two lock hand-overs, and ThreadPoolExecutor's is divided by
    tasker's. If one of them takes no longer than the hand-overs, this is the ratio of
    the whole times. That happens because free-threaded builds spin before a lock
    sleeps, and because a pool may sleep without a lock.
    """
    own, other, bare = samples[TASKER], samples[BASELINE], samples[HAND_OVERS]
    if min(spread(own).median, spread(other).median) > spread(bare).median:
        return spread(ratios(other, own, bare)), "times as fast, above two lock hand-overs"
    return spread(ratios(other, own)), "times as fast, hand-overs included"


def blocking_callers(quick: bool) -> list[Row]:
    """Eight callers at a time, four workers."""
    callers, workers, count, rounds = (8, 4, 20, 3) if quick else (8, 4, 250, 21)
    with ExitStack() as stack:
        pools = open_both_forms(stack, workers, futures=True)
        samplers = {
            name: callers_sampler(pool, task, callers, count)
            for name, (pool, task) in pools.items()
        }
        samples = interleave(samplers, rounds)

    title = f"{callers} blocking callers, {workers_in_words(workers)}"
    note = f"{callers} x {count:,} round trips, {rounds} rounds"

    return rows_of_both_forms(
        f"callers-{callers}", title, "µs a task", samples, times_as_fast, note
    )


def run_task(quick: bool) -> list[Row]:
    """Measure `run_task` against a round trip of the others."""
    count, rounds = (100, 3) if quick else (1_000, 21)
    with ExitStack() as stack:
        pools = open_pools(stack, 4, futures=True)
        samplers = {
            name: round_trip_sampler(pool, NO_OP, count)
            for name, pool in pools.items()
            if name != TASKER
        }
        own = pools[TASKER]
        assert isinstance(own, TaskerPool)
        samplers[TASKER] = calls_sampler(lambda calls: own.run_tasks(NO_OP, calls), count)
        samples = interleave(samplers, rounds)

    return [
        Row(
            name="run-task",
            title="run_task; the others: blocking round trip",
            unit="µs",
            figures=spreads(samples),
            ratio=spread(ratios(samples[BASELINE], samples[TASKER])),
            meaning="times as fast",
            target=Target("at least", 10),
            notes=(f"{count:,} calls, {rounds} rounds",),
        )
    ]
