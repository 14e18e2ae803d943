"""How the threads of tasker begin: with nothing of the thread that starts them, or it is told that they have ended."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tasker._sync import threads
from tasker._sync.threads import new_thread
from tests.support.waiting import PATIENCE

# threads are started while the first request is served; callbacks of the second one run on them
PROGRAM = """
import contextvars, gc, sys, threading, weakref
from tasker import Config, TaskManager, ThreadPoolExecutor
from tasker.placement.processes.placement import Processes

PATIENCE = 20
request = contextvars.ContextVar("request", default=None)

class Request: pass

if "tracer" in sys.argv:  # a library that hands a request's context on to the threads that it starts
    real_start = threading.Thread.start

    def start(thread):
        run, context = thread.run, contextvars.copy_context()
        thread.run = lambda: context.run(run)
        real_start(thread)

    threading.Thread.start = start
elif not sys.flags.thread_inherit_context:
    raise SystemExit("this Python does not do what is tested here")

hired = TaskManager(Config(on_create=object, on_destroy=id, worker_count=1))
elsewhere = TaskManager(Config(on_create=object, on_destroy=id, worker_count=1, placement=Processes()))
pool = ThreadPoolExecutor(1)

def serve_first():
    serving = Request()
    request.set(serving)
    pool.submit(int).result(PATIENCE)
    for manager in hired, elsewhere:
        manager.submit(id, timeout=PATIENCE).result(PATIENCE)
    with TaskManager(Config(on_create=object, on_destroy=id, worker_count=1)) as manager:
        manager.submit(id).result(PATIENCE)
        kept = pool.submit(threading.current_thread).result(PATIENCE)
    cancelled(request.get)
    return weakref.ref(serving), kept

def cancelled(call):
    # the callbacks of a killed manager's contexts run on a thread that is started for them
    manager = TaskManager(Config(on_create=object, on_destroy=id, worker_count=1))
    began, seen, told = threading.Event(), [], threading.Event()

    def task(context, resource):
        context.on_done(lambda: (seen.append(call()), told.set()))
        began.set()
        context.wait(PATIENCE)

    manager.submit(task)
    began.wait(PATIENCE)
    manager.kill()
    assert told.wait(PATIENCE)
    return seen

seen, told = [], threading.Event()

def serve_second():
    future = hired.submit(lambda context, resource: context.wait(PATIENCE), timeout=0.05)
    future.add_done_callback(lambda _: (seen.append(request.get()), told.set()))
    assert told.wait(PATIENCE)

first, worker = contextvars.Context().run(serve_first)
contextvars.Context().run(serve_second)
assert seen == [None], "a callback ran in another request's context"
assert contextvars.Context().run(cancelled, request.get) == [None]
gc.collect()
assert first() is None, "a thread keeps the request that it was started in"
for manager in hired, elsewhere:
    manager.stop()
pool.shutdown()
print("done")
"""

HOW = [
    "tracer",
    pytest.param(
        "flag",
        marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="threads inherit no context"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_no_thread_keeps_or_uses_the_context_of_the_request_that_started_it(how: str) -> None:
    options = ["-X", "thread_inherit_context=1"] if how == "flag" else []
    command = [sys.executable, *options, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# the filters are the submitter's with the flag, and those of the whole process without
WARNINGS = """
import sys, warnings
from functools import partial
from tasker import Config, Processes, TaskManager

AWARE = bool(sys.flags.context_aware_warnings)
PATIENCE = 20

def made(**options):
    manager = TaskManager(Config(**{"on_create": object, "on_destroy": id, "worker_count": 1, **options}))
    assert manager.wait_ready(PATIENCE)
    return manager

def result(manager, task, *args):
    return manager.submit(task, *args, timeout=PATIENCE).result()

def error_of(manager):
    return manager.submit(warnings_warn, timeout=PATIENCE).exception()

def warnings_warn(resource):
    warnings.warn("of a task")

def catch(resource):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("in a block of its own")
    return len(caught)

with warnings.catch_warnings():
    warnings.simplefilter("error")
    manager, apart = made(), made(propagate_contextvars=False)  # hired here: no other task is to see these filters

warnings.simplefilter("ignore")
assert error_of(manager) is None
assert error_of(apart) is None
with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert isinstance(error_of(manager), UserWarning)
    assert isinstance(error_of(apart), UserWarning) is not AWARE
assert error_of(manager) is None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result(manager, warnings_warn)
    assert result(manager, catch) == 1
    result(manager, warnings_warn)
assert [str(each.message) for each in caught] == ["of a task"] * 2

elsewhere = made(on_create=dict, placement=Processes())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("error")
    result(elsewhere, partial(exec, "import warnings; warnings.warn('of a child')"))
assert caught == []
for each in manager, apart, elsewhere:
    each.stop()
print("done")
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="filters of warnings are the process's")
@pytest.mark.parametrize("inherit", [0, 1])
@pytest.mark.parametrize("aware", [0, 1])
def test_a_task_warns_as_its_submitter_would(aware: int, inherit: int) -> None:
    options = ["-X", f"context_aware_warnings={aware}", "-X", f"thread_inherit_context={inherit}"]
    command = [sys.executable, *options, "-c", WARNINGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "of a child" in done.stderr


# -- a new thread begins, or is known to have ended ------------------------------------------------------------------


def test_a_thread_that_ends_before_it_begins_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(threading.Thread, "_bootstrap", lambda self: None)
    thread = new_thread(int, "ended")
    with pytest.raises(RuntimeError, match="a new thread has ended before it began"):
        thread.start()
    assert not thread.is_alive()


def test_the_end_of_a_new_thread_may_be_seen_by_the_thread_that_waits_for_it_and_holds_its_lock():
    begun = threads._Begun()

    def entrance():
        pass

    begun.end_with(entrance)
    with begun._cond:
        del entrance  # which without the GIL is done for the new thread, at any moment
    with pytest.raises(RuntimeError, match="a new thread has ended before it began"):
        begun.wait()


def test_a_new_thread_that_has_no_memory_to_let_go_of_a_lock_runs_and_keeps_nobody_waiting(
    monkeypatch,
):
    here, leave, kept, ran = threading.get_ident(), threading.Condition.__exit__, [], []

    def leave_or_keep(self, *error):
        if threading.get_ident() == here or kept:
            return leave(self, *error)
        kept.append(self)
        raise MemoryError  # before the call has begun, so the lock stays taken

    monkeypatch.setattr(threading.Condition, "__exit__", leave_or_keep)
    thread = new_thread(lambda: ran.append(True), "poor")
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert kept
    assert ran


def test_a_thread_that_takes_long_to_begin_is_waited_for(monkeypatch):
    looked = threading.Semaphore(0)
    bootstrap = threading.Thread._bootstrap
    is_set = threads._Begun.is_set

    def begin_late(self):
        for _ in range(5):
            assert looked.acquire(timeout=PATIENCE)
        bootstrap(self)

    def look(self):
        looked.release()
        return is_set(self)

    monkeypatch.setattr(threads, "LOOK_S", 0.001)
    monkeypatch.setattr(threading.Thread, "_bootstrap", begin_late)
    monkeypatch.setattr(threads._Begun, "is_set", look)
    thread = new_thread(int, "late")
    thread.start()
    monkeypatch.undo()
    thread.join(PATIENCE)
    assert not thread.is_alive()
