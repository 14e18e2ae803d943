"""The audit of a round: its ledger against the closed manager and its figures."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from tasker import StopReport, TaskFuture, TaskManagerKilledError, TaskMetrics
from tests.soak.ledger import Job, Ledger
from tests.support.pools import taken

__all__ = ["audit", "audit_order", "audit_resources"]


def audit(ledger: Ledger, *, destroy_errors: range, stuck: bool, left: set[str]) -> Counter[str]:
    """Check everything, once nothing runs any more, and return the totals.

    `destroy_errors` is how often `on_destroy` may have failed. If tasks were `stuck`
    when the manager was killed, some threads ended after it had made its report. Then
    the report misses their last work. `left` are the abandoned threads that had not
    returned when it closed.
    """
    report: StopReport = ledger.engine.lifecycle.report()
    metrics: TaskMetrics = ledger.engine.counters.metrics()
    accepted = ledger.accepted()
    unsettled = [
        job for job in accepted if not (job.outcomes or (job.form == "dropped" and job.is_done()))
    ]
    if unsettled:
        ledger.broken(f"{len(unsettled)} accepted tasks were never settled, {unsettled[0]} for one")

    for job in ledger.jobs:
        if job.form == "mapped":
            _audit_mapped(ledger, job)
        elif job.accepted_at is None:
            _audit_refused(ledger, job)
        else:
            _audit_accepted(ledger, job)

    audit_resources(ledger)
    if ledger.most_workers == 1:
        audit_order(ledger)
    if not stuck:
        _audit_abandoned(ledger, report, left)
        _audit_report(ledger, report, metrics, destroy_errors)
    _audit_remains(ledger)
    _audit_totals(ledger, metrics, report.drained)

    return Counter(
        submitted=len(ledger.offered()),
        accepted=len(accepted),
        refused=len(ledger.offered()) - len(accepted),
        mapped=len(ledger.jobs) - len(ledger.offered()),
        chunks=len(ledger.chunks),
        completed=metrics.total_tasks_completed,
        failed=metrics.total_tasks_failed,
        cancelled=metrics.total_tasks_cancelled,
        retried=metrics.total_tasks_retried,
        abandoned=len(ledger.abandoned),
    )


def audit_resources(ledger: Ledger) -> None:
    """Check that each resource is destroyed, unless it was lost."""
    for resource in ledger.resources:
        if not resource.ends and not resource.lost:
            ledger.broken(f"a resource of {resource.owner or 'run_task'} was never destroyed")


def _audit_refused(ledger: Ledger, job: Job) -> None:
    if job.runs or job.outcomes:
        ledger.broken(
            f"{job} was refused, but ran {len(job.runs)} times and ended {len(job.outcomes)} times"
        )


def _audit_mapped(ledger: Ledger, job: Job) -> None:
    most = 1 if job.once else 1 + ledger.engine.max_retries
    if len(job.runs) > most:
        ledger.broken(f"{job} ran {len(job.runs)} times, {most} are the most")
    if "completed" in job.outcomes and not job.returned:
        ledger.broken(f"{job} has a result and never returned")


def _audit_accepted(ledger: Ledger, job: Job) -> None:
    runs, most = (
        len(job.runs),
        1 if job.once or job.form == "run_task" else 1 + ledger.engine.max_retries,
    )
    if len(job.outcomes) > 1:
        ledger.broken(f"{job} was settled {len(job.outcomes)} times: {', '.join(job.outcomes)}")
    if runs > most:
        ledger.broken(f"{job} ran {runs} times, {most} are the most")
    if (future := job.known_future()) is not None:
        # A task that is sent to a dying process may not begin there.
        ended = job.asked_to_end or job.limited or ledger.may_be_killed
        uncalled = 1 if ledger.supervises and ended else 0
        if not runs <= future.attempts <= runs + uncalled and not (
            ledger.loses and runs < future.attempts <= 1 + ledger.engine.max_retries
        ):
            ledger.broken(f"{job} ran {runs} times, its future counts {future.attempts}")
        _audit_lost(ledger, job, future.attempts)

    if job.withdrawn_at is not None and any(run > job.withdrawn_at for run in job.runs):
        ledger.broken(f"{job} ran after cancel() had returned True")
    if "completed" in job.outcomes and not job.returned:
        ledger.broken(f"{job} has a result and never returned")


def _audit_lost(ledger: Ledger, job: Job, attempts: int) -> None:
    """Check that a task that lost its worker was tried again."""
    tried_out = attempts > ledger.engine.max_retries or (
        job.once and job.lost is not None and job.lost.began
    )
    if (
        job.lost is not None
        and not tried_out
        and not (job.asked_to_end or job.limited or ledger.may_be_killed)
    ):
        ledger.broken(f"{job} was given up after {attempts} attempts, as its process died")


def audit_order(ledger: Ledger) -> None:
    """Check that tasks start in the order of their submission, with one worker."""
    ran = [job for job in ledger.accepted() if job.runs and job.form != "run_task"]
    main, priority = [job for job in ran if not job.priority], [job for job in ran if job.priority]
    for lane, earlier, later in (
        ("main", main, main),
        ("priority", priority, priority),
        ("main", priority, main),
    ):
        if (job := _overtaken(earlier, later)) is not None:
            ledger.broken(
                f"{job} was overtaken by a task of the {lane} lane that was submitted after it"
            )


def _overtaken(earlier: Iterable[Job], later: Iterable[Job]) -> Job | None:
    """A job of `earlier` that one of `later` has overtaken.

    It was accepted before the other was offered, and started after it.
    """
    started = sorted((job.runs[0], job.offered_at) for job in later)
    starts = [start for start, _ in started]
    # For each start: the latest offer among the jobs that have started until then.
    newest = list(accumulate((offered for _, offered in started), max))

    for job in earlier:
        before = bisect_left(starts, job.runs[0])
        if before and job.accepted_at is not None and newest[before - 1] > job.accepted_at:
            return job

    return None


def _audit_abandoned(ledger: Ledger, report: StopReport, left: set[str]) -> None:
    """Check that the report names the threads that were stuck, and no others."""
    # A kill does not wait for those that only overstay.
    allowed = ledger.deaf if ledger.may_be_killed else ledger.abandoned
    if others := set(report.abandoned) - allowed:
        ledger.broken(f"{', '.join(others)} abandoned, though nothing was stuck")
    if missing := left - set(report.abandoned):
        ledger.broken(f"{', '.join(missing)} had not returned, the report says {report}")


def _audit_report(
    ledger: Ledger, report: StopReport, metrics: TaskMetrics, destroy_errors: range
) -> None:
    if report.destroy_errors not in destroy_errors:
        ledger.broken(
            f"on_destroy failed {destroy_errors} times, the report says {report.destroy_errors}"
        )
    counted = (
        metrics.total_tasks_completed,
        metrics.total_tasks_failed,
        metrics.total_tasks_cancelled,
    )
    if (report.completed, report.failed, report.cancelled) != counted:
        ledger.broken(f"the report {report} differs from metrics(): {counted}")


def _audit_remains(ledger: Ledger) -> None:
    engine, queue = ledger.engine, ledger.engine.queue
    # These entries were withdrawn after the last compaction.
    dead = {False: len(queue._main), True: len(queue._priority)}
    if queue._dead != dead:
        ledger.broken(f"the lanes hold {dead} entries, {queue._dead} dead ones are counted")
    if any(queue._requeued.values()) or queue.room.used():
        ledger.broken(f"the empty queue counts {queue._requeued} re-queued tasks and {queue.room}")
    children: tuple[Any, ...] = getattr(engine.backend, "_proxies", ())
    if children:
        ledger.broken(f"the closed manager has {children}")
    if indices := taken(engine.slots):
        ledger.broken(f"the closed manager has resources in slots {indices}")
    workers = engine.crew.everyone()
    if workers or engine.pool.out or engine.pool.available or engine.run_contexts:
        ledger.broken(
            f"the closed manager has {len(workers)} workers,"
            f" {engine.pool.out} borrowers, {engine.pool.available} idle resources"
            f" and {len(engine.run_contexts)} contexts"
        )


def _audit_totals(ledger: Ledger, metrics: TaskMetrics, drained: bool) -> None:
    """Compare `metrics()` with the outcomes that callers know."""
    arrived, completed = metrics.total_tasks_arrived, metrics.total_tasks_completed
    failed, cancelled = metrics.total_tasks_failed, metrics.total_tasks_cancelled
    if completed + failed + cancelled != arrived:
        ledger.broken(
            f"{completed} completed, {failed} failed and {cancelled} cancelled tasks"
            f" are not the {arrived} that arrived"
        )

    accepted = ledger.accepted()
    # A submission that met the closing halfway was withdrawn. Its caller saw a refusal,
    # and the manager counted a cancelled task.
    withdrawn = arrived - len(accepted) - len(ledger.chunks)
    if not 0 <= withdrawn <= sum(job.met_closing or job.form == "mapped" for job in ledger.jobs):
        ledger.broken(f"{len(accepted)} tasks were accepted, metrics() says {arrived} arrived")
    counts = Counter(_outcome(ledger, job, drained) for job in accepted) + Counter(
        map(_chunk_outcome, ledger.chunks)
    )
    # A killed task counts as cancelled if it waited, and as failed if it ran.
    unknown, killed = counts["unknown"], counts["killed"]

    for name, shown, least, more in (
        ("completed", completed, counts["completed"], unknown),
        ("failed", failed, counts["failed"], killed + unknown),
        ("cancelled", cancelled - withdrawn, counts["cancelled"], killed + unknown),
    ):
        if not least <= shown <= least + more:
            ledger.broken(
                f"metrics() says {shown} {name}, callers counted {least} to {least + more}"
            )

    retried = metrics.total_tasks_retried
    bounds = [_retries(ledger, job) for job in accepted]
    bounds += [(max(chunk.attempts - 1, 0), chunk.attempts) for chunk in ledger.chunks]
    least, most = sum(least for least, _ in bounds), sum(most for _, most in bounds)
    if not least <= retried <= most:
        ledger.broken(f"metrics() says {retried} retries, {least} to {most} were")


def _retries(ledger: Ledger, job: Job) -> tuple[int, int]:
    """How often a job was put back, at least and at most."""
    future = job.known_future()
    least = max(0, (len(job.runs) if future is None else future.attempts) - 1)
    # No future shows a job that is lost before it begins.
    most = (
        ledger.engine.max_retries
        if ledger.loses and future is None and job.form != "run_task"
        else least
    )

    return least, most + (job.cut_short or job.form == "dropped")


def _chunk_outcome(future: TaskFuture[Any]) -> str:
    """The outcome of a task of `map()`."""
    if not future.done():
        return "unknown"
    if future.cancelled():
        return "cancelled"

    error = future.exception(0)
    if isinstance(error, TaskManagerKilledError):
        return "killed"

    return "completed" if error is None else "failed"


def _outcome(ledger: Ledger, job: Job, drained: bool) -> str:
    """The outcome of a job, as its caller learnt it.

    If the future was dropped, it is known in other ways, or unknown.
    """
    if job.form != "dropped":
        return job.outcomes[0] if job.outcomes else "unknown"

    # A result may be lost on its way.
    if not drained or ledger.loses:
        return "unknown"
    return "completed" if job.returned else "failed"
