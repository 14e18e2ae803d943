"""What the soak knows for itself of one manager's tasks and resources, and the audit at the end.

Nothing is noted under a lock that a signal handler could meet: notes are appended to lists, which is indivisible on
every build, and counted at the end.
"""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import CancelledError
from itertools import accumulate
from typing import Any

from tasker import ResourceCreationError, StopReport, TaskFuture, TaskManagerKilledError, TaskTimeoutError

__all__ = ["Job", "Ledger", "Resource"]

MOST = 10  # violations that are kept: more of the same say nothing


class Job:
    """One submission: what was asked for, and what became of it."""

    __slots__ = (
        "accepted_at",
        "act",
        "asked_to_end",
        "called_back",
        "cut_short",
        "form",
        "future",
        "limited",
        "met_closing",
        "number",
        "offered_at",
        "once",
        "outcomes",
        "priority",
        "reference",
        "returned",
        "runs",
        "withdrawn_after",
    )

    def __init__(self, number: int, form: str, act: str, *, priority: bool, once: bool, limited: bool) -> None:
        self.number = number  # what it returns, or raises with
        self.form = form  # how it is submitted
        self.act = act  # what it does
        self.priority = priority
        self.once = once
        self.limited = limited  # has a timeout that may well end
        self.offered_at = time.perf_counter()
        self.accepted_at: float | None = None  # None: refused, or not known yet
        self.runs: list[float] = []  # when each began
        self.returned = False
        self.outcomes: list[str] = []  # one for every time that somebody was told
        self.met_closing = False  # refused by a manager that was open when it was offered
        self.cut_short = False  # ended by something other than its own function
        self.asked_to_end = False
        self.withdrawn_after: int | None = None  # its runs when cancel() returned True
        self.future: TaskFuture[Any] | None = None
        self.reference: weakref.ref[TaskFuture[Any]] | None = None  # of a future that was dropped unseen

    def is_done(self) -> bool:
        """Whether its future, where there is one, has an outcome."""
        future = self.reference() if self.reference is not None else self.future
        return future is None or future.done()

    def __str__(self) -> str:
        lane, once = "priority" if self.priority else "main", ", once" if self.once else ""
        return f"task {self.number:x} ({self.form}, {self.act}, {lane}{once})"


class Resource:
    """Knows who owns it, and whether it is alive and in use."""

    __slots__ = ("ends", "in_use", "owner")

    def __init__(self, owner: str | None) -> None:
        self.owner = owner  # the worker's name; None: of the run_task pool
        self.in_use = threading.Lock()
        self.ends: list[str] = []


class Ledger:
    """All jobs and resources of the manager called `name`, and the violations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: list[Job] = []
        self.resources: list[Resource] = []
        self.violations: list[str] = []
        self.most_workers = 0
        self.may_be_killed = False
        self.closed = False  # from when on nothing may run
        self.engine: Any = None
        self._locks: list[tuple[str, Any]] = []
        self._live = 0  # resources that workers have now
        self._live_lock = threading.Lock()  # of worker threads only

    def broken(self, sentence: str) -> None:
        """Note a violation: what was seen, as a sentence."""
        if len(self.violations) < MOST:
            self.violations.append(f"{self.name}: {sentence}")

    def watch(self, engine: Any) -> None:
        """From now on the ledger knows the engine, and the locks of its parts whose holder can be asked for."""
        parts = {"engine": engine, "user code": engine.user} | vars(engine)
        self._locks = [
            (f"{part}.{name}", value)
            for part, holder in parts.items()
            for name, value in getattr(holder, "__dict__", {}).items()
            if isinstance(value, type(threading.RLock()))
        ]
        self.engine = engine

    # -- what the manager calls --------------------------------------------------------------------------------------

    def entered(self, what: str) -> None:
        """A function of the user's is being called: is that allowed here and now?"""
        thread = threading.current_thread()
        ours = thread.name.startswith(f"{self.name}-")
        if self.closed and (ours or what != "a callback"):  # who cancels a task calls back himself
            self.broken(f"{what} ran in {thread.name} after the manager had closed")
        if thread.name == "tasker-timer" or thread.name.endswith("-burst"):
            self.broken(f"{what} ran on the thread {thread.name}")
        # a signal handler may well have interrupted somebody who holds a lock
        if thread is not threading.main_thread() and (held := self._locks_held()):
            self.broken(f"{what} ran under a lock of {', '.join(held)}")

    def _locks_held(self) -> list[str]:
        return [name for name, lock in self._locks if lock._is_owned()]

    def created(self) -> Resource:
        name = threading.current_thread().name
        resource = Resource(name if name.startswith(f"{self.name}-worker-") else None)
        self.resources.append(resource)
        if resource.owner is not None:
            with self._live_lock:
                self._live += 1
                live = self._live
            if live > self.most_workers:
                self.broken(f"{live} workers held a resource, {self.most_workers} are the most")
        return resource

    def destroyed(self, resource: Resource) -> None:
        name = threading.current_thread().name
        resource.ends.append(name)
        if len(resource.ends) > 1:
            self.broken(f"a resource was destroyed twice, in {' and '.join(resource.ends)}")
            return
        if resource.in_use.locked():
            self.broken("a resource was destroyed while it was used")
        if resource.owner is not None:
            with self._live_lock:
                self._live -= 1
            if resource.owner != name:
                self.broken(f"the resource of {resource.owner} was destroyed in {name}")

    def take(self, resource: Resource, job: Job) -> None:
        """A run begins. `give_back` ends it."""
        job.runs.append(time.perf_counter())
        self.entered(str(job))
        if job.withdrawn_after is not None:
            self.broken(f"{job} ran after cancel() had returned True")
        if resource.ends:
            self.broken(f"{job} got a resource that was destroyed")
        if resource.owner not in (None, threading.current_thread().name):
            self.broken(f"{job} used the resource of {resource.owner} in {threading.current_thread().name}")
        if not resource.in_use.acquire(blocking=False):
            self.broken(f"{job} got a resource that is in use")

    def give_back(self, resource: Resource) -> None:
        resource.in_use.release()

    def told(self, job: Job, result: Any, error: BaseException | None) -> None:
        """Somebody learnt the outcome of a job."""
        if error is None:
            outcome = "completed"
            if result != job.number:
                self.broken(f"{job} got the result {result!r} of another")
        elif isinstance(error, TaskManagerKilledError):
            outcome = "killed"
            if not self.may_be_killed:
                self.broken(f"{job} was killed by a manager that was not")
        elif isinstance(error, CancelledError):
            outcome = "cancelled"
            if not job.asked_to_end:
                self.broken(f"{job} was cancelled by nobody")
        else:
            outcome = "failed"
            mine = error.args[:1] in ((job.number,), ("on_create",)) or isinstance(error, RecursionError)
            late = isinstance(error, TaskTimeoutError) and job.limited
            if not mine and not late and not isinstance(error, ResourceCreationError):
                self.broken(f"{job} got a {type(error).__name__} that is not its own")
            job.cut_short = not mine
        job.cut_short = job.cut_short or outcome in ("killed", "cancelled")
        job.outcomes.append(outcome)

    # -- the audit ---------------------------------------------------------------------------------------------------

    def accepted(self) -> list[Job]:
        return [job for job in self.jobs if job.accepted_at is not None]

    def audit(self, report: StopReport, destroy_errors: int, stuck: bool) -> Counter[str]:
        """Check everything, once nothing runs any more; returns the outcomes as the harness counted them."""
        if report.abandoned and not stuck:
            self.broken(f"{', '.join(report.abandoned)} abandoned, though nothing was stuck")
        unsettled = [job for job in self.accepted() if not (job.outcomes or (job.form == "dropped" and job.is_done()))]
        if unsettled:
            self.broken(f"{len(unsettled)} accepted tasks were never settled, {unsettled[0]} for one")
        for job in self.jobs:
            self._audit_job(job)
        for resource in self.resources:
            if not resource.ends:
                self.broken(f"a resource of {resource.owner or 'run_task'} was never destroyed")
        if self.most_workers == 1:
            self._audit_order()
        if not stuck and report.destroy_errors != destroy_errors:
            self.broken(f"on_destroy raised {destroy_errors} times, the report says {report.destroy_errors}")
        self._audit_queue()
        return self._audit_totals(report, stuck)

    def _audit_job(self, job: Job) -> None:
        runs, most = len(job.runs), 1 if job.once or job.form == "run_task" else 1 + self.engine.max_retries
        if job.accepted_at is None:
            if runs or job.outcomes:
                self.broken(f"{job} was refused, but ran {runs} times and ended {len(job.outcomes)} times")
            return
        future = job.reference() if job.reference is not None else job.future
        if len(job.outcomes) > 1:
            self.broken(f"{job} was settled {len(job.outcomes)} times: {', '.join(job.outcomes)}")
        if runs > most:
            self.broken(f"{job} ran {runs} times, {most} are the most")
        if future is not None and future.attempts != runs:
            self.broken(f"{job} ran {runs} times, its future counts {future.attempts}")
        if job.withdrawn_after not in (None, runs):
            self.broken(f"{job} ran after cancel() had returned True")
        if "completed" in job.outcomes and not job.returned:
            self.broken(f"{job} has a result and never returned")

    def _audit_order(self) -> None:
        """With one worker tasks start in the order in which they are taken."""
        ran = [job for job in self.accepted() if job.runs and job.form != "run_task"]
        main, priority = [job for job in ran if not job.priority], [job for job in ran if job.priority]
        for earlier, later in ((main, main), (priority, priority), (priority, main)):
            if (job := _overtaken(earlier, later)) is not None:
                lane = "main" if not later or not later[0].priority else "priority"
                self.broken(f"{job} was overtaken by a task of the {lane} lane that was submitted after it")

    def _audit_queue(self) -> None:
        queue, engine = self.engine.queue, self.engine
        dead = {False: len(queue._main), True: len(queue._priority)}  # withdrawn after the last compaction
        if queue._dead != dead:
            self.broken(f"the lanes hold {dead} entries, {queue._dead} dead ones are counted")
        if any(queue._requeued.values()) or queue._holders:
            self.broken(f"the empty queue counts {queue._requeued} re-queued tasks and {len(queue._holders)} slots")
        if engine.crew.members or engine.pool.out or engine.pool.available or engine.run_contexts:
            self.broken(
                f"the closed manager has {len(engine.crew.members)} workers, {engine.pool.out} borrowers, "
                f"{engine.pool.available} idle resources and {len(engine.run_contexts)} contexts"
            )

    def _audit_totals(self, report: StopReport, stuck: bool) -> Counter[str]:
        accepted = self.accepted()
        counts = Counter(self._outcome(job, report.drained) for job in accepted)
        either = counts["killed"]  # cancelled if it waited, failed if it ran
        metrics = self.engine.figures.metrics()
        completed, failed, cancelled = (
            metrics.total_tasks_completed,
            metrics.total_tasks_failed,
            metrics.total_tasks_cancelled,
        )
        # what met the closing halfway was withdrawn: refused to its caller, and counted as a task that was cancelled
        withdrawn = metrics.total_tasks_arrived - len(accepted)
        if not 0 <= withdrawn <= sum(job.met_closing for job in self.jobs):
            self.broken(f"{len(accepted)} tasks were accepted, metrics() says {metrics.total_tasks_arrived} arrived")
        if completed + failed + cancelled != metrics.total_tasks_arrived:
            self.broken(
                f"{completed} completed, {failed} failed and {cancelled} cancelled tasks are not the "
                f"{metrics.total_tasks_arrived} that arrived"
            )
        unknown = counts["unknown"]
        for name, shown, least, more in (
            ("completed", completed, counts["completed"], unknown),
            ("failed", failed, counts["failed"], either + unknown),
            ("cancelled", cancelled - withdrawn, counts["cancelled"], either + unknown),
        ):
            if not least <= shown <= least + more:
                self.broken(f"metrics() says {shown} {name}, callers counted {least} to {least + more}")
        again = sum(len(job.runs) - 1 for job in accepted if job.runs)
        cut_short = sum(job.cut_short or job.form == "dropped" for job in accepted)
        if not again <= metrics.total_tasks_retried <= again + cut_short:
            self.broken(f"metrics() says {metrics.total_tasks_retried} retries, {again} to {again + cut_short} were")
        if not stuck and (report.completed, report.failed, report.cancelled) != (completed, failed, cancelled):
            self.broken(f"the report {report} differs from metrics(): {completed}, {failed}, {cancelled}")
        return Counter(
            submitted=len(self.jobs),
            accepted=len(accepted),
            refused=len(self.jobs) - len(accepted),
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            retried=metrics.total_tasks_retried,
        )

    def _outcome(self, job: Job, drained: bool) -> str:
        if job.form != "dropped":
            return job.outcomes[0] if job.outcomes else "unknown"
        if not drained:
            return "unknown"
        return "completed" if job.returned else "failed"


def _overtaken(earlier: Iterable[Job], later: Iterable[Job]) -> Job | None:
    """A job of `earlier` that was accepted before one of `later` was offered, but started after it."""
    started = sorted((job.runs[0], job.offered_at) for job in later)
    starts = [start for start, _ in started]
    newest = list(accumulate((offered for _, offered in started), max))  # offered last among those started so far
    for job in earlier:
        before = bisect_left(starts, job.runs[0])
        if before and job.accepted_at is not None and newest[before - 1] > job.accepted_at:
            return job
    return None
