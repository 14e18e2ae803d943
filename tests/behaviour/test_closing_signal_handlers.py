"""A signal handler that closes a manager, at every moment of whatever it interrupts.

The handler waits for the end, unless the closing would have to wait for the interrupted lines: it never locks up, and
where nothing is in the way it returns when all is done. It runs at each bytecode at which CPython runs signal handlers,
in tasker's own code and in that of `concurrent.futures` and `threading` below it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import threading
from typing import ClassVar

import pytest

import tasker._pool.exit_and_fork
from tasker import (
    Config,
    TaskManager,
    TaskManagerKilledError,
    TaskManagerShutdownError,
    ThreadPoolExecutor,
    background,
    with_cancel,
    with_timeout,
)
from tests.support.bytecodes import Interrupter
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

untraced = pytest.mark.skipif(
    sys.gettrace() is not None, reason="a debugger or a coverage tool traces this thread"
)
REFUSED = (TaskManagerShutdownError, TaskManagerKilledError, concurrent.futures.CancelledError)


class Handler(Interrupter):
    """Calls `handle` at the moment, as a signal handler would be called, and goes on."""

    MODULES = ("tasker.", "concurrent.futures", "threading")

    def __init__(self, moment, handle):
        super().__init__(moment, everywhere=False)
        self.handle = handle

    def concerns(self, module):
        # not where it only looks what the thread holds, which takes nothing
        return module.startswith(self.MODULES) and not module.startswith(
            (
                "tasker.testing.",
                "tasker._pool.exit_and_fork",
                "tasker._pool.reentrancy",
                "tasker._sync.locks",
            )
        )

    def act(self):
        self.handle()


def ignore(*_):
    pass


class Program:
    """A manager, and what the main thread does with it. `close(method)` is what the handler does."""

    options: ClassVar = {}
    lockless = False  # whether the operation takes no lock, nor anything else that a closing needs

    def __init__(self, log):
        self.parent = with_cancel(background())
        config = Config(
            on_create=object,
            on_destroy=ignore,
            worker_count=1,
            max_worker_count=1,
            burst_interval=0,
            logger=log,
            ctx=self.parent,
            **{"resource_pool_size": 0, **self.options},
        )
        self.manager = TaskManager(config)
        self.engine = self.manager._engine
        self.prepare()

    def prepare(self):
        assert self.manager.wait_ready(PATIENCE)

    def close(self, method):
        getattr(self.manager, method)()

    def operate(self):
        raise NotImplementedError


class Submit(Program):
    lockless = True

    def operate(self):
        self.manager.submit(ignore)


class SubmitBounded(Program):
    options: ClassVar = {"queue_size": 3}

    def operate(self):
        self.manager.submit(ignore, timeout=60, priority=True)


class QueueTask(Program):
    lockless = True

    def operate(self):
        self.manager.queue_task(ignore)


class WithCallback(Program):
    lockless = True

    def operate(self):
        self.manager.queue_task_with_callback(ignore, ignore)


class Result(Program):
    def prepare(self):
        self.future = self.manager.submit(ignore)

    def operate(self):
        self.future.result()
        self.future.add_done_callback(ignore)


class RunTask(Program):
    options: ClassVar = {"resource_pool_size": 1}

    def operate(self):
        self.manager.run_task(lambda ctx, resource: ctx.cancelled())


class RunTaskTemporary(Program):
    def operate(self):
        self.manager.run_task(ignore)


class Stop(Program):
    lockless = True

    def operate(self):
        self.manager.stop()


class Kill(Program):
    lockless = True

    def operate(self):
        self.manager.kill()


class Join(Program):
    def prepare(self):
        self.manager.submit(ignore)

    def operate(self):
        self.manager.join()
        self.manager.wait_ready()


class Map(Program):
    def operate(self):
        assert list(self.manager.map(lambda _, item: item, range(3), max_in_flight=2)) == [0, 1, 2]


class Look(Program):
    def operate(self):
        self.manager.metrics()
        self.manager.stats()


class Cancel(Program):
    """One task that waits, and the context of one that runs, with a child and a callback."""

    def prepare(self):
        started, gate = threading.Event(), threading.Event()

        def task(ctx, resource):
            child = with_timeout(ctx, 60)
            child.on_done(gate.set)
            child.on_done(ignore)
            started.set()
            child.wait(PATIENCE)
            gate.wait(PATIENCE)

        self.running = self.manager.submit(task)
        self.waiting = self.manager.submit(ignore)
        assert started.wait(PATIENCE)
        self.manager._engine.run_in_other_thread(
            [ignore]
        )  # so that there is something to do for the aside thread

    def close(self, method):
        self.running.cancel()  # or the task would run for as long as nothing interrupts it
        super().close(method)

    def operate(self):
        self.waiting.cancel()
        self.running.cancel()


class Contexts(Program):
    """The context on which the manager depends."""

    def operate(self):
        take_back = self.parent.on_done(ignore)
        take_back()
        with with_timeout(self.parent, 60) as ctx:
            ctx.wait(0)
        self.parent.cancel()


class Wait(Program):
    def prepare(self):
        self.futures = [self.manager.submit(ignore) for _ in range(3)]

    def operate(self):
        done, _ = concurrent.futures.wait(self.futures)
        assert len(done) == 3


class AsCompleted(Wait):
    def operate(self):
        assert set(concurrent.futures.as_completed(self.futures)) == set(self.futures)


class View(Program):
    def operate(self):
        with self.manager.executor() as view:
            view.submit(int)
            assert list(view.map(int, "12")) == [1, 2]


class ShutDownView(Program):
    """The handler shuts down the view, the main thread submits to it."""

    def prepare(self):
        self.view = self.manager.executor()

    def close(self, method):
        self.view.shutdown()
        super().close(method)

    def operate(self):
        with contextlib.suppress(RuntimeError):
            self.view.submit(int)
        self.view.shutdown()


class Pool(Program):
    def prepare(self):
        self.pool = ThreadPoolExecutor(2)
        self.engine = self.pool._task_engine

    def close(self, method):
        self.pool.shutdown(cancel_futures=method == "kill")

    def operate(self):
        with contextlib.suppress(RuntimeError), self.pool:
            futures = [self.pool.submit(int) for _ in range(3)]
            self.pool.shutdown(cancel_futures=True)
            assert all(future.done() for future in futures)


PROGRAMS = [
    Submit,
    SubmitBounded,
    QueueTask,
    WithCallback,
    Result,
    RunTask,
    RunTaskTemporary,
    Stop,
    Kill,
    Join,
    Map,
    Look,
    Cancel,
    Contexts,
    Wait,
    AsCompleted,
    View,
    ShutDownView,
    Pool,
]


@untraced
@pytest.mark.parametrize("method", ["stop", "kill"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.usefixtures("no_collection")
def test_a_signal_handler_may_close_at_every_moment(program, method, log):
    moment, interrupted, waited = 0, True, []
    while interrupted:
        moment += 1
        running = program(log)

        def handle(running=running):
            running.close(method)
            waited.append(running.engine.lifecycle.has_ended())

        with Handler(moment, handle) as handler, contextlib.suppress(*REFUSED):
            running.operate()
        interrupted = handler.where is not None
        if not isinstance(running, Pool):
            assert running.manager.stop().abandoned == (), handler.where
        else:
            running.pool.shutdown()
        running.manager.kill()
        assert running.engine.lifecycle.has_ended(), handler.where
        tasker._pool.exit_and_fork._watched.clear()  # as nothing is collected, they would become more and more
    assert moment > 10, "no trace function was called"
    assert sum(waited) > 10
    assert all(waited) or not program.lockless
