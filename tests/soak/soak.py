"""A run of the soak: its rounds, its last phase, and the report."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.machine import describe, resident_bytes
from tasker import Config, Processes, TaskManager, Threads
from tasker._pool import backoff
from tests.soak import patience
from tests.soak.children import descriptors
from tests.soak.failing_allocations import can_fail_allocations
from tests.soak.round import Round
from tests.soak.tasks import nothing, square

__all__ = ["TASKS", "TASKS_WITH_CHILDREN", "Soak"]

# After so many seconds without any movement the run has hung.
STILL_S = 60.0

# The memory that rounds and batches may gain. A guess: more than the noise, less than a
# leak.
ROUNDS_GROW_MIB = 16
BATCHES_GROW_MIB = 8

FAILING_ALLOCATIONS_EVERY = 25  # rounds
FEW_ROUNDS = 8  # fewer have no meaningful memory

# The time of the load, at least and at most. Child processes start slowly.
ROUND_S = (0.4, 1.2)
ROUND_WITH_CHILDREN_S = (0.8, 2.5)

# The pauses of `backoff`. Rounds are too short for the usual ones.
PAUSES_S = ((0.0, 0.0, 0.0), (0.001, 0.02, 0.001), (0.01, 0.1, 0.01))

BATCH = 10_000
# For the last phase of a run of a minute or more. Shorter runs have their share.
TASKS = 2_000_000
TASKS_WITH_CHILDREN = 50_000

_TOTALS = (
    "submitted",
    "accepted",
    "refused",
    "mapped",
    "completed",
    "failed",
    "cancelled",
    "retried",
    "abandoned",
)
_MIB = 2**20


class Soak:
    """The run: what it has counted so far, and how it ends."""

    def __init__(self, seconds: float, rounds: int, seed: int, tasks: int, placement: str) -> None:
        self._seconds = seconds
        self._least_rounds = rounds
        self._seed = seed
        self._tasks = tasks
        self._placement = placement
        self._descriptors: int | None = None  # after the first round
        self._began = time.monotonic()
        self._totals: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._ways: Counter[str] = Counter()
        self._resident: list[float] = []  # MiB, after each round
        self._memory: dict[str, Any] = {"rounds": None, "batches": None}
        self._round: Round | None = None
        self._batches = 0
        self.violations: list[str] = []

    def run(self) -> None:
        """Run rounds, then batches.

        Rounds end when there were enough and the time is over, or when one goes wrong.
        """
        with self._watched(), self._overheard():
            rounds = 0
            while not self.violations and (rounds < self._least_rounds or self._left() > 0):
                rounds += 1
                if (
                    rounds % FAILING_ALLOCATIONS_EVERY == 0
                    and self._placement == "threads"
                    and can_fail_allocations()
                ):
                    self._fail_allocations(rounds)
                else:
                    self._run_round(rounds)

            if not self.violations:
                self._judge_rounds()
                self._run_batches()

    def _left(self) -> float:
        """The seconds that are left."""
        return self._seconds - (time.monotonic() - self._began)

    def _run_round(self, number: int) -> None:
        backoff.FIRST_PAUSE_S, backoff.LONGEST_PAUSE_S, backoff.SPACING_S = PAUSES_S[
            number % len(PAUSES_S)
        ]
        current = self._round = Round(number, self._seed, self._placement)

        try:
            seconds = current.rng.uniform(
                *(ROUND_WITH_CHILDREN_S if self._placement == "processes" else ROUND_S)
            )
            if number > self._least_rounds:
                seconds = min(seconds, max(self._left(), 0.1))
            current.run(seconds)
        except Exception as error:
            # The harness raises no errors of its own, but a signal handler may.
            traceback.print_exc()
            current.ledger.broken(f"the round met {type(error).__name__}: {error}")

        self.violations += [
            f"{violation} (round {number}: {current.way})"
            for violation in current.ledger.violations
        ]
        self._totals += current.counts
        self._totals["created"] += len(current.ledger.resources)
        self._totals["destroyed"] += sum(
            len(resource.ends) for resource in current.ledger.resources
        )
        self._totals["lost"] += sum(resource.lost for resource in current.ledger.resources)
        self._totals["killed"] += len(current.ledger.killed)
        self._faults += current.faults
        self._ways[current.way] += 1
        engine, self._round = current.engine_reference(), None
        del current
        gc.collect()
        if not self.violations and engine is not None and not _collected(engine):
            self.violations.append(
                f"round {number}: the engine of a closed and forgotten manager stays in memory"
            )
        self._count_descriptors(number)
        if (resident := resident_bytes()) is not None:
            self._resident.append(resident / _MIB)

    def _fail_allocations(self, number: int) -> None:
        """Run a round in which allocations fail."""
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.soak.failing_allocations",
                f"{self._seed}/{number}",
                str(ROUND_S[1]),
            ],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        self._ways["failing allocations"] += 1
        if run.returncode != 0:
            self.violations.append(
                f"round {number}: failing_allocations ended with {run.returncode}:"
                f" {run.stderr[-2000:]}"
            )
            return

        told = json.loads(run.stdout)
        self._faults["allocations fail"] += told["struck"]
        self.violations += [
            f"{violation} (round {number}: failing allocations)" for violation in told["violations"]
        ]

    def _count_descriptors(self, number: int) -> None:
        if self._descriptors is None:
            self._descriptors = descriptors()
        elif not patience.eventually(lambda: (descriptors() or 0) <= (self._descriptors or 0), 1.0):
            self.violations.append(
                f"round {number}: {descriptors()} descriptors are open,"
                f" {self._descriptors} after the first round"
            )

    # -- memory ------------------------------------------------------------------------

    def _judge_rounds(self) -> None:
        count = len(self._resident)
        if count < FEW_ROUNDS:
            return

        early = median(self._resident[count // 4 : count // 2])
        late = median(self._resident[-(count // 4) :])
        self._note_growth("rounds", early, late, ROUNDS_GROW_MIB, rounds=count)

    def _run_batches(self) -> None:
        batches = math.ceil(self._tasks / BATCH)
        warm_up = max(1, batches // 10)
        if not batches:
            return

        began, early = time.monotonic(), None
        config: Config[None] = Config(
            on_create=nothing,
            on_destroy=nothing,
            worker_count=4,
            placement=Processes() if self._placement == "processes" else Threads(),
        )

        with TaskManager(config) as manager:
            for batch in range(batches + warm_up):
                if batch == warm_up:
                    gc.collect()
                    early = resident_bytes()

                futures = [manager.queue_task_async(square, number) for number in range(BATCH)]
                if any(future.result() != number**2 for number, future in enumerate(futures)):
                    self.violations.append(f"batch {batch}: a task got the result of another")
                del futures
                manager.metrics()
                self._batches += 1

            gc.collect()
            late = resident_bytes()
            arrived = manager.metrics().total_tasks_arrived

        if arrived != self._batches * BATCH:
            self.violations.append(
                f"{self._batches * BATCH} tasks were run in batches, metrics() says {arrived}"
            )
        figures = {"tasks": batches * BATCH, "seconds": round(time.monotonic() - began, 2)}
        self._memory["batches"] = figures
        if early is not None and late is not None:
            self._note_growth("batches", early / _MIB, late / _MIB, BATCHES_GROW_MIB, **figures)

    def _note_growth(
        self, name: str, early: float, late: float, allowed: int, **figures: float
    ) -> None:
        self._memory[name] = figures | {
            "early_mib": round(early, 1),
            "late_mib": round(late, 1),
            "allowed_growth_mib": allowed,
        }
        if late - early > allowed:
            self.violations.append(
                f"{name}: resident memory grew from {early:.1f} to {late:.1f} MiB, {figures}"
            )

    # -- errors elsewhere -------------------------------------------------------------

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Dump all stacks and leave when nothing moves."""
        over = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(over,), name="harness-watchdog", daemon=True
        )
        thread.start()

        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        moves, moved_at = None, time.monotonic()
        while not over.wait(0.5):
            # This thread may be unable to run, too.
            faulthandler.dump_traceback_later(STILL_S * 1.5, exit=True)
            current, now = self._round, time.monotonic()
            if (
                seen := (
                    sum(self._ways.values()),
                    self._batches,
                    current and current.ledger.moves(),
                )
            ) != moves:
                moves, moved_at = seen, now
            elif now - moved_at > STILL_S:
                faulthandler.dump_traceback(all_threads=True)
                found = current.ledger.violations if current is not None else []
                self.violations += [*found, f"nothing moved for {STILL_S:g} s"]
                print(json.dumps(self.report(), indent=1), flush=True)
                os._exit(1)

        faulthandler.cancel_dump_traceback_later()

    @contextlib.contextmanager
    def _overheard(self) -> Iterator[None]:
        """Note the errors that no caller sees.

        These are uncaught exceptions of threads and finalizers, and the logs of the
        timer thread.
        """
        hooks = threading.excepthook, sys.unraisablehook
        logger, handler = logging.getLogger("tasker"), _Overhearing(self.violations)

        def in_thread(args: threading.ExceptHookArgs, /) -> None:
            self.violations.append(
                f"{args.exc_type.__name__} ended the thread {args.thread and args.thread.name}"
            )
            hooks[0](args)

        def in_finalizer(args: Any, /) -> None:
            self.violations.append(f"{args.exc_type.__name__} was ignored in {args.object!r}")
            hooks[1](args)

        threading.excepthook, sys.unraisablehook = in_thread, in_finalizer
        logger.addHandler(handler)

        try:
            yield
        finally:
            logger.removeHandler(handler)
            threading.excepthook, sys.unraisablehook = hooks

    # -- the report --------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the report that is printed."""
        machine = describe()
        return {
            "machine": machine["machine"],
            "python": machine["python"]["name"],
            "gil": machine["python"]["gil"],
            "seconds": round(time.monotonic() - self._began, 2),
            "seed": self._seed,
            "placement": self._placement,
            "rounds": sum(self._ways.values()),
            "ended_by": dict(self._ways.most_common()),
            "tasks": {name: self._totals[name] for name in _TOTALS},
            "resources": {name: self._totals[name] for name in ("created", "destroyed", "lost")},
            "children": {name: self._totals[name] for name in ("children", "killed", "lost")},
            "faults": dict(self._faults.most_common()),
            "memory": self._memory,
            "violations": self.violations,
        }


class _Overhearing(logging.Handler):
    """Takes each log record for a violation: the managers of the soak log elsewhere.

    Only what `on_abort` raises in a child is logged there."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._violations = violations

    def emit(self, record: logging.LogRecord) -> None:
        if record.process != os.getpid() and "on_abort raised" in record.msg:
            return
        self._violations.append(
            f"logged: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
        )


def _collected(reference: weakref.ref[Any]) -> bool:
    return patience.eventually(lambda: gc.collect() >= 0 and reference() is None, 5.0)
