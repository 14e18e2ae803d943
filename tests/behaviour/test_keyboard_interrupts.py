"""Ctrl-C at every moment of a submission: nothing is stranded, no worker is lost, the counts stay right.

A trace function raises `KeyboardInterrupt` at the first bytecode of a submission, at the second, and so on to the end.
Where no lock is taken that is done at every bytecode. Where one is, only at those at which CPython runs signal handlers
(3.11 and later: when a Python function is entered, after a call of anything else, after a jump back): between any other
two a `with` block may have released its lock or not yet, and nothing written in Python could be safe there."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

import pytest

import tasker._pool.engine
import tasker._tasks.future
import tasker.executor
import tasker.threadpool
from tasker import Config, ResourceCreationError, Threads
from tasker._pool.usercode import UserCode
from tasker._sync.guarded_logger import GuardedLogger
from tests.support.bytecodes import Interrupter
from tests.support.errors import Sick
from tests.support.pools import taken
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def not_delivered(monkeypatch):
    """Interrupts that a call must not raise come a moment later: here that would be in the middle of pytest."""
    for module in (tasker._pool.engine, tasker.executor, tasker._tasks.future, tasker.threadpool):
        monkeypatch.setattr(module, "deliver_later", lambda error: None)


def ignore(*_: object) -> None:
    pass


def ignore_context(ctx: object, resource: object) -> None:
    pass


def break_resource(resource: Any) -> None:
    assert not resource.broken, "a broken resource was handed out again"
    resource.broken = True
    raise Sick


def create_for_workers_only() -> object:
    if threading.current_thread() is threading.main_thread():
        raise OSError("down")
    return object()


LIMITED = {"resource_pool_size": 1, "run_task_limit": 1}
NO_CREATION = {"resource_pool_size": 0, "on_create": create_for_workers_only, "on_destroy": ignore}

SUBMISSIONS = {
    "future": (True, {}, lambda manager, task: manager.queue_task_async(task)),
    "callback": (True, {}, lambda manager, task: manager.queue_task_with_callback(task, ignore)),
    "blocking": (True, {}, lambda manager, task: manager.queue_task(task)),
    "with a timeout": (
        False,
        {},
        lambda manager, task: manager.submit(task, priority=True, once=True, timeout=60),
    ),
    "bounded": (False, {"queue_size": 3}, lambda manager, task: manager.submit(task)),
    "bounded, with a timeout": (
        False,
        {"queue_size": 3},
        lambda manager, task: manager.submit(task, timeout=60),
    ),
    "run_task": (False, {"resource_pool_size": 1}, lambda manager, task: manager.run_task(task)),
    "run_task, temporary": (
        False,
        {"resource_pool_size": 0},
        lambda manager, task: manager.run_task(task),
    ),
    "run_task, broken": (
        False,
        {"resource_pool_size": 1},
        lambda manager, _: manager.run_task(break_resource),
    ),
    "run_task, context": (
        False,
        {"resource_pool_size": 1},
        lambda manager, _: manager.run_task(ignore_context),
    ),
    "run_task, limited": (False, LIMITED, lambda manager, task: manager.run_task(task)),
    "run_task, limited, broken": (
        False,
        LIMITED,
        lambda manager, _: manager.run_task(break_resource),
    ),
    "run_task, limited in time": (
        False,
        LIMITED,
        lambda manager, task: manager.run_task(task, queue_timeout=60),
    ),
    "run_task, no creation": (False, NO_CREATION, lambda manager, task: manager.run_task(task)),
}


@pytest.mark.parametrize("name", SUBMISSIONS)
@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.usefixtures("no_collection")
def test_an_interrupt_at_every_moment_of_a_submission_strands_nothing(name, new_manager, factory):
    everywhere, options, submit = SUBMISSIONS[name]
    factory.any_thread = True
    # a short tick: it wakes the worker whose wake-up was interrupted
    manager = new_manager(worker_count=1, max_worker_count=1, burst_interval=0.002, **options)
    engine = manager._engine
    assert manager.wait_ready(PATIENCE)
    worker = engine.crew.members[0]
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        eventually(lambda: worker.parker.parked)
        ends = contextlib.suppress(KeyboardInterrupt, Sick, ResourceCreationError)
        with Interrupter(moment, everywhere=everywhere) as interrupter, ends:
            submit(manager, lambda _: None)
        interrupted = interrupter.where is not None
        assert (
            manager.queue_task_async(lambda _, number: number, moment).result(PATIENCE) == moment
        ), interrupter.where
        assert manager.join(PATIENCE), interrupter.where
        assert engine.queue.room.used() == 0, interrupter.where
        assert engine.pool.out == 0, interrupter.where
        assert len(taken(engine.slots)) == 1 + engine.pool.available, interrupter.where
        assert engine.turns.room.used() == 0, interrupter.where
        assert engine.turns._waiting == set(), interrupter.where
        assert engine.run_contexts == set(), interrupter.where
        m = manager.metrics()
        assert (
            m.total_tasks_arrived
            == m.total_tasks_completed + m.total_tasks_failed + m.total_tasks_cancelled
        )
    assert moment > 15, "no trace function was called"
    assert engine.crew.members == (worker,)
    assert manager.stop().drained


@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
@pytest.mark.usefixtures("no_collection")
def test_an_interrupt_gets_out_of_a_destruction_only_before_on_destroy_is_called(log):
    destroyed = []

    def destroy(resource):
        destroyed.append(resource)
        raise OSError("cannot close")

    config, logger = (
        Config(on_create=object, on_destroy=destroy, worker_count=1),
        GuardedLogger(log),
    )
    user = UserCode(config, Threads().open(config, print), logger)
    moment, interrupted = 0, True
    while interrupted:
        moment += 1
        with Interrupter(moment, everywhere=False) as interrupter:
            try:
                user.destroy(moment, None)
            except KeyboardInterrupt:
                assert moment not in destroyed, interrupter.where
            else:
                assert moment in destroyed, interrupter.where
        interrupted = interrupter.where is not None
    assert moment > 4, "no trace function was called"
