"""What users of tasker need to test code that uses it: `ManualClock`, `ResourceFactory` and the fixture `no_leaks`.

Only the fixture needs pytest; everything else works without. Nothing of tasker imports this package.
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
    if not TYPE_CHECKING:  # a type checker would take any name for one of this module's

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

        Active wherever it is imported: `from tasker.testing import no_leaks` in a `conftest.py` or in a test module, or
        `pytest_plugins = ["tasker.testing"]` in the topmost `conftest.py`. The manager of a fixture with a wider scope
        is no concern of the test that uses it."""
        __tracebackhide__ = True
        with leak_check():
            yield
