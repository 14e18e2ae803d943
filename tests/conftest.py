"""What all tests share: small resources that record their lives, and a check that nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any
from unittest import mock

import pytest

import tasker._pool.backoff
import tasker._sync.callback_runner
import tasker._sync.guarded_logger
import tasker._sync.timer
import tasker.testing.leaks
from tasker import Config, TaskManager
from tasker.testing import ManualClock, leak_check
from tasker.threadpool import ThreadPoolExecutor
from tests.support.closing import kill
from tests.support.errors import Sick
from tests.support.interrupts import CtrlC
from tests.support.recording import Factory, Log, Resource
from tests.support.waiting import PATIENCE

# seconds: 1e-6 has threads switch as often as can be
if interval := os.environ.get("TASKER_SWITCH_INTERVAL"):
    sys.setswitchinterval(float(interval))

for number in ("SIGALRM", "SIGUSR1"):
    # what tests restore when they have sent such signals: one that is on its way must find a handler
    if hasattr(signal, number) and threading.current_thread() is threading.main_thread():
        signal.signal(getattr(signal, number), lambda *_: None)

if threading.current_thread() is threading.main_thread():
    # a job in the background of a script ignores it, and so would the programs that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def factory() -> Iterator[Factory]:
    factory = Factory()
    yield factory
    factory.check()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def new_manager(factory: Factory, log: Log) -> Iterator[Callable[..., TaskManager[Resource]]]:
    """`new_manager(**options)`: a running manager on recorded resources, killed at the end if the test left it open."""
    managers: list[TaskManager[Resource]] = []

    def new_manager(**options: Any) -> TaskManager[Resource]:
        options = {
            "worker_count": 2,
            "on_create": factory.create,
            "on_destroy": factory.destroy,
            "check_health": lambda error: not isinstance(error, Sick),
            "logger": log,
            "resource_pool_size": 0,
            "burst_interval": 0,  # who takes which task depends on no tick; tests of scaling say otherwise
            **options,
        }
        manager = TaskManager(Config(**options))
        managers.append(manager)
        return manager

    yield new_manager
    for manager in managers:
        if not manager.closed:
            kill(manager)


@pytest.fixture(params=["view", "pool"])
def executor(request, new_manager) -> Iterator[Executor]:
    """An executor with two workers."""
    if request.param == "view":
        yield new_manager(worker_count=2, max_worker_count=2).executor()
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


@pytest.fixture
def block() -> Iterator[Callable[[Executor, int], threading.Event]]:
    """`block(executor, workers)`: keep so many workers busy until the event that it returns is set."""
    gates = []

    def block(executor, workers):
        gate, busy = threading.Event(), threading.Barrier(workers + 1)

        def call():
            busy.wait(PATIENCE)
            gate.wait(PATIENCE)

        gates.append(gate)
        for _ in range(workers):
            executor.submit(call)
        busy.wait(PATIENCE)
        return gate

    yield block
    for gate in gates:
        gate.set()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers make another resource at once, and what is retried is at once in front of its lane."""
    monkeypatch.setattr(tasker._pool.backoff, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(tasker._pool.backoff, "SPACING_S", 0.0)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and tasks pause, but not for long."""
    monkeypatch.setattr(tasker._pool.backoff, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(tasker._pool.backoff, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(tasker._pool.backoff, "SPACING_S", 0.0)


@pytest.fixture
def endless_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that pauses, or a task, does so until it has nothing to pause for."""
    monkeypatch.setattr(tasker._pool.backoff, "FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr(tasker._pool.backoff, "LONGEST_PAUSE_S", 1000.0)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What dies, dies because nobody refers to it; and no finalizer of a manager that another test forgot runs here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def ctrl_c() -> Iterator[CtrlC]:
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("no signal can be sent to a thread here")
    ctrl_c = CtrlC()
    previous = signal.signal(signal.SIGINT, ctrl_c.strike)
    yield ctrl_c
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """The clock of deadlines, which stands still but for `advance`."""
    with ManualClock() as clock:
        yield clock


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tasker._sync.timer._Timer]:
    """A timer that nobody else uses; its thread ends with the test."""
    timer = tasker._sync.timer._Timer()
    monkeypatch.setattr(tasker._sync.timer, "_timer", timer)
    yield timer
    monkeypatch.undo()
    thread, timer._thread = timer._thread, None  # as if another had taken its place
    if thread is not None:
        timer._parker.wake()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def _ours() -> set[threading.Thread]:
    shared = (tasker._sync.timer._timer._thread,)  # one for the whole process
    return {
        t
        for t in threading.enumerate()
        if t not in shared and t.name != "MainThread" and "pytest" not in t.name
    }


@pytest.fixture(autouse=True, scope="module")
def what_was_there_before_is_not_collected() -> None:
    """Hundreds of tests collect garbage: through all that pytest and other tests keep it takes a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = _ours()
    with contextlib.ExitStack() as patience, leak_check():
        yield
        # A busy machine may leave a thread that has to end without a processor for seconds.
        patience.enter_context(mock.patch.object(tasker.testing.leaks, "PATIENCE_S", PATIENCE))
    deadline = time.monotonic() + PATIENCE
    while (left := _ours() - before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not left, f"threads left behind: {sorted(thread.name for thread in left)}"


@pytest.fixture(autouse=True)
def faults_of_other_tests_are_over() -> None:
    """Those of callbacks of contexts, say, which belong to no manager."""
    tasker._sync.guarded_logger.ours.faults.all()


@pytest.fixture(autouse=True)
def logging_is_as_it_was() -> Iterator[None]:
    """A logger that a test has silenced would hide what others wait for."""
    yield
    assert (logging.getLogger("tasker").level, logging.root.manager.disable) == (0, 0)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads switch as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
