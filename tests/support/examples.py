"""The programs in `examples`: run as a reader would, from another folder, or imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tasker
from tests.support.output import output_matches

EXAMPLES = Path(__file__).parents[2] / "examples"
# seconds, less than pytest's: a program that hangs is ended, and what it printed is shown
PATIENCE = 150.0


def load(name: str) -> Any:
    """Import an example: a program in a folder that is no package."""
    path = EXAMPLES / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(name: str, *arguments: str) -> list[str]:
    # a connection, file or socket that is left open is written to stderr, which is to stay empty
    return [sys.executable, "-W", "always::ResourceWarning", str(EXAMPLES / name), *arguments]


def environment(*folders: Path) -> dict[str, str]:
    """That of the tests, with `tasker` as they found it, installed or not, and the modules in `folders` before all."""
    path = [str(folder) for folder in (*folders, Path(tasker.__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONIOENCODING": "utf-8"}


def run_example(
    name: str, *arguments: str, cwd: Path, modules: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end in the folder `cwd`, with the modules in the folder `modules` in place of others."""
    return subprocess.run(
        command(name, *arguments),
        cwd=cwd,
        env=environment(*([modules] if modules else [])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


def assert_prints(
    name: str, expected: str, *arguments: str, cwd: Path, modules: Path | None = None
) -> None:
    """An example ends well, prints `expected` (`...` stands for any characters) and nothing to stderr."""
    done = run_example(name, *arguments, cwd=cwd, modules=modules)
    assert done.returncode == 0, (
        f"{name}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    )
    assert done.stderr == "", f"{name}: written to stderr\n{done.stderr}"
    assert output_matches(done.stdout, expected), (
        f"{name}: printed\n{done.stdout}\nand not\n{expected}"
    )


def hide(module: str, folder: Path) -> None:
    """Write a module that is as missing as one that is not installed, for programs that look in `folder` first."""
    error = f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')\n"
    (folder / f"{module}.py").write_text(error, encoding="utf-8")
