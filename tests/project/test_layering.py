"""The import direction is the architecture: a module imports only from layers below its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasker

PACKAGE = Path(tasker.__file__).parent

LAYERS = (
    # needs nothing of tasker, or the clock alone
    ("clock",),
    (
        "errors",
        "handover",
        "identity",
        "locks",
        "parking",
        "placement.beginning",
        "placement.protocol",
        "placement.variables",
        "record",
        "threads",
    ),
    ("callables", "guard", "placement.__init__", "recurring"),
    (
        "backoff",
        "health",
        "logger",
        "placement.multiprocess",
        "placement.python",
        "placement.wire",
        "reservoir",
        "scaling",
        "snapshots",
        "stamps",
    ),
    ("placement.launch", "wrapping"),
    ("unrun",),
    ("placement.mark", "placement.stderr"),
    # needs one or two of those
    ("aside", "awaiting", "checks", "metrics", "placement.base", "placement.envelope", "resources", "room", "spent"),
    ("placement.records", "timer"),
    ("context", "interrupts"),
    ("current", "placement.handle", "signature"),
    ("hints",),
    ("deadlock", "placement.child", "placement.elsewhere", "placement.host"),
    ("placement._child", "placement.hosted", "placement.processes"),
    ("placement.actor",),
    ("placement.cluster",),
    ("placement.ray",),
    # what a user gives, and what he gets
    ("config", "future"),
    ("standard",),
    # tasks that wait, and how they are submitted
    ("executor", "methods", "queue", "stream", "turns", "usercode"),
    ("aio",),
    # workers: one, all, how they end, and the thread that looks after them
    ("news", "worker"),
    ("crew",),
    ("lifecycle",),
    ("burst", "process"),
    # the parts put together, and the façade
    ("engine",),
    ("remote",),
    ("manager",),
    # on top of it, each importable alone
    ("threadpool", "testing.clock", "testing.factory", "testing.leaks"),
    ("testing.__init__",),
    ("__init__",),
    ("cli.arguments", "cli.records", "cli.streams"),
    ("cli.earlier", "cli.loading"),
    ("cli.files", "cli.job"),
    ("cli.display",),
    ("cli.mapping",),
    ("cli.dry",),
    ("cli.command",),
    ("cli.__init__",),
    ("__main__",),
)
LAYER = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}
OUTSIDE = {"sortedcontainers"}  # the dependencies; all else is the standard library
OPTIONAL = {"testing.__init__": {"pytest"}, "cli.display": {"tqdm"}}  # imported where they are used
MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


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
            # `from tasker import timer` imports the module `tasker.timer`
            yield from (f"{source}.{a.name}" if inside and _is_package(source) else source for a in node.names)


def _is_package(name: str) -> bool:
    return PACKAGE.joinpath(*name.split(".")[1:], "__init__.py").exists()


def test_every_module_has_its_place_in_the_table() -> None:
    assert sorted(LAYER) == MODULES
    assert len(LAYER) == sum(map(len, LAYERS)), "a module stands in two layers"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for name in _imported(module):
        root, _, inner = name.partition(".")
        if root != "tasker":
            continue
        inner = inner or "__init__"
        assert inner in LAYER, f"{module} imports {name}, which is no module of tasker: import from where it is defined"
        assert LAYER[inner] < LAYER[module], (
            f"{module} (layer {LAYER[module]}) imports {inner} (layer {LAYER[inner]}): not below it"
        )


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_but_the_standard_library_and_the_dependencies(module: str) -> None:
    roots = {name.partition(".")[0] for name in _imported(module)} - {"tasker"}
    assert roots - sys.stdlib_module_names <= OUTSIDE | OPTIONAL.get(module, set())


def test_asyncio_is_imported_by_one_module_which_is_imported_where_it_is_needed() -> None:
    assert [module for module in MODULES if "asyncio" in _imported(module)] == ["aio", "awaiting"]
    for module in MODULES:
        for node in ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()).body:
            if module != "aio" and isinstance(node, ast.ImportFrom):
                assert not {"aio", "awaiting"} & {alias.name for alias in node.names}, module


def test_threads_are_made_by_one_module() -> None:
    # made elsewhere, one would take over the context of the request in which it is started
    makers = {"Thread", "Timer", "start_new_thread", "start_joinable_thread"}
    for module in MODULES:
        for node in ast.walk(ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())):
            used = node.bases if isinstance(node, ast.ClassDef) else [node.func] if isinstance(node, ast.Call) else ()
            if makers & {ast.unparse(name).rpartition(".")[2] for name in used}:
                assert module == "threads", f"{module}: use tasker.threads.new_thread"


def test_one_module_reads_the_clock_of_the_system() -> None:
    # read elsewhere, a limit would stand still with a clock that a test has stopped
    clocks = {"monotonic", "perf_counter", "time"}
    for module in set(MODULES) - {"clock"}:
        for node in ast.walk(ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())):
            taken = isinstance(node, ast.ImportFrom) and node.module == "time"
            read = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time"
            assert not taken, f"{module}: use tasker.clock.monotonic"
            assert not (read and node.attr.removesuffix("_ns") in clocks), f"{module}: use tasker.clock.monotonic"
