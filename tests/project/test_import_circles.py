"""The imports of the benchmarks and of the soak.

None runs in a circle, and no measurement imports another.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(benchmarks.__file__).parents[1]
PROGRAMS = {
    "__init__",
    "__main__",
    "chart",
    "measurements",
    "run_one",
}  # they choose among the measurements, or draw


def _imports_within(package: str) -> dict[str, set[str]]:
    """Of each module: the modules of the package that it imports.

    Imports inside functions count, and those for type checkers.
    """
    paths = sorted(ROOT.joinpath(*package.split(".")).rglob("*.py"))
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name: _imported(path) & modules.keys() for name, path in modules.items()}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports are absolute"
            # `from tests.soak import patience` imports a module as well
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("package", ["benchmarks", "tests.soak"])
def test_no_import_of_programs_runs_in_a_circle(package: str) -> None:
    graph = _imports_within(package)
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # names the circle in its error


def test_a_measurement_imports_the_harness_and_no_other_measurement() -> None:
    for name, imported in _imports_within("benchmarks").items():
        if name.removeprefix("benchmarks.") not in PROGRAMS:
            others = {each for each in imported if not each.startswith("benchmarks.harness.")}
            assert not others, f"{name} imports {', '.join(sorted(others))}"
