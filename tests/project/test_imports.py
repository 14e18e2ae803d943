"""What `import tasker` brings with it, what comes later, and that nobody sees the difference but by the clock."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pickle
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import tasker

pytestmark = pytest.mark.slow

BROUGHT = {
    "__future__",
    "array",
    "bisect",
    "contextvars",
    "datetime",
    "math",
    "sortedcontainers",
    "typing",
}
"""The modules of others that tasker needs at once, beside those that `concurrent.futures.thread` and `logging` bring.

Each costs every program that imports tasker a part of a millisecond, `dataclasses` and `inspect` together six."""

LATER = {
    "Processes": "tasker.placement.processes.placement",
    "Ray": "tasker.placement.ray.placement",
    "TaskLifecycleTimestamps": "tasker.stamps",
    "TaskStream": "tasker.stream",
    "ThreadPoolExecutor": "tasker.threadpool",
}

A_MANAGER = """
from tasker import Config, TaskManager, unhealthy_on

class Connection:
    def close(self): ...

config = Config(
    on_create=lambda: Connection(), on_destroy=Connection.close, worker_count=1, check_health=unhealthy_on(OSError)
)
with TaskManager(config) as manager:
    assert manager.queue_task(lambda connection: 1) == 1
    assert manager.queue_task_async(lambda ctx, connection, number: number, 2).result() == 2
    assert manager.run_task(lambda connection: 3) == 3
    manager.stats(), manager.metrics()
"""


def run(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(tasker.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def brought_by(code: str, *, beside: str) -> set[str]:
    """The modules that `code` imports for the first time in a new interpreter. Without the parts of packages, and those
    that are written in C for another one."""
    lines = f"import sys\n{beside}\nbefore = {{*sys.modules}}\n{code}\nprint(*sys.modules.keys() - before)"
    return {
        name
        for name in run(lines).split()
        if not ("." in name or (name.startswith("_") and name != "__future__"))
    }


def test_importing_tasker_brings_these_modules_and_no_others() -> None:
    beside = "import concurrent.futures.thread, logging"
    there = set(run(f"import sys\n{beside}\nprint(*sys.modules)").split())
    assert brought_by("import tasker", beside=beside) - {"tasker"} == BROUGHT - there


def test_a_first_manager_brings_no_more() -> None:
    assert brought_by(A_MANAGER, beside="import tasker") == set()


def test_what_many_programs_do_without_comes_when_it_is_asked_for() -> None:
    modules = run(
        "import sys, tasker; print(*(name for name in sys.modules if name.startswith('tasker.')))"
    ).split()
    apart = (
        "aio",
        "_sync.awaiting",
        "cli",
        "executor",
        "_pool.remote",
        "_tasks.standard",
        "testing",
    )
    assert not {*LATER.values(), *(f"tasker.{name}" for name in apart)} & {*modules}
    assert sorted(name for name in modules if name.startswith("tasker.placement.")) == [
        "tasker.placement.base",
        "tasker.placement.processes",
        "tasker.placement.processes.beginning",
    ]


@pytest.mark.parametrize("name", LATER)
def test_it_is_there_in_every_way(name: str) -> None:
    for code in (
        f"import tasker; thing = tasker.{name}",
        f"from tasker import {name} as thing",
        f"import tasker; assert {name!r} in dir(tasker); thing = getattr(tasker, {name!r})",
        f"from tasker import *; thing = {name}",
        f"import tasker; thing = tasker.{name}; assert vars(tasker)[{name!r}] is thing is tasker.{name}",
    ):
        assert run(f"{code}\nprint(thing.__module__, thing.__name__)") == f"{LATER[name]} {name}"


def test_help_shows_it() -> None:
    shown = run("import tasker; help(tasker)")
    assert all(f"class {name}(" in shown for name in LATER)


def test_what_is_pickled_can_be_read_where_tasker_was_not_imported() -> None:
    pickled = pickle.dumps(
        (tasker.Processes(grace=1.5), tasker.Threads(), tasker.TaskStats(base_workers=1))
    )
    assert run(f"import pickle; print(pickle.loads({pickled!r})[0].grace)") == "1.5"


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'tasker' has no attribute 'Nothing'"):
        tasker.Nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nothing' from 'tasker'"):
        from tasker import Nothing  # type: ignore[attr-defined]  # noqa: F401


def test_an_executor_can_be_asked_for_when_the_interpreter_ends() -> None:
    # `concurrent.futures.thread` cannot be imported any more then
    code = """
import atexit
from tasker import Config, TaskManager
manager = TaskManager(Config(on_create=object, on_destroy=id, worker_count=1))
atexit.register(lambda: print(manager.executor().submit(abs, -1).result(), *manager.map(lambda _, n: n, [2, 3])))
"""
    assert run(code) == "1 2 3"


def test_the_types_of_a_config_can_be_read() -> None:
    hints = typing.get_type_hints(tasker.Config)
    assert hints["burst_interval"] == float | datetime.timedelta
    assert {field.name for field in dataclasses.fields(tasker.Config)} <= hints.keys()
