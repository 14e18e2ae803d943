"""The hooks, the tasks and the faults of the soak in a child process.

Each child throws dice of its own. Signs tell it that faults have ended, or that
creation fails for a while. These are files in the folder of the round.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from tasker import Context, current_context, current_resource
from tests.soak import patience
from tests.soak.faults import ERRORS, HOOK_ERRORS, HOOK_ERRORS_IN_MAIN, Chaos, Hooks
from tests.soak.journal import Journal
from tests.soak.ledger import Job, Resource
from tests.soak.tasks import Tasks

__all__ = [
    "ACTS_IN_CHILD",
    "LOGGER",
    "PATTERN",
    "UNSENDABLE",
    "ChaosInChild",
    "HooksInChild",
    "TasksInChild",
]

LOGGER = "tests.soak.tasks"
# Large enough to travel beside the pickle.
PATTERN = bytes(range(256)) * 1000

DEATHS = ["is killed", "crashes", "exits with 3", "exits with 0"]
UNSENDABLE = ["returns a lock", "raises a lock", "raises what cannot be rebuilt"]
# These acts are rare, because a lost child costs a tenth of a second and more.
ACTS_IN_CHILD = (
    ["returns"] * 500 + ["sleeps"] * 30 + ["logs"] * 40 + ["is laden"] * 20 + ["cannot be sent"] * 5
)
ACTS_IN_CHILD += ["is deaf"] * 10 + [*ERRORS, "recurses for ever"] + DEATHS * 2 + UNSENDABLE * 2


class ChaosInChild(Chaos):
    """The dice of one child."""

    def __init__(self, seed: str, journal: Journal) -> None:
        super().__init__(f"{seed}/{os.getpid()}")
        self._origin = seed, journal
        self._journal = journal
        self._signs = Path(journal.folder)

    def is_calm(self) -> bool:
        return (self._signs / "calm").exists()

    def is_out(self, kind: str = "outage") -> bool:
        return time.monotonic() < self._time_of(kind)

    def plague_at(self) -> float:
        return self._time_of("plague")

    def _time_of(self, kind: str) -> float:
        try:
            return float((self._signs / kind).read_text())
        except (OSError, ValueError):
            return 0.0

    def _hook_errors(self) -> tuple[type[BaseException], ...]:
        """The errors that hooks raise in this process.

        An error of a `run_task` is raised again in its caller, which may be the main
        thread of the parent.
        """
        return HOOK_ERRORS if "-worker-" in threading.current_thread().name else HOOK_ERRORS_IN_MAIN

    def note(self, fault: str) -> None:
        self._journal.write("faults", fault)

    def die(self, how: str) -> None:
        """End this process."""
        self.note(f"a child {how}")
        self._journal.write("dies", how)
        if how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)

        os._exit(int(how[-1]) if how[-1].isdigit() else 1)

    def __reduce__(self) -> Any:
        return _chaos, self._origin


@functools.cache
def _chaos(seed: str, journal: Journal) -> ChaosInChild:
    return ChaosInChild(seed, journal)


class HooksInChild(Hooks):
    """The hooks of a resource, which may also hang, or end the process."""

    def __init__(self, chaos: ChaosInChild, journal: Journal) -> None:
        super().__init__(chaos, journal)
        self._journal = journal

    def create(self) -> Resource:
        self._end_or_hang("on_create", 0.03)
        return super().create()

    def destroy(self, resource: Resource) -> None:
        self._end_or_hang("on_destroy", 0.03)
        super().destroy(resource)

    def check(self, resource: Resource) -> object:
        self._end_or_hang("on_check", 0.01)
        return super().check(resource)

    def reset(self, resource: Resource) -> None:
        self._end_or_hang("on_reset", 0.005)
        super().reset(resource)

    def abort(self, resource: Resource) -> None:
        self._journal.write("aborts")
        self._chaos.note("a call is aborted")
        try:
            resource.interrupted.set()
            self._chaos.delay("on_abort", 0.3)
            self._chaos.raise_in("on_abort", 0.1)
        finally:
            self._journal.write("aborted")

    def _end_or_hang(self, hook: str, chance: float) -> None:
        assert isinstance(self._chaos, ChaosInChild)
        if self._chaos.strikes(f"{hook} ends its process", chance):
            self._chaos.die(self._chaos.rng.choice(DEATHS))
        if self._chaos.strikes(f"{hook} hangs", chance / 2):
            time.sleep(3.0 if hook == "on_create" else 0.5)


class TasksInChild(Tasks):
    """The tasks, with the acts that only a child can do."""

    def __init__(self, chaos: ChaosInChild, journal: Journal) -> None:
        super().__init__(chaos, journal)
        self._origin = chaos, journal

    def __reduce__(self) -> Any:
        return _called, self._origin

    def _act(self, job: Job, context: Context | None) -> Any:
        act = job.act
        if act in DEATHS:
            self._die_perhaps(act)
        elif act == "is stuck":
            time.sleep(patience.SECONDS)
        elif act == "is deaf":
            # It hears of its abort, where there is one.
            interrupted = current_resource().interrupted
            interrupted.clear()
            interrupted.wait(self._deafness(job.load))
        elif act == "logs":
            logging.getLogger(LOGGER).warning("%d", job.number)
        elif act == "is laden":
            if bytes(job.load) != PATTERN:
                raise AssertionError("the argument is not what was sent")
            return bytearray(job.number.to_bytes(8, "big") + PATTERN)
        elif act in UNSENDABLE:
            return _unsendable(act, job)
        else:
            return super()._act(job, context)

        return job.number

    def _deafness(self, grace: float) -> float:
        """Return seconds: too many, or until the process is just about to be killed."""
        left, rng = current_context().remaining(), self._chaos.rng
        if left is None or rng.random() < 0.3:
            return patience.SECONDS
        return max(0.0, left + grace + rng.uniform(-0.005, 0.005))

    def _die_perhaps(self, how: str) -> None:
        assert isinstance(self._chaos, ChaosInChild)
        if self._chaos.rng.random() < 0.5:
            self._chaos.die(how)


def _called(chaos: ChaosInChild, journal: Journal) -> TasksInChild:
    """Unpack the tasks of a call."""
    journal.write("called")
    return TasksInChild(chaos, journal)


class Locked(Exception):
    """An error that cannot be pickled."""


class Unrebuilt(Exception):
    """An error that cannot be unpickled: its constructor wants more arguments."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"{number}: {why}")


def _unsendable(act: str, job: Job) -> Any:
    if act == "raises a lock":
        raise Locked(job.number, threading.Lock())
    if act == "raises what cannot be rebuilt":
        raise Unrebuilt(job.number, act)
    return threading.Lock()
