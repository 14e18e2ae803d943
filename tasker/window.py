"""`Plan` and `Window`: what `map` does with each item, and the items in flight.

Threads and loops consume results in different ways: see `stream` and `aio`. The parts
that they share are here.

A task is for one item, or for a chunk of them. A chunk notes each result, so another
attempt goes on at the item that failed. An item's error ends the task, and the items
after it are submitted again in its place. So no item runs again because of another.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from tasker import checks
from tasker._base.record import Record
from tasker._tasks.context import Context, check_context, check_may_begin
from tasker._tasks.current import current_worker
from tasker._tasks.future import TaskFuture
from tasker._tasks.hints import explain_call
from tasker._tasks.signature import wants_context
from tasker._tasks.unrun import look_at, suspects
from tasker._tasks.wrapping import Progress, users_traceback, wrapper
from tasker.errors import ConfigError, DeadlineExceededError, shown

__all__ = [
    "Future",
    "Plan",
    "Window",
    "checked_options",
    "error_of",
    "iterator_over",
    "new_plan",
    "options_of_chunk",
]

Future = TaskFuture[Any]

# Items in flight for each worker that there may be. One runs on the worker; the others
# wait, so that the worker has work while the consumer is busy with a result. A guess.
ITEMS_PER_WORKER = 4


# -- what is done with each item -------------------------------------------------------


if TYPE_CHECKING:

    class MapOptions(TypedDict, total=False):
        """The options of `map` and `amap` that do not change the results' type."""

        max_in_flight: int | None
        ordered: bool
        timeout: float | timedelta | None
        run_timeout: float | timedelta | None
        chunksize: int
        priority: bool
        once: bool
        ctx: Context | None


class Plan(Record):
    """The arguments of `map`, checked."""

    manager: object
    """Kept here: a manager that is forgotten stops."""
    submit: Callable[..., Future]
    """`submit_asked` of its engine."""
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
        options = options_of_chunk(self.options, len(chunk.steps))
        return self.submit(_run_chunk, True, (self.fn, self.wants_context, chunk), options, waiting)


@wrapper
def _run_chunk(
    context: Context, resource: Any, fn: Callable[..., Any], wants_context: bool, chunk: Progress
) -> None:
    suspect = suspects(resource)
    for item in chunk.left():
        if context._error is not None:
            check_may_begin(context)
        try:
            result = fn(context, resource, item) if wants_context else fn(resource, item)
        except TypeError as error:
            explain_call(error, users_traceback(error.__traceback__), fn, (item,), wants_context)
            raise

        if type(result) in suspect:
            _look_at(result, fn)
        if isinstance(context._error, DeadlineExceededError):
            # too late: the timeout is this item's, not the next one's
            context.raise_if_done()
        chunk.note(result)


@wrapper
def _look_at(result: object, fn: Callable[..., Any]) -> None:
    worker = current_worker()
    if worker is None:
        # in a child or an actor, where there is no log
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
    return_exceptions: bool,
    chunksize: int,
    **options: Any,
) -> Plan:
    """Check the arguments of `map`."""
    checks.whole_number("chunksize", chunksize, least=1)
    if max_in_flight is None:
        max_in_flight = ITEMS_PER_WORKER * most_workers * chunksize
    elif checks.whole_number("max_in_flight", max_in_flight, least=1, or_none=True) < chunksize:
        raise ConfigError(
            f"max_in_flight must be None or at least chunksize ({chunksize}), not {max_in_flight}"
        )

    checked = checked_options(**options)
    checks.flag("ordered", ordered)
    checks.flag("return_exceptions", return_exceptions)
    # the most that islice() counts
    chunksize = min(chunksize, sys.maxsize)
    wants = wants_context(fn, 2)

    return Plan(
        manager=manager,
        submit=submit,
        fn=fn,
        wants_context=wants,
        options=checked,
        max_in_flight=max_in_flight,
        chunksize=chunksize,
        ordered=ordered,
        return_exceptions=return_exceptions,
    )


def checked_options(
    *,
    timeout: float | timedelta | None,
    run_timeout: float | timedelta | None,
    priority: bool,
    once: bool,
    ctx: Context | None,
) -> dict[str, Any]:
    """The options of many tasks, those that say something."""
    options: dict[str, Any] = {}
    for name, seconds in (("timeout", timeout), ("run_timeout", run_timeout)):
        if seconds is not None:
            options[name] = checks.seconds(name, seconds, zero=False, infinite=True, or_none=True)
    for name, wanted in (("priority", priority), ("once", once)):
        if checks.flag(name, wanted):
            options[name] = True
    if ctx is not None:
        options["ctx"] = check_context("ctx", ctx, or_none=True)

    return options


def options_of_chunk(options: Mapping[str, Any], steps: int) -> Mapping[str, Any]:
    """The options of one task for several items: it has the time of all of them."""
    times = {name: options[name] * steps for name in ("timeout", "run_timeout") if name in options}
    return {**options, **times} if times else options


def error_of(future: Future) -> BaseException | None:
    """Wait for the outcome; the error, if that is one.

    One that its parent has cancelled has an error as well."""
    try:
        return future.exception()
    except CancelledError as cancelled:
        return cancelled.with_traceback(None)


def iterator_over(items: Iterable[Any]) -> Iterator[Any]:
    """As `iter()`, with a clear error."""
    try:
        return iter(items)
    except TypeError:
        # its own `__iter__` has raised
        if isinstance(items, Iterable):
            raise

        raise TypeError(f"items must be iterable, not {shown(items)}") from None


# -- the window ------------------------------------------------------------------------


class Window:
    """The items in flight, and how many more there may be."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # items that may be taken
        self.room: int = plan.max_in_flight
        # whether nothing more is to be taken
        self.ended: bool = False
        # the error that the stream ends with now
        self.error: BaseException | None = None
        # the error that it ends with once all that is in flight is handed out
        self.trouble: BaseException | None = None
        # tasks and their chunks, in the order of the input
        self.flying: OrderedDict[Future, Progress | None] = OrderedDict()
        # items of a chunk that an error of one before them has ended
        self.undone: list[Any] = []
        # Arrivals of settled tasks, in the order in which they came. Empty where
        # results are wanted in the order of the input.
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
        """An object that waits for the outcome of a task, or `None`.

        `wake()` is called when the task is settled; `future` is set to the task."""
        raise NotImplementedError

    def land(self, future: Future) -> list[Any]:
        """The results to hand out of a settled task. If `error` is set after that, it
        is to be raised once they are handed out."""
        error = error_of(future)
        chunk = self.flying.pop(future)
        if chunk is None:
            results: list[Any] = [future._result] if error is None else []
        else:
            # a copy: after a timeout the task may run on for an item
            results = list(chunk.results)
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
        """`relaunch` was refused. In the order of the input nothing may be handed out
        beyond the gap."""
        self.undone = []
        self.fail(error)
        if self.plan.ordered:
            self.error = self.trouble

    def fail(self, error: BaseException) -> None:
        """The input or a submission raised. Take nothing more, and end with that error
        when all that is in flight is handed out."""
        self.ended = True
        if self.trouble is None:
            self.trouble = error

    def raise_error(self) -> None:
        """Raise the error that the stream ends with, if any, and let go of it."""
        error = self.trouble if self.error is None else self.error
        self.error = self.trouble = None
        try:
            if error is not None:
                raise error
        finally:
            # its traceback holds this frame (R4)
            del error

    def cancel(self) -> None:
        """Cancel what is in flight, the last first. It is no longer wanted."""
        self.ended = True
        # the error's traceback may hold this window (R4)
        self.error = self.trouble = None
        while self.flying:
            future, _ = self.flying.popitem()
            future.cancel()
            future._see()

        # A kept error may hold the old deque: what lands from now on lands elsewhere.
        self.landed = deque()
