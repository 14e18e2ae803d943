"""What a guard around the user's code does with what that code raises, and what an interrupt must not undo.

What the user's functions raise is logged where they are called, and costs nothing but itself. Two things are not for a
log, and `pass_on` knows them:

- An interrupt: what a signal handler raises in the main thread, wherever that happens to be. `KeyboardInterrupt`, say,
  or the `SystemExit` of a handler of SIGTERM. It is meant for the program. So it is raised again, once the books are
  right.
- The end of a forked child: see `threads`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tasker._sync.threads import leave_child, local_to_threads

__all__ = ["ThreadState", "is_interrupt", "pass_on", "raise_interrupt", "tell", "thread_state"]


class ThreadState:
    telling: bool = False
    """Whether the thread has in its hands what others wait to be told: it has taken them out of their list."""


thread_state: ThreadState = local_to_threads(ThreadState)


def is_interrupt(error: BaseException) -> bool:
    """Whether it is what a signal handler raised, or means as much: in the main thread, anything but an `Exception`."""
    return (
        not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()
    )


def pass_on(error: BaseException) -> None:
    """Called by a guard with what it has caught. Returns if that is to be logged, and raises it again if it is an
    interrupt; ends the process if it is a forked child that has nothing to go back to."""
    leave_child(error)
    raise_interrupt(error)


def raise_interrupt(error: object) -> None:
    """Raise it if it is an interrupt: after what had to be done first."""
    if isinstance(error, BaseException) and is_interrupt(error):
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


def tell(take: Callable[[], list[Callable[[], object]]]) -> None:
    """Make the calls that `take()` returns, in order. When an interrupt ends one, it is raised after the others.

    As long as some are left, or `take` itself has others to tell, the thread is `telling`."""
    outer = thread_state.telling
    thread_state.telling = True
    try:
        _call_each(take(), outer=outer)
    finally:
        thread_state.telling = outer


def _call_each(calls: list[Callable[[], object]], *, outer: bool) -> None:
    try:
        while calls:
            call = calls[0]
            del calls[
                0
            ]  # from here to the call Python runs no signal handler, so none is lost or called twice
            thread_state.telling = outer or calls != []
            call()
    except BaseException:
        _call_each(calls, outer=outer)
        raise
