"""The types: both checkers read the package, the examples and `tests/typing`, whose right programs also run."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tasker
from tasker import Config, TaskManager

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests/typing"
CHECKED = ("tasker", "examples", "tests/typing")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"typing_programs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _programs(path: Path) -> Iterator[Any]:
    """What is to be run of a file, with the name of the file and of the program."""
    module = _load(path)
    for name, value in vars(module).items():
        own = inspect.isfunction(value) and value.__module__ == module.__name__
        if own and list(inspect.signature(value).parameters) == ["m"]:
            yield pytest.param(value, module.Connection, id=f"{path.stem}-{name}")


def _run(checker: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip(checker)
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", checker, *options], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("checker", "options"),
    [
        ("mypy", ["--strict", "--cache-dir", os.devnull]),
        ("pyright", ["--pythonpath", sys.executable]),
    ],
)
def test_type_checker_accepts_the_right_programs_and_rejects_the_wrong_ones(
    checker: str, options: list[str]
) -> None:
    done = _run(checker, *options, *CHECKED)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_type_of_everything_public_is_known() -> None:
    options = ["--pythonpath", sys.executable, "--verifytypes", "tasker", "--ignoreexternal"]
    found = str(Path(tasker.__file__).parents[1])  # where else it looks is among what is installed
    done = _run("pyright", *options, PYTHONPATH=found)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Type completeness score: 100%" in done.stdout


def _statements_of_wrong_programs() -> Iterator[tuple[ast.stmt, str]]:
    for path in sorted(PROGRAMS.glob("wrong*.py")):
        yield from _marked_statements(path.read_text())


def _marked_statements(source: str) -> Iterator[tuple[ast.stmt, str]]:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marked = any("# type: ignore" in lines[statement.lineno - 1] for statement in node.body)
            yield from (
                (statement, lines[statement.lineno - 1]) for statement in node.body if marked
            )


def test_every_wrong_program_says_what_each_checker_reports() -> None:
    statements = list(_statements_of_wrong_programs())
    assert len(statements) > 250
    unmarked = [
        line
        for _, line in statements
        if "# type: ignore[" not in line or "# pyright: ignore[" not in line
    ]
    assert unmarked == []


@pytest.mark.parametrize(
    ("program", "connection"),
    [program for path in sorted(PROGRAMS.glob("right*.py")) for program in _programs(path)],
)
def test_right_program_runs(program: Callable[[TaskManager[Any]], Any], connection: Any) -> None:
    config = Config(on_create=connection, on_destroy=connection.close, worker_count=2)
    with TaskManager(config) as manager:
        outcome = program(manager)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)
