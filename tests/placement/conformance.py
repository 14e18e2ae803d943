"""What tests of any placement look for in the end."""

from __future__ import annotations


def assert_adds_up(manager, **expected):
    """At rest every task is counted once; `expected` are totals by the end of their names."""
    metrics = manager.metrics()
    ended = metrics.total_tasks_completed + metrics.total_tasks_failed + metrics.total_tasks_cancelled
    assert metrics.total_tasks_arrived == ended
    assert {name: getattr(metrics, f"total_tasks_{name}") for name in expected} == expected


def assert_destroyed_once(journal, number):
    created, destroyed = journal.of("created"), journal.of("destroyed")
    assert len(set(created)) == len(created) == number
    assert sorted(destroyed) == sorted(created)
