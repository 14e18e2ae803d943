"""`Turns`: the turns of callers in `run_task`, and the line of those that wait for one.

`run_task_limit` is the number of turns. A turn is a seat of a `Room`, so it is handed
to the caller that has waited longest, and no caller overtakes another. A caller has its
turn from before it borrows a resource until it has handed that back.

To wait for a turn in a task may be to wait for ever: callers that wait, in the end, for
each other may hold all turns. So such a wait is announced (see `deadlock`). It can end
as long as one holder of a turn does not wait so. Hooks count too, and signal handlers:
a thread that holds a turn and asks for another announces that, whatever code it runs.
"""

from __future__ import annotations

import threading

from tasker._sync.parking import Parker
from tasker._sync.room import Room
from tasker._tasks import deadlock

__all__ = ["Turn", "Turns"]


class Turn:
    """The turn of one call. The caller's thread makes it."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: int = threading.get_ident()


class Turns:
    """At most `limit` turns are held at once. `None`: there are none to take."""

    def __init__(self, name: str, limit: int | None) -> None:
        self._name = name
        self.limited: bool = limit is not None
        self.room: Room[Turn] = Room(limit or 0)
        # The threads in the line.
        self._waiting: set[int] = set()

    def take(self, turn: Turn, timeout: float | None) -> bool:
        """Get the turn, or find the line closed. `False`: there was none in time.

        Blocks for at most `timeout` seconds (`None`: as long as it takes). Raises
        `PoolDeadlockError` when it would wait for ever."""
        if self.room.enter(turn, 0.0):
            return True

        # A signal handler that has interrupted its own thread in the line would wait
        # for that thread.
        if timeout == 0 or turn.thread in self._waiting:
            return False

        try:
            self._waiting.add(turn.thread)
            if timeout is not None:
                return self.room.enter(turn, timeout)

            parker = Parker()
            with deadlock.Wait(self, parker.wake, holds=turn.thread in self._holding()):
                return self.room.enter(turn, None, parker)
        finally:
            self._waiting.discard(turn.thread)

    def give_back(self, turn: Turn) -> None:
        """End the turn. Harmless if it was never got.

        May be repeated, and must be if an interrupt ended this call."""
        self.room.leave(turn)

    def close(self) -> None:
        """Let no caller wait from now on. Signal-safe; `heal` wakes the sleepers."""
        self.room.closed = True

    def heal(self) -> None:
        """Wake the callers that should be awake. Called by the burst thread's tick."""
        self.room.heal()

    def is_wanted(self) -> bool:
        """Whether any caller waits."""
        return self.room.is_wanted()

    def leave_to_parent(self) -> None:
        """In a forked child: threads that hold a turn or wait do not exist there."""
        self.room = Room(self.room.capacity)
        self.room.closed = True
        self._waiting = set()

    # -- for waits between tasks (deadlock.Awaited) ------------------------------------

    def may_end(self, stuck: deadlock.Waits) -> bool:
        return self.room.may_enter() or not self._holding() <= {
            wait.thread for wait in stuck.waits.values()
        }

    def __str__(self) -> str:
        return f"its turn in run_task of {self._name} (run_task_limit)"

    def _holding(self) -> set[int]:
        """The threads that hold turns."""
        return {turn.thread for turn in self.room.holders()}
