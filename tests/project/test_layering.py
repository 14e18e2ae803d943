"""The import direction is the architecture: a module imports only from layers below its own."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasker

PACKAGE = Path(tasker.__file__).parent

LAYERS = {  # from the ground up; a name with a star is all of a folder
    "the ground": ("_base.*", "errors", "checks", "logger", "slot", "snapshots", "stamps"),
    "threads": ("_sync.*",),
    "tasks": ("_tasks.*",),
    "where resources live": ("placement.*", "config"),
    "the pool": ("_pool.*",),
    "the face": (
        "executor",
        "window",
        "stream",
        "methods",
        "aio",
        "manager",
        "threadpool",
        "testing.*",
        "__init__",
        "cli.*",
        "__main__",
    ),
}


def _layer(module: str) -> int:
    """The number of a module's layer; one that has none, or two, is an error in the table."""
    names = {module, f"{module.partition('.')[0]}.*"} if "." in module else {module}
    [layer] = [number for number, layer in enumerate(LAYERS.values()) if names & set(layer)]
    return layer


OUTSIDE = {"sortedcontainers"}  # the dependencies; all else is the standard library
OPTIONAL = {"testing.__init__": {"pytest"}, "cli.display": {"tqdm"}}  # imported where they are used
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)


def _imported(module: str) -> Iterator[str]:
    """Full names of the modules that `module` imports, wherever in it and for whatever purpose."""
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: imports are absolute"
            source = str(node.module)
            inside = source.partition(".")[0] == "tasker"
            # `from tasker._sync import timer` imports the module `tasker._sync.timer`
            yield from (
                f"{source}.{a.name}" if inside and _is_package(source) else source
                for a in node.names
            )


def _is_package(name: str) -> bool:
    return PACKAGE.joinpath(*name.split(".")[1:], "__init__.py").exists()


def _needed(module: str) -> Iterator[str]:
    """The modules of tasker that `module` imports."""
    for name in _imported(module):
        root, _, inner = name.partition(".")
        if root != "tasker":
            continue
        inner = inner or "__init__"
        needed = inner if inner in MODULES else f"{inner}.__init__"
        assert needed in MODULES, (
            f"{module} imports {name}, which is no module: import from where it is defined"
        )
        yield needed


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for needed in _needed(module):
        assert _layer(needed) <= _layer(module), f"{module} imports {needed}, which lies above it"


def test_no_import_runs_in_a_circle() -> None:
    graph = {module: {*_needed(module)} - {module} for module in MODULES}
    assert [*graphlib.TopologicalSorter(graph).static_order()]


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_but_the_standard_library_and_the_dependencies(module: str) -> None:
    roots = {name.partition(".")[0] for name in _imported(module)} - {"tasker"}
    assert roots - sys.stdlib_module_names <= OUTSIDE | OPTIONAL.get(module, set())


def test_asyncio_is_imported_by_one_module_which_is_imported_where_it_is_needed() -> None:
    assert [module for module in MODULES if "asyncio" in _imported(module)] == [
        "_sync.awaiting",
        "aio",
    ]
    for module in MODULES:
        for node in ast.parse(
            PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()
        ).body:
            if module != "aio" and isinstance(node, ast.ImportFrom):
                assert not {"aio", "awaiting"} & {alias.name for alias in node.names}, module


def test_threads_are_made_by_one_module() -> None:
    # made elsewhere, one would take over the context of the request in which it is started
    makers = {"Thread", "Timer", "start_new_thread", "start_joinable_thread"}
    for module in MODULES:
        for node in ast.walk(
            ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
        ):
            used = (
                node.bases
                if isinstance(node, ast.ClassDef)
                else [node.func]
                if isinstance(node, ast.Call)
                else ()
            )
            if makers & {ast.unparse(name).rpartition(".")[2] for name in used}:
                assert module == "_sync.threads", f"{module}: use tasker._sync.threads.new_thread"


def test_one_module_reads_the_clock_of_the_system() -> None:
    # read elsewhere, a limit would stand still with a clock that a test has stopped
    clocks = {"monotonic", "perf_counter", "time"}
    for module in set(MODULES) - {"_sync.clock"}:
        for node in ast.walk(
            ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
        ):
            taken = isinstance(node, ast.ImportFrom) and node.module == "time"
            read = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time"
            assert not taken, f"{module}: use tasker._sync.clock.monotonic"
            assert not (read and node.attr.removesuffix("_ns") in clocks), (
                f"{module}: use tasker._sync.clock.monotonic"
            )
