"""Closing: stops and kills that meet, and a task that ends while its manager is killed."""

from __future__ import annotations

import pytest

from tasker import TaskManagerKilledError
from tasker._pool.lifecycle import KILLING, STOPPING, Lifecycle
from tasker._tasks.future import TaskFuture
from tests.support.exploring import Managed, Sleeper, catches, exhaust, sample

pytestmark = pytest.mark.slow

# -- kill against a finishing task -----------------------------------------------------------------------------------


class KillAndFinish(Managed):
    """The time that a kill gives is over in the moment in which the task ends."""

    threads = ("kill", "finish")

    def __init__(self):
        super().__init__()
        self.worker.task = self.future = self.task()
        assert self.future._start(0.0)
        self.worker.shard.taken += 1

    def kill(self):
        self.lifecycle._kill_running()

    def finish(self):
        self.worker._succeeded_with_collector(self.future, 42)

    def check(self):
        totals = self.engine.counters.totals()
        error = self.future.exception(0)
        assert (totals.completed, totals.failed) == ((1, 0) if error is None else (0, 1))
        assert error is None or isinstance(error, TaskManagerKilledError)
        assert self.future.cancelled() is False


class KillAndWork(Managed):
    """A manager is killed whose worker is about to take a task, runs it, or has run it."""

    threads = ("kill", "closing", "work")

    def __init__(self):
        super().__init__()
        self.future = self.task()
        self.queue.put(self.future)

    def kill(self):
        assert not self.engine.kill(0.0).drained

    def check(self):
        super().check()
        totals = self.engine.counters.totals()
        error = self.future.exception(0)
        assert totals.completed == (error is None)
        assert error is None or isinstance(error, TaskManagerKilledError)


def fail_without_the_right(self, error, ending):
    if self._final is not None:
        return False
    self._take_settle()
    self._engine.record_failure(self, error, was_waiting=False)
    self._publish(error)
    return True


def test_a_task_that_ends_while_it_is_killed_has_one_outcome():
    exhaust(KillAndFinish)


def test_a_killed_task_has_one_outcome_whatever_the_schedule():
    sample(KillAndWork, 25)


def test_a_kill_without_the_right_is_caught(monkeypatch):
    monkeypatch.setattr(TaskFuture, "_fail_from_outside", fail_without_the_right)
    assert catches(KillAndFinish)


# -- two stops -------------------------------------------------------------------------------------------------------


class TwoStops(Managed):
    """A manager without workers is stopped twice."""

    threads = ("stop", "stop_too", "closing")
    workers = 0

    def __init__(self):
        super().__init__()
        self.reports = []

    def stop(self):
        self.reports.append(self.engine.stop(None))

    stop_too = stop

    def check(self):
        super().check()
        assert all(report == self.reports[0] for report in self.reports)
        assert self.reports[0].drained


class OneStop(TwoStops):
    """Not exhausted: frontrun now and then gets stuck on it, long after it has caught what is broken."""

    threads = ("stop", "closing")


class LateStop(Managed):
    """A stop is asked for, and the manager closed, while another stop begins."""

    threads = ("stop", "stop_and_close")
    workers = 0

    def stop(self):
        self.lifecycle.request_stop()

    def stop_and_close(self):
        self.stop()
        self.closing()


def close_that_tells_first(self, abandoned, close=Lifecycle._close):
    self._ended = True
    close(self, abandoned)


def test_two_stops_agree_whatever_the_schedule():
    sample(TwoStops, 40)


def test_a_stop_that_comes_late_does_not_reopen_the_closing():
    exhaust(LateStop)


def test_a_closing_that_is_told_before_it_is_done_is_caught(monkeypatch):
    monkeypatch.setattr(Lifecycle, "_close", close_that_tells_first)
    assert catches(OneStop)


# -- stop against kill -----------------------------------------------------------------------------------------------


class StopAndKillRequests(Managed):
    threads = ("stop", "kill")
    workers = 0

    def stop(self):
        self.lifecycle.request_stop()

    def kill(self):
        self.lifecycle.request_kill(5.0)

    def check(self):
        assert self.lifecycle.state == KILLING
        assert self.queue.closed


class StopAndKill(KillAndWork):
    """Both, while a worker has a task."""

    threads = ("stop", "kill", "closing", "work")

    def stop(self):
        self.engine.stop(None)

    def kill(self):
        self.engine.kill(0.0)


class KillAStopThatTakesLong(KillAndWork):
    """A stop waits for a task that takes two seconds."""

    def __init__(self):
        super().__init__()
        self.future._fn = lambda resource: Sleeper().acquire(timeout=2.0)
        self.lifecycle.request_stop()

    def check(self):
        super().check()
        assert isinstance(self.future.exception(0), TaskManagerKilledError)


def kill_that_does_not_overtake(self, timeout, kill=Lifecycle.request_kill):
    if self.state < STOPPING:
        kill(self, timeout)


def test_kill_overtakes_stop():
    exhaust(StopAndKillRequests)


def test_stop_and_kill_at_once_leave_nothing_behind():
    sample(StopAndKill, 15)


def test_a_kill_ends_a_stop_that_takes_long():
    sample(KillAStopThatTakesLong, 15)


def test_a_kill_that_waits_for_the_stop_is_caught(monkeypatch):
    monkeypatch.setattr(Lifecycle, "request_kill", kill_that_does_not_overtake)
    assert catches(KillAStopThatTakesLong, schedules=15)
