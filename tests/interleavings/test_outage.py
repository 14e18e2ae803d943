"""An outage and a success at the same time: no worker waits for a pool that is well."""

from __future__ import annotations

import pytest

from tasker._pool.backoff import Backoff, Candidate
from tests.support.exploring import World, catches, exhaust

pytestmark = pytest.mark.slow

PATIENT = 30.0


class Sleepless:
    woken = False

    def wake(self):
        self.woken = True


class FailAndMake(World):
    """One worker fails, another gets its resource at the same time, and one is hired."""

    threads = ("fail", "make", "ask")

    def __init__(self):
        super().__init__()
        self.holds = False
        self.backoff = Backoff(PATIENT, lambda: self.holds)
        self.failing, self.making, self.hired = (Candidate(Sleepless()) for _ in range(3))

    def fail(self):
        self.backoff.failed(self.failing, 1)

    def make(self):
        self.holds = True
        self.backoff.made(self.making)

    def ask(self):
        self.told = self.backoff.may_try(self.hired)

    def check(self):
        assert self.told == 0 or self.hired.parker.woken or self.told < 1.0
        assert self.backoff.may_try(self.hired) == 0
        assert self.backoff.may_try(self.failing) < 1.0


def look_before_the_lock(self, candidate, failures, failed=Backoff.failed):
    held = self._holding()
    self._holding = lambda: held
    failed(self, candidate, failures)


def test_no_outage_begins_with_a_success_whatever_the_order():
    exhaust(FailAndMake)


def test_a_look_before_the_lock_is_caught(monkeypatch):
    monkeypatch.setattr(Backoff, "failed", look_before_the_lock)
    assert catches(FailAndMake)
