"""Awaiting in asyncio what threads settle: a `Mailbox` a loop, and a `LoopWaiter` an await.

To tell a loop something from another thread (`call_soon_threadsafe`) is a system call, in which the thread gives up the
GIL. So what is settled goes into the loop's mailbox, and only who finds no delivery under way asks for one: a burst of
outcomes costs one call. Put, then look whether a delivery is under way; a delivery says that it is none any more, and
then takes out: one of the two sees the other.

Only this module imports asyncio, and it is imported by the functions that need it: programs without a loop do not pay.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Generator
from typing import Any, Protocol

__all__ = ["CancelledError", "LoopWaiter", "outcome", "waiter_here"]

CancelledError = asyncio.CancelledError  # not the one of concurrent.futures


class Awaited(Protocol):
    """A future, as seen from here."""

    def done(self) -> bool: ...

    def cancel(self) -> bool: ...

    def _announce(self, waiter: object) -> None: ...

    def _take_back(self, waiter: object) -> bool: ...


class Mailbox:
    """What one loop is to be told. Kept by the loop's thread, so the loop itself is not kept alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._waiters: deque[LoopWaiter] = deque()
        self._coming = False  # whether a delivery is under way

    def put(self, waiter: LoopWaiter) -> None:
        """Have the loop wake a waiter. From any thread; harmless when the loop is closed."""
        self._waiters.append(waiter)
        if self._coming:
            return
        self._coming = True
        loop = self.loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # it is closed: nobody awaits anything there any more
            self._coming = False
        except BaseException:  # Ctrl-C: the next one asks again
            self._coming = False
            raise

    def _deliver(self) -> None:
        self._coming = False
        try:
            while True:
                self._waiters.popleft().deliver()
        except IndexError:
            pass


class LoopWaiter:
    """One await: others `wake()` it, from any thread and as often as they like."""

    __slots__ = ("_future", "_mailbox")

    def __init__(self, mailbox: Mailbox, future: asyncio.Future[None]) -> None:
        self._mailbox = mailbox
        self._future = future

    def wake(self) -> None:
        """Have its loop end the await."""
        self._mailbox.put(self)

    def deliver(self) -> None:
        """In the loop: end it."""
        if not self._future.done():  # cancelled meanwhile
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, None]:
        return self._future.__await__()


class _Here(threading.local):
    mailbox: Mailbox | None = None


_here = _Here()


def waiter_here() -> LoopWaiter:
    """A waiter for an await in the running loop."""
    loop = asyncio.get_running_loop()
    mailbox = _here.mailbox
    if mailbox is None or mailbox.loop() is not loop:
        mailbox = _here.mailbox = Mailbox(loop)  # of several loops that take turns each may get several
    return LoopWaiter(mailbox, loop.create_future())


def outcome(future: Awaited) -> Generator[Any, None, None]:
    """Wait in the running loop until a future has its outcome. A cancelled wait cancels the future."""
    waiter = waiter_here()
    future._announce(waiter)
    if future.done() and future._take_back(waiter):
        return
    try:
        yield from waiter.__await__()
    except BaseException as error:
        future._take_back(waiter)
        if isinstance(error, CancelledError):
            future.cancel()
        raise
