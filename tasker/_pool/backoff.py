"""`Backoff`: pauses of workers after failures, and of tasks between attempts.

A resource *fails* when it cannot be made. It also fails when it breaks or is lost
before it has done a task well: while the server is down, an `on_create` that connects
lazily, or through a proxy, succeeds all the same. Each worker counts its failures in a
row. After each it pauses, twice as long as after the one before. The pause has jitter,
so that workers that failed together do not all try again together. A resource that has
done a task well and then breaks (a connection gone stale) ends the row and costs no
pause.

Each worker backs off by itself. All workers together are bounded as well: those that
have paused take turns, `SPACING_S` apart.

A task's first retry comes at once: a single failure is most often a stale connection.
After that it pauses as its worker does, or longer if it has been tried more often. Its
attempts must outlast an outage, and a task that breaks many resources may itself be the
fault.

Pauses go by the real clock, whatever clock deadlines go by. `_lock` guards the field
below it for a few lines.
"""

from __future__ import annotations

from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock

__all__ = ["Backoff"]

# The pause after the first failure, doubled after each. A guess: short for a person,
# and long against what an attempt costs a server.
FIRST_PAUSE_S = 0.2

# A guess: an outage that is over is noticed within seconds.
LONGEST_PAUSE_S = 5.0

# The time from one attempt to the next of workers that have paused, however many they
# are: a server that comes back meets about thirty attempts a second.
SPACING_S = 0.03


class Backoff:
    """One for all workers of a manager.

    A pause is at most half of `create_timeout`, unless that is very short. Waiting
    tasks fail when no worker has had a resource for `create_timeout`, and a pause must
    not be the reason."""

    def __init__(self, create_timeout: float) -> None:
        self._create_timeout = create_timeout
        # When a worker last got a resource.
        self.made_at: float = monotonic()
        self._lock = new_lock()
        self._next_turn = 0.0

    def resource_made(self) -> None:
        """A worker got a resource."""
        self.made_at = monotonic()

    def worker_pause(self, failures: int) -> float:
        """Seconds before a worker tries again after so many failures in a row."""
        if not failures:
            return 0.0

        # Most programs never get here. At the top it would take half of the time that
        # importing tasker takes.
        import random

        pause = self._pause(failures)
        return random.uniform(pause / 2, pause)

    def task_pause(self, failures: int, attempts: int) -> float:
        """Seconds before a task is tried again after so many attempts.

        `failures` are those of its worker in a row."""
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
