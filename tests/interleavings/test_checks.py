"""Workers check their resources while tasks are put: each task is taken, and none is checked for twice."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest

import tasker._pool.checking
import tasker._pool.worker
from tasker._pool.checking import Checks
from tasker._pool.worker import Worker
from tests.support.exploring import Queued, catches, exhaust, sample

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_timer():
    """Nothing takes too long, and all that was idle is due."""
    entry = SimpleNamespace(cancel=lambda: None)
    timer = SimpleNamespace(
        now=lambda: 0.0, at=lambda when, fire: entry, after=lambda seconds, fire: entry
    )
    with (
        mock.patch.object(tasker._pool.checking, "timer", timer),
        mock.patch.object(tasker._pool.worker, "timer", timer),
    ):
        yield


class Checked(Queued):
    """A queue whose workers check their resources."""

    keepalive: float | None = None

    def __init__(self):
        super().__init__()
        self.troubles = {}  # by the resource
        self.checks_of = []
        self.taken = []
        self.suspicion = SimpleNamespace(last=1, past=1, broke=lambda owner, *, counts: 2)
        self.user = SimpleNamespace(checks=True, check=self.look_at)
        settings = SimpleNamespace(check_after=0, check_timeout=None, keepalive=self.keepalive)
        self.checks = Checks(
            settings,
            None,
            self.user,
            self.queue,
            self.logger,
            lambda worker, resource, check, timeout: check(resource),
        )

    def look_at(self, troubles, resource):
        self.checks_of.append(resource)
        if resource in self.troubles:
            troubles.append(self.troubles[resource])

    def idle(self, name):
        worker = self.worker()
        worker.name = worker.resource = name
        return worker

    def checking(self, name):
        """A worker that has claimed a task, and is about to check its resource."""
        worker = self.idle(name)
        assert self.checks.claim(name)
        worker._park_between_checks = lambda look: worker._check_and_take()
        return worker


class CheckAndPut(Checked):
    """A worker that goes to sleep, and a submitter."""

    threads = ("get", "put")

    def __init__(self):
        super().__init__()
        self.sleepy = self.idle("sleepy")
        self.first = self.task()

    def get(self):
        self.taken.append(self.sleepy._next_task())

    def put(self):
        self.queue.put(self.first)

    def check(self):
        assert self.taken == [self.first]
        assert self.checks_of == ["sleepy"]
        assert self.queue.waiting() == (0, 0)
        assert self.queue.idle.announced == []
        assert self.checks._claims == {}


class KeepAliveAndPut(CheckAndPut):
    """The same, and a timer that wakes the worker, as it was idle for long."""

    threads = ("get", "put", "wake")
    keepalive = 1.0

    def wake(self):
        self.sleepy._wake_if_idle()


class FailAndGet(Checked):
    """A check fails while another worker goes to sleep, as the task is checked for."""

    threads = ("fail", "get")

    def __init__(self):
        super().__init__()
        self.first = self.task()
        self.queue.put(self.first)
        self.failing, self.sleepy = self.checking("failing"), self.idle("sleepy")
        self.troubles["failing"] = OSError()

    def fail(self):
        assert self.failing._next_task() is None

    def get(self):
        self.taken.append(self.sleepy._next_task())

    def check(self):
        assert self.taken == [self.first]
        assert sorted(self.checks_of) == ["failing", "sleepy"]
        assert self.queue.waiting() == (0, 0)


class PassAndPut(Checked):
    """A check passes while another task is put, and another worker goes to sleep."""

    threads = ("pass_", "put", "get")

    def __init__(self):
        super().__init__()
        self.first, self.second = self.task(), self.task()
        self.queue.put(self.first)
        self.passing, self.sleepy = self.checking("passing"), self.idle("sleepy")

    def pass_(self):
        self.taken.append(self.passing._next_task())

    def put(self):
        self.queue.put(self.second)

    def get(self):
        self.taken.append(self.sleepy._next_task())

    def check(self):
        assert {*self.taken} == {self.first, self.second}
        assert sorted(self.checks_of) == ["passing", "sleepy"]
        assert self.queue.waiting() == (0, 0)


class PassAndLook(Checked):
    """A check passes, and its task is taken, while another worker looks for one."""

    threads = ("pass_", "look")

    def __init__(self):
        super().__init__()
        self.first = self.task()
        self.queue.put(self.first)
        self.passing, self.sleepy = self.checking("passing"), self.idle("sleepy")

    def pass_(self):
        self.taken.append(self.passing._next_task())

    def look(self):
        self.found = self.sleepy._look_or_check()

    def check(self):
        assert self.found is None
        assert (self.taken, self.checks_of) == ([self.first], ["passing"])


@pytest.mark.parametrize("world", [CheckAndPut, KeepAliveAndPut, FailAndGet, PassAndLook])
def test_a_task_is_taken_by_a_worker_that_has_checked_its_resource(world):
    exhaust(world, preemptions=1)


@pytest.mark.parametrize("world", [CheckAndPut, KeepAliveAndPut, FailAndGet, PassAndPut])
def test_each_task_is_taken_after_a_check_whatever_the_schedule(world):
    sample(world, 50)


# -- what it would find ------------------------------------------------------------------------------------------------


def claim_whatever_is_claimed(self, worker):
    return self._queue.length() > 0


def keep_the_claim(self, worker):
    pass


def check_that_gives_its_claim_up_first(self):
    passes = self._passes_check()
    self._engine.checks.end_claim(self.name)
    return self._queue.take(self) if passes else None


@pytest.mark.parametrize(
    ("where", "name", "broken", "world"),
    [
        (Checks, "claim", claim_whatever_is_claimed, PassAndLook),
        (Checks, "end_claim", keep_the_claim, FailAndGet),
        (Worker, "_check_and_take", check_that_gives_its_claim_up_first, PassAndLook),
    ],
)
def test_claims_that_do_not_count_or_end_at_the_wrong_time_are_caught(
    monkeypatch, where, name, broken, world
):
    monkeypatch.setattr(where, name, broken)
    assert catches(world)
