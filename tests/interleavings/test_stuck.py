"""A call that returns while it is aborted, or abandoned."""

from __future__ import annotations

import contextlib

import pytest

from tasker import ContextCancelledError
from tasker._pool.abandonment import Abandonment
from tasker._pool.crew import Crew
from tasker._tasks.abort import Abort
from tests.support.exploring import Queued, World, catches, exhaust, sample

pytestmark = pytest.mark.slow


class Ended:
    """A context that has ended. Who sleeps for it knows that."""

    def _remove_sleeper(self, sleeper):
        pass

    def err(self):
        return ContextCancelledError("context cancelled")


# -- abort against return --------------------------------------------------------------------------------------------


class AbortAndReturn(World):
    """A call returns as its abort begins; then the next call uses the resource."""

    threads = ("call", "abort")

    def __init__(self):
        super().__init__()
        self.aborts = 0
        self.users = 0
        self.shared = False
        self.abortion = Abort(Ended(), self.on_abort, lambda job: job())

    def use(self):
        self.users += 1
        self.shared = self.shared or self.users > 1
        self.users -= 1

    def on_abort(self):
        self.aborts += 1
        self.use()

    def call(self):
        self.abortion.end()
        self.use()

    def abort(self):
        self.abortion.release()

    def check(self):
        assert not self.shared
        assert self.aborts == self.abortion.was_called


class AbortAndReturnTwice(AbortAndReturn):
    """An exception struck the end of the call, which is made again."""

    def call(self):
        self.abortion.end()
        self.abortion.end()
        self.use()


def end_without_waiting(self, error=None):
    with contextlib.suppress(AttributeError):
        del self._may_abort


def end_without_the_right(self, error=None):
    if not self.was_called:
        self._is_over = True
    self._wait()


@pytest.mark.parametrize("world", [AbortAndReturn, AbortAndReturnTwice])
def test_an_abort_and_the_next_call_never_use_the_resource_at_once(world):
    exhaust(world)


def test_an_abort_leaves_the_next_call_alone_whatever_the_schedule():
    sample(AbortAndReturn, 100)


@pytest.mark.parametrize("broken", [end_without_waiting, end_without_the_right])
def test_an_end_that_leaves_an_abort_to_the_next_call_is_caught(monkeypatch, broken):
    monkeypatch.setattr(Abort, "end", broken)
    assert catches(AbortAndReturn)


# -- abandon against return ------------------------------------------------------------------------------------------


class Told:
    """A logger that is told of faults."""

    def fault(self, level, msg, /, *args):
        assert msg % args


class AbandonAndReturn(Queued):
    """A call returns as its time is up. Its worker serves on, or leaves."""

    threads = ("call", "timer")

    def __init__(self):
        super().__init__()
        self.service_logger = Told()
        self.crew = Crew(
            "crew",
            1,
            1,
            lambda name, leave: self.worker(),
            lambda worker: None,
            lambda worker: None,
            self.logger,
        )
        self.first = self.crew._enlist(lambda: True)
        self.second = None
        self.future = self.first.task = self.task()
        assert self.future._start(0.0)
        self.future._cancel_asked = True
        self.completed = 0
        self.abandonment = Abandonment(self, Ended(), self.first, 1.0)

    def is_killed(self):
        return False

    def strike_off(self, worker):
        """The burst thread's tick hires another one."""
        self.crew.strike_off(worker)
        self.second = self.second or self.crew._enlist(lambda: True)

    def call(self):
        self.abandonment.end()
        if self.future._take_settle():
            self.completed += 1
            self.future._publish(None, 42)
        if self.first.dismissed:
            self.crew.leave(self.first)

    def timer(self):
        self.abandonment._time_is_up()

    def check(self):
        serves = self.first.dismissed is False
        assert self.crew.abandoned == ()
        assert self.crew.members == ((self.first,) if serves else (self.second,))
        assert self.completed + self.failed == 1
        assert self.future.done()


class AbandonAndStay(AbandonAndReturn):
    """The thread is not seen again."""

    threads = ("timer",)

    def check(self):
        assert self.crew.abandoned == (self.first,)
        assert self.crew.members == (self.second,)
        assert self.failed == 1


def abandon_without_the_right(self, worker, call):
    with self._lock:
        self.abandoned = (*self.abandoned, worker)
    del call.may_return
    return True


def return_without_the_right(self, error=None):
    if self._is_abandoned:
        self._comes_back()


@pytest.mark.parametrize("world", [AbandonAndReturn, AbandonAndStay])
def test_a_call_returns_or_is_abandoned(world):
    exhaust(world)


def test_a_call_returns_or_is_abandoned_whatever_the_schedule():
    sample(AbandonAndReturn, 100)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (Crew, "abandon", abandon_without_the_right),
        (Abandonment, "end", return_without_the_right),
    ],
)
def test_a_worker_that_is_abandoned_and_serves_on_is_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(AbandonAndReturn)
