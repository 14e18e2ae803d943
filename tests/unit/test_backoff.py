"""`Backoff` by itself: how long pauses are, and who may try when. Time is a number here."""

from __future__ import annotations

from itertools import accumulate
from types import SimpleNamespace

import pytest

import tasker._pool.backoff
from tasker._pool.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, SPACING_S, Backoff

PATIENT = 30.0  # create_timeout


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(tasker._pool.backoff, "monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize(
    ("failures", "pause"),
    [
        (0, 0.0),
        (1, FIRST_PAUSE_S),
        (2, 2 * FIRST_PAUSE_S),
        (3, 4 * FIRST_PAUSE_S),
        (6, LONGEST_PAUSE_S),
        (10**6, LONGEST_PAUSE_S),
    ],
)
def test_a_worker_pauses_twice_as_long_after_each_failure_with_jitter(failures, pause):
    pauses = [Backoff(PATIENT).worker_pause(failures) for _ in range(100)]
    assert pause / 2 <= min(pauses) <= max(pauses) <= pause
    assert len(set(pauses)) > 1 or not pause


@pytest.mark.parametrize(
    ("failures", "attempts", "pause"),
    [
        (0, 1, 0.0),  # the resource had worked: it was stale
        (1, 1, 0.0),
        (0, 2, 2 * FIRST_PAUSE_S),
        (1, 2, 2 * FIRST_PAUSE_S),
        (2, 1, 2 * FIRST_PAUSE_S),  # an innocent task that meets an outage
        (3, 1, 4 * FIRST_PAUSE_S),
        (1, 3, 4 * FIRST_PAUSE_S),
        (0, 10**6, LONGEST_PAUSE_S),
    ],
)
def test_a_task_pauses_as_its_worker_does_or_longer_if_it_was_tried_more_often(
    failures, attempts, pause
):
    assert Backoff(PATIENT).task_pause(failures, attempts) == pause


def test_the_attempts_of_a_task_with_three_retries_outlast_a_second():
    backoff = Backoff(PATIENT)
    assert list(accumulate(backoff.task_pause(0, attempts) for attempts in (1, 2, 3)))[-1] > 1.0


@pytest.mark.parametrize("failures", [5, 50, 5000])
@pytest.mark.parametrize(
    ("create_timeout", "longest"),
    [(30.0, LONGEST_PAUSE_S), (1.0, 0.5), (0.01, FIRST_PAUSE_S), (float("inf"), LONGEST_PAUSE_S)],
)
def test_no_pause_is_longer_than_half_of_create_timeout(create_timeout, longest, failures):
    assert Backoff(create_timeout).worker_pause(failures) <= longest
    assert Backoff(create_timeout).task_pause(failures, 1) <= longest


def test_workers_that_have_paused_try_one_after_the_other(clock):
    backoff = Backoff(PATIENT)
    assert [backoff.take_turn() for _ in range(3)] == [
        1000.0,
        1000.0 + SPACING_S,
        1000.0 + 2 * SPACING_S,
    ]
    clock.now += 1.0
    assert [backoff.take_turn() for _ in range(2)] == [1001.0, 1001.0 + SPACING_S]
