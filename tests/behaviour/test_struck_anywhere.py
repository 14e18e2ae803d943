"""An exception that strikes tasker's own code between any two bytecodes costs a turn of a loop, and nothing else.

Another thread may send one (`PyThreadState_SetAsyncExc`), and every allocation may fail. A tracing function raises one
here: once, at the n-th bytecode that a thread of tasker runs in tasker's modules. Whatever it strikes, each task has
one outcome, each resource is destroyed once, and the manager comes to rest and closes. `TASKER_FALLS` is how many
places are tried of each thread, spread evenly (0: all of them).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tasker
from tasker import Config, TaskManager, TaskTimeoutError, background, with_timeout
from tasker._pool.metrics import Shard
from tasker._pool.worker import Worker
from tasker._sync.parking import gil_enabled
from tests.support.bytecodes import PACKAGE, StruckError, in_a_with, takes_lock
from tests.support.errors import Sick
from tests.support.pools import taken
from tests.support.recording import Factory
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_collection")]

PLACES = int(os.environ.get("TASKER_FALLS", "60"))


class Striker:
    """Traces the threads whose name ends in `suffix`, and raises at the bytecode with this number (-1: never)."""

    def __init__(self, suffix: str, place: int) -> None:
        self.suffix = suffix
        self.place = place
        self.count = 0
        self.armed = False
        self.struck: str | None = None

    def __enter__(self) -> Striker:
        threading.settrace(self._trace_call)
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)  # type: ignore[arg-type]

    def _trace_call(self, frame, event, arg):
        thread = threading._active.get(
            threading.get_ident()
        )  # current_thread() makes one where there is none
        if thread is None or not thread.name.endswith(self.suffix):
            return None
        path = frame.f_code.co_filename
        if (
            not path.startswith(PACKAGE)
            or "testing" in path
            or frame.f_code.co_name in NOT_OURS
            or takes_lock(frame)
        ):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._trace

    def _trace(self, frame, event, arg):
        if event == "opcode" and self.armed and self.struck is None:
            if frame.f_lasti in in_a_with(frame.f_code):
                return self._trace
            self.count += 1
            if self.count == self.place:
                self.struck = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise StruckError(self.struck)
        return self._trace


# `new_thread`'s own are before and after all that a loop of tasker's does
NOT_OURS = {"start", "ident", "wait"}


def work(manager: TaskManager, log: Told) -> list:
    """Tasks of every kind; returns their futures."""
    gate = threading.Event()

    def sick(resource, times=[0]):  # noqa: B006  # counts the attempts
        times[0] += 1
        if times[0] == 1:
            raise Sick

    futures = [
        manager.submit(lambda resource: 1),
        manager.submit(lambda ctx, resource: ctx.remaining(), priority=True),
        manager.submit(lambda resource: 1 / 0),
        manager.submit(sick),
        manager.submit(lambda resource: gate.wait(0.05), timeout=PATIENCE),
        manager.submit(lambda resource: None, timeout=0.01),
        manager.submit(lambda resource: gate.wait(0.05), run_timeout=0.01),
        manager.submit(lambda resource: None, ctx=with_timeout(background(), 0.01)),
    ]
    called: list[object] = []
    for future in futures:
        future.add_done_callback(called.append)
    manager.submit(lambda resource: 2).cancel()
    futures.append(manager.submit(lambda resource: 3))
    for future in futures:
        future.exception(PATIENCE)
    # struck at its very entry, a callback is told of as one that raised
    eventually(
        lambda: len(called) + "\n".join(log.lines).count("callback") >= len(futures) - 1,
        "the callbacks",
    )
    return futures


class Stuck:
    """Tasks that are aborted, and some that do not hear it and are abandoned."""

    def __init__(self):
        self.told = threading.Event()
        self.users = {}  # by the number of the resource: that of an abandoned thread is another
        self.wrong = []
        self.hooks = {"on_abort": self.abort, "abandon_after": 0.02}

    def abort(self, resource):
        before = self.users.get(resource.number)
        self.told.set()
        after = self.users.get(resource.number)
        if after not in (before, None):
            self.wrong.append((before, after))

    def use(self, resource, number, deaf):
        self.users[resource.number] = number
        if deaf:
            threading.Event().wait(0.06)
        else:
            self.told.wait(0.1)
            self.told.clear()
        self.users[resource.number] = None

    def work(self, manager, log):
        futures = []
        for number, deaf in enumerate([False, True, False]):
            futures.append(manager.submit(self.use, number, deaf, timeout=0.01))
            futures.append(manager.submit(lambda resource: 1))
            for future in futures:
                future.exception(PATIENCE)
        assert self.wrong == []
        return futures


# what a worker has to do between two tasks, and while it is idle
IN_SERVICE = {"on_check": bool, "check_after": 0, "keepalive": 0.005, "on_reset": id}


def run(suffix: str, place: int, work=work, **hooks: object) -> Striker:
    factory, log = Factory(), Told()
    with Striker(suffix, place) as striker:
        manager = TaskManager(
            Config(
                on_create=factory.create,
                on_destroy=factory.destroy,
                worker_count=1,
                max_worker_count=2,
                burst_interval=0.01,
                check_health=lambda error: not isinstance(error, Sick),
                logger=log,
                **hooks,
            )
        )
        striker.armed = True
        futures = work(manager, log)
        assert manager.join(PATIENCE), f"not at rest: {striker.struck}"
        eventually(lambda: not manager.stats().abandoned_workers, "the return of the abandoned")
        report = manager.stop(PATIENCE)
    assert report.drained, striker.struck
    assert taken(manager._engine.slots) == [], striker.struck
    assert all(future.done() for future in futures)
    for future in futures:
        error = future.exception()
        assert error is None or isinstance(
            error, (StruckError, ZeroDivisionError, Sick, TaskTimeoutError)
        ), striker.struck
    factory.check()
    return striker


class Told:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.lines = []  # to which any threads may append at once

    def debug(self, msg, *args):
        self.lines.append(msg % args)

    info = warning = error = debug


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No pauses, and a timer of this test's own, whose thread begins in it."""
    monkeypatch.setattr(tasker._pool.backoff, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(tasker._pool.backoff, "SPACING_S", 0.0)
    timer = tasker._sync.timer._Timer()
    monkeypatch.setattr(tasker._sync.timer, "_timer", timer)
    yield
    thread, timer._thread = timer._thread, None  # as if another had taken its place
    if thread is not None:
        timer._parker.wake()
        thread.join(PATIENCE)


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 14),
    reason="CPython crashes where one of several threads is traced by bytecodes",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
# struck while it is closed, a generator goes on to its end, and CPython says so
@pytest.mark.filterwarnings(
    "ignore:Exception ignored (in. <|while closing )generator:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("suffix", "hooks"),
    [
        ("-worker-1", {}),
        ("-burst", {}),
        ("-timer", {}),
        ("-worker-1", IN_SERVICE),
        ("-timer", IN_SERVICE),
    ],
)
def test_an_exception_between_any_two_bytecodes_costs_a_turn_and_no_task(suffix, hooks):
    total = run(suffix, -1, **hooks).count
    assert total > 100
    for place in range(1, total, max(1, total // PLACES) if PLACES else 1):
        print(run(suffix, place, **hooks).struck)


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 14),
    reason="CPython crashes where one of several threads is traced by bytecodes",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suffix", ["-worker-1", "-timer"])
def test_an_exception_between_any_two_bytecodes_leaves_no_abort_and_no_worker_behind(suffix):
    stuck = Stuck()
    total = run(suffix, -1, stuck.work, **stuck.hooks).count
    assert total > 100
    for place in range(1, total, max(1, total // PLACES) if PLACES else 1):
        stuck = Stuck()
        print(run(suffix, place, stuck.work, **stuck.hooks).struck)


@pytest.mark.skipif(
    not hasattr(os, "fork") or not gil_enabled(), reason="allocations cannot be made to fail there"
)
@pytest.mark.parametrize("what", ["failing task", "task", "timeout", "burst"])
def test_an_allocation_that_fails_leaves_no_task_without_an_outcome_and_ends_no_thread(what):
    pytest.importorskip("_testcapi")
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY, what],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == -signal.SIGSEGV:
        pytest.skip("CPython itself crashes here where allocations fail (3.12 does)")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


NO_MEMORY = """
import gc, logging, os, sys, threading, time
import _testcapi
from tasker import Config, TaskManager

logging.disable(logging.CRITICAL)
threading.excepthook = sys.unraisablehook = lambda _: None
gc.disable()
what = sys.argv[1]
gate = threading.Lock()


def new():
    manager = TaskManager(Config(on_create=object, on_destroy=lambda resource: None, worker_count=1, burst_interval=0))
    assert manager.wait_ready(20)
    return manager


def held(resource, fails):
    gate.acquire()
    gate.release()
    if fails:
        raise ValueError(1)


def with_failing(allocation):
    called = []
    gate.acquire()
    if what == "timeout":
        future = manager.submit(held, False, timeout=0.02)
    else:
        future = manager.submit(held, what == "failing task")
    future.add_done_callback(called.append)
    while not (future.running() or future.done()):  # on a busy machine its timeout may end before it starts
        time.sleep(0.001)
    if what == "burst":
        gate.release()
    _testcapi.set_nomemory(allocation, allocation + (30 if what == "burst" else 1))
    try:
        if what in ("task", "failing task"):
            gate.release()
        time.sleep(0.15 if what == "burst" else 0.03 if what == "timeout" else 0.005)
    except MemoryError:  # of this thread's own
        pass
    finally:
        _testcapi.remove_mem_hooks()
    try:
        future.exception(10)
    finally:
        if what == "timeout":
            gate.release()
    return manager.join(10)


manager, lost = new(), []
for allocation in range(0, 60, 2 if what == "burst" else 1):
    try:
        right = with_failing(allocation)
    except TimeoutError:
        right = False
    if not right:
        lost.append(allocation)
        if len(lost) == 3:
            break
        manager = new()
closed = []
closer = threading.Thread(target=lambda: closed.append(manager.kill(0.1)), daemon=True)
closer.start()
closer.join(20)
print(lost if closed else "kill() does not return", flush=True)
os._exit(0)
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_retry_whose_worker_falls_before_it_is_put_back_has_arrived_once(
    new_manager, monkeypatch
):
    manager = new_manager(
        worker_count=1, burst_interval=0, check_health=lambda error: not isinstance(error, Sick)
    )
    queue, count, struck, sick = manager._engine.queue, Shard.count, [], [Sick()]

    def fall_once(shard, *, retried=0, **others):
        if retried and not struck:
            struck.append(True)
            raise MemoryError
        count(shard, retried=retried, **others)

    def task(resource):
        if sick:
            raise sick.pop()

    monkeypatch.setattr(Shard, "count", fall_once)
    manager.submit(task).result(PATIENCE)
    assert struck
    assert manager.join(PATIENCE)
    assert queue._requeued == {False: 0, True: 0}
    assert manager.metrics().total_tasks_arrived == 1


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 14), reason="there no thread starts after a failed allocation"
)
def test_a_resource_that_is_made_when_memory_ends_is_not_lost(new_manager, factory, request):
    _testcapi = pytest.importorskip("_testcapi")
    if not (gil_enabled() and hasattr(_testcapi, "set_nomemory")):
        pytest.skip("allocations cannot be made to fail here")

    armed, interval = [True], sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)  # so that it is the worker's
    request.addfinalizer(lambda: sys.setswitchinterval(interval))

    def create():
        made = factory.create()
        if armed:
            armed.clear()
            _testcapi.set_nomemory(0, 1)  # the next allocation fails, whatever it is for
        return made

    def destroy(resource):
        _testcapi.remove_mem_hooks()
        factory.destroy(resource)

    manager = new_manager(
        worker_count=1,
        burst_interval=0,
        on_create=create,
        on_destroy=destroy,
        create_timeout=PATIENCE,
    )
    manager.submit(lambda resource: None).result(PATIENCE)
    assert manager.stop(PATIENCE).drained
    _testcapi.remove_mem_hooks()
    factory.check()


@pytest.mark.skipif(not gil_enabled(), reason="allocations cannot be made to fail there")
@pytest.mark.skipif(sys.version_info >= (3, 15), reason="there a lock is released without memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["housekeeper", "timer", "worker", "task", "runner", "a job"])
def test_a_lock_that_was_not_released_for_want_of_memory_is_released_by_its_thread(
    new_manager, monkeypatch, where
):
    manager = new_manager(worker_count=1, burst_interval=0)
    engine, struck = manager._engine, threading.Event()
    lock = engine.counters._lock

    def strike(*_, **__):
        if not struck.is_set():
            lock.acquire()  # as the end of a `with` block leaves it
            struck.set()
            raise MemoryError

    assert manager.wait_ready(PATIENCE)
    if where == "housekeeper":
        monkeypatch.setattr(engine.housekeeper, "_do", strike)
        engine.housekeeper.wake()
    elif where == "timer":
        tasker._sync.timer.after(0.0, strike)
    elif where == "worker":
        monkeypatch.setattr(Worker, "_failed", strike)
        manager.submit(lambda resource: 1 / 0)
    elif where == "runner":
        monkeypatch.setattr(engine.runner, "_move", strike)
        engine.runner.run(int)
    elif where == "a job":
        engine.runner.run(strike)
    else:
        assert isinstance(manager.submit(strike).exception(PATIENCE), MemoryError)
    assert struck.wait(PATIENCE)
    monkeypatch.undo()
    assert manager.submit(lambda resource: 1).result(PATIENCE) == 1
    eventually(lambda: lock.acquire(blocking=False), "the lock")
    lock.release()
