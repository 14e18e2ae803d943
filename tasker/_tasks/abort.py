"""`Abort`: makes one call return when its context ends before it does.

The context releases the abort as it ends, which has another thread call `on_abort`. It
must not be called when the next call uses the resource. So there is one right to it
(R3). The thread of `on_abort` takes it and calls, or the thread of the call takes it as
the call ends. If it comes too late, it waits until `on_abort` has returned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tasker._sync.parking import Parker
from tasker._tasks.context import Context

__all__ = ["Abort"]

# The thread of a call that waits for `on_abort` looks so often whether that still runs.
# A guess: it matters only where the other thread was lost, or in a forked child.
_LOOK_S = 1.0


class Abort:
    """The abort of one call.

    `abort` calls `on_abort`, and raises nothing. `run` has another thread call a
    function, without waiting for it. `called` is called by the thread of the call, as
    that ends, if `on_abort` was called."""

    # Not a slot: see R3.
    _may_abort: bool

    def __init__(
        self,
        context: Context,
        abort: Callable[[], object],
        run: Callable[[Callable[[], object]], object],
        called: Callable[[], object] = bool,
    ) -> None:
        self._context = context
        self._abort = abort
        self._run = run
        self._called = called
        self._may_abort = True
        # The thread that calls `on_abort`, or is about to.
        self._thread: threading.Thread | None = None
        # Whether `on_abort` has returned, or will not be called.
        self._is_over = False
        # Where the thread of the call sleeps, once it waits for that.
        self._waiter: Parker | None = None
        # Whether `on_abort` was called.
        self.was_called: bool = False

    # -- the thread of the call --------------------------------------------------------

    def begin(self) -> None:
        """The call begins now."""
        self._context._add_sleeper(self)

    def end(self, error: BaseException | None = None) -> None:
        """The call is over. `on_abort` does not run when this returns.

        May be called again."""
        self._context._remove_sleeper(self)
        try:
            del self._may_abort
        except AttributeError:
            try:
                self._wait()
            finally:
                # Not over: Ctrl-C has ended the wait.
                if self.was_called or not self._is_over:
                    self._called()
        else:
            # No call since the right was taken (R2): another `end` sees this.
            self._is_over = True

    def _wait(self) -> None:
        # Announced, then looked at (R1).
        self._waiter = waiter = Parker()
        while not self._is_over and self._thread is not None and self._thread.is_alive():
            waiter.sleep(_LOOK_S)

    # -- other threads -----------------------------------------------------------------

    def release(self) -> None:
        """The context has ended. Called by the thread that ends it; does not block."""
        self._run(self._call)

    def _call(self) -> None:
        self._thread = threading.current_thread()
        try:
            del self._may_abort
        except AttributeError:
            return

        try:
            self.was_called = True
            self._abort()
        finally:
            self._is_over = True
            if self._waiter is not None:
                self._waiter.wake()
