"""Helpers of tests stand in `tests/support`: no test module is another one's library."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
IMPORT = re.compile(r"^ *from tests[\w.]*\.(?:test_\w+|conftest) import .*$", re.MULTILINE)


def test_no_test_module_is_imported() -> None:
    imported = [
        (path.relative_to(TESTS).as_posix(), line)
        for path in TESTS.rglob("*.py")
        for line in IMPORT.findall(path.read_text(encoding="utf-8"))
    ]
    assert imported == []
