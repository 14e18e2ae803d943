"""The audit of a round: what its ledger says, against what the closed manager says and holds."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

from benchmarks.ledger import Job, Ledger
from tasker import StopReport, TaskMetrics

__all__ = ["audit", "audit_order"]


def audit(ledger: Ledger, *, destroy_errors: int, stuck: bool) -> Counter[str]:
    """Check everything, once nothing runs any more; returns the totals.

    `destroy_errors` is how often `on_destroy` raised. Where tasks were stuck, some threads ended after the manager's
    report was made, which then misses what they did last.
    """
    report: StopReport = ledger.engine.lifecycle.report()
    metrics: TaskMetrics = ledger.engine.figures.metrics()
    accepted = ledger.accepted()
    unsettled = [job for job in accepted if not (job.outcomes or (job.form == "dropped" and job.is_done()))]
    if unsettled:
        ledger.broken(f"{len(unsettled)} accepted tasks were never settled, {unsettled[0]} for one")
    for job in ledger.jobs:
        if job.accepted_at is None:
            _audit_refused(ledger, job)
        else:
            _audit_accepted(ledger, job)
    for resource in ledger.resources:
        if not resource.ends:
            ledger.broken(f"a resource of {resource.owner or 'run_task'} was never destroyed")
    if ledger.most_workers == 1:
        audit_order(ledger)
    if not stuck:
        _audit_report(ledger, report, metrics, destroy_errors)
    _audit_remains(ledger)
    _audit_totals(ledger, metrics, report.drained)
    return Counter(
        submitted=len(ledger.jobs),
        accepted=len(accepted),
        refused=len(ledger.jobs) - len(accepted),
        completed=metrics.total_tasks_completed,
        failed=metrics.total_tasks_failed,
        cancelled=metrics.total_tasks_cancelled,
        retried=metrics.total_tasks_retried,
    )


def _audit_refused(ledger: Ledger, job: Job) -> None:
    if job.runs or job.outcomes:
        ledger.broken(f"{job} was refused, but ran {len(job.runs)} times and ended {len(job.outcomes)} times")


def _audit_accepted(ledger: Ledger, job: Job) -> None:
    runs, most = len(job.runs), 1 if job.once or job.form == "run_task" else 1 + ledger.engine.max_retries
    if len(job.outcomes) > 1:
        ledger.broken(f"{job} was settled {len(job.outcomes)} times: {', '.join(job.outcomes)}")
    if runs > most:
        ledger.broken(f"{job} ran {runs} times, {most} are the most")
    if (future := job.known_future()) is not None and future.attempts != runs:
        ledger.broken(f"{job} ran {runs} times, its future counts {future.attempts}")
    if job.withdrawn_after not in (None, runs):
        ledger.broken(f"{job} ran after cancel() had returned True")
    if "completed" in job.outcomes and not job.returned:
        ledger.broken(f"{job} has a result and never returned")


def audit_order(ledger: Ledger) -> None:
    """With one worker tasks start in the order in which they are taken."""
    ran = [job for job in ledger.accepted() if job.runs and job.form != "run_task"]
    main, priority = [job for job in ran if not job.priority], [job for job in ran if job.priority]
    for lane, earlier, later in (("main", main, main), ("priority", priority, priority), ("main", priority, main)):
        if (job := _overtaken(earlier, later)) is not None:
            ledger.broken(f"{job} was overtaken by a task of the {lane} lane that was submitted after it")


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


def _audit_report(ledger: Ledger, report: StopReport, metrics: TaskMetrics, destroy_errors: int) -> None:
    if report.abandoned:
        ledger.broken(f"{', '.join(report.abandoned)} abandoned, though nothing was stuck")
    if report.destroy_errors != destroy_errors:
        ledger.broken(f"on_destroy raised {destroy_errors} times, the report says {report.destroy_errors}")
    counted = metrics.total_tasks_completed, metrics.total_tasks_failed, metrics.total_tasks_cancelled
    if (report.completed, report.failed, report.cancelled) != counted:
        ledger.broken(f"the report {report} differs from metrics(): {counted}")


def _audit_remains(ledger: Ledger) -> None:
    engine, queue = ledger.engine, ledger.engine.queue
    dead = {False: len(queue._main), True: len(queue._priority)}  # withdrawn after the last compaction
    if queue._dead != dead:
        ledger.broken(f"the lanes hold {dead} entries, {queue._dead} dead ones are counted")
    if any(queue._requeued.values()) or queue._holders:
        ledger.broken(f"the empty queue counts {queue._requeued} re-queued tasks and {len(queue._holders)} slots")
    if engine.crew.members or engine.pool.out or engine.pool.available or engine.run_contexts:
        ledger.broken(
            f"the closed manager has {len(engine.crew.members)} workers, {engine.pool.out} borrowers, "
            f"{engine.pool.available} idle resources and {len(engine.run_contexts)} contexts"
        )


def _audit_totals(ledger: Ledger, metrics: TaskMetrics, drained: bool) -> None:
    """Compare what `metrics()` says with what callers learnt, where they could."""
    arrived, completed = metrics.total_tasks_arrived, metrics.total_tasks_completed
    failed, cancelled = metrics.total_tasks_failed, metrics.total_tasks_cancelled
    if completed + failed + cancelled != arrived:
        ledger.broken(
            f"{completed} completed, {failed} failed and {cancelled} cancelled tasks are not the {arrived} that arrived"
        )
    accepted = ledger.accepted()
    # what met the closing halfway was withdrawn: refused to its caller, and counted as a task that was cancelled
    withdrawn = arrived - len(accepted)
    if not 0 <= withdrawn <= sum(job.met_closing for job in ledger.jobs):
        ledger.broken(f"{len(accepted)} tasks were accepted, metrics() says {arrived} arrived")
    counts = Counter(_outcome(job, drained) for job in accepted)
    unknown, killed = counts["unknown"], counts["killed"]  # killed: cancelled if it waited, failed if it ran
    for name, shown, least, more in (
        ("completed", completed, counts["completed"], unknown),
        ("failed", failed, counts["failed"], killed + unknown),
        ("cancelled", cancelled - withdrawn, counts["cancelled"], killed + unknown),
    ):
        if not least <= shown <= least + more:
            ledger.broken(f"metrics() says {shown} {name}, callers counted {least} to {least + more}")
    retried = metrics.total_tasks_retried
    least = sum(len(job.runs) - 1 for job in accepted if job.runs)
    most = least + sum(job.cut_short or job.form == "dropped" for job in accepted)
    if not least <= retried <= most:
        ledger.broken(f"metrics() says {retried} retries, {least} to {most} were")


def _outcome(job: Job, drained: bool) -> str:
    """What its caller learnt; of a task whose future was dropped, what can be known otherwise."""
    if job.form != "dropped":
        return job.outcomes[0] if job.outcomes else "unknown"
    if not drained:
        return "unknown"
    return "completed" if job.returned else "failed"
