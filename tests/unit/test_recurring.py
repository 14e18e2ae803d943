"""`Faults` by itself: which of many faults are told, and when one kind of them is over. Time is a number here."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

import tasker._sync.recurring
from tasker._sync.recurring import INTERVALS_S, MAX_KINDS, SETTLED_S, Faults, shown


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(tasker._sync.recurring, "monotonic", lambda: clock.now)
    return clock


def come(faults, kind="down", **options):
    return faults.came(kind, "%s: down", ("main",), **options)


def told(faults, clock, seconds, each=1.0, **options):
    """When, from now on, one of the faults is told that come each second, and what is said of the others."""
    begin, lines = clock.now, []
    while clock.now <= begin + seconds:
        more = come(faults, **options)
        if more is not None:
            lines.append((clock.now - begin, more))
        clock.now += each
    return lines


def test_a_fault_that_comes_once_is_told(clock):
    assert come(Faults()) == ""


def test_one_that_comes_again_and_again_is_told_at_growing_intervals_with_the_count(clock):
    assert told(Faults(), clock, 1300.0) == [
        (0.0, ""),
        (10.0, " (10 times in 10 s)"),
        (70.0, " (60 times in 60 s)"),
        (670.0, " (600 times in 10 min)"),
        (1270.0, " (600 times in 10 min)"),
    ]


def test_each_kind_has_its_own_row(clock):
    faults = Faults()
    assert [come(faults, kind) for kind in ("a", "b", "a", "b")] == ["", "", None, None]


def test_a_row_is_over_when_its_fault_has_not_come_for_a_while(clock):
    faults = Faults()
    told(faults, clock, 2.0)
    clock.now += SETTLED_S - 1.1
    assert faults.over(whole=True) == []
    clock.now += 0.2
    (row,) = faults.over(whole=False)
    assert (row.msg, row.args, row.count, row.unlogged, row.lasted) == (
        "%s: down",
        ("main",),
        3,
        2,
        "2.0 s",
    )
    assert not faults.any()
    assert come(faults) == "", "a new row"


def test_a_row_that_is_held_is_not_over_before_all_is_whole(clock):
    faults = Faults()
    come(faults, held=True)
    clock.now += 100 * SETTLED_S
    assert faults.over(whole=False) == []
    assert come(faults, held=True) == ""
    clock.now += SETTLED_S
    (row,) = faults.over(whole=True)
    assert row.count == 2, "it was one row all the time"


def test_attempts_that_take_long_to_fail_are_one_outage(clock):
    assert [when for when, _ in told(Faults(), clock, 2000.0, each=130.0, held=True)] == [
        0.0,
        130.0,
        260.0,
        910.0,
        1560.0,
    ]


def test_a_row_that_nobody_looks_after_ends_by_itself_and_loses_no_count(clock):
    faults = Faults()
    assert [come(faults) for _ in range(4)] == ["", None, None, None]
    clock.now += SETTLED_S
    assert come(faults) == " (4 times in 10 s)"
    clock.now += SETTLED_S
    assert come(faults) == ""


def test_rows_can_be_taken_out_at_any_time(clock):
    faults = Faults()
    come(faults, "a", held=True)
    come(faults, "b")
    assert [row.held for row in faults.all()] == [True, False]
    assert not faults.any()


def test_the_number_of_rows_is_bounded(clock):
    faults = Faults()
    for number in range(10 * MAX_KINDS):
        assert come(faults, str(number)) == ""
    assert len(faults.all()) == MAX_KINDS


def test_of_a_fault_that_many_threads_meet_at_once_one_is_told_and_each_is_counted():
    faults, lines, barrier = Faults(), [], threading.Barrier(8)

    def meet():
        barrier.wait()
        lines.extend(come(faults) for _ in range(200))

    threads = [threading.Thread(target=meet) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines.count("") == 1
    assert lines.count(None) == 1599
    (row,) = faults.all()
    assert row.count == 1600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (INTERVALS_S[-1], "10 min"),
        (3 * 3600, "180 min"),
        (86400, "24 h"),
    ],
)
def test_times_are_shown_as_people_say_them(seconds, text):
    assert shown(seconds) == text
