"""`TaskQueue`: two lanes of waiting tasks, and the parking lot of the workers that wait for them.

Order. A worker that takes a main task has seen the priority lane empty after that main task was put; each lane is
taken first in, first out, but for retries. With the GIL, looking and popping in `_take_unlocked` keeps that without a
lock, because no thread switch can come between the look and the pop (CPython switches on calls and backward jumps
only). Free-threaded builds take `_take_lock`, which only takers take, and look at the priority lane once more after the
pop.

Retries. A retry that need not pause goes to the front of its own lane. One that has to pause waits in `_later` until
the burst thread's first tick after that; then it goes not to the front, but behind the first task of its lane that was
never taken. So whatever a task does to resources, and however long it takes to make one, those behind it get their
turn. What waits in `_later` counts as waiting in its lane.

Waking. Submitters wake one worker at a time: as long as `waking` says that one is on its way they leave it at that.
That worker takes the flag down, *then* looks at the lanes, and when it has taken a task wakes the next one if there is
more. So a burst of tasks costs as many wake-ups as workers find work, and its submitter one. A worker that is about to
sleep takes the flag down as well. What a Ctrl-C leaves of it the burst thread's tick makes good.

Rest. When there is nothing to do all workers are parked, and the burst thread sleeps without a tick. It says so
(`resting`), *then* looks once more, then sleeps. What there may be to do is done first, and whoever does it looks
*then* whether the burst thread rests. A submitter looks where it wakes a worker, which at rest it always does.

Closing. `close()` sets the flag, and a submitter looks at it before *and* after it appends: what it appended too late
it withdraws, and is refused. A worker leaves when it has seen the flag and, after that, empty lanes; whoever re-queues
a task is a worker that looks again. So nothing accepted is stranded.

Dead entries. A task that is settled while it waits stays in its lane as an emptied entry, counted in `_dead` (and no
longer in `_requeued`, if it was taken before); whoever takes it drops it. The burst thread's tick compacts a lane when
half of it is dead.

Hands. A worker that takes a task must not lose it to an exception that strikes at that moment: the task is in the
worker's hand (`Hand.task`) before it is out of the lane, with no thread switch in between.

`_take_lock` is held by takers of free-threaded builds, and by a compaction or re-queue, which excludes all takers.
`_dead_lock` guards `_dead`, `_requeued` and `_later`. Order: the first, then the second.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice, repeat
from operator import call
from typing import Any, Protocol

from tasker._sync.clock import monotonic
from tasker._sync.handover import do_both, hand_on
from tasker._sync.locks import new_lock
from tasker._sync.parking import ParkingLot, copy_of, gil_enabled
from tasker._sync.room import Room
from tasker._tasks.future import TaskFuture
from tasker.errors import TaskManagerShutdownError

__all__ = ["TaskQueue"]

Task = TaskFuture[Any]

_BATCH_LENGTH = 256  # waiting tasks that are taken out at once in order to fail them


class Hand(Protocol):
    """What takes a task: a worker."""

    task: Any


class TaskQueue:
    """The tasks that wait. `capacity` 0: unbounded; otherwise the most that wait, re-queued ones not counted."""

    def __init__(self, name: str, capacity: int = 0, *, locked: bool | None = None) -> None:
        self._name = name
        self._main: deque[Task] = deque()
        self._priority: deque[Task] = deque()
        self.idle: ParkingLot = ParkingLot()  # workers without a task
        self.room: Room[Task] = Room(capacity)  # for tasks that were not taken before
        self.waking: bool = False  # whether a worker that a submitter woke has yet to look
        self.resting: bool = False  # whether the burst thread sleeps until it is woken; its own
        self.wake_housekeeper: Callable[[], object] = bool
        self.closed: bool = False
        self._killed = False  # whether what waits is to fail
        self._error: TaskManagerShutdownError | None = None
        self._excluding = (
            False  # whether takers take the lock, as a compaction holds it, or get nothing any more
        )
        self._kept: list[Task] = []  # what a compaction has in its hands
        # each take costs it without the GIL, where this type is faster
        self._take_lock: Any = new_lock() if gil_enabled() else threading.Lock()
        self._dead_lock = new_lock()  # reentrant: a signal handler may cancel a task
        self._dead = {False: 0, True: 0}  # emptied entries of the main and of the priority lane
        self._requeued = {False: 0, True: 0}  # entries that were taken before
        self._later: list[tuple[float, Task]] = []  # retries that pause, and until when
        self._take = (
            self._take_locked
            if (not gil_enabled() if locked is None else locked)
            else self._take_unlocked
        )
        self.take: Callable[[Hand], Task | None] = self._take_freeing if capacity else self._take
        self._swept: list[Task] = []  # what `fail_waiting` has in its hands
        self.reserve: Callable[..., bool] = self.room.enter  # before `put` to a bounded queue
        self.free_slot: Callable[[Task], None] = self.room.leave

    # -- submitters --------------------------------------------------------------------------------------------

    def put(self, task: Task) -> None:
        """Accept a task, or raise `TaskManagerShutdownError`. Takes no lock while all workers are awake."""
        (self._priority if task._priority else self._main).append(task)
        if self.closed and self.takes_back(task):
            raise self.refusal()
        if self.idle.announced and not self.waking:
            if self.resting:
                self.wake_housekeeper()  # first: it makes good what a Ctrl-C leaves of the rest
            self.waking = True
            self.idle.wake_one()

    def stir(self) -> None:
        """End the burst thread's rest: something has happened that its tick is to see. Signal-safe."""
        if self.resting:
            self.wake_housekeeper()

    def takes_back(self, task: Task) -> bool:
        """Take a task back that was put into a closed queue; `False`: a worker has it, and it is accepted."""
        task._is_counted = True  # before it is refused: a worker that drops it meanwhile leaves the counting to this
        try:
            del task._may_start
        except AttributeError:
            task._refused = task.cancelled()  # swept by the closing
            return task._refused
        task._refused = True
        task._count_refusal()
        return True

    def wake_submitters(self) -> None:
        """Wake all who wait for room if the queue is closed, and else those whose turn it is: they may not know."""
        self.room.heal()

    # -- workers -----------------------------------------------------------------------------------------------

    def put_back(self, task: Task) -> None:
        """Make a task that ran wait again, at the front of its own lane. Never refused: the caller looks again."""
        with self._take_lock, self._dead_lock:  # counted if it is in, and only then
            (self._priority if task._priority else self._main).appendleft(task)
            self._requeued[task._priority] += 1
        self.idle.wake_one()

    def put_back_later(self, task: Task, pause: float) -> None:
        """Make a task that ran wait again, for `pause` seconds outside of its lane. Never refused either."""
        with self._dead_lock:
            self._later.append((monotonic() + pause, task))
            self._requeued[task._priority] += 1

    def give_back(self, task: Task, *, retried: bool = False) -> None:
        """A worker has fallen with this task in its hand: the task waits as before, at the front of its lane.

        `retried`: the worker was about to put it back after an attempt."""
        with self._take_lock, self._dead_lock:
            if not any(entry is task for entry in self.entries()):
                (self._priority if task._priority else self._main).appendleft(task)
                self._requeued[task._priority] += retried
        self.idle.wake_one()

    def wake_next(self) -> None:
        """Said by a worker that was idle and has taken a task: if there are more, wake another one."""
        self.waking = False
        if (self._main or self._priority) and self.idle.announced:
            self.waking = True
            self.idle.wake_one()

    def drop(self, task: Task) -> None:
        """A taken entry turned out to be dead."""
        self._count_refusal(task)
        with self._dead_lock:
            self._dead[task._priority] -= 1

    def taken_again(self, task: Task) -> None:
        """A re-queued task was taken."""
        with self._dead_lock:
            self._requeued[task._priority] -= 1

    def is_drained(self) -> bool:
        """Whether the queue is closed and nothing more can be taken: a worker that sees this may leave."""
        return self.closed and (self._killed or self.is_empty())

    def is_empty(self) -> bool:
        """Whether nothing is left, dead entries included."""
        # the order matters: a retry moves from `_later` to its lane
        if self._later or self._main or self._priority:
            return False
        return not (self._kept or self._swept or self._excluding > self._killed)

    # -- whoever settles a waiting task --------------------------------------------------------------------------

    def entry_died(self, task: Task) -> None:
        """A waiting task was settled: count its entry as dead and free its slot."""
        with self._dead_lock:
            self._dead[task._priority] += 1
            self._requeued[task._priority] -= task.attempts > 0
        if self.room.capacity:
            self.free_slot(task)

    # -- the burst thread ----------------------------------------------------------------------------------------

    def close(self, error: TaskManagerShutdownError | None = None) -> None:
        """Refuse new tasks from now on, with `error`. Signal-safe; whoever sleeps is for the caller to wake."""
        self._error = error
        self.closed = True
        self.room.closed = True

    def kill(self) -> None:
        """Close, and give no worker anything any more: what waits is for the caller to fail. Signal-safe."""
        self.closed = True
        self.room.closed = True
        self._killed = True
        self._excluding = True

    def entries(self) -> list[Task]:
        """All entries, dead ones included."""
        later = [task for _, task in self._later.copy()]  # first: they move to the lanes
        lanes = (
            copy_of(self._priority),
            copy_of(self._main),
            self._kept.copy(),
            self._swept.copy(),
        )
        return later + [task for lane in lanes for task in lane]

    def compact(self) -> list[Task]:
        """Take the dead entries out of a lane when half of it is dead, for the caller to let go of.

        Not for threads that Ctrl-C may interrupt."""
        dead: list[Task] = []
        if self._kept or self._excluding > self._killed:  # an error has ended the last one
            with self._take_lock:
                self._end_compaction_locked()
        for priority, lane in ((False, self._main), (True, self._priority)):
            if lane and self._dead[priority] * 2 > len(lane):
                self._compact(lane, dead)
        return dead

    def surplus(self) -> tuple[int, int]:
        """Dead entries that are counted and not there: of empty lanes (main, priority), with none in hand."""
        return (self._dead[False], self._dead[True]) if self.is_empty() else (0, 0)

    def correct(self, surplus: tuple[int, int]) -> None:
        """So many dead entries too many are counted: an error struck between two counts."""
        with self._dead_lock:
            for priority in (False, True):
                self._dead[priority] -= surplus[priority]

    def ripen(self, now: float) -> None:
        """Put the retries whose pause is over by `now`, or that are dead, into their lanes."""
        if not self._later:
            return
        with self._take_lock, self._dead_lock:
            self._excluding = True  # so that no task ends while this thread refers to it
            try:
                ripened = self._ripen(now)
            finally:
                self._excluding = self._killed
        for _ in range(ripened):
            self.idle.wake_one()

    def is_quiet(self) -> bool:
        """Whether no task is in it, nobody waits for room, and no worker is on its way."""
        lanes = self._later or self._main or self._priority or self._kept or self._swept
        return not (lanes or self.waking or self.room.is_wanted())

    def waiting(self) -> tuple[int, int]:
        """Live tasks in the main and in the priority lane. Takes no lock, and may be wrong for a moment."""
        main, priority = self._count_waiting()
        return max(0, main), max(0, priority)

    def _count_waiting(self) -> tuple[int, int]:
        others = [0, 0]
        for task in (
            *self._kept.copy(),
            *self._swept.copy(),
            *(task for _, task in self._later.copy()),
        ):
            others[task._priority] += 1
        return len(self._main) + others[0] - self._dead[False], len(self._priority) + others[
            1
        ] - self._dead[True]

    def waiting_new(self) -> int:
        """Live tasks that were never taken; at most as many as there are, in any race (see `metrics`)."""
        # with the counts held still: who takes an entry out counts it afterwards, who puts one back counts it before
        with self._dead_lock:
            return max(0, sum(self._count_waiting()) - self._requeued[False] - self._requeued[True])

    def fail_waiting(
        self,
        fail: Callable[[Task], object],
        let_go: Callable[[list[Any]], object],
        seconds: float = math.inf,
    ) -> bool:
        """Take tasks out and settle them by `fail`, which is to be called once for each, for about so many seconds.

        Returns whether there are more. They are given to `let_go`, so that the calling thread is not the last one that
        refers to them. One whose `fail` raises is the next call's first."""
        until = monotonic() + seconds
        failed: list[Any] = []
        while self._swept or self._sweep():
            try:
                while self._swept:
                    fail(self._swept[-1])
                    self._drop_last(self._swept, failed)
            finally:
                let_go(failed)
            if monotonic() >= until:
                return True
        return False

    # -- the pieces ----------------------------------------------------------------------------------------------

    def _take_unlocked(self, hand: Hand) -> Task | None:
        if self._excluding:
            return self._take_locked(hand)
        try:
            if self._priority:
                lane = self._priority
            elif self._main:
                lane = self._main
            else:
                return None
            task = hand.task = lane[0]
            if (taken := lane.popleft()) is not task:
                task = hand.task = taken
            return task
        except IndexError:  # this and the other task: only where a debugger lets threads switch between any two lines
            return None

    def _take_locked(self, hand: Hand) -> Task | None:
        hand.task = None  # what it refers to is dropped here and not under the lock
        with self._take_lock:
            lane = self._priority or self._main
            if not lane or self._killed:
                return None
            if (
                lane is self._main and self._priority
            ):  # put since the first look, perhaps before the main task was
                lane = self._priority
            task = hand.task = lane[0]
            lane.popleft()
            return task

    def _take_freeing(self, hand: Hand) -> Task | None:
        task = self._take(hand)
        if task is not None:
            self.free_slot(task)
        return task

    def _sweep(self) -> bool:
        """Take the next tasks out; whether there were any."""
        self.ripen(math.inf)
        with (
            self._take_lock,
            contextlib.suppress(IndexError),
        ):  # a taker that takes no lock may be faster
            while len(self._swept) < _BATCH_LENGTH and (lane := self._priority or self._main):
                hand_on(lane.popleft, self._swept.append)
        self._swept.reverse()  # the first one is settled first, from the end of the list
        return bool(self._swept)

    def _ripen(self, now: float) -> int:
        """Put what is ripe into its lane, with both locks held; returns how many those were."""
        due = [
            (until if task._waits_for_start() else -math.inf, task) for until, task in self._later
        ]
        due.sort(key=lambda entry: entry[0], reverse=True)
        self._later = due
        places: dict[bool, int] = {}
        paused = len(due)
        while due and due[-1][0] <= now:
            task = due[-1][1]
            lane = self._priority if task._priority else self._main
            place = places.get(task._priority)
            if place is None:
                place = _behind_first_new(lane)
            do_both(partial(lane.insert, place, task), due.pop)  # in this order: see is_empty
            places[task._priority] = place + 1
        return paused - len(due)

    def _compact(self, lane: deque[Task], dead: list[Task]) -> None:
        with self._take_lock:
            self._excluding = True
            for _ in range(len(lane)):
                if not lane:  # a taker was past the flag
                    break
                hand_on(lane.popleft, self._kept.append)
                if not self._kept[-1]._waits_for_start():
                    self._drop_last(self._kept, dead)
            self._end_compaction_locked()
        self.idle.wake_all()  # who looked meanwhile found nothing

    def _drop_last(self, entries: list[Task], dropped: list[Task]) -> None:
        """Drop the last of these entries, which is dead. As soon as it is not counted as dead it must not be among
        them, or it would be counted as one that waits."""
        task = entries[-1]
        self._count_refusal(task)
        with self._dead_lock:
            hand_on(entries.pop, dropped.append)
            self._dead[task._priority] -= 1

    def _count_refusal(self, task: Task) -> None:
        if (
            task._refused and not task._is_counted
        ):  # its submission did not come to that: see `Engine.submit`
            task._count_refusal()

    def _end_compaction_locked(self) -> None:
        """Put back what a compaction has in its hands: this one, or one that an error has ended."""
        kept = self._kept
        if kept:
            lane = self._priority if kept[-1]._priority else self._main
            with self._dead_lock:  # or waiting() would count them twice
                lane.extendleft(islice(map(call, repeat(kept.pop)), len(kept)))
        self._excluding = self._killed

    def refusal(self) -> TaskManagerShutdownError:
        if self._error is not None:
            return TaskManagerShutdownError(*self._error.args)
        return TaskManagerShutdownError(
            f"{self._name} is stopping or closed: the task was not accepted"
        )


def _behind_first_new(lane: deque[Task]) -> int:
    """The place behind the first task that was never taken, or the end."""
    for place in range(len(lane)):  # not over the lane itself: submitters append to it
        if not lane[place].attempts:
            return place + 1
    return len(lane)
