"""What tasks did and how long it took, counted without a lock on the way.

Every worker writes a `Shard` of its own. A shard has one writer and publishes what it knows as one tuple in one store:
totals, some past durations, and a list to which the two durations of a finished task are appended. A reader takes the
tuple and as much of the list as is there, and merges all shards under the reader's lock. When a worker leaves, its
shard is added to the totals of those that left, once, under the same lock. What is counted outside workers
(`run_task`, timeouts, `kill()`) goes to one more shard, which its writers lock.

At rest, exactly: arrived = completed + failed + cancelled. An arrival is not counted when it happens: it is a task
that was taken, or left its lane without being taken, or waits. Whoever moves a task on takes it out of the one place
before he counts it in the next, and the reader asks the last place first, so a task in motion may be missed for a
moment and is never counted twice. What is shown is the largest count so far: it only grows.
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

RATE_WINDOW_S = 10.0  # seconds: "recently", for the two rates
FULL_LENGTH = 512  # length at which a shard's list is summed up: 256 tasks
_KEPT_BATCHES = 40  # folded batches of durations that a shard keeps for the reader's quantiles
_KEPT_SAMPLES = FULL_LENGTH // 2 * _KEPT_BATCHES  # newest durations that the quantiles are made of


# written as a class it would import `annotationlib`, from Python 3.14 on
_Totals = NamedTuple(  # noqa: UP014
    "_Totals",
    [
        ("completed", int),
        ("failed", int),
        ("retried", int),
        ("cancelled", int),
        ("untaken", int),  # left their lane without ever having been taken
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
        """With the tasks whose waiting and running seconds alternate in `durations`."""
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
    """The figures of one writer. `durations` is public to it: it appends seconds waited, then seconds run."""

    __slots__ = ("_published", "_read", "durations", "taken")

    def __init__(self) -> None:
        self.taken: int = 0  # tasks taken for the first time
        self.durations: list[float] = []
        self._published: _Published = (NOTHING, (), self.durations)
        self._read = 0  # executions that the reader has seen; the reader's alone

    def fold(self) -> list[float]:
        """Sum up the list once it is long enough; returns the list to append to from now on."""
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
        """Publish `after`; `False` when a signal handler, in the writer's thread, has published since `before`."""
        if self._published is not before:
            return False
        self._published = after  # no call since the look, so no signal either
        self.durations = after[2]
        return True

    def totals(self) -> Totals:
        """All that is counted so far; for readers."""
        totals, _, durations = self._published
        return totals.with_durations(durations[: len(durations) // 2 * 2])

    def finished(self) -> tuple[int, int]:
        """Tasks completed and tasks failed so far, without the rest: cheap enough for every tick."""
        totals, _, durations = self._published
        return totals.completed + len(durations) // 2, totals.failed

    def unread(self) -> list[float]:
        """The executions since the last call, at most the newest 10,496; for the one reader."""
        totals, past, durations = self._published
        runs = durations[1::2]
        new = totals.completed + len(runs) - self._read
        self._read += new
        return [*chain.from_iterable(past), *runs][-new:] if new else []


class Counters:
    """Merges the shards into `TaskMetrics`. `waiting` counts the tasks that wait and were never taken.

    `_lock` guards the list of shards, the totals of those that left and the reservoir. Writers never take it; it is
    reentrant because a signal handler may ask while its own thread is asking."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._lock = new_lock()
        self._shards: list[Shard] = []
        self._left = NOTHING
        self._left_taken = 0
        self._queued = 0  # the largest count so far
        self._reservoir = Reservoir(_KEPT_SAMPLES)
        self._merging = False  # whether a thread that holds the lock is in the middle of `_merge`
        self._quantiles = 0.0, 0.0
        self._outside = self.new_shard()  # tasks of the lanes that were settled by no worker
        self._direct = self.new_shard()  # tasks that were in no lane: each that ended also arrived
        self._outside_lock = new_lock()
        self._samples: deque[tuple[float, int, int]] = deque([(monotonic(), 0, 0)])

    def new_shard(self) -> Shard:
        shard = Shard()
        with self._lock:
            self._shards.append(shard)
        return shard

    def retire(self, shard: Shard) -> None:
        """Add the figures of a writer that writes no more to those of its predecessors; once, however often said."""
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
            self._direct.durations += (0.0, ran)  # in one step: a signal handler may do the same

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
        """Tasks that came into the lanes, and tasks that workers have finished (failures count): what scaling goes by.

        Both only grow. Neither counts what no worker did: a `run_task`, a timeout, a `kill()`."""
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
        """Remember where the totals stood; said once a tick, it makes the rates those of a recent window.

        Returns the tasks that have arrived so far."""
        arrived = self._count_arrived()
        with self._lock:
            if (
                now - self._samples[-1][0] >= RATE_WINDOW_S / 100
            ):  # bounds the memory, however short the tick
                completed = self._left.completed + sum(
                    shard.finished()[0] for shard in self._shards
                )
                self._samples.append((now, arrived, completed))
            self._forget_samples(now)
        return arrived

    def rested(self, now: float) -> None:
        """Nothing happened since the last sample: where the totals stood then, they stood when the window began."""
        with self._lock:
            then, arrived, completed = self._samples[-1]
            self._samples.append((max(then, now - RATE_WINDOW_S), arrived, completed))

    def correct(self, unfinished: int) -> None:
        """So many more (or fewer) were taken than ended, although nothing runs: an error struck between two counts."""
        with self._outside_lock:
            self._outside.count(untaken=-unfinished)

    def unfinished(self) -> int:
        """Tasks that were taken and have no outcome; exact only when no worker is busy."""
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
        """The snapshot. Costs the same after ten tasks and after ten million."""
        with self._lock:
            p95, p99 = self._merge(
                self._shards
            )  # before the totals: no quantile is above the longest
            totals = self.totals()
            now = monotonic()
            self._forget_samples(now)
            since, arrived_then, completed_then = self._samples[0]
        arrived = self._count_arrived()
        window = max(now - since, RATE_WINDOW_S / 100)  # of a shorter time nothing can be said
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
        """Read the shards; returns the two quantiles, those of before in a signal handler that interrupted this."""
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
        """Keep one sample from before the window, so that a window in which nothing was sampled shows no rate."""
        old = now - RATE_WINDOW_S
        with contextlib.suppress(
            IndexError
        ):  # one is left; no call before popleft(), where a signal handler may pop
            while self._samples[1][0] <= old:
                self._samples.popleft()

    def _count_arrived(self) -> int:
        """Tasks arrived so far. Never under `_lock`, as `_count_queued`."""
        return self._count_queued() + sum(self._direct.finished())

    def _count_queued(self) -> int:
        """Tasks that came into the lanes so far. Never under `_lock`: `_waiting` takes the queue's lock, whose holder
        may be interrupted by a signal handler that waits for `_lock`."""
        # the order matters: a task moves from waiting to untaken or taken, so ask there last
        with self._lock:
            before = self._taken() + self._left.untaken + self._outside._published[0].untaken
        queued = before + self._waiting()
        with self._lock:
            if (
                queued > self._queued
            ):  # no call from the look to the store, where a signal handler may count
                self._queued = queued
            return self._queued

    def _taken(self) -> int:
        """Tasks that were taken from a lane for the first time."""
        return self._left_taken + sum(shard.taken for shard in self._shards)
