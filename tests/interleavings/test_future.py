"""The rights of a task: one thread starts it, one settles it, and everybody who waits is told."""

from __future__ import annotations

import contextlib
from concurrent.futures._base import FINISHED

import pytest

import tasker._tasks.future
from tasker._tasks.future import TaskFuture
from tests.support.exploring import Queued, catches, exhaust, sample

pytestmark = pytest.mark.slow


class Future(Queued):
    """A task that waits, and the worker that takes it."""

    def __init__(self):
        super().__init__()
        self.future = self.task()
        self.completed = self.dropped = 0

    def entry_died(self, future):
        self.died += 1

    def work(self):
        """As Worker._serve does."""
        if not self.future._start(0.0):
            self.dropped += 1
        elif self.future._take_settle():
            self.completed += 1
            self.future._publish(None, 42)

    def check(self):
        assert self.completed + self.failed + self.cancelled == 1
        assert self.died == self.dropped
        assert self.future.done()


# -- cancel against start --------------------------------------------------------------------------------------------


class CancelAndStart(Future):
    threads = ("cancel", "work")

    def cancel(self):
        self.said_yes = self.future.cancel()

    def check(self):
        super().check()
        assert self.said_yes == self.future.cancelled() == (self.future.attempts == 0)


class CancelAndRetry(Future):
    """The resource of the worker broke: it puts the task back, unless that is cancelled meanwhile."""

    threads = ("cancel", "retry")

    def __init__(self):
        super().__init__()
        assert self.future._start(0.0)

    def cancel(self):
        self.said_yes = self.future.cancel()

    def retry(self):
        self.put_back = self.future._requeue()
        if not self.put_back and self.future._take_settle():
            self.failed += 1
            self.future._publish(ValueError("the resource is broken"))

    def check(self):
        if self.put_back:
            self.work()
        super().check()
        assert self.said_yes == self.future.cancelled()
        assert not self.said_yes or self.future.attempts == 1
        assert (
            not self.future._cancel_asked or not self.completed
        )  # cancelled while it ran: never retried


def take_that_tests_and_then_sets(self):
    if not hasattr(self, "_may_start"):
        return False
    with contextlib.suppress(AttributeError):
        del self._may_start
    return True


def requeue_that_looks_before_it_announces(self):
    if self._cancel_asked or not hasattr(self, "_may_settle"):
        return False
    self._may_start = True
    return True


def test_a_task_is_either_cancelled_or_started():
    exhaust(CancelAndStart)


def test_a_cancel_that_tests_and_then_sets_is_caught(monkeypatch):
    monkeypatch.setattr(TaskFuture, "_take_start", take_that_tests_and_then_sets)
    assert catches(CancelAndStart)


def test_a_task_that_is_put_back_is_either_cancelled_or_started_again():
    exhaust(CancelAndRetry)


def test_a_retry_that_looks_before_it_announces_is_caught(monkeypatch):
    monkeypatch.setattr(TaskFuture, "_requeue", requeue_that_looks_before_it_announces)
    assert catches(CancelAndRetry)


# -- result() against a wait with a timeout --------------------------------------------------------------------------


class ResultAndTimedWait(Future):
    """One waits for the outcome, and one only for a second."""

    threads = ("wait", "wait_a_second", "work")

    def wait(self):
        self.got = self.future.result()

    def wait_a_second(self):
        with contextlib.suppress(TimeoutError):
            assert self.future.result(1.0) == 42

    def check(self):
        super().check()
        assert self.got == 42


class ResultAndTimedOut(ResultAndTimedWait):
    """The second one always gives up, and settles the task."""

    threads = ("wait", "give_up_and_work")

    def give_up_and_work(self):
        with pytest.raises(TimeoutError):
            self.future.result(1.0)
        self.work()


class Wait(ResultAndTimedWait):
    threads = ("wait", "work")


class TimedWait(ResultAndTimedWait):
    threads = ("wait_a_second", "work")
    got = 42


def wait_that_does_not_look_again(self, timeout):
    if self._final is None:
        sleeper = tasker._tasks.future.new_sleep_lock()
        self._announce(sleeper)
        sleeper.acquire()


def announce_without_the_lock(self, waiter):
    if self._waiting is None:
        self._waiting = [waiter]
    else:
        self._waiting.append(waiter)


def take_back_that_forgets_all(self, waiter):
    self._waiting = []
    return True


def publish_that_wakes_first(self, exception, result=None, state=FINISHED):
    callbacks = self._tell_waiters()
    self._exception, self._result = exception, result
    self._final = state
    return callbacks


BROKEN_WAITS = [
    (Wait, "_wait", wait_that_does_not_look_again),
    (Wait, "_publish", publish_that_wakes_first),
    (ResultAndTimedOut, "_announce", announce_without_the_lock),
    (ResultAndTimedOut, "_take_back", take_back_that_forgets_all),
]


def test_who_gives_up_waiting_takes_nobody_with_him():
    exhaust(ResultAndTimedOut)


@pytest.mark.parametrize("world", [Wait, TimedWait])
def test_who_waits_is_told_or_gives_up(world):
    exhaust(world, clock="explored")


def test_both_are_told_whatever_the_schedule():
    sample(ResultAndTimedWait, 100, clock="explored")


@pytest.mark.parametrize(("world", "name", "broken"), BROKEN_WAITS)
def test_a_wait_that_can_be_forgotten_is_caught(monkeypatch, world, name, broken):
    monkeypatch.setattr(TaskFuture, name, broken)
    assert catches(world)


# -- a timeout against a result --------------------------------------------------------------------------------------


class TimeoutAndResult(Future):
    threads = ("expire", "work")

    def __init__(self):
        super().__init__()
        self.future._deadline = 0.0
        self.called_back = []
        self.future.add_done_callback(lambda done: self.called_back.append(done.exception()))

    def expire(self):
        self.future._expire()

    def work(self):
        if not self.future._start(0.0):
            self.dropped += 1
        elif self.future._take_settle():
            self.completed += 1
            self.future._call_back(self.future._publish(None, 42))

    def check(self):
        super().check()
        assert len(self.called_back) == 1
        assert self.completed == (self.called_back[0] is None)
        assert isinstance(self.future.exception(0), TimeoutError) == self.failed


class TimeoutAndResultAndWaiter(TimeoutAndResult):
    threads = ("expire", "work", "wait")

    def wait(self):
        self.seen = self.future.exception()

    def check(self):
        super().check()
        assert self.seen is self.called_back[0]


def take_without_the_right(self):
    if self._final is not None:
        return False
    with contextlib.suppress(AttributeError):
        del self._may_settle
    return True


def test_a_task_has_one_outcome_when_its_timeout_and_its_result_meet():
    exhaust(TimeoutAndResult)


def test_one_outcome_for_who_waits_whatever_the_schedule():
    sample(TimeoutAndResultAndWaiter, 100)


def test_a_settlement_without_the_right_is_caught(monkeypatch):
    monkeypatch.setattr(TaskFuture, "_take_settle", take_without_the_right)
    assert catches(TimeoutAndResult)
