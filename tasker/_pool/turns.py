"""`Turns`: who may be in `run_task`, where `run_task_limit` says how many at once, and the line of those that wait.

A turn is a slot of a `Room`. So it is handed over to the caller that waits longest, and nobody overtakes. A caller has
it from before it borrows a resource until it has handed that back.

To wait for a turn in a task may be to wait for ever: all turns may be held by callers that wait, at last, for each
other. So such a wait is announced (see `deadlock`), and it can end as long as one that holds a turn does not wait so.
Hooks count too, and signal handlers: a thread that holds a turn and asks for another announces that whatever it runs.
"""

from __future__ import annotations

import threading

from tasker._sync.parking import Parker
from tasker._sync.room import Room
from tasker._tasks import deadlock

__all__ = ["Turn", "Turns"]


class Turn:
    """One call's. It is made by the caller's thread."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: int = threading.get_ident()


class Turns:
    """At most `limit` turns are held at once; `None`: there are none to be taken."""

    def __init__(self, name: str, limit: int | None) -> None:
        self._name = name
        self.limited: bool = limit is not None
        self.room: Room[Turn] = Room(limit or 0)
        self._waiting: set[int] = set()  # threads in the line

    def take(self, turn: Turn, timeout: float | None) -> bool:
        """Get the turn, or find the line closed. Blocks for at most `timeout` seconds (`None`: as long as it takes);
        `False` when it was nobody's by then.

        Raises `PoolDeadlockError` when it would wait for ever."""
        if self.room.enter(turn, 0.0):
            return True
        # a signal handler that has interrupted its own thread in the line would wait for that
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
        """End it; harmless for one that was never got. May be repeated, and must be if an interrupt ended it."""
        self.room.leave(turn)

    def close(self) -> None:
        """Let nobody wait from now on. Signal-safe; those that sleep are for `heal` to wake."""
        self.room.closed = True

    def heal(self) -> None:
        """Called by the burst thread's tick: wake those that should be awake."""
        self.room.heal()

    def is_wanted(self) -> bool:
        """Whether any wait."""
        return self.room.is_wanted()

    def leave_to_parent(self) -> None:
        """In a forked child: none of those that hold one or wait is there."""
        self.room = Room(self.room.capacity)
        self.room.closed = True
        self._waiting = set()

    # -- what waits between tasks go by (deadlock.Awaited) --------------------------------------------------------

    def may_end(self, stuck: deadlock.Waits) -> bool:
        return self.room.may_enter() or not self._holding() <= {
            wait.thread for wait in stuck.waits.values()
        }

    def __str__(self) -> str:
        return f"its turn in run_task of {self._name} (run_task_limit)"

    def _holding(self) -> set[int]:
        """The threads that hold turns."""
        return {turn.thread for turn in self.room.holders()}
