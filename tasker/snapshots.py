"""What a manager shows of itself: `TaskStats` at a moment, `StopReport` at the end."""

from __future__ import annotations

from tasker.record import Record

__all__ = ["StopReport", "TaskStats"]


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
