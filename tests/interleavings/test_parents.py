"""A task and the context that it was submitted with: it ends with that, whatever happens to it at that moment."""

from __future__ import annotations

import pytest

from tasker import ContextCancelledError, DeadlineExceededError, background, with_cancel
from tasker._tasks.context import Context, new_task_context
from tasker._tasks.future import TaskFuture
from tasker._tasks.parent import Tie
from tests.support.contexts import told_by
from tests.support.exploring import Queued, catches, exhaust
from tests.support.futures import VALUES

pytestmark = pytest.mark.slow


class Tied(Queued):
    """A task that waits, its parent, and the worker that takes it."""

    threads = ("end", "work")
    error = ContextCancelledError("cancelled")

    def __init__(self):
        super().__init__()
        self.parent = with_cancel(background())
        self.future = self.task()
        self.future._set_parent(self.parent, VALUES)
        self.completed = self.dropped = 0
        self.context = None

    def entry_died(self, future):
        self.died += 1

    def end(self):
        self.parent._end(self.error, None, [])

    def start(self):
        if self.future._start(0.0):
            self.context = self.future._make_context(VALUES)
        else:
            self.dropped += 1

    def returns(self):
        if self.context is not None and self.future._take_settle():
            self.completed += 1
            self.future._publish(None, 42)

    def settled_once(self):
        assert self.completed + self.failed + self.cancelled == 1
        assert self.died == self.dropped
        assert self.future.done()
        assert not told_by(self.parent).dependants
        assert not self.settling


class EndAndStart(Tied):
    """The task runs on."""

    def work(self):
        self.start()

    def check(self):
        assert self.future.cancelled() == (self.context is None) == (self.dropped == 1)
        if self.context is not None:
            assert self.context.cancelled()
            assert not self.future._requeue()


class DeadlineAndStart(EndAndStart):
    """It fails, whether it has begun or not."""

    error = DeadlineExceededError("passed")

    def check(self):
        if self.context is not None:
            assert self.context.cancelled()
        self.settled_once()
        assert self.failed == 1


class EndAndReturn(Tied):
    def work(self):
        self.start()
        self.returns()

    def check(self):
        self.settled_once()
        assert self.future.cancelled() == (self.future.attempts == 0)


class DeadlineAndReturn(EndAndReturn):
    error = DeadlineExceededError("passed")

    def check(self):
        self.settled_once()
        assert self.future._values is None or self.failed


class EndAndRetry(Tied):
    """The resource of the worker broke: it puts the task back, unless that has ended meanwhile."""

    def __init__(self):
        super().__init__()
        self.start()

    def work(self):
        self.put_back = self.future._requeue()
        if not self.put_back and self.future._take_settle():
            self.failed += 1
            self.future._publish(ValueError("the resource is broken"))

    def check(self):
        if self.put_back:
            self.start()
            self.returns()
        self.settled_once()
        assert not self.completed
        assert self.future.attempts == 1


class EndAndSubmission(Tied):
    """Its parent ends while it is submitted."""

    threads = ("end", "submit")

    def __init__(self):
        Queued.__init__(self)
        self.parent = with_cancel(background())
        self.future = self.task()
        self.completed = self.dropped = 0
        self.context = None

    def submit(self):
        self.future._set_parent(self.parent, VALUES)

    def check(self):
        self.start()
        self.settled_once()
        assert self.future.cancelled()


@pytest.mark.parametrize(
    "world",
    [EndAndStart, EndAndReturn, EndAndRetry, EndAndSubmission],
)
def test_a_task_ends_with_its_parent_exactly_once(world):
    exhaust(world, preemptions=2)


@pytest.mark.parametrize("world", [DeadlineAndStart, DeadlineAndReturn])
def test_a_task_fails_at_the_deadline_of_its_parent_exactly_once(world):
    exhaust(world, preemptions=1)


def test_an_end_that_looks_once_for_a_task_that_is_put_back_is_caught(monkeypatch):
    def look_once(self, error, cause, contexts, things):
        task = self._task
        if task is not None and not task._withdraw(aside=True):
            task._cancel_asked = True

    monkeypatch.setattr(Tie, "parent_ended", look_once)
    assert catches(EndAndRetry)


def test_a_tie_that_looks_at_its_parent_first_is_caught(monkeypatch):
    def look_first(self, dependant):
        error = self._error
        if error is None:
            with self._lock:
                self._followed().dependants[dependant] = None
        return error

    monkeypatch.setattr(Context, "_add_dependant", look_first)
    assert catches(EndAndSubmission)


def test_a_context_that_is_made_without_a_look_is_caught(monkeypatch):
    def make_and_do_not_look(self, values):
        self._context = new_task_context(values)
        return self._context

    monkeypatch.setattr(TaskFuture, "_make_context", make_and_do_not_look)
    assert catches(EndAndStart)
