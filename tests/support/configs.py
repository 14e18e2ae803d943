"""A `Config` that is right, and the values that each field refuses."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import AsyncMock

from tasker import Config, Processes, TaskMetrics, Threads, background
from tests.support.errors import Sick
from tests.support.recording import Log


def config(**options):
    return Config(**{"on_create": list, "on_destroy": list.clear, "worker_count": 3, **options})


async def coroutine(*_): ...


async def asynchronous_generator(*_):
    yield


@contextmanager
def session(where="here"):
    yield where


@asynccontextmanager
async def asynchronous_session():
    yield


def generator():
    yield


def generator_of_one(resource):
    yield


def is_healthy(error):
    return True


class Collector:
    def record_arrival(self): ...
    def record_completion(self, stamps): ...
    def record_failure(self, stamps): ...
    def record_retry(self): ...
    def metrics(self):
        return TaskMetrics()


WHOLE = "whole number"

SECONDS = "number of seconds or a timedelta"

NUMBERS = [None, "3", 2.0, 2.5, True, False, float("nan"), [3], 1j]  # no whole numbers, all of them

HOOKS = ("on_check", "on_reset", "on_abort")  # those that are called with the resource

WRONG = [
    *(("worker_count", value, f"{WHOLE}, 1 or more") for value in (*NUMBERS, 0, -1)),
    *(("max_retries", value, f"{WHOLE}, 0 or more") for value in (*NUMBERS, -1)),
    *(("queue_size", value, f"{WHOLE}, 0 or more") for value in (*NUMBERS, -1)),
    *(
        ("placement", value, "Threads(), Processes() or Ray()")
        for value in (None, "processes", Threads, Processes, 1)
    ),
    *(("propagate_contextvars", value, "True or False") for value in (None, 0, 1, "no")),
    *(("burst_task_threshold", value, f"{WHOLE}, 0 or more") for value in (*NUMBERS, -1)),
    *(("burst_worker_count", value, f"{WHOLE}, 1 or more") for value in (*NUMBERS, 0, -1)),
    *(("resource_pool_size", value, f"{WHOLE}, 0 or more") for value in (*NUMBERS[1:], -1)),
    *(("run_task_limit", value, f"{WHOLE}, 1 or more") for value in (*NUMBERS[1:], 0, -1)),
    *(("max_worker_count", value, f"{WHOLE}, 1 or more") for value in (*NUMBERS[1:], 0, -1)),
    *(("max_worker_count", value, "None or at least worker_count (3)") for value in (1, 2)),
    *(
        ("burst_interval", value, f"{SECONDS}, 0 or more")
        for value in (None, "1", True, [1], 1j, -1, -0.1, timedelta(seconds=-1))
    ),
    *(("burst_interval", value, "finite") for value in (float("nan"), float("inf"), 10**400)),
    *(
        ("create_timeout", value, f"{SECONDS}, more than 0")
        for value in (None, "1", False, 0, 0.0, -1, timedelta(0), float("nan"))
    ),
    ("create_timeout", float("inf"), "finite"),
    *(("name", value, "non-empty string") for value in (None, "", 3, b"name", ["name"])),
    *(
        ("ctx", value, "Context, for example background()")
        for value in (None, 1, "background", background)
    ),
    *(
        ("logger", value, "debug, info, warning, error")
        for value in (None, print, "tasker", Collector())
    ),
    *(
        ("logger", SimpleNamespace(debug=print, info=print, warning=print), says)
        for says in ("debug, info, warning, error", "lacks error")
    ),
    *(("collector", value, "record_arrival, record_completion") for value in (1, "prometheus")),
    (
        "collector",
        Log(),
        "lacks record_arrival, record_completion, record_failure, record_retry, metrics",
    ),
    *(
        ("on_create", value, "called with no arguments")
        for value in (None, 1, "connect", lambda slot, size: size)
    ),
    ("on_create", lambda *, slot: slot, "called with no arguments, or with a Slot"),
    *(
        ("on_destroy", value, "called with the resource")
        for value in (None, 1, lambda: 0, lambda a, b: 0)
    ),
    ("on_destroy", lambda resource, *, force: 0, "called with the resource"),
    (
        "on_create",
        functools.partial(lambda host, port, slot: 0, "localhost"),
        "called with no arguments",
    ),
    (
        "on_destroy",
        functools.partial(lambda pool, resource, reason: 0, "pool"),
        "called with the resource",
    ),
    *(
        ("check_health", value, "called with the error, or with the error and the resource")
        for value in (None, 1, Sick("x"), lambda: 0, lambda a, b, c: 0, lambda error, *, conn: 0)
    ),
    ("check_health", lambda error, conn, reason: True, "missing a required argument: 'reason'"),
    *(
        (field, value, "called with the resource")
        for field in HOOKS
        for value in (1, "SELECT 1", lambda: 0, lambda a, b: 0, lambda resource, *, force: 0)
    ),
    *((field, generator_of_one, "generator function") for field in HOOKS),
    ("on_create", session, "Config.from_context_manager"),
    ("on_create", functools.partial(session, "elsewhere"), "Config.from_context_manager"),
    ("on_create", generator, "@contextlib.contextmanager; Config.from_context_manager"),
    ("on_create", asynchronous_session, "outside of asyncio"),
    *(
        (field, value, "asyncio.run")
        for field in ("on_create", "on_destroy", "check_health", *HOOKS)
        for value in (coroutine, functools.partial(coroutine), AsyncMock(), asynchronous_generator)
    ),
]
