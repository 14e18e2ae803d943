"""The asyncio forms of a manager's methods: to wait without a thread for a result, for room, for results, for the end.

Nothing here blocks the loop, and nothing waits that is not woken: a future, the queue and the lifecycle each know who
awaits them. A cancelled await cancels what it waited for.

`results` is `map` for a loop. What the consumer's thread does there, two coroutines share here, so that results are
handed out while the input lets itself be waited for: the *puller*, a task of its own, takes items and submits them as
long as there is room; the consumer hands out what has landed and thereby makes room. Both run in the loop's thread and
touch the window nowhere else, so it needs no lock. Closing the generator cancels the puller and what is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from tasker import checks
from tasker.awaiting import Mailbox, Message, mailbox_here, waiter_here
from tasker.errors import QueueFullError
from tasker.future import TaskFuture
from tasker.queue import TaskQueue
from tasker.stream import Plan, Window, iterator_over

__all__ = ["close", "results", "submit"]

Future = TaskFuture[Any]
Items = Iterator[Any] | AsyncIterator[Any]

_END: Any = object()
_KILLING = (KeyboardInterrupt, SystemExit, asyncio.CancelledError)  # leaving an `async with` block by these kills


class Closing(Protocol):
    """A lifecycle, as seen from here."""

    awaiting: list[Any]

    def request_stop(self) -> None: ...

    def request_kill(self, timeout: float) -> None: ...

    def has_ended(self) -> bool: ...


class Parts(Protocol):
    """An engine, as seen from here."""

    queue: TaskQueue

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        waiting: list[Any] | None = None,
    ) -> Future: ...

    def runs_this_thread(self) -> bool: ...


# -- one task ------------------------------------------------------------------------------------------------------


async def submit(
    engine: Parts,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    queue_timeout: float | None,
) -> Any:
    """The result of a task; `options` are those of `Engine.submit`, but for the time to wait for room."""
    at_once = {**options, "queue_timeout": 0.0}
    return await (await _with_room(engine, lambda: engine.submit(fn, args, at_once), queue_timeout))


async def _with_room(engine: Parts, launch: Callable[[], Future], queue_timeout: float | None = None) -> Future:
    """What `launch()` returns, tried again whenever there may be room."""
    limit = None if queue_timeout is None else checks.seconds("queue_timeout", queue_timeout, infinite=True)
    deadline = None if limit is None or limit == float("inf") else time.monotonic() + limit
    while True:
        try:
            return launch()
        except QueueFullError:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or engine.runs_this_thread():  # which would wait for itself
                raise
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await engine.queue.room(waiter_here())


# -- map -----------------------------------------------------------------------------------------------------------


def items_of(items: Iterable[Any] | AsyncIterable[Any]) -> Items:
    """An iterator of one kind or the other; raises `TypeError` for what is neither."""
    return aiter(items) if isinstance(items, AsyncIterable) else iterator_over(items)


async def results(engine: Parts, plan: Plan, items: Items) -> AsyncGenerator[Any, None]:
    """What `map` hands out, for a loop."""
    window = _LoopWindow(plan)
    puller = asyncio.create_task(_pull(engine, window, items))
    try:
        while (future := await window.next()) is not None:
            outcomes = window.land(future)
            if window.undone:
                await _relaunch(engine, window)
            for outcome in outcomes:
                yield outcome
                window.room += 1
                window.roomy.set()
            if window.error is not None:
                break
        del future
        window.raise_error()
    finally:
        puller.cancel()
        window.cancel()
        await asyncio.wait([puller])


async def _pull(engine: Parts, window: _LoopWindow, items: Items) -> None:
    size = window.plan.chunksize
    try:
        while not window.ended:
            while window.room < size:
                window.roomy.clear()
                await window.roomy.wait()
            taken = await _take(window, items, size)
            if taken:
                window.room -= len(taken)
                await _with_room(engine, lambda taken=taken: window.launch(taken))  # type: ignore[misc]
    except Exception as error:
        window.fail(error)
    finally:
        window.pulling = False
        window.changed.set()


async def _take(window: _LoopWindow, items: Items, size: int) -> list[Any]:
    taken: list[Any] = []
    try:
        while len(taken) < size:
            item = next(items, _END) if isinstance(items, Iterator) else await anext(items, _END)
            if item is _END:
                window.ended = True
                break
            taken.append(item)
    except Exception as error:  # what was taken before must not be lost
        window.fail(error)
    return taken


async def _relaunch(engine: Parts, window: _LoopWindow) -> None:
    try:
        await _with_room(engine, window.relaunch)
    except Exception as error:
        window.fail(error)


class _LoopWindow(Window):
    """For a consumer in a loop. Touched by the loop's thread alone."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.pulling = True
        self.roomy = asyncio.Event()  # set when the consumer has made room
        self.changed = asyncio.Event()  # set when a task has landed, or nothing more is pulled
        self._mailbox = mailbox_here()

    def new_arrival(self) -> _Landing:
        return _Landing(self._mailbox, self)

    async def next(self) -> Future | None:
        """The task whose outcome is handed out next, when it is settled; `None`: there are no more."""
        while True:
            if self.landed:
                return self.landed.popleft().future  # type: ignore[no-any-return]
            oldest = next(iter(self.flying), None)
            if oldest is not None and self.plan.ordered and oldest.done():
                return oldest
            if oldest is None and not self.pulling:
                return None
            self.changed.clear()
            await self.changed.wait()


class _Landing(Message):
    """Tells a loop's window that a task is settled."""

    __slots__ = ("_window", "future")

    future: Future

    def __init__(self, mailbox: Mailbox, window: _LoopWindow) -> None:
        super().__init__(mailbox)
        self._window = window

    def deliver(self) -> None:
        if not self._window.plan.ordered:
            self._window.landed.append(self)
        self._window.changed.set()


# -- the end -------------------------------------------------------------------------------------------------------


async def close(
    lifecycle: Closing, kind: type[BaseException] | None, *, kill_timeout: float, from_inside: bool
) -> None:
    """Stop, or kill where the block was left by an interrupt or a cancellation, and wait for the end unless that would
    be waiting for the caller itself. Cancelled while it waits it kills, and waits for the end of that."""
    if kind is not None and issubclass(kind, _KILLING):
        lifecycle.request_kill(kill_timeout)
    else:
        lifecycle.request_stop()
    if from_inside:
        return
    try:
        await _end(lifecycle)
    except asyncio.CancelledError:
        lifecycle.request_kill(kill_timeout)
        await _end(lifecycle)
        raise


async def _end(lifecycle: Closing) -> None:
    waiter = waiter_here()
    lifecycle.awaiting.append(waiter)
    if not lifecycle.has_ended():
        await waiter
