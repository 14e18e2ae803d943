"""The burst thread goes to rest while something happens: it hears of it, or does not rest."""

from __future__ import annotations

from unittest import mock

import pytest

import tasker._pool.housekeeper
from tasker._pool.housekeeper import Housekeeper
from tasker._pool.queue import TaskQueue
from tests.support.exploring import Managed, catches, exhaust

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def for_ever():
    """At rest it sleeps until it is woken."""
    with mock.patch.multiple(tasker._pool.housekeeper, QUIET_S=0.0, REST_S=-1.0):
        yield


class RestAndPut(Managed):
    """The burst thread, which finds nothing to do; a submitter; and a worker that is parked."""

    threads = ("rest", "put")

    def __init__(self):
        super().__init__()
        self.engine.service_logger = (
            self.log
        )  # which would start a thread that is none of the world's
        self.worker.parker.parked = True
        self.queue.idle.announced.append(self.worker.parker)

    def rest(self):
        patience = self.engine.housekeeper._patience()
        woken = self.engine.housekeeper._parker.sleep(patience)
        self.engine.housekeeper._end_rest(woken=woken)

    def put(self):
        self.queue.put(self.task())

    def check(self):
        assert not self.queue.resting


class RestAndLose(RestAndPut):
    """The burst thread, and the loss of an idle worker's resource."""

    threads = ("rest", "lose")

    def lose(self):
        self.engine.resource_lost(self.worker.resource)


class RestAndTwoPuts(RestAndPut):
    """The same with two submitters, of which one wakes the worker."""

    threads = ("rest", "put", "put_another")
    put_another = RestAndPut.put


@pytest.mark.parametrize("world", [RestAndPut, RestAndLose])
def test_what_happens_while_the_burst_thread_goes_to_rest_is_heard_of(world):
    exhaust(world)


def test_two_submitters_are_heard_of():
    exhaust(RestAndTwoPuts, preemptions=1)


def rest_without_a_second_look(self):
    self._engine.queue.resting = resting = self._is_quiet()
    return tasker._pool.housekeeper.REST_S if resting else self._tick


def put_that_looks_first(self, task):
    resting = self.resting
    self._main.append(task)
    if self.idle.announced and not self.waking:
        if resting:
            self.wake_housekeeper()
        self.waking = True
        self.idle.wake_one()


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (Housekeeper, "_patience", rest_without_a_second_look),
        (TaskQueue, "put", put_that_looks_first),
    ],
)
def test_a_rest_that_misses_a_task_is_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(RestAndPut)
