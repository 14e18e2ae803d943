"""`monotonic`: the clock that tasker goes by, which tests cannot stop.

Tools for tests replace `time.monotonic`. `mock.patch` does so in the module `time`,
freezegun also wherever another module refers to that very function. By a clock that
stands still, a limit that is to end a hang would never be over. And two threads would
not agree on the time if one of them saw the replacement and the other did not.

So tasker has a function of its own, which no such tool knows. It belongs to another
copy of the module `time`, so it is the real one even when tasker is imported while the
clock stands still. Locks wait by the same clock.

A time of `time.monotonic()` that users give or get is converted at the door, by
`shift()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

__all__ = ["monotonic", "shift"]

_spec: Any = time.__spec__
_time: Any = _spec.loader.create_module(_spec)

monotonic: Callable[[], float] = _time.monotonic


def shift() -> float:
    """Seconds by which `monotonic()` is ahead of `time.monotonic()`.

    They are 0 unless that was replaced."""
    return 0.0 if type(time.monotonic) is BuiltinFunctionType else monotonic() - time.monotonic()
