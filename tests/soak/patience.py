"""How long the soak waits for an event that has to happen, and the waiting."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["SECONDS", "eventually"]

# After this time without its event a wait is taken for hung.
SECONDS = 30.0


def eventually(condition: Callable[[], bool], seconds: float | None = None) -> bool:
    """Whether the condition comes true within so many seconds (default: `SECONDS`)."""
    deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)

    return True
