"""`TaskQueue`: two lanes of waiting tasks, and the parking lot of idle workers.

Order (I4). Each lane is taken first in, first out, but for retries. With the GIL,
`_take_unlocked` looks and pops without a lock: no thread switch can come between the
look and the pop (R2). Free-threaded builds take `_take_lock`, which only takers take,
and look at the priority lane once more before the pop.

Retries. A retry without a pause goes to the front of its own lane. A retry with a pause
waits in `_later` until the burst thread's first tick after the pause. Then it goes
behind the first task of its lane that was never taken, not to the front. So the tasks
behind it get their turn, whatever it does to resources, and however long it takes to
make one. A task in `_later` counts as waiting in its lane.

A retry is for no worker whose proof is older than the breakage that the task met (I11).
That worker is a suspect: it passes over the retry and takes the first task behind it.
So as long as retries wait, takers take the lock (`_excluding`). A suspect that is woken
and finds only retries parks again. It need not pass the wake-up on: a worker that
proves to be well looks at the lanes next.

Waking. Submitters wake one worker at a time: while `waking` says that one is on its way
they wake no other. That worker clears the flag, *then* looks at the lanes (R1). When it
has taken a task and there are more, it wakes the next worker. So a burst of tasks costs
as many wake-ups as workers find work, and its submitter only one of them. A worker that
is about to sleep clears the flag as well. If a Ctrl-C leaves some of this undone, the
burst thread's tick mends it.

Rest. When there is nothing to do all workers are parked, and the burst thread sleeps
without a tick. It sets `resting`, *then* looks once more, then sleeps (R1). A thread
that makes work for it looks at `resting` afterwards. A submitter looks where it wakes a
worker, because at rest it always wakes one.

Closing (I2). `close()` sets the flag. A submitter looks at the flag before *and* after
it appends. It withdraws a task that it appended too late, and is refused. A worker
leaves when it has seen the flag and, after that, empty lanes. Only a worker puts a task
back, and then it looks again. So no accepted task is stranded.

Dead entries. A task that is settled while it waits stays in its lane as an emptied
entry. It is counted in `_dead`, and no longer in `_requeued` if it was taken before.
The worker that takes it drops it. The burst thread's tick compacts a lane when half of
it is dead.

Hands. An exception that strikes as a worker takes a task must not lose the task. So the
task is in the worker's hand (`Hand.task`) before it is out of the lane, with no thread
switch in between.

`_take_lock` is held by takers of free-threaded builds. A compaction and a re-queue hold
it too, and exclude all takers. `_dead_lock` guards `_dead`, `_requeued` and `_later`.
Order: `_take_lock`, then `_dead_lock`.
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

# Waiting tasks that are taken out at once in order to fail them. A guess: few enough to
# hold the lock for a moment only, and many enough to take it seldom.
_BATCH_LENGTH = 256


class Hand(Protocol):
    """A taker of tasks: a worker."""

    task: Any

    def proof(self) -> int:
        """It takes no task that has met a later breakage. Called under a lock."""
        ...


class TaskQueue:
    """The tasks that wait.

    At most `capacity` of them wait (0: any number). Re-queued ones are not counted."""

    def __init__(self, name: str, capacity: int = 0, *, locked: bool | None = None) -> None:
        self._name = name
        self._main: deque[Task] = deque()
        self._priority: deque[Task] = deque()
        # The workers without a task.
        self.idle: ParkingLot = ParkingLot()
        # For tasks that were not taken before.
        self.room: Room[Task] = Room(capacity)

        # Whether a worker that a submitter woke has yet to look.
        self.waking: bool = False
        # Whether the burst thread sleeps until it is woken. It alone sets this.
        self.resting: bool = False
        self.wake_housekeeper: Callable[[], object] = bool

        self.closed: bool = False
        # Whether the waiting tasks are to fail.
        self._killed = False
        self._error: TaskManagerShutdownError | None = None

        # Whether takers take the lock: another thread moves entries, retries wait, or
        # takers get nothing more.
        self._excluding = False
        # Whether a thread moves entries, so that a lane may look empty that is not.
        self._moving = False
        # The tasks that a compaction has in its hands.
        self._kept: list[Task] = []
        # Without the GIL each take costs it, and this type of lock is faster there.
        self._take_lock: Any = new_lock() if gil_enabled() else threading.Lock()
        # Reentrant, because a signal handler may cancel a task.
        self._dead_lock = new_lock()
        # Emptied entries, by `task._priority`.
        self._dead = {False: 0, True: 0}
        # Entries that were taken before, by `task._priority`.
        self._requeued = {False: 0, True: 0}
        # Retries that pause, and until when.
        self._later: list[tuple[float, Task]] = []

        self._take = (
            self._take_locked
            if (not gil_enabled() if locked is None else locked)
            else self._take_unlocked
        )
        self.take: Callable[[Hand], Task | None] = self._take_freeing if capacity else self._take
        # The tasks that `fail_waiting` has in its hands.
        self._swept: list[Task] = []
        # Called before `put` to a bounded queue.
        self.reserve: Callable[..., bool] = self.room.enter
        self.free_seat: Callable[[Task], None] = self.room.leave

    # -- submitters --------------------------------------------------------------------

    def put(self, task: Task) -> None:
        """Accept a task, or raise `TaskManagerShutdownError`.

        Takes no lock while all workers are awake."""
        (self._priority if task._priority else self._main).append(task)
        if self.closed and self.takes_back(task):
            raise self.refusal()

        if self.idle.announced and not self.waking:
            # First, because it mends what a Ctrl-C leaves undone of the rest.
            if self.resting:
                self.wake_housekeeper()
            self.waking = True
            self.idle.wake_one()

    def stir(self) -> None:
        """End the burst thread's rest: its tick has something to see. Signal-safe."""
        if self.resting:
            self.wake_housekeeper()

    def takes_back(self, task: Task) -> bool:
        """Take a task back that was put into a closed queue.

        `False`: a worker has it, and it is accepted."""
        # Set before it is refused: a worker that drops it meanwhile must not count it.
        task._is_counted = True
        try:
            del task._may_start
        except AttributeError:
            # The closing has swept it.
            task._refused = task.cancelled()
            return task._refused

        task._refused = True
        task._count_refusal()
        return True

    def wake_submitters(self) -> None:
        """Wake the threads that wait for room and may not know that they can go on.

        If the queue is closed those are all, otherwise those whose turn it is."""
        self.room.heal()

    # -- workers -----------------------------------------------------------------------

    def put_back(self, task: Task) -> None:
        """Make a task that ran wait again, at the front of its own lane.

        It is never refused: the caller looks at the lanes again."""
        # It is counted if it is in, and only then.
        with self._take_lock, self._dead_lock:
            self._excluding = True
            (self._priority if task._priority else self._main).appendleft(task)
            self._requeued[task._priority] += 1

        self.idle.wake_one()

    def put_back_later(self, task: Task, pause: float) -> None:
        """Make a task that ran wait again, for `pause` seconds outside of its lane.

        It is never refused."""
        with self._dead_lock:
            self._later.append((monotonic() + pause, task))
            self._requeued[task._priority] += 1

    def give_back(self, task: Task, *, retried: bool = False) -> None:
        """Make a fallen worker's task wait as before, at the front of its lane.

        `retried`: the worker was about to put it back after an attempt."""
        with self._take_lock, self._dead_lock:
            if not any(entry is task for entry in self.entries()):
                self._excluding = True
                (self._priority if task._priority else self._main).appendleft(task)
                self._requeued[task._priority] += retried

        self.idle.wake_one()

    def wake_next(self) -> None:
        """If there are more tasks, wake another worker.

        Called by a worker that was idle and has taken a task."""
        self.waking = False

        if (self._main or self._priority) and self.idle.announced:
            self.waking = True
            self.idle.wake_one()

    def length(self) -> int:
        """Entries in the lanes, dead ones included."""
        return len(self._main) + len(self._priority)

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
        """Whether the queue is closed and nothing more can be taken.

        A worker that sees this may leave."""
        return self.closed and (self._killed or self.is_empty())

    def is_empty(self) -> bool:
        """Whether nothing is left, dead entries included."""
        # The order matters: a retry moves from `_later` to its lane.
        if self._later or self._main or self._priority:
            return False

        return not (self._kept or self._swept or self._moving)

    # -- threads that settle a waiting task --------------------------------------------

    def entry_died(self, task: Task) -> None:
        """A waiting task was settled: count its entry as dead and free its seat."""
        # Any worker may take it now, and drop it.
        task._breakage = 0
        with self._dead_lock:
            self._dead[task._priority] += 1
            self._requeued[task._priority] -= task.attempts > 0

        if self.room.capacity:
            self.free_seat(task)

    # -- the burst thread --------------------------------------------------------------

    def close(self, error: TaskManagerShutdownError | None = None) -> None:
        """Refuse new tasks from now on, with `error`.

        Signal-safe. The caller has to wake the threads that sleep."""
        self._error = error
        self.closed = True
        self.room.closed = True

    def kill(self) -> None:
        """Close, and give the workers nothing any more.

        Signal-safe. The caller has to fail the tasks that wait."""
        self.closed = True
        self.room.closed = True
        self._killed = True
        self._excluding = True

    def entries(self) -> list[Task]:
        """All entries, dead ones included."""
        # Read first, because they move to the lanes.
        later = [task for _, task in self._later.copy()]
        lanes = (
            copy_of(self._priority),
            copy_of(self._main),
            self._kept.copy(),
            self._swept.copy(),
        )

        return later + [task for lane in lanes for task in lane]

    def compact(self) -> list[Task]:
        """Take the dead entries out of a lane when half of it is dead.

        The caller has to let go of them. Not for threads that Ctrl-C may interrupt."""
        dead: list[Task] = []

        # An error has ended the last compaction.
        if self._kept or self._moving:
            with self._take_lock:
                self._end_compaction_locked()

        for priority, lane in ((False, self._main), (True, self._priority)):
            if lane and self._dead[priority] * 2 > len(lane):
                self._compact(lane, dead)
        return dead

    def surplus(self) -> tuple[int, int]:
        """Dead entries of (main, priority) that are counted and not there.

        Only of empty lanes, with no entry in a compaction's hands."""
        return (self._dead[False], self._dead[True]) if self.is_empty() else (0, 0)

    def correct(self, surplus: tuple[int, int]) -> None:
        """Count so many dead entries less: an error struck between two counts."""
        with self._dead_lock:
            for priority in (False, True):
                self._dead[priority] -= surplus[priority]

    def ripen(self, now: float) -> None:
        """Put retries into their lanes that are dead or have paused long enough."""
        if not self._later:
            return

        with self._take_lock, self._dead_lock:
            # So that no task ends while this thread refers to it.
            self._excluding = self._moving = True
            try:
                ripened = self._ripen(now)
            finally:
                self._moving = False
                self._include_locked()

        for _ in range(ripened):
            self.idle.wake_one()

    def is_quiet(self) -> bool:
        """Whether it is empty, with no wait for room and no worker on its way."""
        lanes = self._later or self._main or self._priority or self._kept or self._swept
        return not (lanes or self.waking or self.room.is_wanted())

    def waiting(self) -> tuple[int, int]:
        """Live tasks in the main and in the priority lane.

        Takes no lock, and may be wrong for a moment."""
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

        main = len(self._main) + others[0] - self._dead[False]
        priority = len(self._priority) + others[1] - self._dead[True]
        return main, priority

    def waiting_new(self) -> int:
        """Live tasks that were never taken.

        Never more than there are, in any race (see `metrics`)."""
        # Under the lock, so that the counts stand still. A thread that takes an entry
        # out counts it afterwards, and one that puts an entry back counts it before.
        with self._dead_lock:
            return max(0, sum(self._count_waiting()) - self._requeued[False] - self._requeued[True])

    def retries(self) -> int:
        """How many live tasks in the lanes were taken before.

        Takes no lock, and may be wrong for a moment."""
        paused = sum(task._waits_for_start() for _, task in self._later.copy())
        return max(0, self._requeued[False] + self._requeued[True] - paused)

    def fail_waiting(
        self,
        fail: Callable[[Task], object],
        let_go: Callable[[list[Any]], object],
        seconds: float = math.inf,
    ) -> bool:
        """Take tasks out and settle each by one call of `fail`, for about `seconds`.

        Returns whether there are more. `let_go` gets the settled tasks, so that the
        calling thread is not the last one that refers to them. If `fail` raises, the
        next call begins with the same task."""
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

    # -- the pieces --------------------------------------------------------------------

    def _take_unlocked(self, hand: Hand) -> Task | None:
        if self._excluding:
            return self._take_locked(hand)

        # The pop may find another task, or none, only where a debugger lets threads
        # switch between any two lines.
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
        except IndexError:
            return None

    def _take_locked(self, hand: Hand) -> Task | None:
        # The last task is dropped here, so that nothing of it is destroyed under the
        # lock.
        hand.task = None
        found: list[Task] = []

        with self._take_lock:
            lane = self._priority or self._main
            if not lane:
                return None
            if self._excluding:
                return self._choose_locked(hand, found)

            # A priority task was put since the first look, perhaps before the main
            # task.
            if lane is self._main and self._priority:
                lane = self._priority
            task = hand.task = lane[0]
            lane.popleft()
            return task

    def _choose_locked(self, hand: Hand, found: list[Task]) -> Task | None:
        """As `_take_locked`, where not every task is for every hand.

        Puts all that it looks at into `found`. Other threads may let go of it
        meanwhile, and the calling thread must not be the last one under the lock."""
        self._include_locked()
        proof = hand.proof()

        while not self._killed and (first := self._find_locked(proof, found)):
            lane, place, task = first
            # A taker that looked at the flag before may have taken the first task. From
            # here to the removal is one step (R2).
            with contextlib.suppress(IndexError):
                if lane[place] is task:
                    hand.task = task
                    del lane[place]
                    return task

        return None

    def _find_locked(self, proof: int, found: list[Task]) -> tuple[deque[Task], int, Task] | None:
        """The first task for a hand, with its lane and its place there."""
        first = _first(self._priority, proof, found)
        if first is None and (first := _first(self._main, proof, found)) is not None:
            # A priority task was put since the first look, perhaps before the main
            # task.
            first = _first(self._priority, proof, found) or first

        return first

    def _take_freeing(self, hand: Hand) -> Task | None:
        task = self._take(hand)
        if task is not None:
            self.free_seat(task)
        return task

    def _sweep(self) -> bool:
        """Take the next tasks out. Returns whether there were any."""
        self.ripen(math.inf)

        # A taker that takes no lock may be faster: then a lane is empty.
        with self._take_lock, contextlib.suppress(IndexError):
            while len(self._swept) < _BATCH_LENGTH and (lane := self._priority or self._main):
                hand_on(lane.popleft, self._swept.append)

        # They are settled from the end of the list: the first task comes first.
        self._swept.reverse()
        return bool(self._swept)

    def _ripen(self, now: float) -> int:
        """Put the ripe retries into their lanes, with both locks held.

        Returns how many they were."""
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
            # In this order: see `is_empty`.
            do_both(partial(lane.insert, place, task), due.pop)
            places[task._priority] = place + 1

        return paused - len(due)

    def _compact(self, lane: deque[Task], dead: list[Task]) -> None:
        with self._take_lock:
            self._excluding = self._moving = True
            for _ in range(len(lane)):
                # A taker had looked at the flag before.
                if not lane:
                    break
                hand_on(lane.popleft, self._kept.append)
                if not self._kept[-1]._waits_for_start():
                    self._drop_last(self._kept, dead)
            self._end_compaction_locked()

        # The workers that looked meanwhile found nothing.
        self.idle.wake_all()

    def _drop_last(self, entries: list[Task], dropped: list[Task]) -> None:
        """Drop the last of these entries, which is dead.

        As soon as it is not counted as dead it must not be among them, or it would be
        counted as one that waits."""
        task = entries[-1]
        self._count_refusal(task)

        with self._dead_lock:
            hand_on(entries.pop, dropped.append)
            self._dead[task._priority] -= 1

    def _count_refusal(self, task: Task) -> None:
        # Its submission ended before it counted this: see `Engine.submit`.
        if task._refused and not task._is_counted:
            task._count_refusal()

    def _end_compaction_locked(self) -> None:
        """Put back the entries in the hands of a compaction.

        The compaction ends here, or an error has ended it before."""
        kept = self._kept
        if kept:
            lane = self._priority if kept[-1]._priority else self._main
            # Under this lock, or `waiting_new` would count them twice.
            with self._dead_lock:
                lane.extendleft(islice(map(call, repeat(kept.pop)), len(kept)))

        self._moving = False
        self._include_locked()

    def _include_locked(self) -> None:
        """Let takers go without the lock if they may. Retries that pause count, too."""
        self._excluding = self._moving or self._requeued[False] > 0 or self._requeued[True] > 0
        # In this order: a kill sets the one, then the other (R1).
        if self._killed:
            self._excluding = True

    def refusal(self) -> TaskManagerShutdownError:
        if self._error is not None:
            return TaskManagerShutdownError(*self._error.args)

        return TaskManagerShutdownError(
            f"{self._name} is stopping or closed: the task was not accepted"
        )


def _first(
    lane: deque[Task], proof: int, found: list[Task]
) -> tuple[deque[Task], int, Task] | None:
    """The first task of a lane for a hand with this proof, and its place."""
    # Not over the lane itself, because submitters append to it.
    with contextlib.suppress(IndexError):
        for place in range(len(lane)):
            task = lane[place]
            found.append(task)
            if task._breakage <= proof:
                return lane, place, task

    return None


def _behind_first_new(lane: deque[Task]) -> int:
    """The place behind the first task that was never taken, or the end."""
    # Not over the lane itself, because submitters append to it.
    for place in range(len(lane)):
        if not lane[place].attempts:
            return place + 1

    return len(lane)
