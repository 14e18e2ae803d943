"""What tasks did and how long it took, counted without a lock on the way.

Every worker writes a `Shard` of its own. A shard has one writer, which publishes its
figures as one tuple in one store: totals, some past durations, and a list. The two
durations of a finished task are appended to that list. A reader takes the tuple and as
much of the list as is there, and merges all shards under the reader's lock. When a
worker leaves, its shard is added once, under the same lock, to the totals of those that
left. `run_task`, timeouts and `kill()` count outside of workers. They write one more
shard, under a lock.

At rest, exactly: arrived = completed + failed + cancelled (I6). An arrival is not
counted when it happens. An arrived task was taken, or left its lane without being
taken, or waits. A writer that moves a task on decrements the old count before it
increments the new one, and the reader reads the counts in the opposite order. So a task
that moves may be missed for a moment, and is never counted twice. The largest count so
far is shown: it only grows.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple

from tasker._pool.reservoir import Reservoir
from tasker._sync.clock import monotonic
from tasker._sync.locks import new_lock
from tasker.snapshots import TaskMetrics

__all__ = ["Counters", "Shard"]

# The two rates are those of so long a time. A guess at what a person calls "recently".
RATE_WINDOW_S = 10.0

# The least time between two samples, and the least time that a rate is taken over. It
# bounds the memory, however short the tick.
_SHORTEST_WINDOW_S = RATE_WINDOW_S / 100

# The length at which a shard's list is summed up: 256 tasks. A longer list makes
# `metrics()` cost less evenly, a shorter one is summed up more often.
FULL_LENGTH = 512

# Summed up batches of durations that a shard keeps for the reader's quantiles.
_KEPT_BATCHES = 40

# The newest durations that the quantiles are made of: 10,240, as many as one shard
# keeps. A guess: the 99th percentile then rests on about a hundred that are longer.
_KEPT_SAMPLES = FULL_LENGTH // 2 * _KEPT_BATCHES


# Written as a class it would import `annotationlib`, from Python 3.14 on.
_Totals = NamedTuple(  # noqa: UP014
    "_Totals",
    [
        ("completed", int),
        ("failed", int),
        ("retried", int),
        ("cancelled", int),
        # Tasks that left their lane without ever having been taken.
        ("untaken", int),
        ("waited", float),
        ("ran", float),
        ("shortest", float),
        ("longest", float),
    ],
)


class Totals(_Totals):
    __slots__ = ()

    def plus(self, other: Totals) -> Totals:
        sums = (mine + theirs for mine, theirs in zip(self[:7], other[:7], strict=True))

        return Totals._make(
            (*sums, min(self.shortest, other.shortest), max(self.longest, other.longest))
        )

    def with_durations(self, durations: list[float]) -> Totals:
        """These totals plus tasks whose seconds waited and run alternate."""
        if not durations:
            return self

        runs = durations[1::2]
        return self._replace(
            completed=self.completed + len(runs),
            waited=self.waited + sum(durations[::2]),
            ran=self.ran + sum(runs),
            shortest=min(self.shortest, min(runs)),
            longest=max(self.longest, max(runs)),
        )


NOTHING = Totals(0, 0, 0, 0, 0, 0.0, 0.0, shortest=math.inf, longest=0.0)

_Published = tuple[Totals, tuple["array[float]", ...], list[float]]


class Shard:
    """The figures of one writer.

    The writer appends to `durations`: seconds waited, then seconds run."""

    __slots__ = ("_published", "_read", "durations", "taken")

    def __init__(self) -> None:
        # Tasks taken for the first time.
        self.taken: int = 0
        self.durations: list[float] = []
        self._published: _Published = (NOTHING, (), self.durations)
        # Executions that the reader has seen. Only the reader uses this.
        self._read = 0

    def fold(self) -> list[float]:
        """Sum up the list once it is long enough.

        Returns the list to append to from now on."""
        while len(self.durations) >= FULL_LENGTH:
            before = totals, past, durations = self._published
            past = (*past, array("d", durations[1::2]))[-_KEPT_BATCHES:]
            self._replace(before, (totals.with_durations(durations), past, []))

        return self.durations

    def count(
        self, *, failed: int = 0, retried: int = 0, cancelled: int = 0, untaken: int = 0
    ) -> None:
        """Add to the totals."""
        counted = False
        while not counted:
            before = totals, past, durations = self._published
            totals = totals._replace(
                failed=totals.failed + failed,
                retried=totals.retried + retried,
                cancelled=totals.cancelled + cancelled,
                untaken=totals.untaken + untaken,
            )
            counted = self._replace(before, (totals, past, durations))

    def _replace(self, before: _Published, after: _Published) -> bool:
        """Publish `after`.

        `False`: a signal handler in the writer's thread has published since
        `before`."""
        # One step, from the look to the store (R2).
        if self._published is not before:
            return False
        self._published = after

        self.durations = after[2]
        return True

    def totals(self) -> Totals:
        """All that is counted so far. For readers."""
        totals, _, durations = self._published
        return totals.with_durations(durations[: len(durations) // 2 * 2])

    def finished(self) -> tuple[int, int]:
        """Tasks completed and tasks failed so far.

        Without the rest, so it is cheap enough for every tick."""
        totals, _, durations = self._published
        return totals.completed + len(durations) // 2, totals.failed

    def unread(self) -> list[float]:
        """The executions since the last call, at most the newest 10,496.

        For the one reader."""
        totals, past, durations = self._published
        runs = durations[1::2]
        new = totals.completed + len(runs) - self._read
        self._read += new

        return [*chain.from_iterable(past), *runs][-new:] if new else []


class Counters:
    """Merges the shards into `TaskMetrics`.

    `waiting` counts the tasks that wait and were never taken.

    `_lock` guards the list of shards, the totals of those that left and the reservoir.
    Writers never take it. It is reentrant, because a signal handler may ask while its
    own thread is asking."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._lock = new_lock()
        self._shards: list[Shard] = []
        self._left = NOTHING
        self._left_taken = 0
        # The largest count so far.
        self._queued = 0
        self._reservoir = Reservoir(_KEPT_SAMPLES)
        # Whether a thread that holds the lock is in the middle of `_merge`.
        self._merging = False
        self._quantiles = 0.0, 0.0

        # Tasks of the lanes that were settled by no worker.
        self._outside = self.new_shard()
        # Tasks that were in no lane: each that ended also arrived.
        self._direct = self.new_shard()
        self._outside_lock = new_lock()
        self._samples: deque[tuple[float, int, int]] = deque([(monotonic(), 0, 0)])

    def new_shard(self) -> Shard:
        shard = Shard()
        with self._lock:
            self._shards.append(shard)
        return shard

    def retire(self, shard: Shard) -> None:
        """Add the figures of a writer that has ended to those of its predecessors.

        If it is called again for the same shard, it does nothing."""
        with self._lock:
            if shard in self._shards:
                self._merge((shard,))
                self._left = self._left.plus(shard.totals())
                self._left_taken += shard.taken
                self._shards.remove(shard)

    def completed_directly(self, ran: float) -> None:
        """Count a task that was never in a lane."""
        with self._outside_lock:
            if len(self._direct.durations) >= FULL_LENGTH:
                self._direct.fold()
            # One step (R2): a signal handler may do the same.
            self._direct.durations += (0.0, ran)

    def failed_directly(self) -> None:
        """Count a failure of a task that was never in a lane."""
        with self._outside_lock:
            self._direct.count(failed=1)

    def failed_outside(self) -> None:
        """Count a failure that no worker counts, of a task that was in a lane."""
        with self._outside_lock:
            self._outside.count(failed=1)

    def cancelled(self) -> None:
        """Count a task that was cancelled while it waited."""
        with self._outside_lock:
            self._outside.count(cancelled=1)

    def never_taken(self) -> None:
        """Count a task that left its lane without ever having been taken."""
        with self._outside_lock:
            self._outside.count(untaken=1)

    def progress(self) -> tuple[int, int]:
        """Tasks that came into the lanes, and tasks that workers have finished.

        Scaling goes by these. Failures count as finished. Both numbers only grow.
        Neither counts tasks that no worker ended: a `run_task`, a timeout, a
        `kill()`."""
        outside, direct = self._outside, self._direct
        with self._lock:
            finished = [
                shard.finished()
                for shard in self._shards
                if shard is not outside and shard is not direct
            ]
            done = self._left.completed + self._left.failed + sum(map(sum, finished))

        return self._count_queued(), done

    def sample(self, now: float) -> int:
        """Remember the totals of now. Returns the tasks that have arrived so far.

        Called once a tick, so that the rates are those of a recent window."""
        arrived = self._count_arrived()

        with self._lock:
            if now - self._samples[-1][0] >= _SHORTEST_WINDOW_S:
                completed = self._left.completed + sum(
                    shard.finished()[0] for shard in self._shards
                )
                self._samples.append((now, arrived, completed))
            self._forget_samples(now)

        return arrived

    def rested(self, now: float) -> None:
        """Let the last sample count for the beginning of the window.

        Nothing has happened since that sample."""
        with self._lock:
            then, arrived, completed = self._samples[-1]
            self._samples.append((max(then, now - RATE_WINDOW_S), arrived, completed))

    def correct(self, unfinished: int) -> None:
        """Correct the counts when `unfinished` more tasks were taken than have ended.

        Nothing runs, so an error struck between two counts. It may be less than
        zero."""
        with self._outside_lock:
            self._outside.count(untaken=-unfinished)

    def unfinished(self) -> int:
        """Tasks that were taken and have no outcome.

        Exact only when no worker is busy."""
        with self._lock:
            totals = self.totals()
            taken = self._taken() + sum(self._direct.finished())
            return taken + totals.untaken - totals.completed - totals.failed - totals.cancelled

    def totals(self) -> Totals:
        """All that is counted so far."""
        with self._lock:
            totals = self._left
            for shard in self._shards:
                totals = totals.plus(shard.totals())

            return totals

    def metrics(self) -> TaskMetrics:
        """The snapshot. Costs the same after ten tasks and after ten million (I9)."""
        with self._lock:
            # Before the totals, so that no quantile is above the longest duration.
            p95, p99 = self._merge(self._shards)
            totals = self.totals()
            now = monotonic()
            self._forget_samples(now)
            since, arrived_then, completed_then = self._samples[0]

        arrived = self._count_arrived()
        # A shorter time tells nothing.
        window = max(now - since, _SHORTEST_WINDOW_S)
        ended = totals.completed + totals.failed
        some = max(totals.completed, 1)

        return TaskMetrics(
            average_execution_time=totals.ran / some,
            min_execution_time=totals.shortest if totals.completed else 0.0,
            max_execution_time=totals.longest,
            p95_execution_time=p95,
            p99_execution_time=p99,
            average_wait_time=totals.waited / some,
            task_arrival_rate=(arrived - arrived_then) / window,
            task_completion_rate=(totals.completed - completed_then) / window,
            total_tasks_arrived=arrived,
            total_tasks_completed=totals.completed,
            total_tasks_failed=totals.failed,
            total_tasks_retried=totals.retried,
            total_tasks_cancelled=totals.cancelled,
            success_rate=totals.completed / ended if ended else 0.0,
            failure_rate=totals.failed / ended if ended else 0.0,
        )

    def _merge(self, shards: Iterable[Shard]) -> tuple[float, float]:
        """Read the shards. Returns the two quantiles.

        A signal handler that interrupts this gets the quantiles of before."""
        if not self._merging:
            self._merging = True
            try:
                for shard in shards:
                    self._reservoir.extend(shard.unread())
                self._quantiles = self._reservoir.quantile(0.95), self._reservoir.quantile(0.99)
            finally:
                self._merging = False

        return self._quantiles

    def _forget_samples(self, now: float) -> None:
        """Forget samples from before the window, except for the newest of them.

        So a window without samples shows no rate."""
        old = now - RATE_WINDOW_S
        # When one is left, the look at the second one raises. From that look to the pop
        # there is no call, so no signal handler can pop in between (R2).
        with contextlib.suppress(IndexError):
            while self._samples[1][0] <= old:
                self._samples.popleft()

    def _count_arrived(self) -> int:
        """Tasks arrived so far. Never called under `_lock`, like `_count_queued`."""
        return self._count_queued() + sum(self._direct.finished())

    def _count_queued(self) -> int:
        """Tasks that came into the lanes so far.

        Never called under `_lock`: `_waiting` takes the queue's lock, and a signal
        handler that waits for `_lock` may interrupt the holder of that lock."""
        # The order matters. A task moves from waiting to untaken or taken, so the tasks
        # that wait are counted last.
        with self._lock:
            before = self._taken() + self._left.untaken + self._outside._published[0].untaken
        queued = before + self._waiting()

        with self._lock:
            # One step, from the look to the store (R2): a signal handler may count,
            # too.
            if queued > self._queued:
                self._queued = queued
            return self._queued

    def _taken(self) -> int:
        """Tasks that were taken from a lane for the first time."""
        return self._left_taken + sum(shard.taken for shard in self._shards)
