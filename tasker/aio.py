"""The asyncio forms of a manager's methods.

A coroutine waits here, without a thread, for a result, for room, for results, for the
end. Nothing blocks the loop, and every wait is woken: a future, the queue and the
lifecycle each have a list of what awaits them. A cancelled await cancels what it waited
for.

For room, coroutines stand in the same line as threads (see `room`), and are served in
the order in which they came.

`results` is `map` for a loop. There the consumer's thread does all; here two coroutines
share the work, so that results are handed out while the input is awaited. The *puller*,
a task of its own, takes items and submits them as long as there is room. The consumer
hands out results and thereby makes room. Both run in the loop's thread, and no other
touches the window, so it needs no lock. Closing the generator cancels the puller and
what is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from tasker import checks
from tasker._pool.queue import TaskQueue
from tasker._sync.awaiting import Mailbox, Message, mailbox_here, waiter_here
from tasker._sync.room import Room
from tasker._tasks.context import Context
from tasker._tasks.future import for_asyncio
from tasker.errors import QueueFullError
from tasker.window import Future, Plan, Window, iterator_over

__all__ = ["close", "results", "submit"]

Items = Any
"""An iterator, or an asynchronous one."""

_END: Any = object()
# errors that leave the loop
_LEAVING = (KeyboardInterrupt, SystemExit)
# errors that kill the manager when they leave its `async with` block
_KILLING = (*_LEAVING, asyncio.CancelledError)


class LifecycleForAsyncio(Protocol):
    """A lifecycle, as seen from here."""

    awaiting: list[Any]

    def request_kill(self, timeout: float) -> None: ...

    def has_ended(self) -> bool: ...


class EngineForAsyncio(Protocol):
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


# -- one task --------------------------------------------------------------------------


async def submit(
    engine: EngineForAsyncio,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> Any:
    """The result of a task. `options` are those of `submit`."""
    # by far the most frequent case
    if "queue_timeout" not in options and not engine.queue.room.capacity:
        return await engine.submit(fn, args, options)

    at_once = {**options, "queue_timeout": 0.0}
    return await (
        await _with_room(
            engine,
            lambda: engine.submit(fn, args, at_once),
            options.get("queue_timeout"),
            options.get("ctx"),
        )
    )


async def _with_room(
    engine: EngineForAsyncio,
    launch: Callable[[], Future],
    queue_timeout: float | None = None,
    parent: Context | None = None,
) -> Future:
    """What `launch()` returns. It is called again whenever there may be room.

    Where the task's `parent` has ended, it needs no room."""
    limit = checks.limit("queue_timeout", queue_timeout)
    room = engine.queue.room
    # not in the manager's own thread, which would wait for itself
    if not room.capacity or limit == 0 or engine.runs_this_thread():
        return launch()

    try:
        return launch()
    except QueueFullError:
        pass

    try:
        async with asyncio.timeout(limit):
            return await _in_turn(room, launch, parent)
    except TimeoutError:
        # its error says how full the queue is
        return launch()


async def _in_turn(room: Room[Any], launch: Callable[[], Future], parent: Context | None) -> Future:
    while True:
        waiter = waiter_here()
        take_back: Callable[[], object] = bool
        try:
            if parent is not None:
                take_back = parent.on_done(waiter.wake)
            room.line_up(waiter)
            await waiter
        except BaseException:
            room.give_up(waiter)
            raise
        finally:
            take_back()

        # refused if the loop did not run for too long: then line up again
        with contextlib.suppress(QueueFullError):
            future = room.in_turn(waiter, launch)
            if parent is not None:
                # its parent may have ended before it was its turn
                room.give_up(waiter)
            return future


# -- map -------------------------------------------------------------------------------


def items_of(items: Iterable[Any] | AsyncIterable[Any]) -> Items:
    """An iterator, asynchronous or not. Raises `TypeError` for what is not iterable."""
    return aiter(items) if isinstance(items, AsyncIterable) else iterator_over(items)


async def results(engine: EngineForAsyncio, plan: Plan, items: Items) -> AsyncGenerator[Any, None]:
    """The results of `map`, for a loop."""
    window = _LoopWindow(plan)
    puller: asyncio.Task[None] | None = None
    try:
        # an eager one pulls at once, and an interrupt in the input comes out here
        puller = asyncio.create_task(
            _pull(engine, window, items), name=f"tasker-amap-{id(window):x}"
        )
        while (future := await window.next()) is not None:
            outcomes = window.land(future)
            # nothing is held of what is handed out (R4)
            future = None
            if window.undone:
                await _relaunch(engine, window)
            outcomes.reverse()
            while outcomes:
                yield outcomes.pop()
                window.room += 1
                window.roomy.set()
            if window.error is not None:
                break

        window.raise_error()
    finally:
        window.cancel()
        if puller is not None:
            await _end_of(puller)


async def _pull(engine: EngineForAsyncio, window: _LoopWindow, items: Items) -> None:
    size = window.plan.chunksize

    try:
        while not window.ended:
            while window.room < size:
                window.roomy.clear()
                await window.roomy.wait()

            taken = await _take(window, items, size)
            if taken and not window.closed:
                window.room -= len(taken)
                parent = window.plan.options.get("ctx")
                await _with_room(engine, partial(window.launch, taken), parent=parent)
    except BaseException as error:
        # a CancelledError, too: it may be the input's own, and must not end in silence
        window.fail(error)
        if isinstance(error, _LEAVING):
            raise
    finally:
        window.pulling = False
        window.changed.set()


async def _take(window: _LoopWindow, items: Items, size: int) -> list[Any]:
    taken: list[Any] = []
    # all that an asynchronous iterator must have
    asynchronous = hasattr(items, "__anext__")
    try:
        while len(taken) < size:
            item = await anext(items, _END) if asynchronous else next(items, _END)
            if item is _END:
                window.ended = True
                break
            taken.append(item)
    except BaseException as error:
        # what was taken before must not be lost
        window.fail(error)
        if isinstance(error, _LEAVING):
            raise
    return taken


async def _end_of(puller: asyncio.Task[None]) -> None:
    """Cancel the puller, and wait until it has ended, even if this is cancelled: it
    must not outlive its stream."""
    puller.cancel()

    cancelled: BaseException | None = None
    while not puller.done():
        try:
            await asyncio.wait([puller])
        except asyncio.CancelledError as error:
            cancelled = error

    _raise(cancelled)


def _raise(error: BaseException | None) -> None:
    try:
        if error is not None:
            raise error
    finally:
        # its traceback holds this frame (R4)
        del error


async def _relaunch(engine: EngineForAsyncio, window: _LoopWindow) -> None:
    try:
        parent = window.plan.options.get("ctx")
        await _with_room(engine, window.relaunch, parent=parent)
    except Exception as error:
        window.relaunch_failed(error)


class _LoopWindow(Window):
    """For a consumer in a loop. Only the loop's thread touches it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.pulling = True
        # whether no more results are wanted
        self.closed = False
        # set when the consumer has made room
        self.roomy = asyncio.Event()
        # set when a task has landed, or when pulling has ended
        self.changed = asyncio.Event()
        self._mailbox = mailbox_here()

    def new_arrival(self) -> _Landing:
        return _Landing(self._mailbox, self)

    async def next(self) -> Future | None:
        """The task whose outcome is handed out next, when it is settled.

        `None` when there are no more."""
        while True:
            while self.landed:
                future: Future | None = self.landed.popleft().future
                # not if it was refused at the last moment, or has landed twice
                if future in self.flying:
                    return future

            oldest = next(iter(self.flying), None)
            if oldest is not None and self.plan.ordered and oldest.done():
                return oldest
            if oldest is None and not self.pulling:
                return None

            self.changed.clear()
            await self.changed.wait()

    def fail(self, error: BaseException) -> None:
        # once closed, the error would be kept for ever
        if not self.closed:
            super().fail(error)

    def raise_error(self) -> None:
        self.error = None if self.error is None else for_asyncio(self.error)
        self.trouble = None if self.trouble is None else for_asyncio(self.trouble)
        super().raise_error()

    def cancel(self) -> None:
        self.closed = True
        super().cancel()


class _Landing(Message):
    """Tells a loop's window that a task is settled."""

    __slots__ = ("_window", "future")

    def __init__(self, mailbox: Mailbox, window: _LoopWindow) -> None:
        super().__init__(mailbox)
        self._window = window
        self.future: Future | None = None

    def deliver(self) -> None:
        window = self._window
        if not window.plan.ordered and not window.closed:
            window.landed.append(self)

        window.changed.set()


# -- the end ---------------------------------------------------------------------------


async def close(
    lifecycle: LifecycleForAsyncio,
    kind: type[BaseException] | None,
    stop: Callable[[], None],
    *,
    kill_timeout: float,
    from_inside: bool,
) -> None:
    """Stop, or kill if the block was left by an interrupt or a cancellation.

    Then wait for the end, unless that would be to wait for the caller itself. Cancelled
    while it waits, it kills, and waits for the end of that."""
    if kind is not None and issubclass(kind, _KILLING):
        lifecycle.request_kill(kill_timeout)
    else:
        stop()
    if from_inside:
        return

    cancelled: BaseException | None = None
    while not lifecycle.has_ended():
        try:
            await _end(lifecycle)
        except asyncio.CancelledError as error:
            # again and again where an anyio scope is cancelled
            if cancelled is None:
                lifecycle.request_kill(kill_timeout)
            cancelled = error

    _raise(cancelled)


async def _end(lifecycle: LifecycleForAsyncio) -> None:
    waiter = waiter_here()
    lifecycle.awaiting.append(waiter)  # then look (R1)

    try:
        if not lifecycle.has_ended():
            await waiter
    finally:
        lifecycle.awaiting.remove(waiter)
