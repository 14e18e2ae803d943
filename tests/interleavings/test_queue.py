"""Putting and taking: no task is lost between submitters, a worker that goes to sleep, and the closing."""

from __future__ import annotations

import pytest

from tasker import TaskManagerShutdownError
from tasker._pool.queue import TaskQueue
from tasker._pool.worker import Worker
from tasker._sync.parking import ParkingLot
from tests.support.exploring import Queued, catches, exhaust, sample
from tests.support.hands import Hand

pytestmark = pytest.mark.slow


class PutAndGet(Queued):
    """A submitter, and a worker that goes to sleep."""

    threads = ("put", "get")
    locked = False

    def __init__(self):
        super().__init__()
        self.tasks = [self.task() for name in self.threads if name.startswith("put")]
        self.consumer = self.worker()
        self.taken = []

    def put(self):
        self.queue.put(self.tasks[0])

    def put_another(self):
        self.queue.put(self.tasks[1])

    def get(self):
        while len(self.taken) < len(self.tasks):
            self.taken.append(self.consumer._next_task())

    def check(self):
        assert set(self.taken) == set(self.tasks)
        assert self.queue.waiting() == (0, 0)
        assert (
            self.queue.idle.announced == []
        )  # listed while busy, it would get wake-ups meant for others


class PutAndGetLocked(PutAndGet):
    """The same where threads run at once."""

    locked = True


class PutAndGetFromTheColdEnd(PutAndGet):
    """The same with a worker whose last task failed."""

    def __init__(self):
        super().__init__()
        self.consumer._failed_at = self.consumer.shard.taken


class PutAndGetFromTheColdEndLocked(PutAndGetFromTheColdEnd):
    locked = True


class TwoPuts(PutAndGet):
    """Two submitters, and one worker that goes to sleep."""

    threads = ("put", "put_another", "get")


class PutTwice(PutAndGet):
    """A submitter of two tasks, and two workers that go to sleep and want one each."""

    threads = ("put_twice", "get", "get_elsewhere")

    def __init__(self):
        super().__init__()
        self.tasks = [self.task(), self.task()]
        self.other_consumer = self.worker()

    def put_twice(self):
        self.put()
        self.put_another()

    def get(self):
        self.taken.append(self.consumer._next_task())

    def get_elsewhere(self):
        self.taken.append(self.other_consumer._next_task())


class PutTwicePastABusyWorker(PutTwice):
    """The same with one worker that goes to sleep, and one that is awake and may be faster than it."""

    threads = ("put_twice", "get", "take")

    def take(self):
        if (task := self.queue.take(Hand())) is not None:
            self.taken.append(task)

    def check(self):
        assert set(self.taken) <= set(self.tasks)
        assert sum(self.queue.waiting()) == 2 - len(self.taken)


class PutAndLeave(Queued):
    """A submitter, and a worker that closes the queue, finishes what is in it, and leaves."""

    threads = ("put", "close_and_drain")

    def __init__(self):
        super().__init__()
        self.future = self.task()
        self.consumer = self.worker()
        self.refused = False
        self.taken = []

    def put(self):
        try:
            self.queue.put(self.future)
        except TaskManagerShutdownError:
            self.refused = True

    def close(self):
        self.queue.close()
        self.consumer.parker.wake()

    def drain(self):
        while (task := self.consumer._next_task()) is not None:
            if task._start(0.0):
                self.taken.append(task)
            else:
                self.queue.drop(task)

    def close_and_drain(self):
        self.close()
        self.drain()

    def check(self):
        assert self.taken == ([] if self.refused else [self.future])
        assert self.future.cancelled() == self.refused
        assert self.queue.waiting() == (0, 0)


class PutAndClose(PutAndLeave):
    """The same with a worker that sleeps or is about to."""

    threads = ("put", "close", "drain")


# -- put against get -------------------------------------------------------------------------------------------------


def park_without_a_second_look(self, parker, look, timeout=-1.0):
    found = look()
    if found is None:
        self.announced.append(parker)
        parker.sleep(timeout)
        found = look()
    return found


def park_that_stays_listed(self, parker, look, timeout=-1.0):
    self.announced.append(parker)
    found = look()
    if found is None:
        parker.sleep(timeout)
        found = look()
    return found


def put_that_wakes_first(self, task):
    if self.idle.announced:
        self.idle.wake_one()
    self._main.append(task)


BROKEN_HANDOVERS = [
    (ParkingLot, "park", park_without_a_second_look),
    (ParkingLot, "park", park_that_stays_listed),
    (TaskQueue, "put", put_that_wakes_first),
]


def look_that_goes_to_the_cold_end_last(self, look):
    found = look()
    self._queue.idle.go_to_cold_end(self.parker)
    return found


@pytest.mark.parametrize("world", [PutAndGet, PutAndGetLocked])
def test_a_worker_that_goes_to_sleep_gets_the_task_that_is_put(world):
    exhaust(world)


@pytest.mark.parametrize("world", [PutAndGetFromTheColdEnd, PutAndGetFromTheColdEndLocked])
def test_a_worker_that_goes_to_sleep_at_the_cold_end_gets_the_task_that_is_put(world):
    exhaust(world, preemptions=2)
    sample(world, 100)


def test_a_worker_that_looks_before_it_is_at_the_cold_end_is_caught(monkeypatch):
    monkeypatch.setattr(Worker, "_look_from_cold_end", look_that_goes_to_the_cold_end_last)
    assert catches(PutAndGetFromTheColdEnd)


@pytest.mark.parametrize(("where", "name", "broken"), BROKEN_HANDOVERS)
def test_a_handover_that_loses_the_worker_is_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(PutAndGet)


# -- two puts against one idle worker --------------------------------------------------------------------------------


def test_one_worker_gets_both_tasks_that_are_put_at_once():
    exhaust(TwoPuts, preemptions=1)


def test_one_worker_gets_both_tasks_whatever_the_schedule():
    sample(TwoPuts, 100)


@pytest.mark.parametrize(("where", "name", "broken"), BROKEN_HANDOVERS)
def test_two_puts_that_lose_the_worker_are_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(TwoPuts, preemptions=1)


# -- two puts against two idle workers, one of which is woken by the other ---------------------------------------------


def wake_next_that_wakes_nobody(self):
    self.waking = False


@pytest.mark.parametrize("world", [PutTwice, PutTwicePastABusyWorker])
def test_workers_that_sleep_get_the_tasks_that_are_put_one_after_the_other(world):
    exhaust(world, preemptions=1)


@pytest.mark.parametrize("world", [PutTwice, PutTwicePastABusyWorker])
def test_workers_that_sleep_get_the_tasks_whatever_the_schedule(world):
    sample(world, 100)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [*BROKEN_HANDOVERS[:2], (TaskQueue, "wake_next", wake_next_that_wakes_nobody)],
)
def test_a_worker_that_is_not_woken_for_the_second_task_is_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(PutTwice, preemptions=1)


# -- put against close -----------------------------------------------------------------------------------------------


def put_that_does_not_look_again(self, task):
    if self.closed:
        raise self.refusal()
    self._main.append(task)
    if self.idle.announced:
        self.idle.wake_one()


def drained_that_looks_at_the_lanes_first(self):
    return not self._main and not self._priority and self.closed


def test_a_task_put_during_the_closing_is_run_or_refused():
    exhaust(PutAndLeave, preemptions=2)
    exhaust(PutAndClose, preemptions=1)


def test_a_task_put_during_the_closing_is_run_or_refused_whatever_the_schedule():
    sample(PutAndLeave, 100)
    sample(PutAndClose, 100)


def test_a_put_that_does_not_look_at_the_flag_again_is_caught(monkeypatch):
    monkeypatch.setattr(TaskQueue, "put", put_that_does_not_look_again)
    assert catches(PutAndLeave)
    assert catches(PutAndClose, preemptions=1)


def test_a_worker_that_looks_at_the_lanes_before_the_flag_is_caught(monkeypatch):
    monkeypatch.setattr(TaskQueue, "is_drained", drained_that_looks_at_the_lanes_first)
    assert catches(PutAndClose, preemptions=1)
