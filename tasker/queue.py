"""`TaskQueue`: two lanes of waiting tasks, and the parking of the workers that wait for them.

Order. A worker that takes a main task has seen the priority lane empty after that main task was put; each lane is
taken first in, first out, but for retries. With the GIL, looking and popping in
`_take_unlocked` keeps that without a lock, because no thread switch can come between the look and the pop (CPython
switches on calls and backward jumps only). Free-threaded builds take `_take_lock`, which only takers take, and look at
the priority lane once more after the pop.

Retries. A retry that need not pause goes to the front of its own lane. One that has to pause waits in `_later` until
the burst thread's first tick after that; then it goes not to the front, but behind the first task of its lane that was
never taken. So whatever a task does to resources, and however long it takes to make one, those behind it get their
turn. What waits in `_later` counts as waiting in its lane.

Waking. Submitters wake one worker at a time: as long as `waking` says that one is on its way they leave it at that.
That worker takes the flag down, *then* looks at the lanes, and when it has taken a task wakes the next one if there is
more. So a burst of tasks costs as many wake-ups as workers find work, and its submitter one. A worker that is about to
sleep takes the flag down as well. What a Ctrl-C leaves of it the burst thread's tick makes good.

Closing. `close()` sets the flag, and a submitter looks at it before *and* after it appends: what it appended too late
it withdraws, and is refused. A worker leaves when it has seen the flag and, after that, empty lanes; whoever re-queues
a task is a worker that looks again. So nothing accepted is stranded.

Dead entries. A task that is settled while it waits stays in its lane as an emptied entry, counted in `_dead` (and no
longer in `_requeued`, if it was taken before); whoever takes it drops it. The burst thread's tick compacts a lane when
half of it is dead.

`_take_lock` is held by takers of free-threaded builds, and by a compaction or re-queue, which excludes all takers.
`_dead_lock` guards `_dead`, `_requeued` and `_later`. Order: the first, then the second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tasker.errors import TaskManagerShutdownError
from tasker.future import TaskFuture
from tasker.parking import Parking, gil_enabled
from tasker.room import Room

__all__ = ["TaskQueue"]

Task = TaskFuture[Any]


class TaskQueue:
    """The tasks that wait. `capacity` 0: unbounded; otherwise the most that wait, re-queued ones not counted."""

    def __init__(self, name: str, capacity: int = 0, *, locked: bool | None = None) -> None:
        self._name = name
        self._main: deque[Task] = deque()
        self._priority: deque[Task] = deque()
        self.idle: Parking = Parking()  # workers without a task
        self.room: Room = Room(capacity)  # for tasks that were not taken before
        self.waking: bool = False  # whether a worker that a submitter woke has yet to look
        self.closed: bool = False
        self._error: TaskManagerShutdownError | None = None
        self._compacting = False
        self._kept: list[Task] = []  # what a compaction has in its hands
        self._take_lock = threading.Lock()
        self._dead_lock = threading.RLock()  # reentrant: a signal handler may cancel a task
        self._dead = {False: 0, True: 0}  # emptied entries of the main and of the priority lane
        self._requeued = {False: 0, True: 0}  # entries that were taken before
        self._later: list[tuple[float, Task]] = []  # retries that pause, and until when
        self._take = self._take_locked if (not gil_enabled() if locked is None else locked) else self._take_unlocked
        self.take: Callable[[], Task | None] = self._take_freeing if capacity else self._take
        self.reserve = self.room.enter  # before `put` to a bounded queue
        self.free_slot = self.room.leave

    # -- submitters --------------------------------------------------------------------------------------------

    def put(self, task: Task) -> None:
        """Accept a task, or raise `TaskManagerShutdownError`. Takes no lock while all workers are awake."""
        (self._priority if task._priority else self._main).append(task)
        if self.closed and (task._withdraw(refused=True) or task.cancelled()):  # cancelled: swept by the closing
            raise self.refusal()
        if self.idle.announced and not self.waking:
            self.waking = True
            self.idle.wake_one()

    def wake_submitters(self) -> None:
        """Wake all who wait for room if the queue is closed, and else those whose turn it is: they may not know."""
        self.room.heal()

    # -- workers -----------------------------------------------------------------------------------------------

    def put_back(self, task: Task) -> None:
        """Make a task that ran wait again, at the front of its own lane. Never refused: the caller looks again."""
        with self._dead_lock:
            self._requeued[task._priority] += 1
        with self._take_lock:
            (self._priority if task._priority else self._main).appendleft(task)
        self.idle.wake_one()

    def put_back_later(self, task: Task, pause: float) -> None:
        """Make a task that ran wait again, for `pause` seconds outside of its lane. Never refused either."""
        with self._dead_lock:
            self._later.append((time.monotonic() + pause, task))
            self._requeued[task._priority] += 1

    def wake_next(self) -> None:
        """Said by a worker that was idle and has taken a task: if there are more, wake another one."""
        self.waking = False
        if (self._main or self._priority) and self.idle.announced:
            self.waking = True
            self.idle.wake_one()

    def drop(self, task: Task) -> None:
        """A taken entry turned out to be dead."""
        with self._dead_lock:
            self._dead[task._priority] -= 1

    def taken_again(self, task: Task) -> None:
        """A re-queued task was taken."""
        with self._dead_lock:
            self._requeued[task._priority] -= 1

    def is_drained(self) -> bool:
        """Whether the queue is closed and holds nothing: a worker that sees this may leave."""
        # the order matters: a retry moves from `_later` to its lane
        return self.closed and not self._later and not self._main and not self._priority and not self._compacting

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

    def entries(self) -> list[Task]:
        """All entries, dead ones included."""
        later = [task for _, task in self._later.copy()]  # first: they move to the lanes; copies are made in one step
        return [*later, *self._priority.copy(), *self._main.copy(), *self._kept.copy()]

    def compact(self) -> None:
        """Drop the dead entries of a lane when half of it is dead. Not for threads that Ctrl-C may interrupt."""
        for priority, lane in ((False, self._main), (True, self._priority)):
            if lane and self._dead[priority] * 2 > len(lane):
                self._compact(lane)

    def ripen(self, now: float) -> None:
        """Put the retries whose pause is over by `now`, or that are dead, into their lanes."""
        if not self._later:
            return
        with self._take_lock, self._dead_lock:
            ripe: list[tuple[float, Task]] = []
            unripe: list[tuple[float, Task]] = []
            for entry in self._later:
                (ripe if entry[0] <= now or not entry[1]._waits_for_start() else unripe).append(entry)
            ripe.sort(key=lambda entry: entry[0], reverse=True)
            for lane, priority in ((self._main, False), (self._priority, True)):
                tasks = [task for _, task in ripe if task._priority is priority]
                place = _behind_first_new(lane) if tasks else 0
                for task in tasks:
                    lane.insert(place, task)
            self._later = unripe  # last: see is_drained
        for _ in ripe:
            self.idle.wake_one()

    def waiting(self) -> tuple[int, int]:
        """Live tasks in the main and in the priority lane. Takes no lock, and may be wrong for a moment."""
        main, priority = self._count_waiting()
        return max(0, main), max(0, priority)

    def _count_waiting(self) -> tuple[int, int]:
        others = [0, 0]
        for task in (*self._kept.copy(), *(task for _, task in self._later.copy())):
            others[task._priority] += 1
        return len(self._main) + others[0] - self._dead[False], len(self._priority) + others[1] - self._dead[True]

    def waiting_new(self) -> int:
        """Live tasks that were never taken; at most as many as there are, in any race (see `metrics`)."""
        # with the counts held still: who takes an entry out counts it afterwards, who puts one back counts it before
        with self._dead_lock:
            return max(0, sum(self._count_waiting()) - self._requeued[False] - self._requeued[True])

    def sweep(self) -> list[Task]:
        """Take everything out, for settling it."""
        self.ripen(math.inf)
        tasks: list[Task] = []
        while (task := self.take()) is not None:
            tasks.append(task)
        return tasks

    # -- the pieces ----------------------------------------------------------------------------------------------

    def _take_unlocked(self) -> Task | None:
        if self._compacting:
            return self._take_locked()
        try:
            if self._priority:
                return self._priority.popleft()
            if self._main:
                return self._main.popleft()
        except IndexError:  # only where a debugger lets threads switch between any two lines
            pass
        return None

    def _take_locked(self) -> Task | None:
        with self._take_lock:
            if self._priority:
                return self._priority.popleft()
            if not self._main:
                return None
            task = self._main.popleft()
            if self._priority:  # put since the first look, perhaps before the main task was
                self._main.appendleft(task)
                return self._priority.popleft()
            return task

    def _take_freeing(self) -> Task | None:
        task = self._take()
        if task is not None:
            self.free_slot(task)
        return task

    def _compact(self, lane: deque[Task]) -> None:
        with self._take_lock:
            self._compacting = True
            try:
                for _ in range(len(lane)):
                    if not lane:  # a taker was past the flag
                        break
                    task = lane.popleft()
                    if task._waits_for_start():
                        self._kept.append(task)
                    else:
                        self.drop(task)
            finally:
                with self._dead_lock:  # or waiting() would count them twice
                    lane.extendleft(reversed(self._kept))
                    self._kept = []
                self._compacting = False
        self.idle.wake_all()  # who looked meanwhile found nothing

    def refusal(self) -> TaskManagerShutdownError:
        if self._error is not None:
            return TaskManagerShutdownError(*self._error.args)
        return TaskManagerShutdownError(f"{self._name} is stopping or closed: the task was not accepted")


def _behind_first_new(lane: deque[Task]) -> int:
    """The place behind the first task that was never taken, or the end. Takers may come in between, and make it a place
    further behind."""
    try:
        for place in range(len(lane)):
            if not lane[place].attempts:
                return place + 1
    except IndexError:  # taken since then
        pass
    return len(lane)
