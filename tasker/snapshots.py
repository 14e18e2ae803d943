"""What a manager shows of itself: `TaskStats` and `TaskMetrics` at a moment, `StopReport` at the end. And the
`MetricsCollector` that a user may give it, to be told of each task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tasker._base.record import Record

if TYPE_CHECKING:
    from tasker.stamps import TaskLifecycleTimestamps

__all__ = ["MetricsCollector", "Stamps", "StopReport", "TaskMetrics", "TaskStats"]


class TaskStats(Record):
    """The state of a manager at one moment, each field a count. Read without a lock: fields may be moments apart."""

    base_workers: int = 0
    """Workers that are always there: `worker_count`, or fewer while lost ones are replaced."""
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
    """Workers busy with a task, one that timed out and has not returned included."""
    available_resources: int = 0
    """Idle resources in the `run_task` pool."""


class StopReport(Record):
    """How a manager ended: the tasks of its whole life, and what could not be ended."""

    drained: bool
    """Every accepted task ran to its own end and everything is closed. `False` after a kill, or while still closing."""
    completed: int
    """Tasks that returned."""
    failed: int
    """Tasks that ended with an error."""
    cancelled: int
    """Tasks cancelled or killed while they waited."""
    never_started: int
    """Tasks that ended, in whatever way, without ever having been started."""
    destroy_errors: int
    """Times that `on_destroy` raised; each was logged."""
    abandoned: tuple[str, ...]
    """Names of the threads left behind: busy after `kill()`, or in an `on_create` that does not return. Each still
    destroys its resource when it comes back."""


Stamps = tuple[float, float, float]
"""What `TaskLifecycleTimestamps` are made of."""


class TaskMetrics(Record):
    """A snapshot. Times are seconds and those of successful tasks; every field is 0 as long as there is nothing to say.

    At rest, `total_tasks_arrived` = completed + failed + cancelled. While tasks run every total only grows."""

    average_execution_time: float = 0.0
    """Mean seconds from start to end, over all tasks."""
    min_execution_time: float = 0.0
    """Shortest execution, seconds, over all tasks."""
    max_execution_time: float = 0.0
    """Longest execution, seconds, over all tasks."""
    p95_execution_time: float = 0.0
    """95th percentile of the newest executions (up to 10,240), seconds, by nearest rank."""
    p99_execution_time: float = 0.0
    """99th percentile of the newest executions (up to 10,240), seconds, by nearest rank."""
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
    """Tasks that ended with an error: their own, a timeout, no resource, or killed while running."""
    total_tasks_retried: int = 0
    """Times that a task went back to its lane because of a broken resource."""
    total_tasks_cancelled: int = 0
    """Tasks cancelled, killed or withdrawn before they started."""
    success_rate: float = 0.0
    """Completed / (completed + failed), 0 to 1."""
    failure_rate: float = 0.0
    """Failed / (completed + failed), 0 to 1."""


class MetricsCollector(Protocol):
    """Receives what happens to tasks: implement it to feed a metrics system (`Config.collector`).

    The `record_` methods are called from many threads at once, never under a lock of tasker's, and before whoever
    waits for the task is woken; what they raise is logged and costs nothing else. What `metrics()` returns is what
    `TaskManager.metrics()` returns; where it returns `None`, the built-in figures are."""

    def record_arrival(self) -> object:
        """A task was accepted, or `run_task` was called."""

    def record_completion(self, stamps: TaskLifecycleTimestamps, /) -> object:
        """A task returned."""

    def record_failure(self, stamps: TaskLifecycleTimestamps, /) -> object:
        """A task ended with an error, a timeout included. One that was cancelled before it started is not told."""

    def record_retry(self) -> object:
        """A task goes back to its lane because its resource broke."""

    def metrics(self) -> TaskMetrics | None:
        """The figures that `TaskManager.metrics()` is to return; `None` for the built-in ones."""
