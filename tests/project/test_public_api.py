"""What users import: names, documentation, error tree, and what importing costs them."""

from __future__ import annotations

import builtins
import concurrent.futures
import dataclasses
import importlib.resources
import inspect
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasker
from tests.support.methods import TWELVE

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

ERROR_TREE: dict[str, tuple[type[BaseException], ...]] = {
    "TaskerError": (Exception,),
    "ConfigError": (ValueError,),
    "QueueFullError": (),
    "TaskTimeoutError": (TimeoutError,),
    "ContextCancelledError": (),
    "DeadlineExceededError": (TimeoutError,),
    "ResourceCreationError": (),
    "TaskManagerShutdownError": (RuntimeError,),
    "TaskManagerKilledError": (concurrent.futures.CancelledError,),
    "PoolDeadlockError": (),
    "WorkerLostError": (),
    "RemoteTaskError": (),
}


def _public() -> dict[str, Any]:
    return {name: getattr(tasker, name) for name in tasker.__all__}


def _public_members() -> Iterator[tuple[str, Any]]:
    """Every public class and function, and every public method and property that a class of ours defines."""
    for name, thing in _public().items():
        yield name, thing
        if inspect.isclass(thing):
            for owner in thing.__mro__:
                if owner.__module__.partition(".")[0] == "tasker":
                    yield from (
                        (
                            f"{name}.{member}",
                            value.__func__
                            if isinstance(value, classmethod | staticmethod)
                            else value,
                        )
                        for member, value in vars(owner).items()
                        if not member.startswith("_") and _needs_docstring(owner, member, value)
                    )


def _needs_docstring(owner: type, member: str, value: object) -> bool:
    if dataclasses.is_dataclass(owner) and member in {
        field.name for field in dataclasses.fields(owner)
    }:
        return False  # the default of a field, see below
    return inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)


def test_all_is_sorted_without_repetition() -> None:
    assert tasker.__all__ == sorted(set(tasker.__all__))


def test_all_names_everything_public() -> None:
    modules = {name for name, value in vars(tasker).items() if inspect.ismodule(value)}
    public = {name for name in vars(tasker) if not name.startswith("_")} - modules
    assert set(tasker.__all__) == public


def test_everything_in_all_is_defined_in_the_package() -> None:
    assert {thing.__module__.partition(".")[0] for thing in _public().values()} == {"tasker"}


def test_star_import_gives_what_all_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from tasker import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(tasker.__all__)


def test_every_error_is_exported() -> None:
    assert sorted(tasker.errors.__all__) == sorted(ERROR_TREE)
    assert set(ERROR_TREE) <= set(tasker.__all__)


@pytest.mark.parametrize("name", ERROR_TREE)
def test_error_stands_where_the_tree_says(name: str) -> None:
    error = getattr(tasker, name)
    assert issubclass(error, tasker.TaskerError)
    standard = {base for base in error.__mro__ if base.__module__ != "tasker.errors"}
    parents: tuple[type, ...] = (Exception, *ERROR_TREE[name])
    assert standard == {base for parent in parents for base in parent.__mro__}
    with pytest.raises(tasker.TaskerError, match="what happened"):
        raise error("what happened")


@pytest.mark.parametrize(
    ("name", "thing"), list(_public_members()), ids=[name for name, _ in _public_members()]
)
def test_public_name_has_a_docstring(name: str, thing: Any) -> None:
    assert thing.__doc__, f"{name} has no docstring"
    assert not thing.__doc__.startswith(f"{name}("), (
        f"{name} has only the docstring that dataclass makes"
    )


@pytest.mark.parametrize(
    "snapshot", [tasker.TaskStats, tasker.TaskMetrics, tasker.StopReport, tasker.Config]
)
def test_every_field_of_a_snapshot_has_a_docstring(snapshot: type) -> None:
    lines = [line.strip() for line in inspect.getsource(snapshot).splitlines()]
    for field in dataclasses.fields(snapshot):
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{field.name}:"))
        assert lines[at + 1].startswith('"""'), f"{snapshot.__name__}.{field.name} has no docstring"


@pytest.mark.parametrize(
    "snapshot", [tasker.TaskStats, tasker.TaskMetrics, tasker.StopReport, tasker.Config]
)
def test_snapshots_and_configurations_are_frozen_and_keyword_only(snapshot: type) -> None:
    assert snapshot.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(snapshot))


def test_every_field_of_metrics_and_stats_defaults_to_zero() -> None:
    for snapshot in (tasker.TaskMetrics(), tasker.TaskStats()):
        assert set(dataclasses.asdict(snapshot).values()) == {0}


@pytest.mark.parametrize("name", TWELVE)
def test_each_of_the_twelve_methods_knows_its_name(name: str) -> None:
    method = getattr(tasker.TaskManager, name)
    assert (method.__name__, method.__qualname__) == (name, f"TaskManager.{name}")
    assert ("priority" in method.__doc__) == ("priority" in name)
    assert ("never retried" in method.__doc__) == ("once" in name)
    parameters = inspect.signature(method).parameters.values()
    assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY] == [
        "timeout",
        "run_timeout",
        "queue_timeout",
        "ctx",
    ]


def test_there_are_twelve_methods_and_no_more() -> None:
    assert sorted(TWELVE) == sorted(
        name for name in vars(tasker.TaskManager) if name.startswith("queue_task")
    )


def test_no_public_name_shadows_a_builtin() -> None:
    assert set(tasker.__all__).isdisjoint(dir(builtins))


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files(tasker).joinpath("py.typed").is_file()


def test_version_is_the_one_in_pyproject() -> None:
    assert tasker.__version__ == tomllib.loads(PYPROJECT.read_text())["project"]["version"]


@pytest.mark.slow
def test_importing_tasker_imports_neither_asyncio_nor_multiprocessing() -> None:
    assert (
        _printed_by(
            "import sys, tasker; print({'asyncio', 'multiprocessing'} & sys.modules.keys())"
        )
        == "set()"
    )


@pytest.mark.slow
def test_importing_tasker_starts_no_thread() -> None:
    assert _printed_by("import threading, tasker; print(threading.active_count())") == "1"


def _printed_by(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(tasker.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
