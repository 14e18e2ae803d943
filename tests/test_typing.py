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

from tasker import Config, TaskManager

ROOT = Path(__file__).parents[1]
CHECKED = ("tasker", "examples", "tests/typing")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"typing_programs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


right = _load(ROOT / "tests/typing/right.py")
RIGHT_PROGRAMS = [
    value
    for value in vars(right).values()
    if inspect.isfunction(value)
    and value.__module__ == right.__name__
    and list(inspect.signature(value).parameters) == ["m"]
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("checker", "options"),
    [("mypy", ["--strict", "--cache-dir", os.devnull]), ("pyright", ["--pythonpath", sys.executable])],
)
def test_type_checker_accepts_the_right_programs_and_rejects_the_wrong_ones(checker: str, options: list[str]) -> None:
    pytest.importorskip(checker)
    command = [sys.executable, "-m", checker, *options, *CHECKED]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _statements_of_wrong_programs() -> Iterator[tuple[ast.stmt, str]]:
    source = (ROOT / "tests/typing/wrong.py").read_text()
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marked = any("# type: ignore" in lines[statement.lineno - 1] for statement in node.body)
            yield from ((statement, lines[statement.lineno - 1]) for statement in node.body if marked)


def test_every_wrong_program_says_what_each_checker_reports() -> None:
    statements = list(_statements_of_wrong_programs())
    assert len(statements) > 100
    unmarked = [line for _, line in statements if "# type: ignore[" not in line or "# pyright: ignore[" not in line]
    assert unmarked == []


@pytest.mark.parametrize("program", RIGHT_PROGRAMS, ids=lambda program: program.__name__)
def test_right_program_runs(program: Callable[[TaskManager[Any]], Any]) -> None:
    config = Config(on_create=right.Connection, on_destroy=right.Connection.close, worker_count=2)
    with TaskManager(config) as manager:
        outcome = program(manager)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)
