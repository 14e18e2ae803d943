"""Awaiting in asyncio what threads settle: a `Mailbox` a loop, a `Message` for each thing settled.

To tell a loop something from another thread (`call_soon_threadsafe`) is a system call, in which the thread gives up the
GIL. So what is settled goes into the loop's mailbox, and only who finds no delivery under way asks for one: a burst of
outcomes costs one call. Put, then look whether a delivery is under way; a delivery says that it is none any more, and
then takes out: one of the two sees the other.

Only this module and `aio` import asyncio; the functions that need them import them, so that programs without a loop do
not pay.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

__all__ = [
    "CancelledError",
    "LoopWaiter",
    "Mailbox",
    "Message",
    "mailbox_here",
    "outcome",
    "waiter_here",
]

CancelledError = asyncio.CancelledError  # not the one of concurrent.futures


class Awaited(Protocol):
    """A future, as seen from here."""

    def done(self) -> bool: ...

    def cancel(self) -> bool: ...

    def _announce(self, waiter: object) -> None: ...

    def _take_back(self, waiter: object) -> bool: ...


class Mailbox:
    """What one loop is to be told. It lives as long as its messages, so it does not keep a loop alive that is done."""

    __slots__ = ("__weakref__", "_coming", "_messages", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._messages: deque[Message] = deque()
        self._coming = False  # whether a delivery is under way

    def put(self, message: Message) -> None:
        """Have the loop told. From any thread; harmless when the loop is closed."""
        self._messages.append(message)
        if not self._coming:
            self._ask()

    def _ask(self) -> None:
        self._coming = True
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # it is closed: nobody awaits anything there any more
            self._coming = False
            self._messages.clear()
        except BaseException:  # Ctrl-C: the next one asks again
            self._coming = False
            raise

    def _deliver(self) -> None:
        messages = self._messages
        self._coming = False
        try:
            while True:
                messages[0].deliver()
                messages.popleft()  # not before: a Ctrl-C in between delivers it twice, and loses nothing
        except IndexError:
            pass
        except BaseException:
            self._ask()
            raise


class Message:
    """Something that a loop is to be told: others `wake()` it, from any thread and as often as they like."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def wake(self) -> None:
        """Have it delivered."""
        self._mailbox.put(self)

    def deliver(self) -> None:
        """In the loop: what it is for. Perhaps twice."""
        raise NotImplementedError


class LoopWaiter(Message):
    """One await, which the message ends."""

    __slots__ = ("_future",)

    def __init__(self, mailbox: Mailbox, future: asyncio.Future[None]) -> None:
        super().__init__(mailbox)
        self._future = future

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Which must run if the await is to end."""
        return self._mailbox.loop

    def deliver(self) -> None:
        if not self._future.done():  # cancelled meanwhile
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, None]:
        return self._future.__await__()


class _LoopState(threading.local):
    mailbox: Callable[[], Mailbox | None] = staticmethod(lambda: None)  # weakly: see Mailbox


_loop_state = _LoopState()


def mailbox_here() -> Mailbox:
    """The running loop's."""
    loop = asyncio.get_running_loop()
    mailbox = _loop_state.mailbox()
    if mailbox is None or mailbox.loop is not loop:
        mailbox = Mailbox(loop)  # of several loops that take turns each may get several
        _loop_state.mailbox = weakref.ref(mailbox)
    return mailbox


def waiter_here() -> LoopWaiter:
    """A waiter for an await in the running loop."""
    mailbox = mailbox_here()
    return LoopWaiter(mailbox, mailbox.loop.create_future())


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
