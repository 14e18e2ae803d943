"""What a guard around the user's code does with the exceptions of that code.

What the user's functions raise is logged where they are called, and costs nothing else.
Two things are not for a log, and `pass_on` knows them:

- An interrupt: what a signal handler raises in the main thread, wherever that happens
  to be. It is `KeyboardInterrupt`, say, or the `SystemExit` of a handler of SIGTERM. It
  is meant for the program, so it is raised again, once the books are right.
- The end of a forked child: see `threads`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tasker._sync.threads import leave_child, local_to_threads
from tasker.errors import is_a

__all__ = ["ThreadState", "is_interrupt", "notify", "pass_on", "raise_interrupt", "thread_state"]


class ThreadState:
    notifying: bool = False
    """Whether the thread has wake-ups in its hands for which others wait.

    It has taken them out of their list, and has yet to send them."""


thread_state: ThreadState = local_to_threads(ThreadState)


def is_interrupt(error: BaseException) -> bool:
    """Whether a signal handler raised it, or it means as much.

    That is so in the main thread, for anything but an `Exception`."""
    return not is_a(error, Exception) and threading.current_thread() is threading.main_thread()


def pass_on(error: BaseException) -> None:
    """Called by a guard with the exception that it has caught.

    Returns if that is to be logged. Raises it again if it is an interrupt. Ends the
    process if it is a forked child that has nothing to go back to."""
    leave_child(error)
    raise_interrupt(error)


def raise_interrupt(error: object) -> None:
    """Raise it again if it is an interrupt.

    Called when all is done that had to be done first."""
    if isinstance(error, BaseException) and is_interrupt(error):
        try:
            raise error
        finally:
            # Its traceback holds this frame (R4).
            del error


def notify(take: Callable[[], list[Callable[[], object]]]) -> None:
    """Make the calls that `take()` returns, in order.

    When an interrupt ends one of them, it is raised after the others. The thread is
    `notifying` as long as calls are left, and while `take` runs."""
    outer = thread_state.notifying
    thread_state.notifying = True
    try:
        _call_each(take(), outer=outer)
    finally:
        thread_state.notifying = outer


def _call_each(calls: list[Callable[[], object]], *, outer: bool) -> None:
    try:
        while calls:
            call = calls[0]
            # From here to the call is one step (R2): no call is lost or made twice.
            del calls[0]
            thread_state.notifying = outer or calls != []
            call()
    except BaseException:
        _call_each(calls, outer=outer)
        raise
