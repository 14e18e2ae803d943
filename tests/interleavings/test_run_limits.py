"""The limit of a run: the call returns, or its time is up, and never the next attempt pays."""

from __future__ import annotations

import pytest

from tasker._tasks.run_limit import RunLimit
from tests.support.exploring import Queued, catches, exhaust
from tests.support.futures import VALUES

pytestmark = pytest.mark.slow


class TimeIsUp(Queued):
    """A task that runs, and the timer that ends this."""

    threads = ("fire", "work")

    def __init__(self):
        super().__init__()
        self.completed = 0
        self.future = self.task()
        self.run()

    def run(self):
        assert self.future._start(0.0)
        self.context = self.future._make_context(VALUES)
        self.limit = RunLimit(self.context, self.future, 5.0)

    def entry_died(self, future):
        self.died += 1

    def fire(self):
        self.limit._time_is_up()

    def returns(self):
        self.limit.end()
        if self.future._take_settle():
            self.completed += 1
            self.future._publish(None, 42)

    def check(self):
        assert self.completed + self.failed == 1
        assert self.future.done()
        assert not self.settling


class TimeIsUpAsItReturns(TimeIsUp):
    def work(self):
        self.returns()


class TimeIsUpAsItBreaks(TimeIsUp):
    """The resource of the worker broke: it puts the task back, unless the time was up."""

    def work(self):
        self.limit.end()
        self.put_back = self.future._requeue()
        if not self.put_back and self.future._take_settle():
            self.completed += 1
            self.future._publish(ValueError("the resource is broken"))

    def check(self):
        if self.put_back:
            assert not self.failed
            self.run()
            self.returns()
            assert not self.context.cancelled()
        super().check()


@pytest.mark.parametrize("world", [TimeIsUpAsItReturns, TimeIsUpAsItBreaks])
def test_one_attempt_ends_once_and_the_next_is_left_alone(world):
    exhaust(world, preemptions=2)


def test_a_limit_that_looks_at_the_number_of_the_attempt_alone_is_caught(monkeypatch):
    def time_is_up(self):
        if self._task.attempts == self._attempt:
            self._task._run_too_long(self._seconds)

    monkeypatch.setattr(RunLimit, "_time_is_up", time_is_up)
    assert catches(TimeIsUpAsItBreaks, preemptions=2)
