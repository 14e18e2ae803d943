"""The limit of one attempt: the call returns, or its time is up, and the next attempt never pays for this one."""

from __future__ import annotations

import pytest

from tasker import TaskTimeoutError
from tasker._tasks.run_limit import RunLimit


@pytest.fixture
def task(owner, clock):
    task = owner.future()
    assert task._start(1.0)
    return task


def limit_of(task, owner, seconds=10.0):
    limit = RunLimit(task._make_context(owner.values), task, seconds)
    limit.begin()
    return limit


def test_the_time_is_up_before_the_call_returns(owner, task, clock):
    limit = limit_of(task, owner)
    context = task._context
    assert context.remaining() == 10
    clock.advance(10)
    assert isinstance(task.exception(0), TaskTimeoutError)
    assert context.cancelled()
    limit.end()
    limit.end()
    assert not task._requeue()


def test_the_call_returns_before_the_time_is_up(owner, task, clock):
    limit = limit_of(task, owner)
    limit.end()
    limit.end()
    assert clock.deadlines == 0
    assert not task._cancel_asked


def test_a_timer_that_fires_as_the_call_returns_does_not_end_the_next_attempt(owner, task, clock):
    limit = limit_of(task, owner)
    limit.end()
    limit._time_is_up()
    assert task._requeue()
    limit._time_is_up()
    assert task._start(2.0)
    limit._time_is_up()
    assert not task.done()
    assert not task._cancel_asked


def test_a_limit_that_an_exception_from_outside_has_left_does_not_end_the_next_attempt(
    owner, task, clock
):
    limit_of(task, owner)
    assert task._requeue()
    assert task._start(2.0)
    clock.advance(10)
    assert not task.done()


def test_a_call_that_returns_as_the_time_is_up_is_the_last(owner, task, clock, monkeypatch):
    limit = limit_of(task, owner)
    monkeypatch.setattr(task, "_run_too_long", lambda seconds: limit.end())
    clock.advance(10)
    assert not task.done()
    assert not task._requeue()


def test_an_earlier_deadline_needs_no_other(owner, clock):
    task = owner.future()
    task._set_timeout(5)
    assert task._start(1.0)
    limit_of(task, owner)
    assert clock.deadlines == 1
    assert task._context.remaining() == 5


def test_a_timer_that_had_no_memory_tries_again(owner, task, clock, monkeypatch):
    limit, tries = limit_of(task, owner), []
    too_long = task._run_too_long

    def strike(seconds):
        tries.append(seconds)
        if len(tries) == 1:
            raise MemoryError
        too_long(seconds)

    monkeypatch.setattr(task, "_run_too_long", strike)
    with pytest.raises(MemoryError):
        limit._time_is_up()
    limit._time_is_up()
    assert task.done()
