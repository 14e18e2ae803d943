"""What all tests share: small resources that record their lives, and a check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tasker.aside
import tasker.timer
from tasker import Config, TaskManager

if interval := os.environ.get("TASKER_SWITCH_INTERVAL"):  # seconds: 1e-6 has threads switch as often as can be
    sys.setswitchinterval(float(interval))

PATIENCE = 20.0  # seconds after which a wait in a test has failed; nothing that passes waits that long


class Resource:
    """A resource that knows which thread made it, and whether it is alive and in use."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.thread = threading.get_ident()
        self.alive = True
        self.used = threading.Lock()
        self.broken = False


class Factory:
    """Makes and destroys resources, and records every misuse. `fail_next` errors are raised instead of creating."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.created: list[Resource] = []
        self.destroyed: list[Resource] = []
        self.misuses: list[str] = []
        self.fail_next: list[BaseException] = []
        self.fail_always: BaseException | None = None
        self.any_thread = False  # the run_task pool may destroy elsewhere

    def create(self) -> Resource:
        with self.lock:
            if self.fail_next:
                raise self.fail_next.pop(0)
            if self.fail_always is not None:
                raise self.fail_always
            resource = Resource(len(self.created))
            self.created.append(resource)
            return resource

    def destroy(self, resource: Resource) -> None:
        with self.lock:
            if not resource.alive:
                self.misuses.append(f"{resource.number} destroyed twice")
            if resource.used.locked():
                self.misuses.append(f"{resource.number} destroyed while used")
            if resource.thread != threading.get_ident() and not self.any_thread:
                self.misuses.append(f"{resource.number} destroyed in another thread")
            resource.alive = False
            self.destroyed.append(resource)

    def use(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A task that checks that its resource is alive and its own while `fn(resource, *args)` runs."""

        def task(resource: Resource, *args: Any) -> Any:
            if not resource.alive:
                self.misuses.append(f"{resource.number} used after it was destroyed")
            if not resource.used.acquire(blocking=False):
                self.misuses.append(f"{resource.number} used by two")
            try:
                return fn(resource, *args)
            finally:
                resource.used.release()

        return task

    @property
    def live(self) -> int:
        return len(self.created) - len(self.destroyed)


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
    assert factory.misuses == []
    assert factory.live == 0, f"{factory.live} resources were not destroyed"
    assert sorted(r.number for r in factory.destroyed) == sorted(r.number for r in factory.created)


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
            **options,
        }
        manager = TaskManager(Config(**options))
        managers.append(manager)
        return manager

    yield make
    for manager in managers:
        if repr(manager).find("closed") < 0:
            assert manager.kill(PATIENCE).abandoned == ()


def _ours() -> set[threading.Thread]:
    shared = (tasker.timer._timer._thread,)  # one for the whole process
    return {t for t in threading.enumerate() if t not in shared and t.name != "MainThread" and "pytest" not in t.name}


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = _ours()
    yield
    if _ours() - before:
        gc.collect()  # of a manager that the test forgot; for every test it would cost half the time of the suite
    deadline = time.monotonic() + 5.0
    while (left := _ours() - before) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not left, f"threads left behind: {sorted(thread.name for thread in left)}"
