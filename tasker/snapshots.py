"""`TaskStats` and `TaskMetrics`: a manager at a moment. `StopReport`: its end.

Also `MetricsCollector`, which a user may give to a manager to learn of each task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tasker._base.record import Record

if TYPE_CHECKING:
    from tasker.stamps import TaskLifecycleTimestamps

__all__ = ["MetricsCollector", "Stamps", "StopReport", "TaskMetrics", "TaskStats"]


class TaskStats(Record):
    """The state of a manager at one moment, each field a count.

    It is read without a lock, so the fields may be moments apart."""

    base_workers: int = 0
    """Workers that are always there.

    They are `worker_count`, or fewer while lost ones are replaced."""
    active_workers: int = 0
    """All workers, base and burst, those still creating included."""
    burst_workers: int = 0
    """Workers above the base."""
    idle_workers: int = 0
    """Workers that hold a resource and wait for a task."""
    creating_workers: int = 0
    """Workers that have no resource now."""
    queued_tasks: int = 0
    """Tasks waiting in the main lane."""
    priority_tasks: int = 0
    """Tasks waiting in the priority lane."""
    running_tasks: int = 0
    """Workers busy with a task.

    The task may be one that timed out and has not returned."""
    available_resources: int = 0
    """Idle resources in the `run_task` pool."""
    abandoned_workers: int = 0
    """Workers whose tasks have not returned `abandon_after` after their contexts ended.

    They are no part of `active_workers`. One that returns is not counted any more."""


class StopReport(Record):
    """A manager at its end: the tasks of its whole life, and the threads left
    behind."""

    drained: bool
    """Whether every accepted task ran to its own end and everything is closed.

    `False` after a kill, while the manager is still closing, or if the thread of a task
    was abandoned (`abandon_after`), or that of a check of an idle resource given up
    (`check_timeout`), and had not returned at the end."""
    completed: int
    """Tasks that returned."""
    failed: int
    """Tasks that ended with an error."""
    cancelled: int
    """Tasks cancelled or killed while they waited."""
    never_started: int
    """Tasks that ended, in whatever way, without having been started."""
    destroy_errors: int
    """Times that `on_destroy` raised; each was logged."""
    abandoned: tuple[str, ...]
    """Names of the threads left behind.

    Such a thread was busy after `kill()`, was abandoned or given up before
    (`abandon_after`, `check_timeout`), or is in an `on_create` that does not return. It
    still destroys its resource when it comes back."""


Stamps = tuple[float, float, float]
"""The three values of `TaskLifecycleTimestamps`."""


class TaskMetrics(Record):
    """A snapshot of all tasks so far.

    Times are in seconds, and those of successful tasks. A field is 0 as long as there
    is no value. At rest, `total_tasks_arrived` = completed + failed + cancelled. While
    tasks run, every total only grows."""

    average_execution_time: float = 0.0
    """Mean seconds from start to end, over all tasks."""
    min_execution_time: float = 0.0
    """Shortest execution, seconds, over all tasks."""
    max_execution_time: float = 0.0
    """Longest execution, seconds, over all tasks."""
    p95_execution_time: float = 0.0
    """95th percentile of the newest executions (up to 10,240), seconds.

    By nearest rank."""
    p99_execution_time: float = 0.0
    """99th percentile of the newest executions (up to 10,240), seconds.

    By nearest rank."""
    average_wait_time: float = 0.0
    """Mean seconds from submission to the (last) start, over all tasks."""
    task_arrival_rate: float = 0.0
    """Tasks accepted per second, over the last 10 seconds."""
    task_completion_rate: float = 0.0
    """Tasks completed successfully per second, over the last 10 seconds."""
    total_tasks_arrived: int = 0
    """Tasks accepted, `run_task` included."""
    total_tasks_completed: int = 0
    """Tasks whose function returned."""
    total_tasks_failed: int = 0
    """Tasks that ended with an error.

    That is their own, a timeout, a lack of resources, or a kill while they ran."""
    total_tasks_retried: int = 0
    """Times that a task went back to its lane because of a broken resource."""
    total_tasks_cancelled: int = 0
    """Tasks cancelled, killed or withdrawn before they started."""
    success_rate: float = 0.0
    """Completed / (completed + failed), 0 to 1."""
    failure_rate: float = 0.0
    """Failed / (completed + failed), 0 to 1."""


class MetricsCollector(Protocol):
    """Receives the events of all tasks.

    Implement it to feed a metrics system (`Config.collector`). The `record_` methods
    are called from many threads at once, never under a lock of tasker's. They are
    called before the threads that wait for the task are woken. An error that they raise
    is logged, and costs nothing else. `TaskManager.metrics()` returns what `metrics()`
    returns, or the built-in figures where that is `None`."""

    def record_arrival(self) -> object:
        """A task was accepted, or `run_task` was called."""

    def record_completion(self, stamps: TaskLifecycleTimestamps, /) -> object:
        """A task returned."""

    def record_failure(self, stamps: TaskLifecycleTimestamps, /) -> object:
        """A task ended with an error, a timeout included.

        It is not called for a task that was cancelled before it started."""

    def record_retry(self) -> object:
        """A task goes back to its lane because its resource broke."""

    def metrics(self) -> TaskMetrics | None:
        """The figures for `TaskManager.metrics()`; `None`: the built-in ones."""
