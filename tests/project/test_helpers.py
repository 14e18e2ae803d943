"""Helpers of tests stand in `tests/support`: no test module is another one's library."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_test_module_is_imported() -> None:
    imported = [
        f"{path.relative_to(TESTS)}, line {node.lineno}: {node.module}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        if (node.module or "").rpartition(".")[2].startswith(("test_", "conftest"))
    ]
    assert imported == []
