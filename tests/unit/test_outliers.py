"""`Outliers` by itself: which resource is replaced, and that chance replaces none. No threads: tasks are events."""

from __future__ import annotations

import heapq
import random
from types import SimpleNamespace

import pytest

import tasker._pool.outliers
from tasker._pool.outliers import Outliers, Watch
from tasker.slot import Reason
from tasker.testing import ManualClock

AFTER = 5


@pytest.fixture(autouse=True)
def clock():
    with ManualClock() as clock:
        yield clock


class Pool:
    """Resources by their numbers, and tasks that end at once."""

    def __init__(self, size, after=AFTER):
        self.outliers = Outliers(after, lambda: size)
        self.size, self.replaced = size, []

    def succeeds(self, on, function="f", times=1):
        for _ in range(times):
            self.outliers.succeeded(str(on), function, self.outliers.now())

    def fails(self, on, function="f", times=1):
        """How many failures it takes to have the resource replaced; `None`: so many do not."""
        for number in range(1, times + 1):
            if self.outliers.failed(str(on), function):
                self.replaced.append(on)
                return number
        return None

    def is_used_to(self, function="f", times=50):
        for on in range(self.size):
            self.succeeds(on, function, times)
        return self


# -- who is one ------------------------------------------------------------------------------------------------------


def test_a_resource_is_one_whose_tasks_fail_in_a_row_where_peers_succeed():
    pool = Pool(4).is_used_to()
    assert pool.fails(0, times=AFTER - 1) is None
    pool.succeeds(1)
    assert pool.fails(0) == 1


def test_a_success_ends_the_row():
    pool = Pool(4).is_used_to()
    for _ in range(3):
        assert pool.fails(0, times=AFTER - 1) is None
        pool.succeeds(1)
        pool.succeeds(0)


@pytest.mark.parametrize("peer", ["none", "itself", "before", "began before", "another function"])
def test_it_is_none_as_long_as_no_peer_succeeds_meanwhile(peer):
    pool = Pool(4).is_used_to().is_used_to("g")
    began = pool.outliers.now()
    if peer == "before":
        pool.succeeds(1)
    pool.fails(0)
    if peer == "began before":
        pool.outliers.succeeded("1", "f", began)
    elif peer == "another function":
        pool.succeeds(1, "g")
    elif peer == "itself":
        pool.succeeds(0)
    assert pool.fails(0, times=1000) is None


def test_a_function_that_fails_everywhere_makes_none_of_any():
    pool = Pool(4).is_used_to()
    for _ in range(100):
        for on in range(4):
            assert pool.fails(on, "bad", times=3) is None
            pool.succeeds(on)


def test_failures_of_a_function_that_fails_everywhere_hide_no_others():
    pool = Pool(4).is_used_to()
    taken = 0
    while not pool.replaced:
        pool.fails(0, "bad")
        pool.fails(0)
        pool.succeeds(1)
        pool.fails(1, "bad")
        taken += 1
    assert taken == AFTER
    assert pool.replaced == [0]


def test_the_row_must_be_longer_where_the_function_often_fails():
    pool = Pool(4)
    for _ in range(100):
        for on in range(4):
            pool.succeeds(on, times=7)
            pool.fails(on, times=3)
    pool.succeeds(0)
    needed, row = None, 0
    while needed is None:
        needed = pool.fails(0)
        pool.succeeds(1)
        row += 1
    assert 10 < row < 20


def test_an_unknown_function_needs_a_longer_row_too():
    pool = Pool(4)
    pool.fails(0)
    pool.succeeds(1)
    assert 10 < pool.fails(0, times=100) < 30


def test_a_new_resource_begins_without_a_row():
    pool = Pool(4).is_used_to()
    pool.fails(0)
    pool.succeeds(1)
    pool.fails(0, times=3)
    pool.outliers.forget("0")
    pool.succeeds(1)
    assert pool.fails(0, times=AFTER - 1) is None


def test_what_is_replaced_counts_no_failures_as_ordinary():
    pool = Pool(4).is_used_to()
    for _ in range(20):
        pool.fails(0)
        pool.succeeds(1)
        pool.fails(0, times=100)
        pool.outliers.forget("0")
    assert pool.outliers._functions["f"].failed == 0


# -- how many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "most"), [(2, 1), (8, 1), (19, 1), (20, 2), (64, 6)])
def test_a_tenth_of_the_pool_is_replaced_in_thirty_seconds(clock, size, most):
    pool = Pool(size).is_used_to()
    others = size - 1

    def all_but_one_fail():
        pool.replaced.clear()
        for on in range(others):
            pool.fails(on)
        pool.succeeds(others, times=20)
        for on in range(others):
            pool.fails(on, times=AFTER)

    all_but_one_fail()
    assert pool.replaced == list(range(min(most, others)))
    clock.advance(29.0)
    all_but_one_fail()
    assert pool.replaced == []
    clock.advance(2.0)
    all_but_one_fail()
    assert len(pool.replaced) == min(most, others)


# -- bounded ---------------------------------------------------------------------------------------------------------


def test_functions_without_end_take_no_memory_without_end():
    pool = Pool(4)
    for number in range(3000):
        pool.succeeds(number % 4, f"succeeds {number}")
        pool.fails(0, f"fails {number}")
    outliers = pool.outliers
    assert len(outliers._functions) <= tasker._pool.outliers._MOST_FUNCTIONS
    pool.fails(1, "f")
    for number in range(3000):
        pool.fails(1, f"fails {number}")
    assert len(outliers._rows["1"].failures) <= tasker._pool.outliers._MOST_IN_ROW
    for name in range(3000):
        pool.succeeds(name)
    assert all(len(each._began) <= 2 for each in outliers._functions.values())


def test_old_counts_lose_weight():
    pool = Pool(2)
    for _ in range(600):
        pool.fails(0)
        pool.succeeds(0)
    pool.succeeds(1, times=20_000)
    assert pool.outliers._functions["f"].failed < 5


# -- whole pools, in virtual time ------------------------------------------------------------------------------------


class Simulated:
    """Workers that are never idle. `fails(on, now, random)` says how a task ends, `takes` how long it lasts."""

    def __init__(self, clock, size, fails, takes=lambda on: 0.1, seed=1):
        self.pool, self.clock, self.random = Pool(size), clock, random.Random(seed)
        self.fails, self.takes = fails, takes
        self.now, self.began, self.failed = 0.0, clock.now(), 0
        self.events = [(0.0, on, None) for on in range(size)]

    def run(self, tasks, functions=("f",)):
        for _ in range(tasks + self.pool.size):
            self.now, on, task = heapq.heappop(self.events)
            self.clock.advance(max(0.0, self.began + self.now - self.clock.now()))
            if task is not None:
                function, began = task
                if self.fails(on, self.now, self.random):
                    self.failed += 1
                    if self.pool.fails(on, function):
                        self.pool.outliers.forget(str(on))
                else:
                    self.pool.outliers.succeeded(str(on), function, began)
            ends = self.now + self.takes(on) * self.random.uniform(0.5, 1.5)
            task = (self.random.choice(functions), self.pool.outliers.now())
            heapq.heappush(self.events, (ends, on, task))
        return self.pool.replaced


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
@pytest.mark.parametrize("functions", [1, 3])
def test_random_failures_everywhere_replace_nothing_in_100_000_tasks(clock, share, functions):
    simulated = Simulated(clock, 8, lambda on, now, random: random.random() < share)
    assert simulated.run(100_000, [f"f{number}" for number in range(functions)]) == []
    assert simulated.failed == pytest.approx(100_000 * share, rel=0.1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("takes", [0.001, 0.1])
def test_the_one_on_which_everything_fails_is_replaced(clock, share, takes):
    """After the peers, which take 0.1 s a task, have begun and ended a task."""

    def fails(on, now, random):
        return random.random() < share if on else True

    simulated = Simulated(clock, 8, fails, lambda on: 0.1 if on else takes)
    assert simulated.run(300) == [0]


def test_a_brief_outage_of_all_replaces_nothing(clock):
    def fails(on, now, random):
        return 5.0 < now < 8.0

    simulated = Simulated(clock, 8, fails, lambda on: 0.01 if on < 4 else 0.5)
    assert simulated.run(5_000) == []
    assert simulated.now > 8.0
    assert simulated.failed > 500


# -- one task --------------------------------------------------------------------------------------------------------


class Context:
    error = None

    def err(self):
        return self.error


@pytest.fixture
def watched(monkeypatch):
    """`watched(error, **context)`: its worker, after a task of it has ended so."""
    pool = Pool(4).is_used_to()
    pool.fails(0)
    pool.succeeds(1)
    pool.fails(0, times=3)

    def end(error, ended=None):
        worker = SimpleNamespace(name="0", unfit=None, broken=[])
        worker.broken_by = worker.broken.append
        context = Context()
        context.error = ended
        watch = Watch(pool.outliers, context, "f", worker)
        watch.begin()
        watch.end(error)
        watch.end(error)
        return worker

    return end


def test_the_worker_of_an_outlier_is_told(watched):
    error = ValueError()
    worker = watched(error)
    assert worker.unfit is Reason.OUTLIER
    assert worker.broken == [error]


@pytest.mark.parametrize(
    ("error", "ended"), [(ValueError(), TimeoutError()), (SystemExit(), None), (None, None)]
)
def test_what_says_nothing_of_the_resource_does_not_count(watched, error, ended):
    assert watched(error, ended).unfit is None
    assert watched(ValueError()).unfit is (None if error is None else Reason.OUTLIER)


def test_callers_of_run_task_are_not_watched():
    assert Outliers(AFTER, lambda: 8).watch(Context(), None, len, None) is None
