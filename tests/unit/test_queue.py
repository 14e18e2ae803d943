"""`TaskQueue` by itself: order, wake-ups, closing, dead entries, seats. Both ways of taking, on every build."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any

import pytest

import tasker._pool.queue
from tasker import TaskManagerShutdownError
from tasker._pool.queue import TaskQueue
from tasker._sync.parking import Parker
from tasker._tasks.future import TaskFuture, new_task
from tests.support.hands import Hand
from tests.support.waiting import PATIENCE, eventually


class Owner:
    """Counts what futures tell their manager."""

    has_collector = False
    orphaned = None
    logger: Any = None

    def __init__(self, queue: TaskQueue) -> None:
        self.queue = queue
        self.cancelled = 0

    def entry_died(self, future):
        self.queue.entry_died(future)

    def record_cancelled(self):
        self.cancelled += 1

    def record_failure(self, future, error, *, was_waiting):
        pass

    def run_in_other_thread(self, jobs):
        assert not jobs, "nothing of the user's here"

    def let_go(self, things):
        things.clear()


@pytest.fixture(params=[False, True], ids=["unlocked", "locked"])
def queue(request):
    return TaskQueue("queue", locked=request.param)


def task(queue, *, priority=False):
    future = new_task(Owner(queue), len, (), False, 0.0)
    if priority:
        future._priority = True
    return future


def put(queue, count, *, priority=False):
    tasks = [task(queue, priority=priority) for _ in range(count)]
    for each in tasks:
        queue.put(each)
    return tasks


def start_first(queue, count):
    """Take the first tasks, as workers whose resources break."""
    tasks = [queue.take(Hand()) for _ in range(count)]
    assert all(each._start(0.0) for each in tasks)
    return tasks


def take_all(queue):
    taken = []
    while (each := queue.take(Hand())) is not None:
        taken.append(each)
    return taken


def test_priority_first_and_first_in_first_out_in_each_lane(queue):
    main, urgent = put(queue, 3), put(queue, 3, priority=True)
    assert queue.waiting() == (3, 3)
    assert take_all(queue) == urgent + main
    assert queue.take(Hand()) is None


def test_a_task_that_is_put_back_goes_to_the_front_of_its_own_lane(queue):
    main, urgent = put(queue, 2), put(queue, 2, priority=True)
    for first in (urgent[0], main[0]):
        queue._take(Hand()) if first is urgent[0] else None
    taken = [urgent[0]]
    queue.put_back(urgent[0])
    assert take_all(queue) == [*taken, urgent[1], *main]


def test_a_main_task_is_never_taken_while_a_priority_task_waits_that_was_put_before_it():
    """Invariant 4 on builds without the GIL: a switch between the look at one lane and the pop from the other."""
    queue = TaskQueue("queue", locked=True)
    urgent, main = task(queue, priority=True), task(queue)

    class Lane(deque):
        """A priority lane that looks empty once, while the two tasks are put in order."""

        def __bool__(self):
            if not self.looked:
                self.looked = True
                queue.put(urgent)
                queue.put(main)
                return False
            return len(self) > 0

        looked = False

    queue._priority = Lane()
    assert queue.take(Hand()) is urgent
    assert queue.take(Hand()) is main


class Untouchable:
    """A lock that nobody may take."""

    def __enter__(self):
        raise AssertionError("a lock was taken")

    __exit__ = acquire = release = __enter__


def test_submission_takes_no_lock_while_no_worker_sleeps(queue, monkeypatch):
    monkeypatch.setattr(queue, "_dead_lock", Untouchable())
    monkeypatch.setattr(queue, "_take_lock", Untouchable())
    put(queue, 10)
    assert queue.waiting() == (10, 0)


@pytest.mark.parametrize("gil", [True, False])
def test_taking_needs_a_lock_on_builds_without_the_gil_alone(gil, monkeypatch):
    monkeypatch.setattr(tasker._pool.queue, "gil_enabled", lambda: gil)
    queue = TaskQueue("queue")
    first = put(queue, 1)[0]
    monkeypatch.setattr(queue, "_dead_lock", Untouchable())
    monkeypatch.setattr(queue, "_take_lock", Untouchable())
    if gil:
        assert queue.take(Hand()) is first
    else:
        with pytest.raises(AssertionError, match="a lock was taken"):
            queue.take(Hand())


def test_one_sleeper_is_woken_for_each_task(queue):
    parkers = [Parker() for _ in range(3)]
    found = []

    def work(parker):
        found.append(queue.idle.park(parker, lambda: queue.take(Hand())))
        queue.wake_next()

    threads = [threading.Thread(target=work, args=(parker,)) for parker in parkers]
    for thread in threads:
        thread.start()
    eventually(lambda: all(parker.parked for parker in parkers))
    tasks = put(queue, 3)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(map(id, found)) == sorted(map(id, tasks))
    assert not queue.idle.announced


def test_submitters_wake_one_worker_and_leave_waking_more_to_it(queue):
    parkers = [Parker() for _ in range(3)]
    queue.idle.announced.extend(parkers)
    put(queue, 2)
    assert list(queue.idle.announced) == parkers[:2]
    queue.take(Hand())
    queue.wake_next()
    assert list(queue.idle.announced) == parkers[:1]
    queue.take(Hand())
    queue.wake_next()  # nothing is left: nobody is woken, and the next submitter wakes again
    assert list(queue.idle.announced) == parkers[:1]
    put(queue, 1)
    assert not queue.idle.announced


def test_a_worker_that_was_woken_for_nothing_takes_the_flag_down(new_manager):
    manager = new_manager(worker_count=1)
    eventually(lambda: manager.stats().idle_workers == 1)
    engine = manager._engine
    engine.queue.waking = True
    (worker,) = engine.crew.members
    worker.parker.wake()
    eventually(lambda: not engine.queue.waking)


def test_a_task_put_between_announcement_and_sleep_is_not_missed(queue):
    looks, parker = [], Parker()

    def look():
        found = queue.take(Hand())
        looks.append(found)
        if len(looks) == 1:
            put(queue, 1)  # after the worker looked in vain, before it sleeps
        return found

    assert queue.idle.park(parker, look) is not None
    assert len(looks) == 2
    assert not parker.parked


def test_a_closed_queue_refuses_and_takes_back_what_was_appended(queue):
    queue.close()
    late = task(queue)
    with pytest.raises(TaskManagerShutdownError, match="queue is stopping or closed"):
        queue.put(late)
    assert late.cancelled()
    assert queue.waiting() == (0, 0)
    assert queue.waiting_new() == 0


def test_a_queue_that_was_closed_for_a_reason_refuses_for_that_reason(queue):
    why = TaskManagerShutdownError("the process was forked")
    queue.close(why)
    with pytest.raises(TaskManagerShutdownError, match="forked") as caught:
        queue.put(task(queue))
    assert caught.value is not why  # which would collect the tracebacks of all who are refused


def test_the_callback_of_a_refused_submission_is_not_called(queue):
    queue.close()
    late = task(queue)
    late.add_done_callback(lambda done: pytest.fail("called back"))
    with pytest.raises(TaskManagerShutdownError):
        queue.put(late)


def test_a_submission_that_the_closing_overtakes_is_refused_even_if_it_was_swept(queue):
    late = task(queue)

    class Lane(deque):
        def append(self, item):
            super().append(item)
            queue.close()
            assert not queue.fail_waiting(TaskFuture._withdraw, list.clear)

    queue._main = Lane()
    with pytest.raises(TaskManagerShutdownError):
        queue.put(late)
    assert late._engine.cancelled == 1


def test_a_submission_that_a_worker_took_before_the_closing_looked_is_accepted(queue):
    early = task(queue)

    class Lane(deque):
        def append(self, item):
            super().append(item)
            queue.close()
            assert queue.take(Hand())._start(0.0)

    queue._main = Lane()
    queue.put(early)
    assert early.running()


@pytest.mark.parametrize("priority", [False, True])
def test_dead_entries_are_not_counted_and_are_compacted_in_order(queue, priority):
    tasks = put(queue, 100, priority=priority)
    lane = queue._priority if priority else queue._main
    for each in tasks[::2]:
        assert each.cancel()
    assert queue.waiting() == ((0, 50) if priority else (50, 0))
    assert len(lane) == 100
    queue.compact()
    assert len(lane) == 100, "half is not more than half"
    assert tasks[1].cancel()
    queue.compact()
    assert list(lane) == tasks[3::2]
    assert queue.waiting() == ((0, 49) if priority else (49, 0))
    assert queue._dead == {False: 0, True: 0}


def test_a_compaction_keeps_the_order_of_what_is_put_meanwhile(queue):
    tasks = put(queue, 10)
    for each in tasks[:8]:
        each.cancel()
    late = []

    class Lane(deque):
        def popleft(self):
            if not late:
                late.extend(put(queue, 2))
            return super().popleft()

    queue._main = Lane(queue._main)
    queue.compact()
    assert list(queue._main) == tasks[8:] + late


@pytest.mark.parametrize("priority", [False, True])
def test_what_a_compaction_has_in_its_hands_still_waits(queue, priority):
    tasks = put(queue, 10, priority=priority)
    for dead in tasks[3:9]:
        dead.cancel()
    live, seen = [*tasks[:3], tasks[9]], []

    class Lane(deque):
        def popleft(self):
            seen.append((queue.waiting(), queue.waiting_new(), set(live) <= set(queue.entries())))
            return super().popleft()

    name = "_priority" if priority else "_main"
    setattr(queue, name, Lane(getattr(queue, name)))
    queue.compact()
    assert seen == [((0, 4) if priority else (4, 0), 4, True)] * 10


def test_a_worker_that_takes_during_a_compaction_waits_for_it():
    queue = TaskQueue("queue", locked=False)
    tasks = put(queue, 10)
    for each in tasks[:9]:
        each.cancel()
    taken = []

    class Lane(deque):
        def popleft(self):
            if len(self) == 5 and not threads:
                threads.append(threading.Thread(target=lambda: taken.append(queue.take(Hand()))))
                threads[0].start()
                threads[0].join(0.05)
                assert not taken
            return super().popleft()

    threads: list[threading.Thread] = []
    queue._main = Lane(queue._main)
    queue.compact()
    threads[0].join(PATIENCE)
    assert taken == [tasks[9]]


def test_a_worker_that_fell_asleep_during_a_compaction_is_woken_for_what_was_kept():
    queue = TaskQueue("queue", locked=False)
    tasks = put(queue, 10)
    for each in tasks[1:8]:
        each.cancel()
    parker, taken = Parker(), []

    class Lane(deque):
        def popleft(self):
            first = super().popleft()
            while self:  # a worker was past the flag when it was set, and takes the rest
                taken.append(super().popleft())
            queue.idle.announced.append(parker)  # the next one finds nothing
            return first

    queue._main = Lane(queue._main)
    queue.compact()
    assert list(queue._main) == tasks[:1]
    assert taken == tasks[1:]
    assert not queue.idle.announced
    assert parker.sleep(0)


def test_a_dead_entry_that_is_taken_is_dropped_from_the_count(queue):
    dead, live = put(queue, 2)
    dead.cancel()
    assert queue.take(Hand()) is dead
    assert not dead._start(0.0)
    queue.drop(dead)
    assert queue.waiting() == (1, 0)
    assert queue.take(Hand()) is live


@pytest.mark.parametrize("priority", [False, True])
def test_counts_of_waiting_tasks_that_were_never_taken(queue, priority):
    first, second = put(queue, 2, priority=priority)
    assert queue.waiting_new() == 2
    assert queue.take(Hand())._start(0.0)
    assert first._requeue()
    queue.put_back(first)
    assert (sum(queue.waiting()), queue.waiting_new()) == (2, 1)
    assert queue.take(Hand()) is first
    assert first._start(0.0)
    queue.taken_again(first)
    assert (sum(queue.waiting()), queue.waiting_new()) == (1, 1)
    assert first._requeue()
    queue.put_back(first)
    assert first.cancel()
    assert queue.take(Hand()) is first
    queue.drop(first)
    assert (sum(queue.waiting()), queue.waiting_new()) == (1, 1)
    assert second.cancel()


@pytest.mark.parametrize("priority", [False, True])
def test_tasks_that_die_while_they_wait_again_are_neither_new_nor_counted_for_ever(queue, priority):
    tasks = put(queue, 3, priority=priority)
    for each in tasks[:2]:  # each was started once
        assert queue.take(Hand()) is each
        assert each._start(0.0)
    for each in tasks[:2]:
        assert each._requeue()
        queue.put_back(each)
    assert (sum(queue.waiting()), queue.waiting_new()) == (3, 1)
    for each in tasks[:2]:
        assert each.cancel()
    for dead in (queue.take(Hand()), queue.take(Hand())):
        queue.drop(dead)
    assert (sum(queue.waiting()), queue.waiting_new()) == (1, 1)


def test_slots_are_given_back_when_a_task_is_taken_or_dies():
    queue = TaskQueue("queue", 2)
    tasks = [task(queue) for _ in range(4)]
    for each in tasks[:2]:
        assert queue.reserve(each, 0)
        queue.put(each)
    assert not queue.reserve(tasks[2], 0)
    assert queue.take(Hand()) is tasks[0]
    assert queue.reserve(tasks[2], 0)
    queue.put(tasks[2])
    assert tasks[1].cancel()
    assert queue.take(Hand()) is tasks[1]  # dead: its seat is not given back twice
    assert queue.reserve(tasks[3], 0)
    assert not queue.reserve(task(queue), 0)


def test_a_re_queued_task_needs_no_seat():
    queue = TaskQueue("queue", 1)
    first, second = task(queue), task(queue)
    assert queue.reserve(first, 0)
    queue.put(first)
    assert queue.take(Hand())._start(0.0)
    assert queue.reserve(second, 0)
    queue.put(second)
    assert first._requeue()
    queue.put_back(first)
    assert sum(queue.waiting()) == 2


def test_a_retry_of_a_task_that_was_settled_meanwhile_is_dropped(queue):
    future = put(queue, 1)[0]
    assert queue.take(Hand())._start(0.0)
    assert future._take_settle()  # a timeout, say, before the worker puts the task back
    assert future._requeue() is False
    assert not future._waits_for_start()


def test_a_retry_that_meets_a_cancellation_is_settled_once(queue):
    """Every order of `_requeue` and `cancel` between their announcements and their looks."""
    for moment in ("before", "between", "after"):
        future = put(queue, 1)[0]
        assert queue.take(Hand())._start(0.0)
        if moment == "before":
            assert future.cancel() is False
            assert future._requeue() is False
            continue
        if moment == "between":

            class Interrupted(TaskFuture):
                def __setattr__(self, name, value):
                    super().__setattr__(name, value)
                    if name == "_may_start":
                        assert self.cancel() is True

            future.__class__ = Interrupted
            assert future._requeue() is True  # to be put back as a dead entry
            queue.put_back(future)
        else:
            assert future._requeue() is True
            queue.put_back(future)
            assert future.cancel() is True
        assert queue.waiting() == (0, 0)
        assert not queue.take(Hand())._start(0.0)
        queue.drop(future)
        assert queue.waiting() == (0, 0)
        assert future._engine.cancelled == 1


# -- retries and suspects --------------------------------------------------------------------------------------------


def retry(queue, *tasks):
    """The first tasks broke their resources. The last one to do so is the first one again."""
    for breakage, each in enumerate(reversed(tasks), start=1):
        each._breakage = breakage
        assert each._requeue()
        queue.put_back(each)


@pytest.mark.parametrize("priority", [False, True])
def test_a_suspect_passes_over_retries_and_others_take_them_first(queue, priority):
    tasks = put(queue, 5, priority=priority)
    retry(queue, *start_first(queue, 2))
    suspect = Hand(proof=0)
    assert queue.take(suspect) is suspect.task is tasks[2]
    assert queue.take(Hand()) is tasks[0]
    assert queue.take(suspect) is tasks[3]
    assert queue.take(Hand()) is tasks[1]
    assert queue.take(suspect) is tasks[4]


@pytest.mark.parametrize("priority", [False, True])
def test_a_hand_gets_the_first_retry_that_is_not_of_a_later_breakage_than_its_proof(
    queue, priority
):
    tasks = put(queue, 4, priority=priority)
    retry(queue, *start_first(queue, 3))
    assert [task._breakage for task in tasks] == [3, 2, 1, 0]
    hand = Hand(proof=2)
    assert [queue.take(hand) for _ in range(4)] == [*tasks[1:], None]
    assert queue.take(Hand(proof=3)) is tasks[0]


def test_a_suspect_takes_a_retry_out_that_was_cancelled(queue):
    put(queue, 1)
    (first,) = start_first(queue, 1)
    retry(queue, first)
    assert first.cancel()
    assert queue.take(Hand(proof=0)) is first


def test_a_suspect_takes_main_tasks_where_only_retries_are_urgent(queue):
    main, urgent = put(queue, 2), put(queue, 1, priority=True)
    retry(queue, *start_first(queue, 1))
    assert queue.take(Hand(proof=0)) is main[0]
    assert queue.take(Hand()) is urgent[0]


def test_a_suspect_that_finds_nothing_but_retries_may_not_leave(queue):
    put(queue, 1)
    (first,) = start_first(queue, 1)
    retry(queue, first)
    queue.close()
    suspect = Hand(proof=0)
    suspect.task = "the last one"
    assert queue.take(suspect) is suspect.task is None
    assert not queue.is_drained()
    assert queue.take(Hand()) is first
    assert queue.is_drained()


def test_an_urgent_task_that_is_put_while_a_suspect_looks_comes_first(queue):
    main = put(queue, 2)
    retry(queue, *start_first(queue, 1))
    urgent = []

    class Lane(deque):
        def __getitem__(self, place):
            if not urgent:  # the priority lane was empty, and there is a main task
                urgent.extend(put(queue, 1, priority=True))
            return super().__getitem__(place)

    queue._main = Lane(queue._main)
    assert queue.take(Hand(proof=0)) is urgent[0]
    assert queue.take(Hand(proof=0)) is main[1]


def test_what_another_takes_while_a_hand_looks_is_not_freed_under_the_lock(queue, monkeypatch):
    class Lock:
        held = False

        def __enter__(self):
            self.held = True

        def __exit__(self, *error):
            self.held = False

    class Thing:
        def __del__(self):
            freed.append(lock.held)

    class Lane(deque):
        def __getitem__(self, place):
            item = super().__getitem__(place)
            # By one that looked at the flag before, and is done with it.
            if not freed and hasattr(item, "thing"):
                self.popleft()
            return item

    freed: list[bool] = []
    lock = Lock()
    put(queue, 2)
    retry(queue, *start_first(queue, 1))
    queue._main[0].thing = Thing()
    queue._main = Lane(queue._main)
    monkeypatch.setattr(queue, "_take_lock", lock)
    hand = Hand()
    assert queue.take(hand) is hand.task
    assert freed == [False]


def test_takers_take_no_lock_once_the_retries_are_gone(monkeypatch):
    queue = TaskQueue("queue", locked=False)
    tasks = put(queue, 4)
    retry(queue, *start_first(queue, 1))
    assert queue.take(Hand())._start(0.0)
    queue.taken_again(tasks[0])
    assert queue.take(Hand()) is tasks[1]
    monkeypatch.setattr(queue, "_take_lock", Untouchable())
    assert queue.take(Hand()) is tasks[2]


@pytest.mark.parametrize("end", ["cancelled", "started"])
def test_the_queue_is_empty_when_its_last_retry_is_gone(queue, end):
    put(queue, 1)
    (first,) = start_first(queue, 1)
    retry(queue, first)
    assert queue.retries() == 1
    if end == "cancelled":
        assert first.cancel()
        queue.compact()
    else:
        assert queue.take(Hand())._start(0.0)
        queue.taken_again(first)
    assert queue.retries() == 0
    assert queue.is_empty()


def test_a_retry_that_dies_while_it_pauses_is_no_retry_in_a_lane_nor_hides_one(queue):
    put(queue, 2)
    dead, waiting = start_first(queue, 2)
    pause(queue, [dead])
    assert dead.cancel()
    assert queue.retries() == 0
    retry(queue, waiting)
    assert queue.retries() == 1


def test_a_kill_ends_the_taking_of_retries_too(queue):
    put(queue, 2)
    retry(queue, *start_first(queue, 1))
    queue.kill()
    assert queue.take(Hand()) is None
    assert not queue.fail_waiting(TaskFuture._withdraw, list.clear)
    assert queue.take(Hand()) is None


def test_a_taker_that_was_past_the_flag_takes_nothing_twice(queue):
    """The first task goes while a taker with the lock looks, as it may where threads switch between any two lines."""
    tasks = put(queue, 4)
    retry(queue, *start_first(queue, 1))
    taken = []

    class Lane(deque):
        def __getitem__(self, place):
            found = super().__getitem__(place)
            if not taken and place == 1:
                taken.append(self.popleft())
            return found

    queue._main = Lane(queue._main)
    taken.append(queue.take(Hand(proof=0)))
    assert taken == tasks[:2]
    assert take_all(queue) == tasks[2:]


# -- retries that pause ----------------------------------------------------------------------------------------------


def pause(queue, tasks, seconds=3600.0):
    for each in tasks:
        assert each._requeue()
        queue.put_back_later(each, seconds)


@pytest.mark.parametrize("priority", [False, True])
def test_a_retry_that_pauses_counts_as_waiting_and_is_not_taken(queue, priority):
    put(queue, 2, priority=priority)
    retry = start_first(queue, 1)
    pause(queue, retry)
    assert queue.waiting() == ((0, 2) if priority else (2, 0))
    assert queue.waiting_new() == 1
    assert retry[0] in queue.entries()
    queue.ripen(time.monotonic())
    assert len(take_all(queue)) == 1
    assert sum(queue.waiting()) == 1
    queue.ripen(math.inf)
    assert sum(queue.waiting()) == 1
    assert take_all(queue) == retry


@pytest.mark.parametrize("priority", [False, True])
def test_retries_whose_pause_is_over_let_one_task_go_first_and_keep_their_order(queue, priority):
    tasks = put(queue, 5, priority=priority)
    first, second = start_first(queue, 2)
    pause(queue, [second], 2.0)
    pause(queue, [first], 1.0)
    queue.ripen(math.inf)
    assert queue.waiting_new() == 3
    assert take_all(queue) == [tasks[2], first, second, *tasks[3:]]


def test_a_retry_goes_behind_those_that_were_there_before_it_and_a_task_that_had_no_turn(queue):
    tasks = put(queue, 5)
    first, second, third = start_first(queue, 3)
    pause(queue, [first])
    queue.ripen(math.inf)
    queue.put_back(second)  # at once
    pause(queue, [third])
    queue.ripen(math.inf)
    assert take_all(queue) == [second, tasks[3], third, first, tasks[4]]


def test_retries_among_themselves_wait_in_line(queue):
    put(queue, 3)
    tasks = start_first(queue, 3)
    for each in tasks:
        pause(queue, [each])
        queue.ripen(math.inf)
    assert take_all(queue) == tasks


def test_a_retry_that_pauses_goes_back_into_its_own_lane(queue):
    main, urgent = put(queue, 2), put(queue, 2, priority=True)
    taken = start_first(queue, 3)
    assert taken == [*urgent, main[0]]
    pause(queue, [urgent[0], main[0]])
    queue.ripen(math.inf)
    assert queue.waiting() == (2, 1)
    assert take_all(queue) == [urgent[0], main[1], main[0]]


def test_a_retry_that_dies_while_it_pauses_is_dropped_with_its_lane_at_the_next_tick(queue):
    put(queue, 2)
    (retry,) = start_first(queue, 1)
    pause(queue, [retry])
    assert retry.cancel()
    assert (sum(queue.waiting()), queue.waiting_new()) == (1, 1)
    queue.compact()
    assert queue._dead[False] == 1, "it is not in its lane yet"
    queue.ripen(time.monotonic())
    assert (sum(queue.waiting()), queue.waiting_new()) == (1, 1)
    queue.compact()
    take_all(queue)
    assert queue.waiting() == (0, 0)
    assert not queue._later


@pytest.mark.parametrize("priority", [False, True])
@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_no_retry_is_lost_or_there_twice_where_there_is_no_memory_for_its_place(
    queue, monkeypatch, fails_at, priority
):
    class Lane(deque):
        """One that has no room for a moment."""

        def insert(self, place, item):
            nonlocal fails_at
            fails_at -= 1
            if fails_at == -1:
                raise MemoryError
            super().insert(place, item)

    monkeypatch.setattr(queue, "_priority" if priority else "_main", Lane())
    tasks = put(queue, 5, priority=priority)
    pause(queue, start_first(queue, 3), 0.0)
    with pytest.raises(MemoryError):
        queue.ripen(math.inf)
    assert sum(queue.waiting()) == 5
    queue.ripen(math.inf)
    assert (sum(queue.waiting()), queue.waiting_new()) == (5, 2)
    assert sorted(map(id, take_all(queue))) == sorted(map(id, tasks))


def test_an_empty_lane_is_not_compacted_for_what_died_beside_it(queue, monkeypatch):
    put(queue, 1)
    (retry,) = start_first(queue, 1)
    pause(queue, [retry])
    assert retry.cancel()
    monkeypatch.setattr(queue, "_compact", None)  # it would wake all workers, tick by tick
    queue.compact()


def test_a_closed_queue_is_not_drained_as_long_as_a_retry_pauses(queue):
    put(queue, 1)
    (retry,) = start_first(queue, 1)
    pause(queue, [retry])
    queue.close()
    assert not queue.is_drained()
    queue.ripen(math.inf)
    assert not queue.is_drained()
    assert take_all(queue) == [retry]
    assert queue.is_drained()


def test_a_sweep_takes_what_pauses(queue):
    tasks = put(queue, 2)
    pause(queue, start_first(queue, 1))
    failed = []
    assert not queue.fail_waiting(failed.append, list.clear)
    assert set(failed) == set(tasks)
    assert not queue._later


def test_a_retry_whose_pause_is_over_wakes_a_worker(queue):
    put(queue, 1)
    (retry,) = start_first(queue, 1)
    pause(queue, [retry], 0.0)
    parker, found = Parker(), []

    def park():
        return queue.idle.park(parker, lambda: queue.take(Hand()), PATIENCE)

    worker = threading.Thread(target=lambda: found.append(park()))
    worker.start()
    eventually(lambda: parker.parked)
    queue.ripen(time.monotonic())
    assert not queue.idle.announced
    worker.join(PATIENCE)
    assert found == [retry]


# -- waiting for room ----------------------------------------------------------------------------------------------


@pytest.fixture
def full():
    """A queue of one seat, which is taken."""
    queue = TaskQueue("queue", 1)
    first = task(queue)
    assert queue.reserve(first, 0)
    queue.put(first)
    return queue


@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("how", ["taken", "settled", "closed"])
def test_a_submitter_that_sleeps_is_woken_by_room_and_by_closing(full, how, timeout):
    waiting, results = task(full), []
    thread = threading.Thread(target=lambda: results.append(full.reserve(waiting, timeout)))
    thread.start()
    eventually(lambda: full.room._line)
    if how == "taken":
        assert full.take(Hand())
    elif how == "settled":
        assert full._main[0].cancel()
    else:
        full.close()
        full.wake_submitters()
    thread.join(PATIENCE)
    assert results == [True]
    if how == "closed":
        with pytest.raises(TaskManagerShutdownError):
            full.put(waiting)
    else:
        full.put(waiting)
        assert waiting in full.entries()


def test_a_bounded_queue_says_how_full_it_is():
    queue = TaskQueue("queue", 3)
    for _ in range(2):
        assert queue.reserve(task(queue), 0)
    assert str(queue.room).startswith("2 of 3")


class Entry:
    _priority, attempts, alive, _refused = False, 0, True, False

    def _waits_for_start(self):
        return self.alive


@pytest.mark.slow
def test_a_dead_entry_that_is_taken_out_while_somebody_counts_is_not_counted_as_waiting():
    """The lane's length is read first; the count of the dead must not shrink before it is read."""
    queue = TaskQueue("q")

    class Lane(type(queue._main)):
        def __len__(self):
            length = super().__len__()
            if length and self[0] is dead:  # another thread, at the worst moment
                thread = threading.Thread(target=lambda: queue.drop(self.popleft()))
                thread.start()
                thread.join(0.2)
                others.append(thread)
            return length

    others = []
    dead, live = Entry(), Entry()
    queue._main = Lane([dead, live])
    dead.alive = False
    queue._dead[False] = 1
    assert queue.waiting_new() <= 1
    for thread in others:
        thread.join(PATIENCE)


class WatchedLock:
    """An RLock that calls `look` in its holder's thread each time it was released, as another thread might run then."""

    def __init__(self, look):
        self.lock = threading.RLock()
        self.look = look
        self.looks = False

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        if not self.looks:
            self.looks = True
            self.look()
            self.looks = False


@pytest.mark.parametrize("ended_by", ["a kill", "a compaction"])
def test_a_dead_entry_never_counts_as_a_live_one_on_its_way_out(queue, ended_by):
    tasks, counts = put(queue, 4), []
    queue._dead_lock = WatchedLock(lambda: counts.append(queue.waiting_new()))
    if ended_by == "a kill":
        queue.kill()
        queue.fail_waiting(TaskFuture.cancel, list.clear)
    else:
        for each in tasks[:3]:
            each.cancel()
        queue.compact()
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == (0 if ended_by == "a kill" else 1)
