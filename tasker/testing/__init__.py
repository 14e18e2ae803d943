"""Tools to test code that uses tasker: `ManualClock`, `ResourceFactory` and `no_leaks`.

Only `no_leaks`, a fixture, needs pytest; everything else works without. Nothing of
tasker imports this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasker.testing.clock import ManualClock
from tasker.testing.factory import DummyResource, ResourceFactory, ResourceRecord
from tasker.testing.leaks import leak_check

__all__ = [
    "DummyResource",
    "ManualClock",
    "ResourceFactory",
    "ResourceRecord",
    "leak_check",
    "no_leaks",
]

try:
    import pytest
except ImportError:
    # A type checker would take any name for one of this module's.
    if not TYPE_CHECKING:

        def __getattr__(name: str) -> object:
            if name == "no_leaks":
                raise ImportError(
                    "tasker.testing.no_leaks is a pytest fixture, and pytest is not installed"
                )

            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:

    @pytest.fixture(autouse=True)
    def no_leaks() -> Iterator[None]:
        """Fails a test that leaves something of a manager behind: see `leak_check`.

        It is active wherever it is imported: `from tasker.testing import no_leaks` in a
        `conftest.py` or in a test module, or `pytest_plugins = ["tasker.testing"]` in
        the topmost `conftest.py`. A test is not failed for the manager of a fixture
        with a wider scope."""
        __tracebackhide__ = True
        with leak_check():
            yield
