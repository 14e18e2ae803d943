"""Exceptions that strike from outside at a moment when they must not be raised."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from tasker._sync import timer

__all__ = ["deliver_later"]

_MOMENT = 0.001  # seconds: by then the call that was struck has returned


def deliver_later(error: BaseException) -> None:
    """Raise an interrupt again in the calling thread, a moment later: the call that it struck returns as usual.

    For a call that has done what it promised, and would say by raising that it has not. An `Exception` (no memory, no
    room on the stack) is dropped: it said that something could not be done, and it was done. Never raises."""
    if isinstance(error, Exception):
        return
    returned: list[bool] = []
    try:
        with contextlib.suppress(BaseException):
            raise_it = partial(_raise_in, threading.get_ident(), type(error), error.args)
            timer.after(_MOMENT, partial(_deliver, returned, raise_it))
    finally:
        returned.append(True)


def _deliver(returned: list[bool], raise_it: Callable[[], object]) -> None:
    """On the timer thread. As long as the call above has not returned (it may start that thread) it would be lost."""
    timer.after(_MOMENT, raise_it if returned else partial(_deliver, returned, raise_it))


def _raise_in(thread: int, kind: type[BaseException], args: tuple[object, ...]) -> None:
    """On the timer thread."""
    import signal  # seldom needed, and so is ctypes

    main = threading.main_thread().ident
    if (
        kind is KeyboardInterrupt
        and thread == main
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.pthread_kill(thread, signal.SIGINT)  # which ends a sleep as well
        return

    import ctypes

    def init(self: Any) -> None:
        kind.__init__(self, *args)

    again = type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(again))
