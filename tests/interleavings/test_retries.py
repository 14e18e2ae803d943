"""Retries that pause: on their way from a worker to its lane they are cancelled, timed out, killed, and drained."""

from __future__ import annotations

import math

import pytest

import tasker._pool.suspicion
from tasker._pool.queue import TaskQueue
from tasker._pool.suspicion import Suspicion
from tasker._tasks.context import ContextCancelledError
from tests.support.exploring import Managed, Queued, catches, exhaust, sample
from tests.support.hands import Hand

pytestmark = pytest.mark.slow

# -- the pause is over -------------------------------------------------------------------------------------------------


class RipenAndGet(Queued):
    """A retry whose pause is over, and a worker that goes to sleep."""

    threads = ("ripen", "get")
    locked = False

    def __init__(self):
        super().__init__()
        self.consumer = self.worker()
        self.retry = self.task()
        self.taken = []
        assert self.retry._start(0.0)
        assert self.retry._requeue()
        self.queue.put_back_later(self.retry, 0.0)

    def ripen(self):
        self.queue.ripen(math.inf)

    def get(self):
        self.taken.append(self.consumer._next_task())

    def check(self):
        assert self.taken == [self.retry]
        assert self.queue.waiting() == (0, 0)
        assert self.queue.idle.announced == []


class RipenAndGetLocked(RipenAndGet):
    """The same where threads run at once."""

    locked = True


class RipenAndLeave(RipenAndGet):
    """The same when the queue is closed: the worker leaves when there is nothing left."""

    threads = ("ripen", "drain")

    def __init__(self):
        super().__init__()
        self.queue.close()

    def drain(self):
        while (task := self.consumer._next_task()) is not None:
            self.taken.append(task)


class RipenAndLeaveLocked(RipenAndLeave):
    locked = True


class RipenAndPut(RipenAndGet):
    """The same, and a submitter; the worker wants both."""

    threads = ("ripen", "put", "get_both")

    def __init__(self):
        super().__init__()
        self.another = self.task()

    def put(self):
        self.queue.put(self.another)

    def get_both(self):
        self.get()
        self.get()

    def check(self):
        assert set(self.taken) == {self.retry, self.another}
        assert self.queue.waiting() == (0, 0)


def ripen_that_wakes_nobody(self, now):
    with self._take_lock, self._dead_lock:
        self._ripen(now)


def empty_that_looks_at_what_pauses_last(self):
    return not (self._main or self._priority or self._kept or self._swept or self._later)


@pytest.mark.parametrize("world", [RipenAndGet, RipenAndGetLocked])
def test_a_worker_that_goes_to_sleep_gets_the_retry_whose_pause_is_over(world):
    exhaust(world, preemptions=1)


@pytest.mark.parametrize("world", [RipenAndLeave, RipenAndLeaveLocked])
def test_no_worker_leaves_before_a_retry_whose_pause_is_over(world):
    exhaust(world, preemptions=1)
    sample(
        world, 100
    )  # the two steps of `do_both` are one to frontrun, unless it goes by instructions


def test_a_worker_gets_the_retry_and_the_task_that_is_put_whatever_the_schedule():
    sample(RipenAndPut, 100)


def test_a_pause_that_ends_unheard_is_caught(monkeypatch):
    monkeypatch.setattr(TaskQueue, "ripen", ripen_that_wakes_nobody)
    assert catches(RipenAndGet)


def test_a_worker_that_leaves_while_a_retry_changes_places_is_caught(monkeypatch):
    monkeypatch.setattr(TaskQueue, "is_empty", empty_that_looks_at_what_pauses_last)
    assert catches(RipenAndLeaveLocked)


# -- what ends a task that is retried --------------------------------------------------------------------------------


class RetryAndEnd(Managed):
    """A worker's resource is broken; the task, whose next attempt has to wait, is ended from outside."""

    threads = ("retry", "end", "tick")

    def __init__(self):
        super().__init__(check_health=lambda error: False, max_retries=9)
        self.worker.task = self.future = self.task()
        assert self.future._start(0.0)
        self.future.attempts = 5
        self.worker.shard.taken += 1

    def retry(self):
        self.worker._failed(self.future, ValueError("broken"))

    def tick(self):
        self.queue.ripen(math.inf)

    def check(self):
        self.finish()
        totals = self.engine.counters.totals()
        assert self.future.done()
        assert totals.completed + totals.failed + totals.cancelled == 1
        assert totals.completed == (
            not self.future.cancelled() and self.future.exception(0) is None
        )
        assert self.queue._count_waiting() == (0, 0)
        assert self.queue.waiting_new() == 0
        assert self.queue.is_empty()

    def finish(self):
        """What ticks and a worker do afterwards."""
        self.tick()
        while (task := self.queue.take(Hand())) is not None:
            if not task._start(0.0):
                self.queue.drop(task)
                continue
            self.queue.taken_again(task)
            self.worker._succeeded_with_collector(task, 42)


class RetryAndCancel(RetryAndEnd):
    def end(self):
        self.future.cancel()


class RetryAndTimeOut(RetryAndEnd):
    def end(self):
        self.future._fail_from_outside(TimeoutError(), ContextCancelledError())


class RetryAndKill(RetryAndEnd):
    """One that is killed while it waits counts as cancelled."""

    def end(self):
        self.lifecycle.request_kill(0.0)
        self.kill_waiting()
        self.lifecycle._cancel_running()

    def kill_waiting(self):
        assert not self.lifecycle._kill_waiting()

    def finish(self):
        self.kill_waiting()
        self.lifecycle._kill_running()


class RetryAndStop(RetryAndEnd):
    """The worker leaves only when its task has had its next attempt."""

    threads = ("retry_and_leave", "end", "tick_on")

    def __init__(self):
        super().__init__()
        self.worker._failures = 0

    def retry_and_leave(self):
        self.retry()
        self.worker.task = None
        # It has another resource.
        self.worker._proof = self.engine.suspicion.last
        while (task := self.worker._next_task()) is not None:
            assert task._start(0.0)
            self.queue.taken_again(task)
            self.worker._succeeded_with_collector(task, 42)

    def end(self):
        self.lifecycle.request_stop()
        self.crew.wake_all(self.queue.idle)

    def tick_on(self):
        while not self.future.done():
            self.tick()
            self.engine.housekeeper._parker.sleep(0.1)
        self.crew.wake_all(self.queue.idle)

    def check(self):
        assert self.future.result(0) == 42
        assert self.queue.is_drained()


def later_without_counting(self, task, pause):
    self._later.append((0.0, task))


def ripen_that_forgets_the_dead(self, now):
    self._later = [entry for entry in self._later if entry[1]._waits_for_start()]
    ripe, self._later = self._later, []
    self._main.extend(task for _, task in ripe)


@pytest.mark.parametrize("world", [RetryAndCancel, RetryAndTimeOut])
def test_a_task_that_is_ended_while_it_is_retried_has_one_outcome(world):
    exhaust(world, preemptions=1)


@pytest.mark.parametrize("world", [RetryAndCancel, RetryAndTimeOut, RetryAndKill, RetryAndStop])
def test_a_task_that_is_ended_while_it_is_retried_has_one_outcome_whatever_the_schedule(world):
    sample(world, 40)


@pytest.mark.parametrize(
    ("name", "broken"),
    [("put_back_later", later_without_counting), ("ripen", ripen_that_forgets_the_dead)],
)
def test_retries_that_are_miscounted_are_caught(monkeypatch, name, broken):
    monkeypatch.setattr(TaskQueue, name, broken)
    assert catches(RetryAndCancel, preemptions=1)


# -- suspects --------------------------------------------------------------------------------------------------------


class SuspectTakes(Managed):
    """A worker's resource breaks, and it makes another. Another worker, whose resource is a suspect then, takes tasks.

    The other one has a retry only if it finished a task after the wave."""

    threads = ("fail_and_go_on", "serve")

    def __init__(self):
        super().__init__(check_health=lambda error: False, max_retries=9, worker_count=2)
        # where threads switch between any two lines, a take without the lock may get one
        self.queue._take = self.queue.take = self.queue._take_locked
        self.suspect = self.crew._enlist(lambda: True)
        self.worker.holds_resource = self.suspect.holds_resource = True
        self.worker.task = self.future = self.task()
        assert self.future._start(0.0)
        self.worker.shard.taken += 1
        self.another = self.task()
        self.queue.put(self.another)
        self.proved = False

    def fail_and_go_on(self):
        self.worker._failed(self.future, ValueError("broken"))
        self.worker._proof = self.engine.suspicion.last
        while self.run(self.worker, self.next_of(self.worker)):
            pass

    def serve(self):
        while self.run(self.suspect, task := self.next_of(self.suspect)):
            assert self.proved or task is not self.future, "a suspect got the retry"
            self.proved = self.engine.suspicion.past == self.engine.suspicion.last > 1

    def next_of(self, worker):
        return self.queue.take(worker)

    def run(self, worker, task):
        if task is not None:
            assert task._start(0.0)
            if task.attempts > 1:
                self.queue.taken_again(task)
            worker._succeeded_with_collector(task, 42)
            worker.task = None
        return task is not None

    def check(self):
        assert (self.future.result(0), self.another.result(0)) == (42, 42)
        assert self.future.attempts == 2
        assert self.queue.is_empty()


class SuspectTakesAfterTheWave(SuspectTakes):
    """The other one alone, when the wave ends in the meantime."""

    threads = ("serve", "end_wave")

    def __init__(self):
        super().__init__()
        self.worker._failed(self.future, ValueError("broken"))

    def end_wave(self):
        self.engine.suspicion._end_wave()

    def check(self):
        self.worker._proof = self.engine.suspicion.last
        self.run(self.worker, self.next_of(self.worker))
        super().check()


class SuspectParks(SuspectTakes):
    """The same when both sleep in between, until the queue is drained."""

    threads = ("fail_and_go_on", "serve", "wake")

    def __init__(self):
        super().__init__()
        self.queue.close()
        self.left = []

    def next_of(self, worker):
        task = worker._next_task()
        if task is None:
            self.left.append(worker)
        return task

    def wake(self):
        """What the steps of the closing do."""
        while len(self.left) < 2:
            self.engine.housekeeper._parker.sleep(0.1)
            self.crew.wake_all(self.queue.idle)


@pytest.fixture
def short_waves(monkeypatch):
    monkeypatch.setattr(tasker._pool.suspicion, "WAVE_S", 0.0)


def broke_without_a_number(self, owner, *, counts):
    return 0


def end_wave_that_lets_all_off(self):
    for worker in self._engine.crew.members:
        worker.trust(self.last)
    self.past = self.last


def put_back_without_the_flag(self, task):
    with self._take_lock, self._dead_lock:
        self._main.appendleft(task)
        self._requeued[False] += 1
    self.idle.wake_one()


def test_a_suspect_gets_no_retry_and_the_retry_is_run():
    exhaust(SuspectTakes, preemptions=1)


@pytest.mark.usefixtures("short_waves")
def test_a_suspect_gets_no_retry_before_it_has_finished_a_task_after_the_wave():
    exhaust(SuspectTakesAfterTheWave, preemptions=1)


def test_a_suspect_gets_no_retry_whatever_the_schedule():
    sample(SuspectParks, 40)


@pytest.mark.usefixtures("short_waves")
def test_a_wave_whose_end_is_taken_for_a_proof_is_caught(monkeypatch):
    monkeypatch.setattr(Suspicion, "_end_wave", end_wave_that_lets_all_off)
    assert catches(SuspectTakesAfterTheWave, preemptions=1)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Suspicion, "broke", broke_without_a_number),
        (TaskQueue, "put_back", put_back_without_the_flag),
    ],
)
def test_a_suspect_that_gets_a_retry_is_caught(monkeypatch, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    assert catches(SuspectTakes, preemptions=1)
