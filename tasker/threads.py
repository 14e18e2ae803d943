"""`new_thread`: how every thread of tasker is made.

A thread of tasker is started by the first thread that needs it, which serves a request perhaps, and goes on to work for
all others. So it must take nothing over from the thread that starts it: neither its context variables, which a thread
inherits from CPython 3.14 on if it is asked to (`-X thread_inherit_context=1`, the default without the GIL), nor what a
tracing library keeps in them and hands on by a replaced `Thread.start`. It would run the work of one request in the
context of another, and keep that context as long as it lives.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

__all__ = ["new_thread"]

BEGUN = 5.0  # seconds


def new_thread(target: Callable[..., object], name: str, args: tuple[object, ...] = ()) -> threading.Thread:
    """A daemon thread, not yet started, that begins with no context variables whichever thread starts it."""
    return _Thread(target=target, name=name, args=args, daemon=True)


class _Thread(threading.Thread):
    def start(self) -> None:
        """As `Thread.start`, which waits until the thread has begun: here for `BEGUN` seconds at most."""
        self._started = _Begun()
        contextvars.Context().run(super().start)

    @property
    def ident(self) -> int | None:
        """`None` until it has begun: an exception that another thread sends earlier would end it without a trace."""
        return super().ident if self._started.is_set() else None


class _Begun(threading.Event):
    """Set by a thread that has begun. One that was ended before, by an exception that another thread has sent to it (or
    to a thread that is gone and had the same number), never does, and `Thread.start` would wait for ever."""

    def wait(self, timeout: float | None = None) -> bool:
        if super().wait(BEGUN if timeout is None else timeout):
            return True
        raise RuntimeError(f"a new thread has not begun within {BEGUN:g} s")
