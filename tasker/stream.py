"""`TaskStream`: a function's results for many items, a window of them in flight.

The consumer's thread does everything: it takes items, submits them, waits, hands out.
The window is filled when the stream is made. Each time the consumer asks for a result
it is filled again first. So at most `max_in_flight` items are taken and not handed out,
and nothing is taken between two results.

    taken --submit--> in flight --settled--> handed out

The stream ends, once and for all:

- when the input has ended and all is handed out;
- when the input or a submission raises, after all that is in flight has been handed
  out;
- when an item's own error is raised;
- when it is closed or forgotten.

Tasks that are in flight then are cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures._base import FINISHED
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tasker._sync.parking import Parker
from tasker._tasks import deadlock
from tasker._tasks.current import in_task
from tasker.window import Future, Plan, Window, error_of, iterator_over

__all__ = ["TaskStream", "new_stream"]

T = TypeVar("T")


# -- what users hold -------------------------------------------------------------------


class TaskStream(Generic[T]):
    """The results of `TaskManager.map`: an iterator, for one thread at a time.

    `close()`, leaving its `with` block, or forgetting it cancels what is in flight.
    Where the input has a length so has the stream: the number of all its items."""

    def __init__(self, results: Generator[T, None, None]) -> None:
        self._results = results

    def __iter__(self) -> Iterator[T]:
        return self._results

    def __next__(self) -> T:
        """The next result. Blocks until there is one.

        Raises the item's own exception, or what the input raised."""
        return next(self._results)

    def close(self) -> None:
        """Cancel what is in flight, and end. Does not block."""
        self._results.close()

    # whether there is a length depends on the input, which types cannot say
    if TYPE_CHECKING:

        def __len__(self) -> int: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
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
    """Begin to map: fill the window.

    Raises what the input or a submission raises before anything is in flight."""
    window = _ThreadWindow(plan, iterator_over(items))
    length = _length(items)  # before anything is taken
    results = _one_by_one(window) if plan.ordered and plan.chunksize == 1 else _results(window)
    next(results)

    return TaskStream(results) if length is None else SizedTaskStream(results, length)


def _length(items: Iterable[Any]) -> int | None:
    try:
        return len(items) if isinstance(items, Sized) else None
    except (TypeError, OverflowError):
        # it has none after all, or one that no `len()` may return
        return None


# Neither generator holds what it hands out. So a result is freed as soon as its
# consumer lets go of it, and an error that is raised, whose traceback holds these
# frames, is in no circle (R4).


def _one_by_one(window: _ThreadWindow) -> Generator[Any, None, None]:
    """As `_results` for single items in order, by far the most frequent case."""
    # INLINED _results, land, fill, launch: 0.2 us an item, benchmarks --only map
    plan, items, flying = window.plan, window.items, window.flying
    submit, fn, wants, options = plan.submit, plan.fn, plan.wants_context, plan.options
    future: Future | None
    try:
        window.begin()
        yield

        while flying:
            future = next(iter(flying))
            if future._final is not FINISHED:
                error_of(future)
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
        # for new_stream: a generator that has not begun would not be closed
        yield

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


# -- the window of a thread ------------------------------------------------------------


class _ThreadWindow(Window):
    """For a consumer that is a thread."""

    def __init__(self, plan: Plan, items: Iterator[Any]) -> None:
        super().__init__(plan)
        self.items = items
        self._parker = Parker()

    def begin(self) -> None:
        """Fill the window. If nothing is in flight after that, raise the reason."""
        self.fill()
        if not self.flying:
            self.raise_error()

    def fill(self) -> None:
        """Take and submit as many items as there is room for."""
        size = self.plan.chunksize
        while self.room >= size and not self.ended:
            items: list[Any] = []
            try:
                # one by one: the items that came before an error must not be lost
                for item in islice(self.items, size):
                    items.append(item)  # noqa: PERF402
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
        return None if self.plan.ordered else _Arrival(self.landed, self._parker)

    def next(self) -> Future:
        """The task whose outcome is handed out next.

        Waits until it is settled, unless `land` will wait: in the order of the input,
        and in a forked child, where a wait for any task fails."""
        oldest = next(iter(self.flying))
        if self.plan.ordered or oldest._engine.orphaned is not None:
            return oldest

        future: Future | None = None
        while future is None:
            while not self.landed:
                self._sleep()
            future = self.landed.popleft().future
        return future

    def _sleep(self) -> None:
        if not in_task():
            self._parker.sleep()
            return

        with deadlock.Wait(deadlock.Outcomes(self.flying, FIRST_COMPLETED), self._parker.wake):
            self._parker.sleep()


class _Arrival:
    """Tells a thread's window that a task is settled."""

    __slots__ = ("_landed", "_parker", "future")

    def __init__(self, landed: deque[Any], parker: Parker) -> None:
        self._landed: deque[Any] | None = landed
        self._parker = parker
        # stays so if the submission is refused
        self.future: Future | None = None

    def wake(self) -> None:
        """Called by any thread, perhaps before `future` is set. The consumer sets it
        before it looks."""
        landed, self._landed = self._landed, None  # which would be a circle
        if landed is not None:
            landed.append(self)
            self._parker.wake()
