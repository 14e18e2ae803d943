"""A worker's figures: whoever reads while it sums up, or while it retires, counts every task once."""

from __future__ import annotations

from array import array

import pytest

import tasker._pool.metrics
from tasker._pool.metrics import Counters, Shard
from tests.support.exploring import World, catches, exhaust, sample

pytestmark = pytest.mark.slow


class FoldAndRetire(World):
    """A worker that has run one task runs another, sums up, and retires; somebody reads its figures meanwhile."""

    threads = ("work", "read")

    def __init__(self):
        super().__init__()
        self.counters = Counters(lambda: 0)
        self.shard = self.counters.new_shard()
        self.shard.taken = 2
        self.shard.durations += (0.5, 1.0)
        self.seen = None

    def work(self):
        """As Worker._serve and Crew.leave do."""
        self.shard.durations.append(0.5)
        self.shard.durations.append(3.0)
        self.shard.fold()
        self.counters.retire(self.shard)

    def read(self):
        self.seen = self.counters.metrics()

    def check(self):
        seen, end = self.seen, self.counters.metrics()
        assert seen.total_tasks_arrived == end.total_tasks_arrived == 2
        assert (seen.total_tasks_completed, seen.max_execution_time) in ((1, 1.0), (2, 3.0))
        assert (end.total_tasks_completed, end.average_execution_time) == (2, 2.0)
        assert len(self.counters._reservoir) == 2  # each execution is in the quantiles once


@pytest.fixture(autouse=True)
def short_lists(monkeypatch):
    monkeypatch.setattr(tasker._pool.metrics, "FULL_LENGTH", 2)


def fold_that_publishes_twice(self):
    totals, past, durations = self._published
    self._published = (totals.with_durations(durations), past, durations)
    self._published = (self._published[0], (*past, array("d", durations[1::2])), [])
    self.durations = self._published[2]
    return self.durations


def retire_without_the_lock(self, shard):
    self._reservoir.extend(shard.unread())
    self._left = self._left.plus(shard.totals())
    self._left_taken += shard.taken
    self._shards.remove(shard)


def test_a_reader_counts_every_task_once_while_its_worker_retires():
    exhaust(FoldAndRetire, preemptions=1)


def test_a_reader_counts_every_task_once_whatever_the_schedule():
    sample(FoldAndRetire, schedules=100)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [(Shard, "fold", fold_that_publishes_twice), (Counters, "retire", retire_without_the_lock)],
)
def test_figures_that_are_published_in_two_steps_are_caught(monkeypatch, where, name, broken):
    monkeypatch.setattr(where, name, broken)
    assert catches(FoldAndRetire, preemptions=1)
