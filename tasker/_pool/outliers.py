"""`Outliers`: resources on which tasks fail that succeed on others (`eject_after`).

A resource on which each task fails at once is free again at once. So it takes more of
the stream than all others together.

The failures of a resource since its last success are its *row*. What fails on it may be
the fault of the input, or of a backend that all share. So it is compared with its
peers, for each function. It is an outlier when all of this holds:

- Its row has at least `eject_after` failures of functions that succeed elsewhere
  meanwhile: a task of the same function succeeded on another resource, and began after
  the row did. No other failures count. So where nothing succeeds none is an outlier.
- Its row is no matter of chance. A function fails now and then on all resources. Where
  that is so the row has to be longer, until a row like it comes about once in ten
  million tasks.
- Of the resources at most a tenth, and at least one, was replaced so in the last 30
  seconds.

A row counts as ordinary failures of its functions when a success has ended it. If it
counted before, the failures of an outlier would soon be ordinary.

A moment is the number of outcomes that there were before it. The time of `timer` is for
the 30 seconds alone. `_lock` guards all fields, for a few lines.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from tasker._pool.worker import Worker
from tasker._sync import timer
from tasker._sync.locks import new_lock
from tasker._tasks.context import Context
from tasker.errors import is_a, origin_of
from tasker.slot import Reason

__all__ = ["Outliers", "Watch"]

# The most of a pool that is replaced in so many seconds: one in ten, or one.
_PART = 10
_WINDOW_S = 30.0

# The logarithm of how likely a row is that chance does not explain. A guess: a pool of
# a thousand tasks a second meets such a row by chance once in three hours.
_NO_CHANCE = math.log(1e-7)

# A function's counts are halved when they are this many, so that old ones lose weight.
_MEMORY = 1000

# The most functions that are remembered, and that count in one row. Guesses: some
# programs make functions without end, and these bound the memory.
_MOST_FUNCTIONS = 1000
_MOST_IN_ROW = 50


class _Function:
    """How tasks of one function end, on all resources together."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        # Of the two resources on which it has succeeded last: when that task began.
        self._began: dict[str, int] = {}

    def succeeds(self, on: str, began: int) -> None:
        self._began[on] = max(began, self._began.get(on, 0))
        if len(self._began) > 2:
            del self._began[min(self._began, key=self._began.__getitem__)]

    def succeeds_elsewhere(self, than: str, since: int) -> bool:
        return any(on != than and began >= since for on, began in self._began.items())

    def count(self, *, succeeded: int = 0, failed: int = 0) -> None:
        self.succeeded += succeeded
        self.failed += failed
        if self.succeeded + self.failed >= _MEMORY:
            self.succeeded //= 2
            self.failed //= 2

    def ordinary(self) -> float:
        """The logarithm of the part of its tasks that fails. Unknown, it is a half."""
        return math.log((self.failed + 1) / (self.succeeded + self.failed + 2))


class _Row:
    """The failures of one resource since its last success."""

    def __init__(self, since: int) -> None:
        self.since = since
        # How many there are of each function.
        self.failures: dict[str, int] = {}


class Outliers:
    """Those of one manager. `pool` returns how many resources there are.

    A resource goes by the name of its worker, a function by its origin. `after` is
    `Config.eject_after`."""

    def __init__(self, after: int | None, pool: Callable[[], int]) -> None:
        self._after = math.inf if after is None else after
        self._pool = pool
        self._lock = new_lock()
        self._moment = 0
        self._functions: dict[str, _Function] = {}
        self._rows: dict[str, _Row] = {}
        # When resources were replaced.
        self._replaced: deque[float] = deque()

    def now(self) -> int:
        """This moment."""
        return self._moment

    def succeeded(self, on: str, function: str, began: int) -> None:
        """A task that began at this moment has succeeded."""
        with self._lock:
            self._moment += 1
            row = self._rows.pop(on, None)
            if row is not None:
                for name, failures in row.failures.items():
                    self._function(name).count(failed=failures)

            record = self._function(function)
            record.count(succeeded=1)
            record.succeeds(on, began)

    def failed(self, on: str, function: str) -> bool:
        """A task has failed. Returns whether its resource is to be replaced."""
        with self._lock:
            self._moment += 1
            row = self._rows.get(on)
            if row is None:
                row = self._rows[on] = _Row(self._moment)
            if function in row.failures or len(row.failures) < _MOST_IN_ROW:
                row.failures[function] = row.failures.get(function, 0) + 1

            if not self._is_outlier(on, row) or not self._may_replace():
                return False

            del self._rows[on]
            self._replaced.append(timer.now())
            return True

    def forget(self, on: str) -> None:
        """The resource is gone, or its worker has another one."""
        with self._lock:
            self._rows.pop(on, None)

    # -- the pieces, with the lock held ------------------------------------------------

    def _function(self, name: str) -> _Function:
        record = self._functions.get(name)
        if record is None:
            if len(self._functions) >= _MOST_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            record = self._functions[name] = _Function()

        return record

    def _is_outlier(self, on: str, row: _Row) -> bool:
        count, chance = 0, 0.0
        for name, failures in row.failures.items():
            record = self._functions.get(name)
            if record is not None and record.succeeds_elsewhere(on, row.since):
                count += failures
                chance += failures * record.ordinary()

        return count >= self._after and chance <= _NO_CHANCE

    def _may_replace(self) -> bool:
        while self._replaced and timer.now() - self._replaced[0] >= _WINDOW_S:
            self._replaced.popleft()

        return len(self._replaced) < max(1, self._pool() // _PART)

    # -- around a task -----------------------------------------------------------------

    def watch(
        self, context: Context, resource: Any, fn: Any, worker: Worker[Any] | None
    ) -> Watch | None:
        """The supervision of one call. A caller of `run_task` attracts no others."""
        return None if worker is None else Watch(self, context, origin_of(fn), worker)


class Watch:
    """How one task ends, for its worker's resource."""

    __slots__ = ("_began", "_context", "_function", "_outliers", "_worker")

    def __init__(
        self, outliers: Outliers, context: Context, function: str, worker: Worker[Any]
    ) -> None:
        self._outliers = outliers
        self._context = context
        self._function = function
        self._worker: Worker[Any] | None = worker
        self._began = 0

    def begin(self) -> None:
        self._began = self._outliers.now()

    def end(self, error: BaseException | None) -> None:
        # Taken first: it may be called again.
        worker, self._worker = self._worker, None
        if worker is None:
            return

        if error is None:
            self._outliers.succeeded(worker.name, self._function, self._began)
        elif (
            is_a(error, Exception)
            # What is cancelled, or has no time left, says nothing about its resource.
            and self._context.err() is None
            and self._outliers.failed(worker.name, self._function)
            and worker.unfit is None
        ):
            worker.unfit = Reason.OUTLIER
            worker.broken_by(error)
