"""`TaskStream`: the results of a function mapped over items, a window of them in flight.

The consumer's thread does everything: it takes items, submits them, waits, hands out. The window is filled when the
stream is made; each time the consumer asks for a result it is filled again first. So at most `max_in_flight` items are
taken and not handed out, and nothing is taken while nobody asks.

    taken --submit--> in flight --settled--> handed out

It ends, once and for all: when the input has ended and all is handed out; when the input or a submission raises, after
what is in flight has been handed out; when an item's own error leaves; when it is closed or forgotten. Whatever is then
in flight is cancelled.

A task is for one item, or for a chunk of them. A chunk notes each result, so another attempt goes on at the item that
failed. An item's error ends the task; the items after it are submitted again in its place. So no item runs again
because of another.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures._base import FINISHED
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar

from tasker import checks, deadlock
from tasker.context import Context
from tasker.current import current_worker, in_task
from tasker.errors import ConfigError, DeadlineExceededError, shown
from tasker.future import TaskFuture
from tasker.hints import explain_call
from tasker.parking import Seat
from tasker.record import Record
from tasker.signature import wants_context
from tasker.unrun import look_at, suspects
from tasker.wrapping import Progress, users_traceback, wrapper

__all__ = ["Plan", "TaskStream", "Window", "iterator_over", "new_plan", "new_stream"]

T = TypeVar("T")
Future = TaskFuture[Any]

WINDOW = 4  # items in flight for each worker that there may be


# -- what users hold -----------------------------------------------------------------------------------------------


class TaskStream(Generic[T]):
    """The results of `TaskManager.map`: an iterator, for one thread at a time.

    `close()`, leaving its `with` block, or forgetting it cancels what is in flight. Where the input has a length so has
    the stream: the number of all its items."""

    def __init__(self, results: Generator[T, None, None]) -> None:
        self._results = results

    def __iter__(self) -> Iterator[T]:
        return self._results

    def __next__(self) -> T:
        """The next result. Blocks until there is one; raises the item's own exception, or what the input raised."""
        return next(self._results)

    def close(self) -> None:
        """Cancel what is in flight, and end. Does not block."""
        self._results.close()

    if TYPE_CHECKING:  # it depends on the input, which types cannot say

        def __len__(self) -> int: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SizedTaskStream(TaskStream[T]):
    """A stream whose input has a length."""

    def __init__(self, results: Generator[T, None, None], length: int) -> None:
        super().__init__(results)
        self._length = length

    def __len__(self) -> int:
        return self._length


def new_stream(plan: Plan, items: Iterable[Any]) -> TaskStream[Any]:
    """Begin to map: fills the window. Raises what the input or a submission raises before anything is in flight."""
    window = _ThreadWindow(plan, iterator_over(items))
    length = _length(items)  # before anything is taken
    results = _one_by_one(window) if plan.ordered and plan.chunksize == 1 else _results(window)
    next(results)
    return TaskStream(results) if length is None else SizedTaskStream(results, length)


def iterator_over(items: Iterable[Any]) -> Iterator[Any]:
    """As `iter()`, with a clear error."""
    try:
        return iter(items)
    except TypeError:
        if isinstance(items, Iterable):  # an error in its own `__iter__`
            raise
        raise TypeError(f"items must be iterable, not {shown(items)}") from None


def _length(items: Iterable[Any]) -> int | None:
    try:
        return len(items) if isinstance(items, Sized) else None
    except (TypeError, OverflowError):  # it has none after all, or one that no `len()` may return
        return None


# Neither holds what it hands out: a result is freed as soon as its consumer lets go of it, and an error that leaves,
# whose traceback holds these frames, is in no circle.


def _one_by_one(window: _ThreadWindow) -> Generator[Any, None, None]:
    """As `_results` for single items in order, by far the most frequent case, without the calls."""
    plan, items, flying = window.plan, window.items, window.flying
    submit, fn, wants, options = plan.submit, plan.fn, plan.wants_context, plan.options
    future: Future | None
    try:
        window.begin()
        yield
        while flying:
            future = next(iter(flying))
            if future._final is not FINISHED:
                future.exception()
            if future._final is FINISHED and future._exception is None:
                future = None
                yield flying.popitem(last=False)[0]._result
            else:
                outcomes = window.land(future)
                future = None
                if window.error is not None:
                    break
                yield outcomes.pop()
            if window.ended:
                continue
            try:
                for item in items:
                    flying[submit(fn, wants, (item,), options)] = None
                    break
                else:
                    window.ended = True
            except Exception as error:
                window.fail(error)
        window.raise_error()
    finally:
        window.cancel()


def _results(window: _ThreadWindow) -> Generator[Any, None, None]:
    try:
        window.begin()
        yield  # for new_stream: a generator that has not begun would not be closed
        while window.flying:
            outcomes = window.land(window.next())
            if window.undone:
                window.try_to_relaunch()
            outcomes.reverse()
            while outcomes:
                yield outcomes.pop()
                window.room += 1
                window.fill()
            if window.error is not None:
                break
        window.raise_error()
    finally:
        window.cancel()


# -- what is done with each item -----------------------------------------------------------------------------------


if TYPE_CHECKING:

    class MapOptions(TypedDict, total=False):
        """The options of `map` and `amap` that do not change the type of the results."""

        max_in_flight: int | None
        ordered: bool
        timeout: float | None
        chunksize: int
        priority: bool
        once: bool


class Plan(Record):
    """The arguments of `map`, checked."""

    manager: object  # kept: one that is forgotten stops
    submit: Callable[..., Future]  # its engine's, for functions that have been asked
    fn: Callable[..., Any]
    wants_context: bool
    options: Mapping[str, Any]
    max_in_flight: int
    chunksize: int
    ordered: bool
    return_exceptions: bool

    def without_waiting_for_room(self) -> Plan:
        """The same, but refused at once where the queue is full."""
        return self.__replace__(options={**self.options, "queue_timeout": 0.0})

    def submit_chunk(self, chunk: Progress, waiting: list[Any] | None) -> Future:
        """Submit a task for several items; `waiting` is what waits for its outcome."""
        options = self.options
        if "timeout" in options:
            options = {**options, "timeout": options["timeout"] * len(chunk.steps)}
        return self.submit(_run_chunk, True, (self.fn, self.wants_context, chunk), options, waiting)


@wrapper
def _run_chunk(context: Context, resource: Any, fn: Callable[..., Any], wants_context: bool, chunk: Progress) -> None:
    suspect = suspects(resource)
    for item in chunk.left():
        if context._error is not None:
            context.raise_if_done()
        try:
            result = fn(context, resource, item) if wants_context else fn(resource, item)
        except TypeError as error:
            explain_call(error, users_traceback(error.__traceback__), fn, (item,), wants_context)
            raise
        if type(result) in suspect:
            _look_at(result, fn)
        if isinstance(context._error, DeadlineExceededError):
            context.raise_if_done()  # too late: the timeout is this item's, not the next one's
        chunk.note(result)


@wrapper
def _look_at(result: object, fn: Callable[..., Any]) -> None:
    worker = current_worker()
    if worker is None:  # it runs elsewhere, where there is no log
        look_at(result, fn)
    else:
        worker.look_at_result(result, fn)


def new_plan(
    manager: object,
    submit: Callable[..., Future],
    most_workers: int,
    fn: Callable[..., Any],
    *,
    max_in_flight: int | None,
    ordered: bool,
    timeout: float | None,
    return_exceptions: bool,
    chunksize: int,
    priority: bool,
    once: bool,
) -> Plan:
    """Check the arguments of `map`."""
    checks.whole_number("chunksize", chunksize, least=1)
    if max_in_flight is None:
        max_in_flight = WINDOW * most_workers * chunksize
    elif checks.whole_number("max_in_flight", max_in_flight, least=1) < chunksize:
        raise ConfigError(f"max_in_flight must be None or at least chunksize ({chunksize}), not {max_in_flight}")
    options: dict[str, Any] = {}
    if timeout is not None:
        options["timeout"] = checks.seconds("timeout", timeout, zero=False, infinite=True)
    for name, wanted in (("priority", priority), ("once", once)):
        if checks.flag(name, wanted):
            options[name] = True
    checks.flag("ordered", ordered)
    checks.flag("return_exceptions", return_exceptions)
    chunksize = min(chunksize, sys.maxsize)  # the most that islice() counts
    wants = wants_context(fn, 2)
    return Plan(
        manager=manager,
        submit=submit,
        fn=fn,
        wants_context=wants,
        options=options,
        max_in_flight=max_in_flight,
        chunksize=chunksize,
        ordered=ordered,
        return_exceptions=return_exceptions,
    )


# -- the window ----------------------------------------------------------------------------------------------------


class Window:
    """What is in flight, and how much more may be."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.room: int = plan.max_in_flight  # items that may be taken
        self.ended: bool = False  # whether nothing more is to be taken
        self.error: BaseException | None = None  # what the stream ends with now
        self.trouble: BaseException | None = None  # what it ends with once all in flight is handed out
        self.flying: OrderedDict[Future, Progress | None] = OrderedDict()  # in the order of the input
        self.undone: list[Any] = []  # items of a chunk that an error of one before them has ended
        # arrivals of what is settled, as it came; unless wanted in order of the input
        self.landed: deque[Any] = deque()

    def launch(self, items: list[Any]) -> Future:
        """Submit a task for these items."""
        plan, arrival = self.plan, self.new_arrival()
        waiting = None if arrival is None else [arrival]
        if plan.chunksize == 1:
            chunk = None
            future = plan.submit(plan.fn, plan.wants_context, (items[0],), plan.options, waiting)
        else:
            chunk = Progress(items)
            future = plan.submit_chunk(chunk, waiting)
        if arrival is not None:
            arrival.future = future
        self.flying[future] = chunk
        return future

    def new_arrival(self) -> Any:
        """What is to be told when a task is settled: `wake()` is called, `future` set. `None`: nobody."""
        raise NotImplementedError

    def land(self, future: Future) -> list[Any]:
        """What of a settled task is to be handed out. After that `error` is to be raised, if there is one."""
        error = future.exception()
        chunk = self.flying.pop(future)
        if chunk is None:
            results: list[Any] = [future._result] if error is None else []
        else:
            results = list(chunk.results)  # a copy: after a timeout it may run on for an item
        if error is None or (chunk is not None and len(results) == len(chunk.steps)):
            return results
        if not self.plan.return_exceptions:
            self.ended = True
            self.error = error
            return results
        results.append(error)
        if chunk is not None:
            self.undone = list(chunk.steps[len(results) :])
        return results

    def relaunch(self) -> Future:
        """Submit what an item's error has left undone of a chunk, in its place."""
        future = self.launch(self.undone)
        self.flying.move_to_end(future, last=False)
        self.undone = []
        return future

    def relaunch_failed(self, error: BaseException) -> None:
        """That was refused. In order of the input nothing may be handed out beyond the gap."""
        self.undone = []
        self.fail(error)
        if self.plan.ordered:
            self.error = self.trouble

    def fail(self, error: BaseException) -> None:
        """The input or a submission raised: take nothing more, and end with that when all is handed out."""
        self.ended = True
        if self.trouble is None:
            self.trouble = error

    def raise_error(self) -> None:
        """Raise what the stream ends with, if it is an error; lets go of it."""
        error = self.trouble if self.error is None else self.error
        self.error = self.trouble = None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame

    def cancel(self) -> None:
        """Cancel what is in flight, the last first; nobody is interested in its outcome."""
        self.ended = True
        self.error = self.trouble = None  # the error's traceback may hold this window
        while self.flying:
            future, _ = self.flying.popitem()
            future.cancel()
            future._see()
        self.landed = deque()  # what lands from now on is held by nothing that a kept error holds


class _ThreadWindow(Window):
    """For a consumer that is a thread."""

    def __init__(self, plan: Plan, items: Iterator[Any]) -> None:
        super().__init__(plan)
        self.items = items
        self._seat = Seat()

    def begin(self) -> None:
        """Fill the window; raises what kept all of it from being filled."""
        self.fill()
        if not self.flying:
            self.raise_error()

    def fill(self) -> None:
        """Take and submit what there is room for."""
        size = self.plan.chunksize
        while self.room >= size and not self.ended:
            items: list[Any] = []
            try:
                for item in islice(self.items, size):
                    items.append(item)  # noqa: PERF402  # what the input gave before it raised must not be lost
                self.ended = len(items) < size
            except Exception as error:
                self.fail(error)
            if items:
                self.room -= len(items)
                try:
                    self.launch(items)
                except Exception as error:
                    self.fail(error)

    def try_to_relaunch(self) -> None:
        try:
            self.relaunch()
        except Exception as error:
            self.relaunch_failed(error)

    def new_arrival(self) -> _Arrival | None:
        return None if self.plan.ordered else _Arrival(self.landed, self._seat)

    def next(self) -> Future:
        """The task whose outcome is handed out next; waits until it is settled, unless that is for `land` to do."""
        oldest = next(iter(self.flying))
        if self.plan.ordered or oldest._owner.orphaned is not None:
            return oldest
        future: Future | None = None
        while future is None:
            while not self.landed:
                self._sleep()
            future = self.landed.popleft().future
        return future

    def _sleep(self) -> None:
        if not in_task():
            self._seat.sleep()
            return
        with deadlock.Wait(deadlock.Outcomes(self.flying, FIRST_COMPLETED), self._seat.wake):
            self._seat.sleep()


class _Arrival:
    """Tells a thread's window that a task is settled."""

    __slots__ = ("_landed", "_seat", "future")

    def __init__(self, landed: deque[Any], seat: Seat) -> None:
        self._landed: deque[Any] | None = landed
        self._seat = seat
        self.future: Future | None = None  # stays so if the submission is refused

    def wake(self) -> None:
        """From any thread; perhaps before `future` is set, which the consumer does before it looks."""
        landed, self._landed = self._landed, None  # which would be a circle
        if landed is not None:
            landed.append(self)
            self._seat.wake()
