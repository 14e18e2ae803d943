"""`TaskLifecycleTimestamps`: the times of a task, for a user's collector.

Only programs that have a collector import this module.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TaskLifecycleTimestamps"]


class TaskLifecycleTimestamps(NamedTuple):
    """When a task was queued, started (for the last time) and finished.

    Each is in seconds of `time.monotonic()`; of the real one, if a test has replaced
    it. A task that never started has `started_at == finished_at`."""

    queued_at: float
    """When it was submitted, or `run_task` called."""
    started_at: float
    """When it was started; for the last time, if it was retried."""
    finished_at: float
    """When its function returned or raised, or something else ended the task."""
