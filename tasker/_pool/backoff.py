"""`Backoff`: how long workers pause between resources that fail, and tasks between their attempts.

A resource *fails* when it cannot be made, and when it breaks or is lost before it has done a task well: while the
backend is down, `on_create` of a client that connects lazily, or through a proxy, succeeds. Each worker counts its
failures in a row. After each it pauses, twice as long as after the one before, with jitter: workers that failed
together must not all try again together. A resource that has done a task well and breaks then (a connection gone stale)
ends the row and costs no pause.

Workers back off by themselves; what they may do together is bounded here as well: those that have paused take turns,
`SPACING_S` apart.

A task's first retry is at once: one failure is most often a stale connection. After that it pauses as its worker does,
or longer if it has been tried more often: its attempts must not be gone before an outage is over, and what broke many
resources may be its own fault.

Pauses go by the real clock, whatever clock deadlines go by. `_lock` guards the field below it for a few lines.
"""

from __future__ import annotations

from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock

__all__ = ["Backoff"]

FIRST_PAUSE_S = 0.2  # seconds after the first failure, doubled after each
LONGEST_PAUSE_S = 5.0
SPACING_S = (
    0.03  # seconds from one attempt to the next of workers that have paused, however many they are
)


class Backoff:
    """One for all workers of a manager. A pause is at most half of `create_timeout`, unless that is very short:
    waiting tasks fail when no worker has had a resource for that long, and that must not be for a pause."""

    def __init__(self, create_timeout: float) -> None:
        self._create_timeout = create_timeout
        self.made_at: float = monotonic()  # when a worker last got a resource
        self._lock = new_lock()
        self._next_turn = 0.0

    def resource_made(self) -> None:
        """A worker got a resource."""
        self.made_at = monotonic()

    def worker_pause(self, failures: int) -> float:
        """Seconds before a worker tries again, when so many of its resources in a row have failed."""
        if not failures:
            return 0.0
        import random  # half of what importing tasker would cost, and most programs never get here

        pause = self._pause(failures)
        return random.uniform(pause / 2, pause)

    def task_pause(self, failures: int, attempts: int) -> float:
        """Seconds before a task is tried again after so many attempts; `failures` are its worker's in a row."""
        row = max(failures, attempts)
        return self._pause(row) if row > 1 else 0.0

    def take_turn(self) -> float:
        """When a worker whose pause is over may try again (`monotonic()`)."""
        with self._lock:
            turn = max(monotonic(), self._next_turn)
            self._next_turn = turn + SPACING_S
            return turn

    def _pause(self, failures: int) -> float:
        if not failures:
            return 0.0
        longest = min(LONGEST_PAUSE_S, max(self._create_timeout / 2, FIRST_PAUSE_S))
        return min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 100), longest)
