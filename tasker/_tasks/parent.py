"""`Tie`: ties a task to the context that it was submitted with, its parent.

The task inherits the values of its parent. When the parent ends, so does the task:

- A cancellation of the parent is to the task what its own `cancel()` is. If it waits it
  is cancelled and never runs. If it runs its context ends.
- A deadline of the parent that passes is to the task what its own `timeout` is. Its
  future fails, whether it waits or runs. If it runs its context ends.

So there is one rule for a deadline, whatever has set it. And an await of a task whose
parent was too late raises an error, not the `CancelledError` by which asyncio tells a
coroutine that it is itself cancelled.

From the submission until the task is settled the tie is among the dependants of its
parent, and in `_waiting` of the task: it is woken like everything that waits for the
outcome, and then leaves its parent. So a parent that lives long keeps no task that has
ended. A task announces its tie, *then* ties itself to the parent, then looks whether it
was settled meanwhile (R1).

A parent may end in any thread: in the timer's, in one that calls `cancel()`, in a
signal handler. So callbacks of the tasks run on another thread.
"""

from __future__ import annotations

from typing import Any, Protocol

from tasker._tasks.context import Context, EndedError, InheritedValues, ManagerValues, TaskContext
from tasker.errors import DeadlineExceededError, TaskTimeoutError

__all__ = ["Tie"]


class TiedTask(Protocol):
    """A task, as seen from here."""

    attempts: int
    _cancel_asked: bool
    _ending: tuple[EndedError, BaseException | None] | None
    _context: TaskContext | None
    _values: Tie | None

    def _contents(self) -> list[Any]: ...

    def _orphaned(self) -> BaseException | None: ...

    def _timed_out(self, what: str) -> TaskTimeoutError: ...

    def _withdraw(self, *, aside: bool = False) -> bool: ...

    def _fail_from_outside(
        self,
        error: BaseException,
        ending: EndedError,
        contexts: list[Context] | None = None,
    ) -> bool: ...


class Tie(InheritedValues):
    """What a task inherits, and what ends it with its parent."""

    def __init__(self, parent: Context, values: ManagerValues, task: TiedTask) -> None:
        super().__init__(parent, values)
        self._tied_to: Context = parent
        self._task: TiedTask | None = task

    def begin(self) -> None:
        """Tie the task to its parent. If that has ended already, so does the task."""
        parent = self._tied_to
        error = parent._add_dependant(self) if parent._can_end() else None

        if error is None and parent.remaining() == 0.0:
            # A task that has ended no longer watches the deadline of its context.
            error = DeadlineExceededError("context deadline exceeded")
        if error is not None:
            self.parent_ended(error, parent._cause, [], [])

    def wake(self) -> None:
        """The task is settled. May be called again."""
        task, self._task = self._task, None
        self._tied_to._remove_dependant(self)

        # One that was asked to end may still run, and may make its context only now.
        if task is not None and not task._cancel_asked:
            task._values = None

    def parent_ended(
        self,
        error: EndedError,
        cause: BaseException | None,
        contexts: list[Context],
        things: list[Any],
    ) -> None:
        task = self._task
        if task is None or task._orphaned() is not None:
            return

        things += (task, *task._contents())
        if isinstance(error, DeadlineExceededError):
            late = task._timed_out("the deadline of the task's ctx passed")
            task._fail_from_outside(late, error, contexts)
        elif not task._withdraw(aside=True):
            task._ending = error, cause
            task._cancel_asked = True
            # It may have been put back for a retry since the first look (R1).
            if not task._withdraw(aside=True) and (context := task._context) is not None:
                contexts.append(context)
