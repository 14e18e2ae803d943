"""Exceptions that strike from outside at a moment when they must not be raised."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from tasker._sync import timer
from tasker.errors import is_a

__all__ = ["deliver_later"]

# By then the call that was struck has mostly returned; else we wait as long again. A
# guess.
_MOMENT_S = 0.001


def deliver_later(error: BaseException) -> None:
    """Raise an interrupt again in the calling thread, a moment later.

    For a call that has done what it promised: if it raised, its caller would take it
    for a failure. So it returns as usual. An `Exception` (no memory, no room on the
    stack) is dropped: it reports that something could not be done, which was done all
    the same. Never raises."""
    if is_a(error, Exception):
        return

    returned: list[bool] = []
    try:
        with contextlib.suppress(BaseException):
            raise_it = partial(_raise_in, threading.get_ident(), type(error), error.args)
            timer.after(_MOMENT_S, partial(_deliver, returned, raise_it))
    finally:
        returned.append(True)


def _deliver(returned: list[bool], raise_it: Callable[[], object]) -> None:
    """Raise it, or wait a moment more. Runs on the timer thread.

    The call above may itself start that thread. What is raised before it has returned
    would be lost."""
    timer.after(_MOMENT_S, raise_it if returned else partial(_deliver, returned, raise_it))


def _raise_in(thread: int, kind: type[BaseException], args: tuple[object, ...]) -> None:
    """Raise such an exception in another thread. Runs on the timer thread."""
    # Seldom needed, and so is ctypes.
    import signal

    main = threading.main_thread().ident
    if (
        kind is KeyboardInterrupt
        and thread == main
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        # A signal ends a sleep as well.
        signal.pthread_kill(thread, signal.SIGINT)
        return

    import ctypes

    def init(self: Any) -> None:
        kind.__init__(self, *args)

    again = type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(again))
