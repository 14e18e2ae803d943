"""The tasks of the soak: how they are submitted, what they do, and who learns how they ended."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from benchmarks import patience
from benchmarks.chaos import ERRORS, Chaos, fail
from benchmarks.ledger import Job, Ledger, Resource
from tasker import Context, QueueFullError, TaskFuture, TaskManager, TaskManagerShutdownError

__all__ = ["AT_ONCE", "FORMS", "HASTY", "PATIENT", "UNHURRIED", "Work"]

MOST_JOBS = 15_000  # in one round, so that what the harness keeps is the same in all of them

FORMS = ["async"] * 8 + ["callback"] * 4 + ["blocking"] * 2 + ["dropped"] * 2 + ["run_task"]
UNHURRIED = ["async", "callback", "dropped"]  # forms that do not block, for tasks, callbacks and signal handlers
ACTS = ["returns"] * 80 + ["sleeps"] * 6 + ["submits another"] * 6 + ["cancels another"] * 4 + ["recurses for ever"]
ACTS += [*ERRORS] + ["is sick"] * 2

# the waits for room, in seconds, that a submitter chooses from
PATIENT = (None, 0.01, 0)
HASTY = (0.01, 0)
AT_ONCE = (0,)


class Work:
    """Submits to one manager. The harness refers to the manager here and nowhere else, so that it can be forgotten."""

    def __init__(self, manager: TaskManager[Resource], chaos: Chaos, ledger: Ledger) -> None:
        self.manager: TaskManager[Resource] | None = manager
        self.chaos = chaos
        self.ledger = ledger
        self.released = threading.Event()  # ends the tasks that are stuck
        self._recent: deque[Job] = deque(maxlen=100)

    # -- submitting --------------------------------------------------------------------------------------------------

    def submit(self, rng: random.Random, form: str, waits: Sequence[float | None], *, act: str = "") -> Job | None:
        """Submit one task, of any act unless one is named; `None` when it was not accepted, or the round is full."""
        manager = self.manager
        if manager is None or (not act and len(self.ledger.jobs) >= MOST_JOBS):
            time.sleep(0.0001)
            return None
        job, options = self._choose(rng, form, waits, act)
        fn = self._run_with_context if rng.random() < 0.2 else self._run
        self.ledger.jobs.append(job)
        too_late = self.ledger.engine.queue.closed
        try:
            self._hand_over(manager, job, fn, options)
        except QueueFullError:
            return None
        except TaskManagerShutdownError:
            job.met_closing = not too_late
            return None
        job.accepted_at = time.perf_counter()
        if too_late:
            self.ledger.broken(f"{job} was accepted after closing had begun")
        if job.future is not None:
            self._recent.append(job)
            if rng.random() < 0.1:
                _cancel(job)
        return job

    def _choose(
        self, rng: random.Random, form: str, waits: Sequence[float | None], act: str
    ) -> tuple[Job, dict[str, Any]]:
        limited = form not in ("dropped", "run_task") and rng.random() < 0.2
        timeout = rng.choice([0.0005, 0.005, 5.0]) if limited else None
        if form == "blocking" and timeout is None and None not in waits:
            timeout = patience.SECONDS  # every wait of a hasty submitter ends
        job = Job(
            self.chaos.rng.getrandbits(60),
            form,
            act or rng.choice(ACTS),
            priority=rng.random() < 0.3,
            once=rng.random() < 0.3,
            limited=limited,
        )
        return job, {"timeout": timeout, "queue_timeout": rng.choice(waits)}

    def _hand_over(self, manager: TaskManager[Resource], job: Job, fn: Any, options: dict[str, Any]) -> None:
        queue_task = f"queue_task{'_with_priority' * job.priority}{'_once' * job.once}"
        if job.form == "async":
            job.future = getattr(manager, f"{queue_task}_async")(fn, job, **options)
            job.future.add_done_callback(partial(self._done, job))
        elif job.form == "callback":
            getattr(manager, f"{queue_task}_with_callback")(fn, partial(self._call_back, job), job, **options)
        elif job.form == "dropped":
            job.reference = weakref.ref(manager.submit(fn, job, priority=job.priority, once=job.once, **options))
        elif job.form == "blocking":
            self._wait_for(job, partial(getattr(manager, queue_task), fn, job, **options))
        else:
            self._wait_for(job, partial(manager.run_task, fn, job))

    def _wait_for(self, job: Job, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except (QueueFullError, TaskManagerShutdownError):
            raise
        except BaseException as error:
            if type(error) is KeyboardInterrupt and not error.args:
                raise  # a real one
            self.ledger.told(job, None, error)
        else:
            self.ledger.told(job, result, None)

    def cancel_one(self, rng: random.Random) -> None:
        """Cancel one of the tasks submitted last."""
        with contextlib.suppress(IndexError):
            _cancel(self._recent[rng.randrange(len(self._recent) or 1)])

    # -- callbacks ---------------------------------------------------------------------------------------------------

    def _done(self, job: Job, future: TaskFuture[Any]) -> None:
        error = CancelledError() if future.cancelled() else future.exception(0)
        self._call_back(job, None if error is not None else future.result(0), error)

    def _call_back(self, job: Job, result: Any, error: BaseException | None) -> None:
        self.ledger.entered("a callback")
        self.ledger.told(job, result, error)
        if job.act.endswith("from a callback"):
            self._end_from_inside(job.act)
        elif self.chaos.strikes("a callback submits another", 0.02):
            self._submit_another()
        self.chaos.raise_in("a callback", 0.05)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _run(self, resource: Resource, job: Job) -> int:
        return self._run_with_context(None, resource, job)

    def _run_with_context(self, context: Context | None, resource: Resource, job: Job) -> int:
        self.ledger.take(resource, job)
        try:
            self._act(job, context)
        finally:
            self.ledger.give_back(resource)
        job.returned = True
        return job.number

    def _act(self, job: Job, context: Context | None) -> None:
        act, rng = job.act, self.chaos.rng
        may_end = job.asked_to_end or job.limited or self.ledger.may_be_killed
        if context is not None and context.cancelled() and not may_end:
            self.ledger.broken(f"{job} found its context ended: {context.err()!r}")
        if act == "returns":
            return
        if act == "sleeps":
            (time.sleep if context is None else context.wait)(rng.random() * 0.003)
        elif act == "submits another":
            self._submit_another()
        elif act == "cancels another":
            self.cancel_one(rng)
        elif act == "is stuck":
            self.released.wait(patience.SECONDS)
        elif act.endswith("from a task"):
            self._end_from_inside(act)
        elif act in ERRORS or act == "recurses for ever":
            self.chaos.note(f"a task {act}")
            fail(job)

    def _submit_another(self) -> None:
        self.submit(self.chaos.rng, self.chaos.rng.choice(UNHURRIED), AT_ONCE)

    def _end_from_inside(self, act: str) -> None:
        if (manager := self.manager) is not None:
            report = manager.kill() if act.startswith("kill") else manager.stop()
            if report.drained:
                self.ledger.broken(f"a manager that was ended by one of its tasks has not waited for it: {report}")


def _cancel(job: Job) -> None:
    job.asked_to_end = True
    if job.future is not None and job.future.cancel() and job.withdrawn_after is None:
        job.withdrawn_after = len(job.runs)
