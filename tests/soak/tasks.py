"""The tasks of the soak, on a thread of the manager's."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tasker import Context, current_context
from tests.soak import patience
from tests.soak.faults import ERRORS, Burden, Burdened, Chaos, Sick, fail
from tests.soak.journal import Journal
from tests.soak.ledger import Job, Ledger, Resource

__all__ = ["ACTS", "FORKS", "Submits", "Tasks", "TasksInThread", "nothing", "square"]

ACTS = (
    ["returns"] * 80
    + ["sleeps"] * 6
    + ["submits another"] * 6
    + ["cancels another"] * 4
    + ["recurses for ever"]
)
ACTS += [*ERRORS] + ["is sick"] * 2 + ["returns a burden"] * 6
# It keeps its worker for a while.
ACTS = ACTS * 2 + ["overstays"]

# The end of the child, and its exit status, by the name of the act.
FORKS: dict[str, tuple[Callable[[], object], int]] = {
    "forks a child that calls os._exit": (partial(os._exit, 3), 3),
    "forks a child that calls sys.exit": (partial(sys.exit, 4), 4),
    "forks a child that returns": (int, 0),
}
if hasattr(os, "fork"):
    ACTS += [*FORKS] * 2


class Tasks:
    """The functions that are submitted."""

    def __init__(self, chaos: Chaos, ledger: Ledger | Journal) -> None:
        self._chaos = chaos
        self._ledger = ledger

    def run(self, resource: Resource, job: Job) -> Any:
        return self.run_with_context(None, resource, job)

    def run_with_context(self, context: Context | None, resource: Resource, job: Job) -> Any:
        self._ledger.take(resource, job)
        try:
            if context is not None and context.cancelled():
                self._ledger.met_end(job)
            if self._chaos.is_out("late outage") and self._chaos.strikes(
                "resources break at their first use", 1.0
            ):
                raise Sick(job.number)
            if resource.made_at <= self._chaos.plague_at() and self._chaos.strikes(
                "all resources die at once", 1.0
            ):
                raise Sick(job.number)
            result = self._act(job, context)
        finally:
            self._ledger.give_back(resource, job)

        self._ledger.returned(job)
        return result

    def _act(self, job: Job, context: Context | None) -> Any:
        """Do the job's act, and return the result of the task."""
        act = job.act
        if act == "sleeps":
            (time.sleep if context is None else context.wait)(self._chaos.rng.random() * 0.003)
        elif act in ERRORS or act == "recurses for ever":
            self._chaos.note(f"a task {act}")
            fail(job)

        return job.number


class Submits(Protocol):
    """The part of the submitter that tasks use."""

    chaos: Chaos
    ledger: Ledger
    released: threading.Event
    """Set when tasks that are stuck are to end."""
    places: deque[None]
    """One for each task that may be stuck until then."""

    def submit_another(self) -> None: ...
    def cancel_one(self, rng: random.Random) -> None: ...
    def end_from_inside(self, act: str) -> None: ...


class TasksInThread(Tasks):
    """The tasks that have the manager at hand."""

    def __init__(self, submitter: Submits) -> None:
        super().__init__(submitter.chaos, submitter.ledger)
        self._submitter = submitter

    def _act(self, job: Job, context: Context | None) -> Any:
        submitter, act = self._submitter, job.act
        if act == "submits another":
            submitter.submit_another()
        elif act == "cancels another":
            submitter.cancel_one(self._chaos.rng)
        elif act == "is stuck":
            submitter.released.wait(patience.SECONDS)
        elif act == "overstays":
            self._overstay(job)
        elif act.endswith("from a task"):
            submitter.end_from_inside(act)
        elif act == "returns a burden":
            result = Burdened(job.number)
            result.burden = Burden(submitter.chaos, submitter.ledger)
            return result
        elif act in FORKS and self._chaos.strikes(f"a task {act}", 0.3):
            self._fork(job)
        else:
            return super()._act(job, context)

        return job.number

    def _overstay(self, job: Job) -> None:
        """Go on after the context has ended, perhaps for so long that it is abandoned."""
        ledger, rng = self._submitter.ledger, self._chaos.rng
        after, name = ledger.engine.config.abandon_after, threading.current_thread().name
        ledger.may_be_deaf()
        current_context().wait(patience.SECONDS)

        if after is None or rng.random() < 0.5:
            self._chaos.note("a task overstays")
            time.sleep(max(0.0, (after or 0.0) + rng.uniform(-0.005, 0.005)))
        elif rng.random() < 0.3 or not self._take_place():
            self._chaos.note("a task overstays for long")
            time.sleep(2 * after)
        else:
            self._chaos.note("a task is stuck")
            ledger.stuck.add(name)
            # It outlasts the look for threads that are stuck.
            self._submitter.released.wait(3 * patience.SECONDS)
            ledger.stuck.discard(name)

        if rng.random() < 0.3:
            raise Sick(job.number)

    def _take_place(self) -> bool:
        try:
            self._submitter.places.pop()
        except IndexError:
            return False

        return True

    def _fork(self, job: Job) -> None:
        """The child, too, comes back from here, if it does not end before."""
        end, expected = FORKS[job.act]
        child = os.fork()
        if not child:
            end()
            return

        ended: list[int] = []

        def reap() -> bool:
            pid, how = os.waitpid(child, os.WNOHANG)
            ended.extend([os.waitstatus_to_exitcode(how)] * (pid == child))
            return bool(ended)

        if not patience.eventually(reap):
            os.kill(child, signal.SIGKILL)
            patience.eventually(reap)

        if ended != [expected]:
            self._submitter.ledger.broken(
                f"the child that {job} forked ended with {ended}, not with {expected}"
            )


def nothing(_: None = None) -> None:
    """Make no resource at all, or destroy none."""


def square(_: None, number: int) -> int:
    return number**2
