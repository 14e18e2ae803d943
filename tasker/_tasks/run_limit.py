"""`RunLimit`: the `run_timeout` of one attempt.

It begins and ends with the call. If the time is up before the call has returned, the
task fails and its context ends, as after its `timeout`.

The call returns, or its time is up: there is one right to either (R3). The thread of
the call takes it as the call ends, and the timer as it fires. So a timer that fires at
that moment never ends the next attempt. If the timer was first there is no next
attempt.
"""

from __future__ import annotations

from typing import Protocol

from tasker._sync import timer
from tasker._sync.timer import TimerEntry
from tasker._tasks.context import Context

__all__ = ["RunLimit"]


class LimitedTask(Protocol):
    """A task, as seen from here."""

    attempts: int
    _cancel_asked: bool

    def _run_too_long(self, seconds: float) -> None:
        """Fail it, and end its context. Called on the timer thread."""


class RunLimit:
    """That of one call, in the thread of a worker."""

    # Not a slot: see R3.
    _may_end: bool

    def __init__(self, context: Context, task: LimitedTask, seconds: float) -> None:
        self._context = context
        self._task = task
        self._seconds = seconds
        self._attempt = task.attempts
        self._may_end = True
        self._has_returned = False
        self._is_up = False
        self._entry: TimerEntry | None = None

    def begin(self) -> None:
        """The call begins now."""
        deadline, earlier = timer.now() + self._seconds, self._context._deadline
        # Otherwise its timeout ends first, or its parent, and that is watched already.
        if earlier is None or deadline < earlier:
            self._context._deadline = deadline
            self._entry = timer.at(deadline, self._time_is_up)

    def end(self, error: BaseException | None = None) -> None:
        """The call has returned. May be called again."""
        try:
            del self._may_end
        except AttributeError:
            if not self._has_returned:
                self._task._cancel_asked = True
        else:
            # No call since the right was taken (R2): another `end` sees this.
            self._has_returned = True

        if self._entry is not None:
            self._entry.cancel()

    def _time_is_up(self) -> None:
        """Called by the timer, and again if it raises."""
        if not self._is_up:
            try:
                del self._may_end
            except AttributeError:
                return
            self._is_up = True

        # An exception from outside may have struck the call, so that nothing ended
        # this, and the task may be in another attempt by now.
        if self._task.attempts == self._attempt:
            self._task._run_too_long(self._seconds)
