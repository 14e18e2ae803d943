"""`python -m tests.soak.failing_allocations SEED SECONDS`: allocations fail anywhere.

These rounds of the soak are a program of their own, because a failed allocation strikes
any thread of the process, those of the harness as well. Each round makes a manager and
submits task after task. While some of them are submitted, run and settled, the n-th
allocation fails, alone or with those that follow it.

In the end the manager is closed, and the round is audited. Each accepted task ran and
has an outcome, no refused task ran, each resource was destroyed once, and the figures
add up. The notes for the audit are written without any allocation.

The program prints one JSON object: the faults and the violations.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import logging
import random
import sys
import threading
import time
from concurrent.futures import TimeoutError as NoOutcome
from types import ModuleType
from typing import Any

from tasker import Config, TaskFuture, TaskManager, WorkerLostError
from tasker._pool import backoff
from tests.soak import patience

__all__ = ["can_fail_allocations", "main"]

ROUND_S = 0.5
MOST_TASKS = 2_000  # in a round

# Allocations fail for this time.
STRUCK_S = 0.002


def can_fail_allocations() -> bool:
    """Whether this Python can let allocations fail.

    This takes a test module of CPython's, and a process that has one GIL. It is false
    on 3.12 and 3.13, where CPython itself crashes after a failed allocation.
    """
    return _testcapi() is not None


def _testcapi() -> ModuleType | None:
    if (3, 12) <= sys.version_info < (3, 14) or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None

    try:
        module = importlib.import_module("_testcapi")
    except ImportError:
        return None

    return module if hasattr(module, "set_nomemory") else None


class Made:
    """A resource."""

    __slots__ = ("destroyed", "twice")

    def __init__(self) -> None:
        self.destroyed = self.twice = False


class FailingRound:
    """One manager and its tasks."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.violations: list[str] = []
        self.struck = 0
        self._name = f"failing-{number}"
        self._rng = rng
        self._ran = bytearray(MOST_TASKS)
        self._submitted = 0
        self._refused: list[int] = []
        self._resources: list[Made] = []

    def run(self, seconds: float) -> None:
        manager = TaskManager(
            Config(
                on_create=self._create,
                on_destroy=self._destroy,
                worker_count=self._rng.randint(1, 3),
                burst_interval=self._rng.choice([0, 0.005]),
                check_health=lambda error: not isinstance(error, LookupError),
                create_timeout=patience.SECONDS,
                name=self._name,
            )
        )
        deadline = time.monotonic() + seconds
        manager.wait_ready(patience.SECONDS)
        while time.monotonic() < deadline and self._submitted < MOST_TASKS:
            self._submit(manager)
        report = self._close(manager)
        if report is not None:
            self._audit(manager)

    def _create(self) -> Made:
        made = Made()
        self._resources.append(made)
        return made

    def _destroy(self, made: Made) -> None:
        made.twice = made.destroyed
        made.destroyed = True

    def _task(self, made: Made, number: int) -> int:
        self._ran[number] += 1
        if made.destroyed:
            self.violations.append(f"task {number} got a resource that was destroyed")
        if number % 5 == 1:
            raise ValueError(number)
        if number % 5 == 2:
            raise LookupError(number)

        return number

    def _submit(self, manager: TaskManager[Made]) -> None:
        number = self._submitted
        self._submitted += 1
        future: TaskFuture[int] | None = None
        if self._rng.random() < 0.7:
            future = manager.submit(self._task, number)
        else:
            future = self._submit_failing(manager, number)

        if future is None:
            return

        try:
            error = future.exception(patience.SECONDS)
        except NoOutcome:
            self.violations.append(f"task {number} has no outcome")
            return

        if error is None and (future.result() != number or not self._ran[number]):
            self.violations.append(
                f"task {number} returned {future.result()} after {self._ran[number]} runs"
            )
        # CPython raises SystemError if a call of its own finds no memory.
        if not isinstance(
            error, (MemoryError, SystemError, ValueError, LookupError, WorkerLostError, type(None))
        ):
            self.violations.append(f"task {number} got {error!r}")

    def _submit_failing(self, manager: TaskManager[Made], number: int) -> TaskFuture[int] | None:
        capi: Any = _testcapi()
        first, many = self._rng.randrange(80), self._rng.choice([1, 1, 2, 30])
        unhook, sleep, submit, task, seconds = (
            capi.remove_mem_hooks,
            time.sleep,
            manager.submit,
            self._task,
            STRUCK_S,
        )
        future = None
        capi.set_nomemory(first, first + many)

        try:
            future = submit(task, number)
            # The task is run and settled meanwhile.
            sleep(seconds)
        except MemoryError:
            pass
        finally:
            unhook()

        self.struck += 1
        if future is None:
            self._refused.append(number)

        return future

    def _close(self, manager: TaskManager[Made]) -> Any:
        """Return the report, or `None` if closing does not end."""
        reports: list[Any] = []
        thread = threading.Thread(
            target=lambda: reports.append(manager.stop()), name="harness-stop", daemon=True
        )
        thread.start()
        thread.join(patience.SECONDS)
        if not reports:
            self.violations.append(f"stop() has not returned within {patience.SECONDS:g} s")
            return None

        return reports[0]

    def _audit(self, manager: TaskManager[Made]) -> None:
        for number in self._refused:
            if self._ran[number]:
                self.violations.append(f"task {number} was refused, and ran")

        for made in self._resources:
            if not made.destroyed or made.twice:
                self.violations.append(
                    f"a resource was destroyed {'twice' if made.twice else 'never'}"
                )

        metrics = manager.metrics()
        arrived = metrics.total_tasks_arrived
        ended = (
            metrics.total_tasks_completed
            + metrics.total_tasks_failed
            + metrics.total_tasks_cancelled
        )
        accepted = self._submitted - len(self._refused)
        if ended != arrived or not accepted <= arrived <= self._submitted:
            self.violations.append(
                f"{accepted} tasks were accepted, {arrived} arrived and {ended} ended"
            )


def main(seed: str, seconds: float) -> dict[str, Any]:
    """Run rounds until the time is over or one goes wrong."""
    # The harness itself may hang.
    faulthandler.dump_traceback_later(seconds + 1.5 * patience.SECONDS, exit=True)

    logging.disable(logging.CRITICAL)
    # A worker that dies is replaced.
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    backoff.FIRST_PAUSE_S, backoff.LONGEST_PAUSE_S, backoff.SPACING_S = 0.001, 0.02, 0.001
    rng, deadline = random.Random(seed), time.monotonic() + seconds
    struck = tasks = number = 0
    violations: list[str] = []

    while time.monotonic() < deadline and not violations:
        number += 1
        current = FailingRound(number, rng)
        current.run(min(ROUND_S, max(deadline - time.monotonic(), 0.1)))
        struck += current.struck
        tasks += current._submitted
        violations += [f"{violation} ({current._name})" for violation in current.violations[:5]]
        gc.collect()

    return {"tasks": tasks, "struck": struck, "violations": violations}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]))))
