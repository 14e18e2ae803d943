"""Retiring: a worker is dismissed only if no task is meant for it."""

from __future__ import annotations

import pytest

from tasker._pool.crew import Crew
from tasker._pool.worker import Worker
from tests.support.exploring import Queued, Sleeper, catches, exhaust, sample

pytestmark = pytest.mark.slow


class Retire(Queued):
    """A task is put while one of two workers is retired; when the task has been taken, the queue is closed."""

    threads = ("retire_and_close", "put", "first", "second")

    def __init__(self):
        super().__init__()
        self.crew = Crew(
            "crew",
            1,
            2,
            lambda name, leave: self.worker(),
            lambda worker: None,
            lambda worker: None,
            self.logger,
        )
        self.workers = [self.crew._enlist(lambda: True) for _ in range(2)]
        self.future = self.task()
        self.taken = Sleeper()
        self.took = []

    def retire(self):
        self.retired = self.crew.retire(1, self.queue.idle)

    def retire_and_close(self):
        self.retire()
        self.taken.acquire()
        self.queue.close()
        self.crew.wake_all(self.queue.idle)

    def put(self):
        self.queue.put(self.future)

    def first(self):
        self.serve(self.workers[0])

    def second(self):
        self.serve(self.workers[1])

    def serve(self, worker):
        while (task := worker._next_task()) is not None:
            assert task._start(0.0)
            self.took.append(task)
            self.taken.release()

    def check(self):
        assert self.took == [self.future]
        assert sum(worker.dismissed for worker in self.workers) == self.retired
        assert self.queue.waiting() == (0, 0)


class RetireOneOfTwoSleepers(Retire):
    """Both sleep: one is woken for the task, the other one because it is dismissed."""

    threads = ("retire", "put", "first", "second")

    def __init__(self):
        super().__init__()
        self.queue.idle.announced += [worker.parker for worker in self.workers]

    def serve(self, worker):
        assert worker.parker.sleep()
        task = worker._look()
        if task is self.future:
            assert task._start(0.0)
            self.took.append(task)
        else:
            assert worker.dismissed

    def check(self):
        super().check()
        assert self.retired == 1
        assert self.queue.idle.announced == []


class RetireTheOnlySleeper(RetireOneOfTwoSleepers):
    """One sleeps, the other is busy: either the task wakes the sleeper, or it is left to the busy one."""

    threads = ("retire", "put", "first")

    def __init__(self):
        super().__init__()
        self.queue.idle.announced.pop()

    def check(self):
        assert self.took == ([] if self.retired else [self.future])
        assert self.queue.waiting() == (self.retired, 0)
        assert self.workers[0].dismissed == self.retired
        assert self.queue.idle.announced == []


def retire_without_taking_the_announcement(self, count, idle):
    for worker in self.members:
        if idle.announced and worker.parker is idle.announced[-1]:
            worker.dismiss()
            return 1
    return 0


def dismiss_without_waking(self):
    self.dismissed = True


@pytest.mark.parametrize("world", [RetireOneOfTwoSleepers, RetireTheOnlySleeper])
def test_a_worker_is_woken_for_a_task_or_dismissed(world):
    exhaust(world)


def test_retiring_strands_no_task_whatever_the_schedule():
    sample(Retire, 100)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (Crew, "retire", retire_without_taking_the_announcement),
        (Worker, "dismiss", dismiss_without_waking),
    ],
)
def test_a_retirement_that_strands_a_task_or_a_worker_is_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(RetireOneOfTwoSleepers)
