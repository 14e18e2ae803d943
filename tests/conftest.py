"""What all tests share: small resources that record their lives, and a check that nothing is left behind."""

from __future__ import annotations

import gc
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

import tasker.aside
import tasker.backoff
import tasker.lifecycle
import tasker.logger
import tasker.timer
from tasker import Config, TaskManager
from tasker.testing import DummyResource, ResourceFactory, leak_check
from tasker.testing.factory import numbered
from tasker.threadpool import ThreadPoolExecutor

if interval := os.environ.get("TASKER_SWITCH_INTERVAL"):  # seconds: 1e-6 has threads switch as often as can be
    sys.setswitchinterval(float(interval))

for number in ("SIGALRM", "SIGUSR1"):
    # what tests restore when they have sent such signals: one that is on its way must find a handler
    if hasattr(signal, number) and threading.current_thread() is threading.main_thread():
        signal.signal(getattr(signal, number), lambda *_: None)

PATIENCE = 50.0  # seconds after which a wait in a test has failed; nothing that passes waits that long


class Resource(DummyResource):
    """A resource that knows which thread made it, and whether it is broken."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.thread = threading.get_ident()
        self.broken = False


class Factory(ResourceFactory[Resource]):
    """Makes those. `fail_next` errors, then `fail_always`, are raised instead of creating."""

    def __init__(self) -> None:
        super().__init__(numbered(Resource), Resource.close)
        self.fail_next: list[BaseException] = []
        self.fail_always: BaseException | None = None

    def create(self) -> Resource:
        with self._lock:
            error = self.fail_next.pop(0) if self.fail_next else self.fail_always
        if error is not None:
            raise error
        return super().create()

    def destroy(self, resource: Resource, reason: BaseException | None = None) -> None:
        """As a pool calls it, too."""
        super().destroy(resource)


class Log:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def _keep(self, level: str, msg: str, args: tuple[object, ...]) -> None:
        self.lines.append((level, msg % args if args else msg))

    def debug(self, msg: str, /, *args: object) -> None:
        self._keep("debug", msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._keep("info", msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._keep("warning", msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._keep("error", msg, args)

    def loud(self) -> list[str]:
        return [text for level, text in self.lines if level in ("warning", "error")]

    def telling(self, of: str) -> list[str]:
        """The first lines of all that was told of it: what comes again and again is told loudly once, then as debug."""
        return [text.partition("\n")[0] for _, text in self.lines if of in text]


def eventually(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait for something that nothing signals; fails after PATIENCE. Use an event where there is one."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {PATIENCE} s")
        time.sleep(0.002)


class Sick(Exception):
    """The error that breaks a resource in these tests."""


@pytest.fixture
def factory() -> Iterator[Factory]:
    factory = Factory()
    yield factory
    factory.check()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def make(factory: Factory, log: Log) -> Iterator[Callable[..., TaskManager[Resource]]]:
    """`make(**options)`: a running manager on recorded resources, killed at the end if the test left it open."""
    managers: list[TaskManager[Resource]] = []

    def make(**options: Any) -> TaskManager[Resource]:
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

    yield make
    for manager in managers:
        if repr(manager).find("closed") < 0:
            kill(manager)


def kill(manager: TaskManager[Any]) -> None:
    """Nothing is left behind, however slow the machine is: a kill gives what only has to leave a second, not more."""
    with mock.patch.object(tasker.lifecycle, "_JOIN", PATIENCE):
        assert manager.kill(PATIENCE).abandoned == ()


@pytest.fixture(params=["view", "pool"])
def executor(request, make) -> Iterator[Executor]:
    """An executor with two workers."""
    if request.param == "view":
        yield make(worker_count=2, max_worker_count=2).executor()
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
    monkeypatch.setattr(tasker.backoff, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(tasker.backoff, "SPACING", 0.0)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and tasks pause, but not for long."""
    monkeypatch.setattr(tasker.backoff, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(tasker.backoff, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(tasker.backoff, "SPACING", 0.0)


@pytest.fixture
def endless_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that pauses, or a task, does so until it has nothing to pause for."""
    monkeypatch.setattr(tasker.backoff, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(tasker.backoff, "LONGEST_PAUSE", 1000.0)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What dies, dies because nobody refers to it; and no finalizer of a manager that another test forgot runs here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _ours() -> set[threading.Thread]:
    shared = (tasker.timer._timer._thread,)  # one for the whole process
    return {t for t in threading.enumerate() if t not in shared and t.name != "MainThread" and "pytest" not in t.name}


@pytest.fixture(autouse=True, scope="module")
def what_was_there_before_is_not_collected() -> None:
    """Hundreds of tests collect garbage: through all that pytest and other tests keep it takes a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = _ours()
    with leak_check():
        yield
    deadline = time.monotonic() + 5.0
    while (left := _ours() - before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not left, f"threads left behind: {sorted(thread.name for thread in left)}"


@pytest.fixture(autouse=True)
def faults_of_other_tests_are_over() -> None:
    """Those of callbacks of contexts, say, which belong to no manager."""
    tasker.logger.ours.faults.all()


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads switch as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
