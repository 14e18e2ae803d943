"""Awaiting in asyncio what threads settle.

A loop has one `Mailbox`, which takes a `Message` for each thing that was settled.

To notify a loop from another thread (`call_soon_threadsafe`) is a system call, in which
the thread gives up the GIL. So a message goes into the loop's mailbox, and a delivery
is asked for only when none is under way: a burst of outcomes costs one call. A thread
puts its message in, then looks whether a delivery is under way. A delivery first notes
that none is under way any more, and then takes the messages out (R1).

Only this module and `aio` import asyncio. The functions that need these two import
them, so programs without a loop do not pay.
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

# Not the one of concurrent.futures.
CancelledError = asyncio.CancelledError


class Awaited(Protocol):
    """The part of a future that this module uses."""

    def done(self) -> bool: ...

    def cancel(self) -> bool: ...

    def _announce(self, waiter: object) -> None: ...

    def _take_back(self, waiter: object) -> bool: ...


class Mailbox:
    """The messages for one loop.

    It lives as long as they do, so it does not keep a loop alive that is done."""

    __slots__ = ("__weakref__", "_coming", "_messages", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._messages: deque[Message] = deque()

        # Whether a delivery is under way.
        self._coming = False

    def put(self, message: Message) -> None:
        """Deliver a message in the loop.

        May be called from any thread; harmless when the loop is closed."""
        self._messages.append(message)
        if not self._coming:
            self._ask()

    def _ask(self) -> None:
        self._coming = True
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # The loop is closed: no coroutine waits there any more.
            self._coming = False
            self._messages.clear()
        except BaseException:
            # Ctrl-C: the next message asks again.
            self._coming = False
            raise

    def _deliver(self) -> None:
        messages = self._messages
        self._coming = False

        try:
            while True:
                # Taken out last: a Ctrl-C in between delivers it twice, and loses
                # nothing.
                messages[0].deliver()
                messages.popleft()
        except IndexError:
            pass
        except BaseException:
            self._ask()
            raise


class Message:
    """A message to a loop.

    Any thread may `wake()` it, as often as it likes."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def wake(self) -> None:
        """Deliver it in its loop."""
        self._mailbox.put(self)

    def deliver(self) -> None:
        """Do what the message is for. Called in the loop, perhaps twice."""
        raise NotImplementedError


class LoopWaiter(Message):
    """One await, which the message ends."""

    __slots__ = ("_future",)

    def __init__(self, mailbox: Mailbox, future: asyncio.Future[None]) -> None:
        super().__init__(mailbox)
        self._future = future

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that must run if the await is to end."""
        return self._mailbox.loop

    def deliver(self) -> None:
        if not self._future.done():  # cancelled meanwhile
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, None]:
        return self._future.__await__()


class _LoopState(threading.local):
    # A weak reference: see Mailbox.
    mailbox: Callable[[], Mailbox | None] = staticmethod(lambda: None)


_loop_state = _LoopState()


def mailbox_here() -> Mailbox:
    """The mailbox of the running loop."""
    loop = asyncio.get_running_loop()
    mailbox = _loop_state.mailbox()
    if mailbox is None or mailbox.loop is not loop:
        # Where several loops take turns in a thread, each may get several mailboxes.
        mailbox = Mailbox(loop)
        _loop_state.mailbox = weakref.ref(mailbox)

    return mailbox


def waiter_here() -> LoopWaiter:
    """A waiter for an await in the running loop."""
    mailbox = mailbox_here()
    return LoopWaiter(mailbox, mailbox.loop.create_future())


def outcome(future: Awaited) -> Generator[Any, None, None]:
    """Wait in the running loop until a future has its outcome.

    A cancelled wait cancels the future."""
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
