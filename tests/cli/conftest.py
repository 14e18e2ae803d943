"""What tests of `tasker map` share: a module with functions, and a way to run it on them."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasker.cli import main
from tests.support.cli_runs import Ran


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module `app` to which tests give functions, in an empty current folder."""
    module = types.ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield module
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def run(app: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`run(lines, *arguments)`: `tasker map` over the lines, with two workers and their results on standard output."""

    def run(lines: bytes | str | None, *arguments: str) -> Ran:
        if lines is not None:
            content = lines.encode() if isinstance(lines, str) else lines
            (tmp_path / "input").write_bytes(content)
            arguments = (*arguments, "--input", "input")
        status = main(["map", "--workers", "2", *arguments])
        return Ran(status, *capsys.readouterr())

    return run
