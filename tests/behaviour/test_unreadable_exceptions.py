"""Exceptions that cannot be read, and answers that are false, cost nothing else."""

from __future__ import annotations

import gc
import threading

import pytest

from tasker import TaskMetrics
from tests.support.errors import Sick
from tests.support.waiting import PATIENCE, eventually


def refuse(self, *args):
    raise SystemExit("an exception that cannot be read")


class Unreadable(Exception):
    """Nothing about it can be printed."""

    __str__ = __repr__ = refuse
    __notes__ = __cause__ = __context__ = __traceback__ = property(refuse, refuse)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "on_create",
        "on_destroy",
        "check_health",
        "task",
        "add_done_callback",
        "callback",
        "on_done",
        *(
            "record_arrival",
            "record_completion",
            "record_failure",
            "record_retry",
            "metrics",
        ),
        "burst thread",
    ],
)
def test_an_exception_that_cannot_be_read_is_reported_by_its_type_and_loses_nothing(
    new_manager, factory, log, caplog, monkeypatch, where
):
    came_through, lost = None, []
    monkeypatch.setattr(threading, "excepthook", lambda args: lost.append(args.thread.name))
    try:
        meet_unreadable(new_manager, factory, log, caplog, where)
    # pytest could not read it either
    except (Unreadable, SystemExit) as error:
        # an interrupt that is raised again, a moment later, is of a type made for it
        came_through = SystemExit if isinstance(error, SystemExit) else Unreadable
    # told in this thread: in the main one a SystemExit may be that of a signal handler, and is raised
    assert came_through is (SystemExit if where in ("record_arrival", "metrics") else None)
    assert lost == []


def meet_unreadable(new_manager, factory, log, caplog, where):
    told = set()

    def fail(here, value=None):
        if here == where and here not in told:
            told.add(here)
            raise Unreadable
        return value

    class Collector:
        def __getattr__(self, name):
            return lambda *args: fail(name)

    def task(ctx, resource):
        ctx.on_done(lambda: fail("on_done"))
        ctx.cancel()
        fail("task")
        raise Sick

    manager = new_manager(
        worker_count=1,
        max_worker_count=1,
        max_retries=1,
        on_create=lambda: fail("on_create", True) and factory.create(),
        on_destroy=lambda resource: (factory.destroy(resource), fail("on_destroy")),
        check_health=lambda error: fail("check_health", not isinstance(error, Sick)),
        collector=Collector(),
    )
    heal = manager._engine.crew.heal
    manager._engine.crew.heal = lambda idle: (fail("burst thread"), heal(idle))
    called = []
    future = manager.submit(task)
    future.add_done_callback(lambda done: fail("add_done_callback"))
    future.add_done_callback(lambda done: called.append(1))
    manager.queue_task_with_callback(lambda resource: 0, lambda result, error: fail("callback"))
    assert type(future.exception(PATIENCE)) is (Unreadable if where == "task" else Sick)
    assert manager.queue_task(lambda resource: "the next") == "the next"
    assert manager.join(PATIENCE)
    assert called == [1]
    assert manager.metrics().total_tasks_arrived == 3
    eventually(lambda: manager.stats().active_workers == 1 and (where != "burst thread" or told))
    assert manager.stop().drained
    assert told == {where}
    del future
    if where != "task":  # its failure was seen
        lines = log.loud() + [record.getMessage() for record in caplog.records]
        assert sum("Unreadable" in line for line in lines) == 1
        assert not any("lost" in line for line in lines)


def unclassed(base):
    """An exception whose `__class__` raises, so that `isinstance` does."""

    def raises(self):
        raise LookupError

    return type("Unclassed", (base,), {"__class__": property(raises)})()


@pytest.mark.parametrize("where", ["on_check", "on_reset", "check_health", "task"])
@pytest.mark.parametrize("base", [Exception, BaseException])
def test_an_exception_without_a_class_costs_no_worker(new_manager, log, where, base):
    wrong = [unclassed(base)]

    def fails(*_):
        if wrong:
            raise wrong.pop()

    def task(resource):
        if where == "task":
            fails()
        if where == "check_health":
            raise Sick

    hooks = {"check_after": 0, "on_check": fails} if where == "on_check" else {where: fails}
    manager = new_manager(worker_count=1, max_worker_count=1, **({} if where == "task" else hooks))
    eventually(lambda: manager.stats().idle_workers == 1)
    future = manager.submit(task)
    assert manager.join(PATIENCE)
    assert future.done()
    future._see()
    eventually(lambda: wrong == [] and manager.stats().idle_workers == 1)
    assert log.telling(of="lost to an error") == []
    assert [worker.name for worker in manager._engine.crew.members] == ["tasker-worker-1"]


def test_an_unseen_failure_that_cannot_be_read_is_logged_by_its_type(new_manager, log):
    def fail(resource):
        raise Unreadable

    manager = new_manager()
    manager.submit(fail)
    assert manager.join(PATIENCE)
    gc.collect()
    eventually(lambda: any("Unreadable" in line for line in log.loud()))


@pytest.mark.parametrize("figures", [{}, 0, TaskMetrics()])
def test_what_the_collectors_metrics_returns_is_what_is_returned_unless_it_is_none(
    new_manager, figures
):
    class Collector:
        def __getattr__(self, name):
            return lambda *args: figures

    manager = new_manager(collector=Collector())
    assert manager.metrics() is figures
