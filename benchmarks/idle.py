"""The cost of an idle pool: wake-ups of its threads, and processor time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from benchmarks.harness.results import Row
from benchmarks.harness.rivals import (
    BASELINE,
    TASKER,
    Pool,
    Task,
    installed,
    open_drop_in,
    open_executor,
    open_tasker,
)
from benchmarks.harness.rounds import spreads
from benchmarks.harness.targets import Target

__all__ = ["idle_pools", "voluntary_switches"]

WORKERS = 8
MANY_WORKERS = 1_000
MANY_POOLS = 300
PROC = Path("/proc/self/task")


def idle_pools(quick: bool) -> list[Row]:
    """Each pool in turn, warmed up, then left alone for some seconds."""
    settle, watch, rounds = (0.1, 0.3, 1) if quick else (2.0, 4.0, 2)
    wakes: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}

    for _ in range(rounds):
        for rival in installed(futures=True):
            wake, share = _watch(rival.open, settle, watch)
            shares.setdefault(rival.name, []).append(share)
            if wake is not None:
                wakes.setdefault(rival.name, []).append(wake)

    rows = [
        Row(
            name="idle-cpu",
            title=f"an idle pool of {WORKERS} workers: processor time",
            unit="% of a core",
            figures=spreads(shares),
            target=Target("below", 0.1, "%", of="tasker"),
            notes=(f"over {watch:g} s, {rounds} times",),
        )
    ]
    if wakes:
        rows.append(
            Row(
                name="idle-wake-ups",
                title=f"an idle pool of {WORKERS} workers: wake-ups, tasker's burst thread apart",
                unit="a second",
                figures=spreads(wakes),
                target=Target("at most", 0, of="tasker"),
                notes=("voluntary context switches of the pool's threads",),
            )
        )

    return [*rows, _many_workers(quick), _many_pools(quick)]


def _many_workers(quick: bool) -> Row:
    """Measure one pool with so many workers that the cost of each shows."""
    workers = 50 if quick else MANY_WORKERS

    def share(open_pool: Callable[[int], AbstractContextManager[Pool]]) -> float:
        with open_pool(workers) as pool:
            _use_all_workers(pool, workers)
            return _share_at_rest(quick)

    return Row(
        name="idle-many-workers",
        title=f"an idle pool of {workers:,} workers: processor time",
        unit="% of a core",
        figures=spreads({TASKER: [share(open_tasker)], BASELINE: [share(open_executor)]}),
        target=Target("below", 0.1, "%", of="tasker"),
    )


def _many_pools(quick: bool) -> Row:
    """Measure many pools that have each run one task, as libraries keep them."""
    count = 20 if quick else MANY_POOLS

    def share(open_pool: Callable[[int], AbstractContextManager[Pool]]) -> float:
        with ExitStack() as stack:
            for _ in range(count):
                _use_all_workers(stack.enter_context(open_pool(1)), 1)
            return _share_at_rest(quick)

    return Row(
        name="idle-many-pools",
        title=f"{count} idle pools, tasker.ThreadPoolExecutor: processor time",
        unit="% of a core",
        figures=spreads({TASKER: [share(open_drop_in)], BASELINE: [share(open_executor)]}),
        target=Target("below", 0.1, "%", of="tasker"),
    )


def _share_at_rest(quick: bool) -> float:
    """Per cent of a core that the process uses, while its pools are idle."""
    settle, watch = (0.1, 0.3) if quick else (4.0, 10.0)
    time.sleep(settle)
    used, began = time.process_time(), time.monotonic()
    time.sleep(watch)

    return (time.process_time() - used) / (time.monotonic() - began) * 100


def voluntary_switches() -> dict[int, int]:
    """How often each thread of the process went to sleep, by its native id.

    Empty where the system does not tell.
    """
    counts: dict[int, int] = {}
    if not PROC.is_dir():
        return counts

    for thread in os.listdir(PROC):
        # The thread may have ended since it was listed.
        with contextlib.suppress(OSError):
            for line in (PROC / thread / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    counts[int(thread)] = int(line.split()[1])

    return counts


def _watch(
    open_pool: Callable[[int], AbstractContextManager[Pool]], settle: float, watch: float
) -> tuple[float | None, float]:
    """Wake-ups a second of the pool's threads, and per cent of a core in use."""
    others = set(voluntary_switches())
    with open_pool(WORKERS) as pool:
        _use_all_workers(pool, WORKERS)
        time.sleep(settle)
        apart = {
            thread.native_id for thread in threading.enumerate() if thread.name == f"{TASKER}-burst"
        }
        switches, used, began = voluntary_switches(), time.process_time(), time.monotonic()
        time.sleep(watch)
        passed = time.monotonic() - began
        used = time.process_time() - used
        after = voluntary_switches()

    slept = [
        after[thread] - switches.get(thread, 0) for thread in after if thread not in others | apart
    ]
    return (sum(slept) / passed if slept else None), used / passed * 100


def _use_all_workers(pool: Pool, workers: int) -> None:
    """Give every worker a task at the same time.

    Then pools that start threads when they need them have all of theirs.
    """
    together = threading.Barrier(workers)

    def meet() -> None:
        together.wait(60)

    pool.gather(Task(meet, lambda resource: meet()), workers)
