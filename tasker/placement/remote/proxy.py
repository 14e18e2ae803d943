"""`ResourceProxy`: a resource elsewhere, as its manager sees it. To the manager it is the resource.

    STARTING --create--> READY --destroy--> ENDING
        '------------------'-------------------^       lost, at any time: the place where it lives is gone

One thread at a time owns it: it creates, calls and destroys, and sleeps meanwhile. Nobody interrupts the owner. The
others only give orders, or kill the place, and that is the end of his sleep: whoever ends the context of a call, the
timer when its grace is over, the closing manager. That is why a task can be ended here, whatever it does.

`_lock` guards the state, the number of the running call and how it was asked to end; nothing under it blocks.

What a kind of place has to say itself: `KIND`, `_ask`, `_has_begun`, `_tell`, `kill`, `_why_lost`, `_let_end`, and when it
is lost `_tell_manager()`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tasker._sync import timer
from tasker._sync.locks import new_lock
from tasker._sync.timer import TimerEntry
from tasker._tasks.context import Context
from tasker._tasks.wrapping import Progress, wrapper
from tasker.errors import (
    ContextCancelledError,
    DeadlineExceededError,
    TaskerError,
    TaskManagerKilledError,
    TaskTimeoutError,
    WorkerLostError,
)
from tasker.placement.remote import pickling, protocol
from tasker.placement.remote.pickling import Packed, Verdict

__all__ = ["NoAnswerError", "ResourceProxy"]

STARTING, READY, ENDING = range(3)
_ENDINGS: dict[int, type[TaskerError]] = {
    protocol.CANCELLED: ContextCancelledError,
    protocol.DEADLINE: TaskTimeoutError,
    protocol.KILLED: TaskManagerKilledError,
}

Answer = tuple[BaseException | None, Any]  # an error and the verdict on it, or `None` and a result


class NoAnswerError(Exception):
    """The place cannot answer any more. `began`: whether it may have done what it was asked."""

    def __init__(self, *, began: bool) -> None:
        super().__init__()
        self.began = began


class ResourceProxy:
    """`create` once, then `call`s, then `destroy`; whatever fails, the place is gone in the end."""

    KIND: str
    """What kind of place it is, in words."""

    def __init__(self, name: str, grace: float, on_lost: Callable[[Any], None]) -> None:
        self.name = name
        self._grace = grace
        self._on_lost = on_lost
        self._lock = (
            new_lock()
        )  # reentrant: a signal handler may end the context of the call it interrupts
        self._state = STARTING
        self._hook = "on_create"  # which it is to run, or runs; empty if it has returned
        self._is_lost = False
        self.is_unentered: bool = (
            False  # whether the resource is a context manager that was not entered
        )
        self._number = 0  # of the call that runs, or ran last
        self._context: Context | None = None  # of the call that runs
        self._order = 0  # how the running call was asked to end
        self._killed_for = 0  # the order that it did not obey in time
        self._entry: TimerEntry | None = None  # the end of its grace
        self._verdict: Verdict = True  # on the error that the last call has raised

    def __repr__(self) -> str:
        state = "lost" if self._is_lost else ("starting", "ready", "ending")[self._state]
        return f"<{self._where()} of {self.name}, {state}>"

    def is_lost(self) -> bool:
        """Whether the place is gone."""
        return self._is_lost

    def late(self) -> str:
        """What has not happened while there is no resource, in words; empty if there is one. Does not block."""
        if self._hook:
            return (
                f"{self._hook} has not returned"
                if self._has_begun()
                else f"{self.KIND} has not come to {self._hook}"
            )
        return f"{self.KIND} has not ended" if self._state == ENDING else ""

    # -- the owner's thread ----------------------------------------------------------------------------------------

    def create(self, setup: protocol.Setup, timeout: float) -> None:
        """Have the resource made. Raises what `on_create` raised there, `TimeoutError` after `timeout` seconds,
        `WorkerLostError` when the place is gone; then it is gone."""
        error: BaseException | None
        overdue = timer.after(timeout, self.kill)
        try:
            error, unentered = self._ask(protocol.SETUP, setup, None)
            self.is_unentered = unentered is True
        except NoAnswerError as unanswered:
            if overdue.is_set():
                error = self._failure(self._when(unanswered))
            else:
                late = self.late()
                self._why_lost()
                error = TimeoutError(
                    f"{late} within {timeout:g} s (create_timeout){self._quoted()}"
                )
        except BaseException:
            self._end(0.0)
            raise
        finally:
            overdue.cancel()
        self._hook = ""
        if error is None and self._is_lost:  # killed as it answered
            error = self._failure("when on_create had returned")
        if error is not None:
            self._end(0.0)
            raise error
        with self._lock:
            if self._state == STARTING:
                self._state = READY

    @wrapper
    def call(self, context: Context, packed: Packed) -> Any:
        """Run a call. Returns what it returns, raises what it raises; `WorkerLostError` when the place is gone.

        When the context ends the place is told; if the call has not returned `grace` seconds later the place is
        killed: `TaskTimeoutError`, `TaskManagerKilledError` or `ContextCancelledError`, as the context ended."""
        progress = packed.progress
        remaining = context.remaining()
        head = (
            self._begin_call(context),
            -1.0 if remaining is None else remaining,
            0 if progress is None else len(progress.results),
        )
        error: BaseException | None
        try:
            context._add_sleeper(self)
            error, result = self._ask(protocol.CALL, (head, packed), progress)
        except NoAnswerError as unanswered:
            when = "while it ran" if unanswered.began else "before it ran"
            error, result = (
                self._failure(f"{when} {packed.__qualname__}", began=unanswered.began),
                False,
            )
        except (
            BaseException
        ):  # Ctrl-C in `run_task`: the answer that comes would be taken for that of the next call
            self.kill()
            raise
        finally:
            self._end_call()
            context._remove_sleeper(self)
        try:
            if error is not None:
                self._verdict = result
                raise error
        finally:
            del error  # its traceback holds this frame
        return result  # even if it was killed meanwhile: the next call finds that out before it is sent

    def verdict(self) -> bool:
        """What `check_health` has said there of the error that the last call has raised. Raises what it has raised."""
        if isinstance(self._verdict, bytes):
            error, _ = pickling.opened(protocol.ERROR, self._verdict)
            assert error is not None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return self._verdict

    def destroy(self, reason: BaseException | None = None) -> None:
        """Have the resource destroyed, and the place end; the `reason` is told there. Raises what `on_destroy` raised
        there.

        What has not ended `grace` seconds after the answer is killed."""
        with self._lock:
            if self._state == ENDING:
                return
            self._state = ENDING
        self._hook = "on_destroy"
        error: BaseException | None = None
        patience = 0.0
        try:
            if not self._is_lost:
                packed = None if reason is None else pickling.pack_reason(reason)
                error, _ = self._ask(protocol.DESTROY, packed, None)
                patience = self._grace
        except NoAnswerError as unanswered:
            error = self._failure(self._when(unanswered))
        finally:
            self._hook = ""
            self._end(patience)
            del reason  # its traceback may hold this frame
        if error is not None:
            raise error

    def _failure(self, doing: str, *, began: bool = True) -> BaseException:
        why, exit_code = self._why_lost()
        if self._killed_for:
            return _ENDINGS[self._killed_for](
                f"{self.name}: the task did not end with its context: {self._where()} {why}"
            )
        return WorkerLostError(
            f"{self.name}: {self._where()} {why} {doing}{self._quoted()}", exit_code, began=began
        )

    def _when(self, unanswered: NoAnswerError) -> str:
        return f"{'while' if unanswered.began else 'before'} {self._hook} ran"

    def _quoted(self) -> str:
        words = self._last_words()
        return f"; the last of its standard error:\n{words}" if words else ""

    def _begin_call(self, context: Context) -> int:
        with self._lock:
            self._number += 1
            self._order = self._killed_for = 0
            self._verdict = True
            self._context = context
            return self._number

    def _end_call(self) -> None:
        with self._lock:
            self._context = None
            entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()

    def _end(self, patience: float) -> None:
        with self._lock:
            self._state = ENDING
        self._let_end(patience)

    # -- any thread ------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Said by a context whose sleeper this is: if it is that of the running call, that is to end. The place is told
        now, and killed when the grace is over. Does not block."""
        with self._lock:
            context = self._context
            if context is None or context.err() is None or self._order:
                return
            self._order = order = _order_for(context)
            self._entry = timer.after(self._grace, partial(self._kill_call, self._number))
            self._tell(order, self._number)

    def stopping(self) -> None:
        """The manager drains. Does not block."""
        with self._lock:
            self._tell(protocol.STOPPING, 0)

    def give_up_hooks(self) -> None:
        """The manager is killed: on_create is not waited for any more, on_destroy as long as `grace`. May be repeated.
        Does not block."""
        with self._lock:
            if self._state == STARTING:
                self.kill()
            elif self._state == ENDING and self._entry is None:
                self._entry = timer.after(self._grace, self.kill)

    def end_now(self) -> None:
        """Time is up for whatever it does. Does not block."""
        with self._lock:
            if self._context is not None:
                self._killed_for = self._order
            self.kill()

    def _kill_call(self, number: int) -> None:
        with self._lock:
            if self._context is not None and number == self._number:
                self._killed_for = self._order
                self.kill()

    def _tell_manager(self) -> None:
        """The place is gone; `_is_lost` says so already. Said once, by whoever finds out."""
        with self._lock:
            ready = self._state == READY
        if ready:
            self._on_lost(self)

    # -- what a kind of place says itself ----------------------------------------------------------------------------

    def _ask(self, kind: int, what: Any, progress: Progress | None) -> Answer:
        """Have it do something and wait for the answer; notes the results of steps. Raises `NoAnswerError`."""
        raise NotImplementedError

    def _has_begun(self) -> bool:
        """Whether it may have begun what it was last asked."""
        raise NotImplementedError

    def _tell(self, order: int, number: int) -> None:
        """Give an order. With the lock held: must not block, nor raise."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the place now. Does not block, nor wait until it has ended."""
        raise NotImplementedError

    def leave_to_parent(self) -> None:
        """In a forked child: this process has nothing to do with it."""
        raise NotImplementedError

    def _where(self) -> str:
        """What it is, in words."""
        raise NotImplementedError

    def _why_lost(self) -> tuple[str, int | None]:
        """How it was lost, in words, and the exit code; waits until that is known."""
        raise NotImplementedError

    def _last_words(self) -> str:
        """What it has said at last, where that is known; asked after `_why_lost`."""
        return ""

    def _let_end(self, patience: float) -> None:
        """Wait so many seconds until it has ended by itself, then kill it; let go of everything."""
        raise NotImplementedError


def _order_for(context: Context) -> int:
    if isinstance(context.err(), DeadlineExceededError):
        return protocol.DEADLINE
    return (
        protocol.KILLED
        if isinstance(context.cause(), TaskManagerKilledError)
        else protocol.CANCELLED
    )
