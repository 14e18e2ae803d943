"""`Abandonment`: what becomes of a worker whose call does not return.

No thread can be ended from outside. So when a call has not returned `abandon_after`
seconds after its context ended, its worker is taken out of the crew, which hires
another one. The future gets an outcome, if it has none yet. The thread of the worker is
*abandoned*. If the call returns after all, the worker takes no other task, destroys its
resource, and leaves.

A call returns, or it is abandoned: there is one right to either (R3). The thread of the
call takes it as the call ends. The crew takes it under its lock, so that it abandons no
more threads than it may have workers. From then on a call that is stuck keeps its
worker, and is looked at again after the same time.

The worker is a member of the crew until its task has an outcome and the log has a line.
Otherwise a manager that closes could be closed before.
"""

from __future__ import annotations

from typing import Any, Protocol

from tasker._pool.crew import Crew
from tasker._pool.worker import Worker
from tasker._sync import timer
from tasker._sync.callback_runner import BackgroundLogger
from tasker._sync.timer import TimerEntry
from tasker._tasks.context import Context
from tasker.errors import ContextCancelledError

__all__ = ["Abandonment"]


class EngineForAbandonment(Protocol):
    """An engine, as seen from here."""

    crew: Crew[Any]
    service_logger: BackgroundLogger

    def is_killed(self) -> bool: ...

    def strike_off(self, worker: Worker[Any], /) -> None: ...


class Abandonment:
    """That of one call, in the thread of a worker."""

    # Not a slot: see R3.
    may_return: bool

    def __init__(
        self, engine: EngineForAbandonment, context: Context, worker: Worker[Any], after: float
    ) -> None:
        self._engine = engine
        self._context = context
        self._worker = worker
        # `None`: the call is of a hook.
        self._task = worker.task
        self._after = after
        self.may_return = True
        self._has_returned = False
        self._is_abandoned = False
        self._entry: TimerEntry | None = None

    # -- the thread of the call --------------------------------------------------------

    def begin(self) -> None:
        """The call begins now."""
        self._context._add_sleeper(self)

    def end(self, error: BaseException | None = None) -> None:
        """The call has returned. May be called again."""
        self._context._remove_sleeper(self)
        try:
            del self.may_return
        except AttributeError:
            if not self._has_returned:
                self._comes_back()
        else:
            # No call since the right was taken (R2): another `end` sees this.
            self._has_returned = True

        if self._entry is not None:
            self._entry.cancel()

    def _comes_back(self) -> None:
        self._worker.dismissed = True
        self._worker.broken_by(self._context.err())
        if self._task is not None:
            # It is not retried.
            self._task._cancel_asked = True

    # -- other threads -----------------------------------------------------------------

    def release(self) -> None:
        """The context has ended. Called by the thread that ends it; does not block."""
        self._entry = entry = timer.later(self._after, self._time_is_up)
        # The call may have returned meanwhile (R1).
        if not hasattr(self, "may_return"):
            entry.cancel()

    def _time_is_up(self) -> None:
        """Called by the timer, and again if it raises."""
        engine = self._engine
        # A kill has its own time, and ends what is left.
        if engine.is_killed():
            return

        if not self._is_abandoned:
            self._is_abandoned = engine.crew.abandon(self._worker, self)
        if self._is_abandoned:
            self._give_up()
        elif hasattr(self, "may_return") and self._worker in engine.crew.members:
            self._log(
                "error",
                "%s: it has not returned %g s after its context ended, and keeps its worker: "
                "threads abandoned already: %d, the most (max_worker_count)",
            )
            self.release()

    def _give_up(self) -> None:
        self._log(
            "warning",
            "%s: abandoned, as it has not returned %g s after its context ended; "
            "threads abandoned now: %d",
        )
        if self._task is not None:
            ended = ContextCancelledError(
                f"the task did not return within {self._after:g} s (abandon_after) after its "
                "context had ended: its thread was abandoned"
            )
            self._task._fail_from_outside(ended, ended)
        self._engine.strike_off(self._worker)

    def _log(self, level: Any, what: str) -> None:
        engine = self._engine
        engine.service_logger.fault(
            level, what, self._worker.name, self._after, len(engine.crew.abandoned)
        )
