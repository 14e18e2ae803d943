"""`ResourceProxy`: a resource elsewhere, as its manager sees it.

To the manager the proxy is the resource.

    STARTING --create--> READY --destroy--> ENDING
        '------------------'-------------------^

It can be lost in any state: the place where the resource lives is gone.

One thread at a time owns the proxy. The owner creates, calls and destroys the resource,
and sleeps until the place answers. No other thread can interrupt it. Other threads (the
one that ends the context of a call, the timer when the grace period is over, the one
that closes the manager) may only send an order or kill the place. A kill wakes the
owner. So a task can be ended here, whatever it does.

`_lock` guards the state, the number of the running call, and how that call was asked to
end. Nothing blocks under it.

A subclass for a kind of place defines `KIND`, `_ask`, `_has_begun`, `_tell`, `kill`,
`leave_to_parent`, `_where`, `_why_lost` and `_let_end`. It sets `_is_lost` when the
place is gone, and then calls `_tell_manager`. It unpacks answers with `_opened`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

# An error and the verdict on it, or `None` and a result.
Answer = tuple[BaseException | None, Any]


class NoAnswerError(Exception):
    """The place is lost and answers no more.

    `began`: whether it may have done what it was asked."""

    def __init__(self, *, began: bool) -> None:
        super().__init__()
        self.began = began


class ResourceProxy:
    """One `create`, then `call`s, `check`s and `reset`s, then one `destroy`.

    Whatever fails, the place is gone in the end."""

    KIND: str
    """What kind of place it is, in words."""

    def __init__(self, name: str, grace: float, on_lost: Callable[[Any], None]) -> None:
        self.name = name
        self._grace = grace
        self._on_lost = on_lost
        # Reentrant: a signal handler may end the context of the running call.
        self._lock = new_lock()
        self._state = STARTING
        self._is_lost = False

        # The hook that is to run, or runs; empty once it has returned.
        self._hook = "on_create"
        # Whether the resource is a context manager that was not entered.
        self.is_unentered: bool = False

        # The number of the call that runs, or ran last.
        self._number = 0
        # The context of the running call.
        self._context: Context | None = None
        # The order by which the running call was asked to end.
        self._order = 0
        # The order that it did not obey in time, so that the place was killed.
        self._killed_for = 0
        # Whether its answer came after an abort, or none came since it was told to end.
        self._aborted = False
        # The end of the grace period.
        self._entry: TimerEntry | None = None
        # On the error that the last call has raised.
        self._verdict: Verdict = True

    def __repr__(self) -> str:
        state = "lost" if self._is_lost else ("starting", "ready", "ending")[self._state]
        return f"<{self._where()} of {self.name}, {state}>"

    def is_lost(self) -> bool:
        """Whether the place is gone."""
        return self._is_lost

    def late(self) -> str:
        """What has not happened yet, in words; empty if there is a resource.

        Does not block."""
        if self._hook:
            return (
                f"{self._hook} has not returned"
                if self._has_begun()
                else f"{self.KIND} has not come to {self._hook}"
            )

        return f"{self.KIND} has not ended" if self._state == ENDING else ""

    # -- the owner's thread ------------------------------------------------------------

    def create(self, setup: protocol.Setup, timeout: float) -> None:
        """Have the resource made.

        Raises what `on_create` raised there, `TimeoutError` after `timeout` seconds,
        and `WorkerLostError` when the place is lost. After any of them the place is
        gone."""
        error: BaseException | None
        overdue = timer.after(timeout, self._give_up_creation)
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

        with self._lock:
            ready = error is None and not self._is_lost
            if ready and self._state == STARTING:
                self._state = READY

        if ready:
            return

        # It was killed while it answered.
        if error is None:
            error = self._failure("when on_create had returned")
        self._end(0.0)
        raise error

    @wrapper
    def call(self, context: Context, packed: Packed) -> Any:
        """Run a call: return what it returns, raise what it raises.

        Raises `WorkerLostError` when the place is lost. When the context ends, the
        place gets an order. If the call has not returned `grace` seconds later, the
        place is killed. The error is then `TaskTimeoutError`, `TaskManagerKilledError`
        or `ContextCancelledError`, depending on how the context ended."""
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
            self._aborted = bool(self._order)
            when = "while it ran" if unanswered.began else "before it ran"
            error = self._failure(f"{when} {packed.__qualname__}", began=unanswered.began)
            result = False
        except BaseException:
            # Ctrl-C in `run_task`. The next call would take the answer for its own.
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
            del error  # (R4)

        # The place may have been killed meanwhile. The owner looks before it makes
        # another call.
        return result

    def verdict(self) -> bool:
        """What `check_health` returned there for the error that the last call raised.

        Raises what `check_health` raised."""
        if isinstance(self._verdict, bytes):
            error, _ = pickling.opened(protocol.ERROR, self._verdict)
            assert error is not None
            try:
                raise error
            finally:
                del error  # (R4)

        return self._verdict

    def was_aborted(self) -> bool:
        """Whether the last call was aborted, or ended with its place for its
        context."""
        return self._aborted or bool(self._killed_for)

    def check(self) -> object:
        """Have the resource checked. Returns `False` if `on_check` did.

        Raises what `on_check` raised there, and `WorkerLostError` when the place is
        lost."""
        return self._call_hook(protocol.CHECK, "on_check")

    def reset(self, timeout: float) -> None:
        """Have the resource reset.

        Raises what `on_reset` raised there, `TimeoutError` after `timeout` seconds, and
        `WorkerLostError` when the place is lost. After the last two it is gone."""
        overdue = timer.after(timeout, partial(self._give_up_reset, self._number))
        try:
            self._call_hook(protocol.RESET, "on_reset")
        except WorkerLostError:
            if overdue.is_set():
                raise
            raise TimeoutError(
                f"on_reset has not returned within {timeout:g} s (create_timeout)"
            ) from None
        finally:
            overdue.cancel()

    def _call_hook(self, kind: int, hook: str) -> Any:
        self._hook = hook
        error: BaseException | None
        try:
            error, result = self._ask(kind, None, None)
        except NoAnswerError as unanswered:
            error, result = self._failure(self._when(unanswered)), None
        except BaseException:
            # Ctrl-C in `run_task`. The next call would take the answer for its own.
            self.kill()
            raise
        finally:
            # From now on it is too late to give it up.
            with self._lock:
                self._hook = ""

        try:
            if error is not None:
                raise error
        finally:
            del error  # (R4)

        return result

    def destroy(self, reason: BaseException | None = None) -> None:
        """Have the resource destroyed for this `reason`, and the place end.

        If the place has not ended `grace` seconds after its answer, it is killed.
        Raises what `on_destroy` raised there."""
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
            del reason  # (R4)

        if error is not None:
            raise error

    def _opened(self, kind: int, body: Any, buffers: Sequence[Any] = ()) -> Answer:
        """Unpack an answer."""
        if kind & protocol.ABORTED:
            self._aborted = True
            kind ^= protocol.ABORTED
        return pickling.opened(kind, body, buffers)

    def _failure(self, when: str, *, began: bool = True) -> BaseException:
        """The error of a request to a place that is lost. Waits until it knows why."""
        why, exit_code = self._why_lost()
        if self._killed_for:
            return _ENDINGS[self._killed_for](
                f"{self.name}: the task did not end with its context: {self._where()} {why}"
            )

        return WorkerLostError(
            f"{self.name}: {self._where()} {why} {when}{self._quoted()}", exit_code, began=began
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
            self._aborted = False
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

    # -- any thread --------------------------------------------------------------------

    def release(self) -> None:
        """Called by a context that ends, and that this proxy's owner sleeps for.

        If it is the context of the running call, the place is ordered to end the call,
        and is killed when the grace period is over. Does not block."""
        with self._lock:
            context = self._context
            if context is None or context.err() is None or self._order:
                return

            self._order = order = _order_for(context)
            self._entry = timer.after(self._grace, partial(self._kill_call, self._number))
            self._tell(order, self._number)

    def _give_up_creation(self) -> None:
        """End the place if it is still making its resource.

        Called by the timer, which may be late: a call that it has begun cannot be
        cancelled any more."""
        with self._lock:
            if self._state == STARTING:
                self.kill()

    def _give_up_reset(self, number: int) -> None:
        """End the place if it still resets its resource after the call of this
        number."""
        with self._lock:
            if self._hook == "on_reset" and number == self._number:
                self.kill()

    def stopping(self) -> None:
        """The manager drains. Does not block."""
        with self._lock:
            self._tell(protocol.STOPPING, 0)

    def give_up_hooks(self) -> None:
        """The manager is killed. May be called again. Does not block.

        `on_create` gets no more time, and the other hooks get `grace` seconds."""
        with self._lock:
            if self._state == STARTING:
                self.kill()
            elif (self._state == ENDING or self._hook) and self._entry is None:
                self._entry = timer.after(self._grace, self.kill)

    def end_now(self) -> None:
        """Time is up for whatever the place does. Does not block."""
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
        """Tell the manager that the place is lost, if it does not find out by itself.

        Called once, after `_is_lost` was set, by the thread that learned of the
        loss."""
        with self._lock:
            ready = self._state == READY

        if ready:
            self._on_lost(self)

    # -- defined by each kind of place -------------------------------------------------

    def _ask(self, kind: int, what: Any, progress: Progress | None) -> Answer:
        """Have the place do something, and wait for the answer.

        Notes the results of steps. Raises `NoAnswerError`."""
        raise NotImplementedError

    def _has_begun(self) -> bool:
        """Whether the place may have begun what it was last asked."""
        raise NotImplementedError

    def _tell(self, order: int, number: int) -> None:
        """Give an order. The lock is held: this must not block, nor raise."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the place now. Does not block, nor wait until the place has ended."""
        raise NotImplementedError

    def leave_to_parent(self) -> None:
        """In a forked child: this process has nothing to do with the place (R5)."""
        raise NotImplementedError

    def _where(self) -> str:
        """Which place it is, in words."""
        raise NotImplementedError

    def _why_lost(self) -> tuple[str, int | None]:
        """Why the place is lost, and its exit code. Waits until that is known."""
        raise NotImplementedError

    def _last_words(self) -> str:
        """The last that the place has written, where that is known.

        Called after `_why_lost`."""
        return ""

    def _let_end(self, patience: float) -> None:
        """Let the place end by itself, kill it after `patience` seconds, and let go."""
        raise NotImplementedError


def _order_for(context: Context) -> int:
    if isinstance(context.err(), DeadlineExceededError):
        return protocol.DEADLINE

    return (
        protocol.KILLED
        if isinstance(context.cause(), TaskManagerKilledError)
        else protocol.CANCELLED
    )
